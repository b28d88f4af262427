//! This node's own standing: registers this life with the control group and keeps its lease.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use headcount_model::mutants::Mutant;
use headcount_model::{Incarnation, NodeId};
use headcount_placement::{
    Addresses, COMMANDS_VERSION, Control, ControlCommand, GroupId, Outcome, Refusal,
};
use headcount_rpc::control::{ControlClient, RenewReply, Renewal, ShardsTraffic};
use headcount_rpc::peers::Network;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keeper::Keeper;
use super::traffic::TrafficMeter;
use super::{ControlError, ControlHandle};
use crate::clock::Clock;
use crate::paths::{Paths, Way};

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
    pub(crate) clock: Clock,
    /// The ways to the control group's leader, and which node that is.
    pub(crate) paths: Paths,
    pub(crate) led_by: Option<NodeId>,
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
        let renewal = Renewal {
            node: self.node,
            incarnation,
            traffic: self.meter.take(),
            take_on: false,
        };
        if self.handle.leader() == Some(self.node) {
            let control = self.control.borrow().clone();
            return self.keeper.renew(&control, &renewal)?.ok();
        }
        self.ask(renewal).await
    }

    /// Asks the control group's leader. Where that fails, or takes as long as until the next
    /// renewal, it is asked another way as well, which is the one to be taken from then on.
    async fn ask(&mut self, renewal: Renewal) -> Option<RenewReply> {
        let client = self.handle.client().clone();
        // What is told once may have arrived.
        let again = Renewal {
            traffic: ShardsTraffic::new(),
            ..renewal
        };
        let way = self.way()?;
        let mut asked = FuturesUnordered::new();
        asked.push(ask(client.clone(), way, renewal));
        let first = tokio::time::timeout(self.renew_every, asked.next()).await;
        if let Ok(Some(Some(reply))) = first {
            return Some(reply);
        }
        self.paths
            .unacknowledged(self.clock.monotonic(), Duration::ZERO);
        if let Some(next) = self.way().filter(|next| *next != way) {
            asked.push(ask(client, next, again));
        }
        let mut answers = asked.filter_map(std::future::ready);
        let answer = tokio::time::timeout(self.renew_every, answers.next()).await;
        answer.ok().flatten()
    }

    /// Returns the way to the control group's leader.
    fn way(&mut self) -> Option<Way> {
        let now = self.clock.monotonic();
        let leader = self.handle.leader();
        if std::mem::replace(&mut self.led_by, leader) != leader {
            self.paths.reset(now);
        }
        let others = detours(&self.control.borrow(), self.node, leader);
        self.paths.choose(now, leader, others.into_iter())
    }
}

async fn ask(client: ControlClient, way: Way, renewal: Renewal) -> Option<RenewReply> {
    let (to, take_on) = match way {
        Way::Straight(leader) => (leader, false),
        Way::Through(other) => (other, true),
    };
    let renewal = Renewal { take_on, ..renewal };
    client.renew(to, &renewal).await.ok()
}

/// Returns the live voters of the control group by which `node` may reach the leader. The first are
/// in neither's region: what cuts the two off from each other mostly cuts off regions.
fn detours(control: &Control, node: NodeId, leader: Option<NodeId>) -> Vec<NodeId> {
    let Some(group) = control.group(GroupId::Control) else {
        return Vec::new();
    };
    let ends = [Some(node), leader];
    let region = |of: NodeId| control.node(of).map(|known| &known.region);
    let mut detours: Vec<NodeId> = group
        .voters
        .iter()
        .filter_map(|voter| group.replicas.get(voter))
        .map(|replica| replica.node)
        .filter(|other| !ends.contains(&Some(*other)))
        .filter(|other| control.node(*other).is_some_and(|known| known.is_live()))
        .collect();
    let is_near = |other: &NodeId| {
        let mut near = ends.iter().flatten().map(|end| region(*end));
        near.any(|near| near == region(*other))
    };
    detours.sort_by_key(|other| (is_near(other), *other));
    detours
}
