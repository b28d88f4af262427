//! The answering side.

use std::sync::Arc;

use headcount_model::{AppId, ConnectionId, Incarnation};
use headcount_wire::proto::gateway::v1 as proto;
use headcount_wire::proto::gateway::v1::gateway_server::{Gateway, GatewayServer};
use headcount_wire::proto::gateway::v1::release_request;
use tonic::{Request, Response, Status};

use super::ports::{Client, HandOverPort, NotReleased, ReleaseAsk, ReleaseReply};
use crate::peers::Network;

/// Longest secret, in bytes: far above those that nodes draw.
const SECRET_BYTES_MAX: usize = 64;

/// Longest client id, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// Makes the service. It answers members of the network's cluster only.
pub fn service(network: &Network, port: impl HandOverPort) -> GatewayServer<HandOverService> {
    GatewayServer::new(HandOverService {
        network: network.clone(),
        port: Arc::new(port),
    })
}

/// Hand-over service; see [`service`].
pub struct HandOverService {
    network: Network,
    port: Arc<dyn HandOverPort>,
}

impl std::fmt::Debug for HandOverService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOverService").finish_non_exhaustive()
    }
}

impl From<NotReleased> for Status {
    fn from(error: NotReleased) -> Self {
        match error {
            NotReleased::Unavailable(reason) => Self::unavailable(reason),
            NotReleased::Invalid(reason) => Self::invalid_argument(reason),
        }
    }
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

/// Reads a text of 1 to `max` bytes.
fn bounded(field: &str, text: String, max: usize) -> Result<String, Status> {
    if (1..=max).contains(&text.len()) {
        return Ok(text);
    }
    Err(invalid(field, format!("it must have 1 to {max} bytes")))
}

fn take_client(client: Option<release_request::Client>) -> Result<Client, Status> {
    Ok(match client {
        None => Client::Anonymous,
        Some(release_request::Client::Any(proto::AnyClient {})) => Client::Any,
        Some(release_request::Client::ClientId(id)) => {
            Client::Named(bounded("client_id", id, CLIENT_ID_BYTES_MAX)?)
        }
    })
}

fn take_ask(request: proto::ReleaseRequest) -> Result<ReleaseAsk, Status> {
    let connection = ConnectionId::new(&request.connection);
    Ok(ReleaseAsk {
        app: AppId::new(&request.app).map_err(|error| invalid("app", error))?,
        connection: connection.map_err(|error| invalid("connection", error))?,
        secret: bounded("secret", request.secret, SECRET_BYTES_MAX)?,
        client: take_client(request.client)?,
    })
}

#[tonic::async_trait]
impl Gateway for HandOverService {
    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        self.network.admit(request.metadata())?;
        let reply = self.port.release(take_ask(request.into_inner())?).await?;
        let found = match reply {
            ReleaseReply::Released => true,
            ReleaseReply::Unknown => false,
        };
        Ok(Response::new(proto::ReleaseResponse { found }))
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveResponse>, Status> {
        let node = self.network.admit(request.metadata())?;
        let incarnation = request.into_inner().incarnation;
        if incarnation == 0 {
            return Err(invalid("incarnation", "a node's first life is 1"));
        }
        self.port.left(node, Incarnation(incarnation));
        Ok(Response::new(proto::LeaveResponse {}))
    }
}
