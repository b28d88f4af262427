//! This node's own standing: registers this life with the control group and keeps its lease.

use std::sync::Arc;
use std::time::Duration;

use headcount_model::mutants::Mutant;
use headcount_model::{Incarnation, NodeId};
use headcount_placement::{
    Addresses, COMMANDS_VERSION, Control, ControlCommand, Outcome, Refusal, RenewError,
};
use headcount_rpc::control::RenewReply;
use headcount_rpc::peers::Network;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keeper::Keeper;
use super::traffic::TrafficMeter;
use super::{ControlError, ControlHandle};

/// How long to wait before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The same for a renewal: the lease runs, and whatever broke the connection may soon break the
/// next one.
const RENEW_AGAIN: Duration = Duration::from_millis(50);

/// What standing works with.
pub(crate) struct Standing {
    pub(crate) node: NodeId,
    pub(crate) addresses: Addresses,
    /// A number of this life of the process.
    pub(crate) process: u64,
    /// How often the lease is renewed.
    pub(crate) renew_every: Duration,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) handle: ControlHandle,
    pub(crate) keeper: Keeper,
    pub(crate) network: Network,
    /// Told once registered, and again whenever a lease was lost and a new life registered.
    pub(crate) incarnation: watch::Sender<Incarnation>,
    /// Tells where traffic comes from, with each renewal.
    pub(crate) meter: TrafficMeter,
    /// When the lease was last renewed.
    pub(crate) renewed: watch::Sender<Option<Instant>>,
}

impl Standing {
    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let incarnation = self.register().await;
            tracing::info!(target: "placement", node = %self.node, %incarnation, "registered");
            let identity = self.network.identity();
            self.network.identify(headcount_rpc::peers::Identity {
                incarnation,
                ..identity
            });
            self.incarnation.send_replace(incarnation);
            self.keep(incarnation).await;
            tracing::warn!(target: "placement", node = %self.node, %incarnation, "lease lost");
        }
    }

    /// Registers the next life; returns its incarnation.
    async fn register(&self) -> Incarnation {
        let known = self
            .control
            .borrow()
            .node(self.node)
            .map(|node| node.incarnation);
        let known = known.unwrap_or_default();
        let mut next = Incarnation(known.0 + 1);
        if Mutant::KeepIncarnation.is_planted() {
            next = known.max(Incarnation(1));
        }
        loop {
            let command = ControlCommand::Start {
                node: self.node,
                incarnation: next,
                process: self.process,
                addresses: self.addresses.clone(),
                understands: COMMANDS_VERSION,
            };
            match self.handle.propose(command).await {
                Ok(Outcome::Started { incarnation }) => return incarnation,
                Ok(other) => {
                    tracing::error!(target: "placement", ?other, "an odd answer to a start");
                }
                Err(ControlError::Refused(Refusal::StaleIncarnation { current, .. })) => {
                    next = Incarnation(current.0 + 1);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(target: "placement", %error, "not registered yet");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease until it is said to have ended.
    async fn keep(&mut self, incarnation: Incarnation) {
        loop {
            let asked = Instant::now();
            match self.renew(incarnation).await {
                Some(RenewReply::Renewed { .. }) => {
                    self.renewed.send_replace(Some(asked));
                    tokio::time::sleep_until(asked + self.renew_every).await;
                }
                Some(RenewReply::Ended { .. }) => return,
                // No leader answered: it is elected, or the way to it is found, before long.
                None => tokio::time::sleep(RENEW_AGAIN).await,
            }
        }
    }

    async fn renew(&mut self, incarnation: Incarnation) -> Option<RenewReply> {
        let leader = self.handle.leader()?;
        let traffic = self.meter.take();
        if leader == self.node {
            let control = self.control.borrow().clone();
            return match self
                .keeper
                .renew(&control, self.node, incarnation, &traffic)?
            {
                Ok(lease) => Some(RenewReply::Renewed { lease }),
                Err(RenewError::Ended { current, .. }) => Some(RenewReply::Ended { current }),
                Err(RenewError::NotAMember(_)) => None,
            };
        }
        let client = self.handle.client();
        let renewing = client.renew(leader, self.node, incarnation, &traffic);
        tokio::time::timeout(self.renew_every * 2, renewing)
            .await
            .ok()?
            .ok()
    }
}
