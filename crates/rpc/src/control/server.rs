//! The answering side.

use std::sync::Arc;

use bytes::Bytes;
use headcount_model::control::{
    Addresses, Fingerprint, GroupId, Handshake, NewNode, NodeKey, Protocols, TimingProfile,
};
use headcount_model::{Era, Incarnation, NodeId, RegionName};
use headcount_wire::proto::control::v1 as proto;
use headcount_wire::proto::control::v1::control_server::{Control, ControlServer};
use headcount_wire::{decode_control_command, encode_control_reply};
use tonic::{Request, Response, Status};

use super::ports::{ControlPort, JoinAsk, PortError, RenewReply, Renewal};
use super::words::{put_standings, take_traffic};
use crate::peers::Network;

/// Makes the control service. All calls but joins are for members of the network's cluster only.
pub fn service(network: &Network, port: impl ControlPort) -> ControlServer<ControlService> {
    ControlServer::new(ControlService {
        network: network.clone(),
        port: Arc::new(port),
    })
}

/// Control service; see [`service`].
pub struct ControlService {
    network: Network,
    port: Arc<dyn ControlPort>,
}

impl std::fmt::Debug for ControlService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlService").finish_non_exhaustive()
    }
}

fn status(error: PortError) -> Status {
    match error {
        PortError::Unavailable(reason) => Status::unavailable(reason),
        PortError::Undone(reason) => Status::aborted(reason),
        PortError::Refused(reason) => Status::failed_precondition(reason),
    }
}

/// Reads a join; an error names the field.
fn take_join(request: proto::JoinRequest) -> Result<JoinAsk, Status> {
    let invalid =
        |field: &str, reason: String| Status::invalid_argument(format!("{field}: {reason}"));
    let timing = TimingProfile::from_name(&request.timing);
    let timing = timing.ok_or_else(|| {
        invalid(
            "timing",
            format!("{:?} is not local, regional or wan", request.timing),
        )
    })?;
    let key = request.key.as_ref().try_into().map(u128::from_be_bytes);
    let key = key.map_err(|_| invalid("key", "it must have 16 bytes".to_owned()))?;
    let region = RegionName::new(&request.region);
    let region = region.map_err(|error| invalid("region", error.to_string()))?;
    let addresses = request.addresses.unwrap_or_default();
    let handshake = Handshake {
        protocols: Protocols {
            min: request.protocol_min,
            max: request.protocol_max,
        },
        cluster: None,
        era: Era(0),
        fingerprint: Fingerprint(request.fingerprint),
        timing,
        node: None,
        incarnation: Incarnation(0),
    };
    let node = NewNode {
        key: NodeKey(key),
        region,
        zone: request.zone,
        addresses: Addresses {
            client: addresses.client,
            reporter: addresses.reporter,
            peer: addresses.peer,
            admin: addresses.admin,
        },
    };
    let replaces = (request.replaces > 0).then_some(NodeId(request.replaces));
    Ok(JoinAsk {
        handshake,
        node,
        replaces,
    })
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Response<proto::JoinResponse>, Status> {
        let ask = take_join(request.into_inner())?;
        let reply = self.port.join(ask).await.map_err(status)?;
        let members = reply.members.into_iter().map(|member| proto::Member {
            node: member.node.0,
            region: member.region.as_str().to_owned(),
            peer: member.peer,
        });
        Ok(Response::new(proto::JoinResponse {
            cluster: Bytes::copy_from_slice(&reply.cluster.0.to_be_bytes()),
            node: reply.node.0,
            replica: reply.replica.0,
            incarnation: reply.incarnation.0,
            members: members.collect(),
        }))
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        self.network.admit(request.metadata())?;
        let command = decode_control_command(&request.into_inner().command);
        let command = command.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let reply = self.port.propose(command).await.map_err(status)?;
        let reply = encode_control_reply(&reply);
        Ok(Response::new(proto::ProposeResponse { reply }))
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewResponse>, Status> {
        self.network.admit(request.metadata())?;
        let proto::RenewRequest {
            node,
            incarnation,
            traffic,
            take_on,
        } = request.into_inner();
        let renewal = Renewal {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            traffic: take_traffic(traffic).map_err(Status::invalid_argument)?,
            take_on,
        };
        let renewed = self.port.renew(renewal).await.map_err(status)?;
        Ok(Response::new(match renewed {
            RenewReply::Renewed { lease } => proto::RenewResponse {
                renewed: true,
                lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
                current: incarnation,
            },
            RenewReply::Ended { current } => proto::RenewResponse {
                renewed: false,
                lease_ms: 0,
                current: current.0,
            },
        }))
    }

    async fn standings(
        &self,
        request: Request<proto::StandingsRequest>,
    ) -> Result<Response<proto::StandingsResponse>, Status> {
        self.network.admit(request.metadata())?;
        let standings = self.port.standings().map_err(status)?;
        Ok(Response::new(put_standings(&standings)))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        self.network.admit(request.metadata())?;
        let group = request.into_inner().group;
        let group = GroupId::from_number(group)
            .ok_or_else(|| Status::invalid_argument(format!("group: there is no group {group}")))?;
        let index = self.port.read_index(group).await.map_err(status)?;
        Ok(Response::new(proto::ReadIndexResponse { index }))
    }
}
