//! What the control group's leader does: keeps leases, declares nodes dead, measures traffic, plans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use headcount_consensus::{Epoch, Group, Role};
use headcount_placement::{
    Control, ControlCommand, GroupId, LeaseConfig, Leases, NodeState, PlanOptions, RenewError,
    Traffic, TrafficConfig, plan,
};
use headcount_rpc::control::{RenewReply, Renewal, Standings};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ControlHandle;
use crate::clock::Clock;
use crate::telemetry;

/// Longest time between two looks at the plan.
const LOOK: Duration = Duration::from_secs(1);

/// Commands of a plan that are under way at a time.
const AT_A_TIME: usize = 64;

/// How long a new leader waits for what earlier ones committed before it asks anew.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What only the control group's leader knows, while this node is it. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    clock: Clock,
    leases: LeaseConfig,
    traffic: TrafficConfig,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// The leases of all nodes, and the traffic of all shards.
#[derive(Debug)]
struct Kept {
    group: Group,
    leases: Leases,
    traffic: Traffic,
}

impl Keeper {
    pub(crate) fn new(clock: Clock, leases: LeaseConfig, traffic: TrafficConfig) -> Self {
        Self {
            clock,
            leases,
            traffic,
            kept: Arc::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Kept>) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Renews a node's lease and takes note of the traffic that it tells; `None` if this node does
    /// not lead, or another may lead already: its leader would not know that the lease runs on, and
    /// declare the node dead. Only who is no member is refused.
    pub(crate) fn renew(
        &self,
        control: &Control,
        renewal: &Renewal,
    ) -> Option<Result<RenewReply, RenewError>> {
        let now = self.clock.monotonic();
        let Renewal {
            node,
            incarnation,
            traffic,
            ..
        } = renewal;
        self.with(|kept| {
            let kept = kept.as_mut()?;
            if !leads_alone(&kept.group) {
                return None;
            }
            let renewed = kept.leases.renew(now, control, *node, *incarnation);
            if renewed.is_ok() {
                let known = |shard| control.group(GroupId::Shard(shard)).is_some();
                for (shard, items) in traffic.iter().filter(|(shard, _)| known(**shard)) {
                    kept.traffic.note(now, *shard, items);
                }
            }
            Some(match renewed {
                Ok(lease) => Ok(RenewReply::Renewed { lease }),
                Err(RenewError::Ended { current, .. }) => Ok(RenewReply::Ended { current }),
                Err(refused @ RenewError::NotAMember(_)) => Err(refused),
            })
        })
    }

    /// Returns what is to be said about every member's life, how long ago each was heard, and what
    /// came lately in the shards; `None` if this node does not lead.
    pub(crate) fn standings(&self, control: &Control) -> Option<Standings> {
        let now = self.clock.monotonic();
        self.with(|kept| {
            let Kept {
                leases, traffic, ..
            } = kept.as_ref()?;
            let nodes = control.nodes().iter();
            let nodes = nodes
                .filter(|(_, node)| node.state != NodeState::Removed)
                .map(|(id, _)| {
                    let standing = leases.standing(now, control, *id);
                    (*id, (standing, leases.age(now, control, *id)))
                });
            let shards = control.shards();
            let traffic = shards.map(|shard| (shard, traffic.lately(shard)));
            Some(Standings {
                nodes: nodes.collect(),
                traffic: traffic.filter(|(_, items)| !items.is_empty()).collect(),
            })
        })
    }

    /// Runs for ever: begins with full leases at each election, ends them with leadership.
    pub(crate) async fn run(
        self,
        group: Group,
        mut control: watch::Receiver<Arc<Control>>,
        handle: ControlHandle,
    ) {
        let mut leadership = group.watch();
        let mut lives = telemetry::Lives::default();
        // The leadership whose leases these are.
        let mut begun = None;
        loop {
            let epoch = {
                let now = leadership.borrow_and_update();
                now.epoch.filter(|_| now.role == Role::Leader)
            };
            if begun != epoch {
                self.with(|kept| *kept = None);
                lives = telemetry::Lives::default();
                begun = None;
            }
            let Some(epoch) = epoch else {
                if leadership.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // One that has not caught up would renew what an earlier leader has ended. While it is
            // not heard it renews nothing, and nobody's silence counts: the time lost is given to
            // everybody with the next look.
            if begun.is_none() && !catch_up(&group).await || !leads_alone(&group) {
                tokio::select! {
                    changed = leadership.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(RETRY) => {}
                }
                continue;
            }
            begun = Some(epoch);
            let now = self.clock.monotonic();
            let state = control.borrow_and_update().clone();
            let (commands, deadline) = self.with(|kept| {
                let Kept {
                    leases, traffic, ..
                } = kept.get_or_insert_with(|| Kept {
                    group: group.clone(),
                    leases: Leases::new(self.leases, now, &state),
                    traffic: Traffic::new(self.traffic),
                });
                let mut commands = leases.expire(now, &state);
                let options = PlanOptions {
                    given_up: leases.given_up(now),
                    settling: leases.is_settling(now),
                    restarted: leases.restarted(now),
                    ..PlanOptions::default()
                };
                commands.extend(plan(&state, &options));
                commands.extend(traffic.decide(now, &state));
                (commands, leases.next_deadline(&state))
            });
            if let Some(standings) = self.standings(&state) {
                lives.set(standings.nodes.values().map(|(standing, _)| *standing));
            }
            // One after another they would each wait for a sync of a majority. They are still
            // proposed in their order, which is that of their first polls.
            let proposals = commands
                .into_iter()
                .map(|command| propose(&handle, epoch, &state, command));
            stream::iter(proposals)
                .buffered(AT_A_TIME)
                .collect::<()>()
                .await;
            let until = self.clock.instant(deadline.min(now.after(LOOK)));
            tokio::select! {
                changed = control.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// Returns whether this replica leads and nobody else can at this moment, as a majority was heard
/// lately.
fn leads_alone(group: &Group) -> bool {
    let until = group.status().leading_until;
    until.is_some_and(|until| until > Instant::now())
}

/// Waits until this replica has applied what earlier leaders committed; returns whether it has.
async fn catch_up(group: &Group) -> bool {
    match group.read_index().await {
        Ok(index) => group.wait_applied(index, CATCH_UP).await.is_ok(),
        Err(_) => false,
    }
}

/// Proposes under the leadership on whose state it was decided, and under no other: a leader that
/// was cut off has heard nobody, and must not have that believed once it is heard again.
async fn propose(handle: &ControlHandle, epoch: Epoch, state: &Control, command: ControlCommand) {
    match &command {
        ControlCommand::LeaseLost { node, incarnation } => {
            tracing::warn!(target: "placement", %node, %incarnation, "a lease ran out");
        }
        ControlCommand::FollowTraffic { shard, region } => {
            let region = region.as_ref().map_or("nothing", |region| region.as_str());
            tracing::info!(target: "placement", %shard, region, "a coordinator follows traffic");
        }
        _ => {}
    }
    let reason = match &command {
        ControlCommand::PreferLeader { group, replica } => state.move_reason(*group, *replica),
        _ => None,
    };
    match (handle.propose_under(epoch, &command).await, reason) {
        (Ok(Ok(_)), Some(reason)) => telemetry::leader_moved(reason),
        (Ok(_), _) => {}
        (Err(error), _) => {
            // It is planned again with the next look.
            tracing::debug!(target: "placement", %error, "a command was not applied");
        }
    }
}
