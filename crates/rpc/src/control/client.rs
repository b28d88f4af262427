//! The asking side.

use std::time::Duration;

use bytes::Bytes;
use headcount_model::control::{
    ClusterId, ControlCommand, ControlReply, GroupId, Handshake, NewNode,
};
use headcount_model::{Incarnation, NodeId, RegionName, ReplicaId};
use headcount_net::Dialer;
use headcount_wire::proto::control::v1 as proto;
use headcount_wire::proto::control::v1::control_client::ControlClient as Generated;
use headcount_wire::{decode_control_reply, encode_control_command};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::ports::{JoinReply, MemberAt, RenewReply, Renewal, Standings};
use super::words::{put_traffic, take_standings};
use crate::peers::Network;

/// How long a call may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node cannot be reached, or cannot answer now. Nobody can say whether it acted.
    #[error("{reason}")]
    Unavailable {
        /// What was met.
        reason: String,
    },
    /// The node cannot do it now, and has done nothing.
    #[error("{reason}")]
    Undone {
        /// Why.
        reason: String,
    },
    /// The node says no, and will say so again.
    #[error("{reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => {
                Self::Refused { reason }
            }
            Code::Aborted => Self::Undone { reason },
            code => Self::Unavailable {
                reason: format!("{code:?}: {reason}"),
            },
        }
    }
}

fn odd(field: &str) -> CallError {
    CallError::Unavailable {
        reason: format!("the answer's {field} is not readable"),
    }
}

/// Asks other nodes. A cheap handle.
#[derive(Clone, Debug)]
pub struct ControlClient {
    network: Network,
}

impl ControlClient {
    /// Makes a client over a network.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network }
    }

    fn to(&self, node: NodeId) -> Result<(Generated<Channel>, Duration), CallError> {
        let way = self.network.channel(node);
        let (channel, delay) = way.ok_or_else(|| CallError::Unavailable {
            reason: format!("no way to node {node} is known"),
        })?;
        Ok((Generated::new(channel), delay))
    }

    /// Has a command applied by the node, which must lead the control group.
    ///
    /// # Errors
    /// [`CallError`] if it does not, or cannot be reached.
    pub async fn propose(
        &self,
        to: NodeId,
        command: &ControlCommand,
    ) -> Result<ControlReply, CallError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::ProposeRequest {
            command: encode_control_command(command),
        });
        let calling = client.propose(request);
        let reply = call(delay, calling).await?.reply;
        decode_control_reply(&reply).map_err(|error| odd(&error.to_string()))
    }

    /// Renews a lease with the node, which must lead the control group, or take the renewal on.
    ///
    /// # Errors
    /// [`CallError`] if it does not, or if it or the leader cannot be reached.
    pub async fn renew(&self, to: NodeId, renewal: &Renewal) -> Result<RenewReply, CallError> {
        let (mut client, delay) = self.to(to)?;
        let request = proto::RenewRequest {
            node: renewal.node.0,
            incarnation: renewal.incarnation.0,
            traffic: put_traffic(&renewal.traffic),
            take_on: renewal.take_on,
        };
        let request = self.network.signed(request);
        let calling = client.renew(request);
        let reply = call(delay, calling).await?;
        Ok(if reply.renewed {
            RenewReply::Renewed {
                lease: Duration::from_millis(reply.lease_ms),
            }
        } else {
            RenewReply::Ended {
                current: Incarnation(reply.current),
            }
        })
    }

    /// Asks a node, which must lead the control group, what it knows of lives and of traffic.
    ///
    /// # Errors
    /// [`CallError`] if it does not lead, or cannot be reached.
    pub async fn standings(&self, to: NodeId) -> Result<Standings, CallError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::StandingsRequest {});
        let calling = client.standings(request);
        let told = call(delay, calling).await?;
        take_standings(told).map_err(|field| odd(&field))
    }

    /// Asks a node, which must lead the raft group, for its read index.
    ///
    /// # Errors
    /// [`CallError`] if it does not lead, has no quorum, or cannot be reached.
    pub async fn read_index(&self, to: NodeId, group: GroupId) -> Result<u64, CallError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::ReadIndexRequest {
            group: group.number(),
        });
        let calling = client.read_index(request);
        Ok(call(delay, calling).await?.index)
    }
}

async fn call<T>(
    delay: Duration,
    calling: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    let too_late = || CallError::Unavailable {
        reason: "it took too long".to_owned(),
    };
    let answer = crate::call::call(delay, CALL_TIMEOUT, calling).await;
    Ok(answer.ok_or_else(too_late)??)
}

/// Asks the node at `address` (`host:port` of its peer listener) to make this one a member, in the
/// place of a dead node if `replaces` names one.
///
/// # Errors
/// [`CallError::Refused`] if the cluster does not want it, which asking again does not mend.
pub async fn join(
    dialer: &Dialer,
    address: &str,
    handshake: Handshake,
    node: NewNode,
    replaces: Option<NodeId>,
) -> Result<JoinReply, CallError> {
    let unusable = |error: tonic::transport::Error| CallError::Unavailable {
        reason: format!("{address}: {error}"),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unusable)?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true);
    let channel = match dialer.connector() {
        None => endpoint.connect().await,
        Some(connector) => endpoint.connect_with_connector(connector).await,
    };
    let channel = channel.map_err(unusable)?;
    let request = proto::JoinRequest {
        protocol_min: handshake.protocols.min,
        protocol_max: handshake.protocols.max,
        fingerprint: handshake.fingerprint.0,
        timing: handshake.timing.as_str().to_owned(),
        key: Bytes::copy_from_slice(&node.key.0.to_be_bytes()),
        region: node.region.as_str().to_owned(),
        zone: node.zone,
        addresses: Some(proto::Addresses {
            client: node.addresses.client,
            reporter: node.addresses.reporter,
            peer: node.addresses.peer,
            admin: node.addresses.admin,
        }),
        replaces: replaces.map_or(0, |node| node.0),
    };
    let reply = Generated::new(channel).join(request).await?.into_inner();
    let cluster = reply.cluster.as_ref().try_into().map(u128::from_be_bytes);
    let members = reply.members.into_iter().map(|member| {
        let region = RegionName::new(&member.region).map_err(|_| odd("members.region"))?;
        Ok(MemberAt {
            node: NodeId(member.node),
            region,
            peer: member.peer,
        })
    });
    Ok(JoinReply {
        cluster: ClusterId(cluster.map_err(|_| odd("cluster"))?),
        node: NodeId(reply.node),
        replica: ReplicaId(reply.replica),
        incarnation: Incarnation(reply.incarnation),
        members: members.collect::<Result<_, CallError>>()?,
    })
}
