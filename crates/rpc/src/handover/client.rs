//! The asking side.

use std::time::Duration;

use headcount_model::{Incarnation, NodeId};
use headcount_wire::proto::gateway::v1 as proto;
use headcount_wire::proto::gateway::v1::gateway_client::GatewayClient;
use headcount_wire::proto::gateway::v1::release_request;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ports::{Client, NotReleased, ReleaseAsk, ReleaseReply};
use crate::peers::Network;

/// Asks other nodes. A cheap handle.
#[derive(Clone, Debug)]
pub struct HandOverClient {
    network: Network,
}

impl From<Status> for NotReleased {
    fn from(status: Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
                Self::Invalid(reason)
            }
            code => Self::Unavailable(format!("{code:?}: {reason}")),
        }
    }
}

fn put_client(client: &Client) -> Option<release_request::Client> {
    match client {
        Client::Any => Some(release_request::Client::Any(proto::AnyClient {})),
        Client::Named(id) => Some(release_request::Client::ClientId(id.clone())),
        Client::Anonymous => None,
    }
}

async fn call<T>(
    delay: Duration,
    within: Duration,
    calling: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, NotReleased> {
    let too_late = || NotReleased::Unavailable("no answer in time".to_owned());
    let answer = crate::call::call(delay, within, calling).await;
    Ok(answer.ok_or_else(too_late)??)
}

impl HandOverClient {
    /// Makes a client over a network.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network }
    }

    /// Asks a node to end a connection, for at most `within`.
    ///
    /// # Errors
    /// [`NotReleased`] if it cannot be reached, or has no answer yet; it may have ended it all the
    /// same.
    pub async fn release(
        &self,
        to: NodeId,
        ask: &ReleaseAsk,
        within: Duration,
    ) -> Result<ReleaseReply, NotReleased> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::ReleaseRequest {
            app: ask.app.as_str().to_owned(),
            connection: ask.connection.as_str().to_owned(),
            secret: ask.secret.clone(),
            client: put_client(&ask.client),
        });
        let reply = call(delay, within, client.release(request)).await?;
        Ok(if reply.found {
            ReleaseReply::Released
        } else {
            ReleaseReply::Unknown
        })
    }

    /// Tells a node, for at most `within`, that this one has no realtime clients any more in a life
    /// of it.
    ///
    /// # Errors
    /// [`NotReleased`] if it cannot be told.
    pub async fn leave(
        &self,
        to: NodeId,
        incarnation: Incarnation,
        within: Duration,
    ) -> Result<(), NotReleased> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::LeaveRequest {
            incarnation: incarnation.0,
        });
        let proto::LeaveResponse {} = call(delay, within, client.leave(request)).await?;
        Ok(())
    }

    fn to(&self, node: NodeId) -> Result<(GatewayClient<Channel>, Duration), NotReleased> {
        let way = self.network.channel(node);
        let no_way = || NotReleased::Unavailable(format!("no way to node {node} is known"));
        let (channel, delay) = way.ok_or_else(no_way)?;
        Ok((GatewayClient::new(channel), delay))
    }
}
