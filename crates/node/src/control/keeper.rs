//! What the control group's leader does: keeps leases, declares nodes dead, plans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use headcount_consensus::{Epoch, Group, Role};
use headcount_model::{Incarnation, NodeId};
use headcount_placement::{
    Control, ControlCommand, LeaseConfig, Leases, PlanOptions, RenewError, Standing, plan,
};
use tokio::sync::watch;

use super::ControlHandle;
use crate::clock::Clock;

/// Longest time between two looks at the plan.
const LOOK: Duration = Duration::from_secs(1);

/// Commands of a plan that are under way at a time.
const AT_A_TIME: usize = 64;

/// How long a new leader waits for what earlier ones committed before it asks anew.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The leases of all nodes, while this node leads the control group. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    clock: Clock,
    config: LeaseConfig,
    leases: Arc<Mutex<Option<Leases>>>,
}

impl Keeper {
    pub(crate) fn new(clock: Clock, config: LeaseConfig) -> Self {
        Self {
            clock,
            config,
            leases: Arc::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<Leases>) -> T) -> T {
        act(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Renews a node's lease; `None` if this node does not lead.
    pub(crate) fn renew(
        &self,
        control: &Control,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Option<Result<Duration, RenewError>> {
        let now = self.clock.monotonic();
        self.with(|leases| {
            leases
                .as_mut()
                .map(|leases| leases.renew(now, control, node, incarnation))
        })
    }

    /// Returns what is to be said about a node's life and how long ago it was heard; `None` if this
    /// node does not lead.
    pub(crate) fn standing(&self, control: &Control, node: NodeId) -> Option<(Standing, Duration)> {
        let now = self.clock.monotonic();
        self.with(|leases| {
            let leases = leases.as_ref()?;
            Some((
                leases.standing(now, control, node),
                leases.age(now, control, node),
            ))
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
        // The leadership whose leases these are.
        let mut begun = None;
        loop {
            let epoch = {
                let now = leadership.borrow_and_update();
                now.epoch.filter(|_| now.role == Role::Leader)
            };
            if begun != epoch {
                self.with(|leases| *leases = None);
                begun = None;
            }
            let Some(epoch) = epoch else {
                if leadership.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if begun.is_none() {
                // Else it would renew what an earlier leader has ended.
                if !catch_up(&group).await {
                    tokio::select! {
                        changed = leadership.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(RETRY) => {}
                    }
                    continue;
                }
                begun = Some(epoch);
            }
            let now = self.clock.monotonic();
            let state = control.borrow_and_update().clone();
            let (commands, deadline) = self.with(|leases| {
                let leases = leases.get_or_insert_with(|| Leases::new(self.config, now, &state));
                let mut commands = leases.expire(now, &state);
                let given_up = leases.given_up(now);
                commands.extend(plan(
                    &state,
                    &PlanOptions {
                        given_up,
                        ..PlanOptions::default()
                    },
                ));
                (commands, leases.next_deadline(&state))
            });
            // One after another they would each wait for a sync of a majority. They are still
            // proposed in their order, which is that of their first polls.
            let proposals = commands
                .into_iter()
                .map(|command| propose(&handle, epoch, command));
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

/// Waits until this replica has applied what earlier leaders committed; returns whether it has.
async fn catch_up(group: &Group) -> bool {
    match group.read_index().await {
        Ok(index) => group.wait_applied(index, CATCH_UP).await.is_ok(),
        Err(_) => false,
    }
}

/// Proposes under the leadership on whose state it was decided, and under no other: a leader that
/// was cut off has heard nobody, and must not have that believed once it is heard again.
async fn propose(handle: &ControlHandle, epoch: Epoch, command: ControlCommand) {
    if let ControlCommand::LeaseLost { node, incarnation } = &command {
        tracing::warn!(target: "placement", %node, %incarnation, "a lease ran out");
    }
    if let Err(error) = handle.propose_under(epoch, &command).await {
        // It is planned again with the next look.
        tracing::debug!(target: "placement", %error, "a command was not applied");
    }
}
