//! Makes the raft groups that this node leads have the members that the control group wants.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use headcount_consensus::{
    Group, GroupId as RaftGroupId, Host, Membership, ReconcileError, Reconciled, Role,
};
use headcount_model::ReplicaId;
use headcount_placement::{Control, ControlCommand, GroupId};
use tokio::sync::watch;

use super::ControlHandle;

/// How often groups are looked at while something is to be done, and otherwise.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(2);

/// Groups that are worked on at a time: copying data to many new replicas at once would be felt.
const AT_A_TIME: usize = 8;

/// A learner that lacks at most this many entries has caught up: it is ready to vote or own.
const READY_LAG: u64 = 100;

/// What the reconciler works with.
pub(crate) struct Reconciler {
    pub(crate) host: Host,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) handle: ControlHandle,
}

impl Reconciler {
    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut wait = BUSY;
        loop {
            // A change of the wanted state is acted on at once.
            let changed = tokio::time::timeout(wait, self.control.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return;
            }
            let control = self.control.borrow_and_update().clone();
            let led = self
                .host
                .groups()
                .into_iter()
                .filter(|group| group.watch().borrow().role == Role::Leader);
            let work: Vec<(GroupId, Group)> = led
                .filter_map(|group| {
                    let RaftGroupId(number) = group.id();
                    Some((GroupId::from_number(number)?, group))
                })
                .filter(|(id, group)| is_unfinished(&control, *id, group))
                .collect();
            wait = if work.is_empty() { IDLE } else { BUSY };
            let handle = &self.handle;
            let control = &control;
            stream::iter(work)
                .for_each_concurrent(AT_A_TIME, |(id, group)| step(handle, control, id, group))
                .await;
        }
    }
}

/// Returns whether a group is not as the control group wants it.
fn is_unfinished(control: &Control, id: GroupId, group: &Group) -> bool {
    let Some(wanted) = control.group(id) else {
        return false;
    };
    let votes = group.leadership().members.voters;
    !wanted.is_confirmed()
        || wanted.replicas.values().any(|replica| !replica.ready)
        || !votes.contains_key(&group.replica())
        || heir(control, id, group).is_some()
}

/// Returns the replica that should lead in place of this one, if it can.
fn heir(control: &Control, id: GroupId, group: &Group) -> Option<ReplicaId> {
    let (replica, node) = control.leader_target(id)?;
    let node = control.node(node)?;
    // One that is about to stop has just handed over what it led.
    (replica != group.replica() && node.is_live() && !node.stopping).then_some(replica)
}

/// Takes one step with one group.
async fn step(handle: &ControlHandle, control: &Control, id: GroupId, group: Group) {
    let Some(target) = control.target_membership(id) else {
        return;
    };
    report_ready(handle, control, id, &group).await;
    let wanted = Membership {
        voters: target.voters,
        learners: target.learners,
    };
    match group.reconcile(&wanted).await {
        Ok(Reconciled::Done) => {
            let confirmed = control.group(id).is_some_and(|group| group.is_confirmed());
            if !confirmed {
                let command = ControlCommand::Confirm {
                    group: id,
                    version: target.version,
                };
                report(handle, command).await;
            } else if let Some(replica) = heir(control, id, &group)
                && let Err(error) = group.transfer_leader(replica).await
            {
                // Refused while the heir is not caught up; tried again with the next look.
                tracing::debug!(target: "placement", group = %id, %error, "not handed over");
            }
        }
        Ok(_) => {}
        Err(ReconcileError::NotLeader { .. }) => {}
        Err(error) => {
            tracing::debug!(target: "placement", group = %id, %error, "a step was not taken");
        }
    }
}

/// Reports replicas that have caught up for the first time.
async fn report_ready(handle: &ControlHandle, control: &Control, id: GroupId, group: &Group) {
    let status = group.status();
    let Some(wanted) = control.group(id) else {
        return;
    };
    for (replica, _) in wanted.replicas.iter().filter(|(_, replica)| !replica.ready) {
        let itself = *replica == group.replica();
        let follower = status.followers.get(replica);
        let ready = itself
            || follower
                .is_some_and(|follower| follower.matched.is_some() && follower.lag <= READY_LAG);
        if ready {
            report(
                handle,
                ControlCommand::ReplicaReady {
                    group: id,
                    replica: *replica,
                },
            )
            .await;
        }
    }
}

async fn report(handle: &ControlHandle, command: ControlCommand) {
    if let Err(error) = handle.propose(command).await {
        tracing::debug!(target: "placement", %error, "the control group was not told");
    }
}
