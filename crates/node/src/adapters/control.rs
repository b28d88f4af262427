//! What other nodes ask of this one about membership, leases and leaderships.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_consensus::{ProposeError, ReadError};
use headcount_model::control::{
    ControlCommand, ControlReply, Fingerprint, GroupId, Handshake, NewNode, Outcome, Protocols,
    Refusal, TimingProfile,
};
use headcount_model::{Era, Incarnation, NodeId};
use headcount_placement::Control;
use headcount_rpc::control::{
    CallError, ControlPort, JoinAsk, JoinReply, MemberAt, PortError, RenewReply, Renewal, Standings,
};
use tokio::sync::watch;

use crate::control::keeper::Keeper;
use crate::control::{ControlError, ControlHandle};
use crate::shards::Shards;
use crate::telemetry;

/// How long this node's own replica may take to show a member that has just joined.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers other nodes.
pub(crate) struct NodeControl {
    pub(crate) handle: ControlHandle,
    pub(crate) keeper: Keeper,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timing: TimingProfile,
}

impl NodeControl {
    /// Ends the membership of a node that was replaced.
    async fn end_membership(&self, old: NodeId) -> Result<(), PortError> {
        match self.handle.propose(ControlCommand::Remove(old)).await {
            Ok(_) | Err(ControlError::Refused(Refusal::UnknownNode { .. })) => Ok(()),
            Err(ControlError::Refused(
                refusal @ (Refusal::NotDrained { .. } | Refusal::StillHolds { .. }),
            )) => {
                // It came back in the meantime.
                Err(PortError::Unavailable(refusal.to_string()))
            }
            Err(ControlError::Refused(refusal)) => Err(PortError::Refused(refusal.to_string())),
            Err(error) => Err(PortError::Unavailable(error.to_string())),
        }
    }

    /// Takes a renewal on to the control group's leader, for a node that does not reach it.
    async fn take_on(&self, renewal: Renewal) -> Result<RenewReply, PortError> {
        let leader = self.handle.leader().ok_or_else(elsewhere)?;
        let renewal = Renewal {
            take_on: false,
            ..renewal
        };
        telemetry::renewal_taken_on();
        let renewed = self.handle.client().renew(leader, &renewal).await;
        renewed.map_err(|error| match error {
            CallError::Unavailable { reason } => PortError::Unavailable(reason),
            CallError::Undone { reason } => PortError::Undone(reason),
            CallError::Refused { reason } => PortError::Refused(reason),
        })
    }

    async fn admit(&self, ask: JoinAsk) -> Result<JoinReply, PortError> {
        let facts = self.control.borrow().facts().cloned();
        let unfounded = || PortError::Unavailable("the cluster is not founded yet".to_owned());
        let facts = facts.ok_or_else(unfounded)?;
        let ours = Handshake {
            protocols: Protocols::OURS,
            cluster: Some(facts.id),
            era: facts.era,
            fingerprint: self.fingerprint,
            timing: self.timing,
            node: None,
            incarnation: Incarnation(0),
        };
        let theirs = Handshake {
            cluster: None,
            era: Era(0),
            ..ask.handshake
        };
        let agreed = ours.agree(&theirs);
        agreed.map_err(|error| PortError::Refused(error.to_string()))?;
        if let Some(old) = ask.replaces {
            let control = self.control.borrow().clone();
            check_replaced(&control, old, &ask.node)?;
        }
        let joined = self.handle.propose(ControlCommand::Join(ask.node)).await;
        let (node, incarnation, replica) = match joined {
            Ok(Outcome::Joined {
                node,
                incarnation,
                replica,
            }) => (node, incarnation, replica),
            Ok(other) => return Err(PortError::Unavailable(format!("an odd answer: {other:?}"))),
            Err(ControlError::Refused(refusal)) => {
                return Err(PortError::Refused(refusal.to_string()));
            }
            Err(error) => return Err(PortError::Unavailable(error.to_string())),
        };
        if let Some(old) = ask.replaces.filter(|old| *old != node) {
            self.end_membership(old).await?;
        }
        // The members as of the join, so that the node knows all whom it may have to talk to.
        let mut control = self.control.clone();
        let seen = control.wait_for(|control| control.node(node).is_some());
        let seen = tokio::time::timeout(JOIN_TIMEOUT, seen).await;
        let late = || PortError::Unavailable("this node lags behind the control group".to_owned());
        let control = seen.map_err(|_| late())?.map_err(|_| late())?.clone();
        let members = control.nodes().iter().map(|(id, member)| MemberAt {
            node: *id,
            region: member.region.clone(),
            peer: member.addresses.peer.clone(),
        });
        let members = members.collect();
        Ok(JoinReply {
            cluster: facts.id,
            node,
            replica,
            incarnation,
            members,
        })
    }
}

/// Checks that a dead node's place may be taken, as far as is known here.
fn check_replaced(control: &Control, old: NodeId, new: &NewNode) -> Result<(), PortError> {
    if control.node_by_key(new.key).is_some() {
        // It joined before, and was not told or has not ended the other's membership.
        return Ok(());
    }
    let refused = |what: String| PortError::Refused(format!("node.replaces: {what}"));
    let Some(known) = control.node(old) else {
        return Err(refused(format!(
            "there is no node {old}: see `headcount cluster status`"
        )));
    };
    if known.region != new.region {
        return Err(refused(format!(
            "node {old} is in {}, this one in {}: a node is replaced in its region",
            known.region, new.region
        )));
    }
    let holdings = control.holdings(old);
    let empty = known.draining && holdings.replicas + holdings.votes == 0;
    if known.is_live() && !empty {
        // A machine that was lost a moment ago is known as live until its lease has run out.
        return Err(PortError::Unavailable(format!(
            "node.replaces: node {old} holds its lease: it is replaced when that has run out, so if \
             it runs, stop it, or drain it first"
        )));
    }
    Ok(())
}

fn elsewhere() -> PortError {
    PortError::Unavailable("this node does not keep the leases".to_owned())
}

impl ControlPort for NodeControl {
    fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinReply, PortError>> {
        self.admit(ask).boxed()
    }

    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<ControlReply, PortError>> {
        async move {
            let proposed = self.handle.propose_here(&command).await;
            proposed.map_err(|error| match error {
                ProposeError::Unknown { .. } => PortError::Unavailable(error.to_string()),
                ProposeError::NotLeader { .. }
                | ProposeError::Overloaded { .. }
                | ProposeError::TooLarge { .. } => PortError::Undone(error.to_string()),
            })
        }
        .boxed()
    }

    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<RenewReply, PortError>> {
        async move {
            let control = self.control.borrow().clone();
            match self.keeper.renew(&control, &renewal) {
                Some(renewed) => renewed.map_err(|error| PortError::Refused(error.to_string())),
                None if renewal.take_on => self.take_on(renewal).await,
                None => Err(elsewhere()),
            }
        }
        .boxed()
    }

    fn standings(&self) -> Result<Standings, PortError> {
        let control = self.control.borrow().clone();
        self.keeper.standings(&control).ok_or_else(elsewhere)
    }

    fn read_index(&self, group: GroupId) -> BoxFuture<'_, Result<u64, PortError>> {
        async move {
            let hosted = group
                .shard()
                .and_then(|shard| self.shards.borrow().as_ref()?.get(shard));
            let group = match group {
                GroupId::Control => Some(self.handle.group().clone()),
                GroupId::Shard(_) => hosted.map(|hosted| hosted.group),
            };
            let unknown = || PortError::Unavailable("the group is not on this node".to_owned());
            let read = group.ok_or_else(unknown)?.read_index().await;
            read.map_err(|error| match error {
                ReadError::NoQuorum => PortError::Refused(error.to_string()),
                ReadError::NotLeader { .. } | ReadError::Stopped => {
                    PortError::Unavailable(error.to_string())
                }
            })
        }
        .boxed()
    }
}
