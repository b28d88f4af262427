//! One raft group's replica on this node, as a handle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headcount_model::mutants::Mutant;
use headcount_model::{NodeId, ReplicaId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, InitializeError as RaftInitializeError,
    LinearizableReadError, RaftError,
};
use openraft::impls::ProgressResponder;
use openraft::metrics::WaitError as RaftWaitError;
use openraft::{ChangeMembers, Precondition, RaftMetrics, ReadPolicy};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::beat::Silence;
use crate::calls::Calls;
use crate::error::{
    InitializeError, ProposeError, ReadError, ReconcileError, TransferError, UnknownCause,
    WaitError,
};
use crate::inbound::Inbound;
use crate::reconcile::{self, CatchUp, Observed};
use crate::status::{
    self, Follower, GroupStatus, Leadership, Role, followers, leader_of, quorum_acknowledged_age,
};
use crate::types::{Command, LeaderId, Raft, Types};
use crate::{Epoch, GroupId, Limits, Member, Membership, Reconciled, Step, Timing, telemetry};

/// A group's replica on this node; cheap to clone.
#[derive(Clone)]
pub struct Group(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) calls: Arc<Calls>,
    /// How long the leader was not heard here.
    pub(crate) silence: Arc<Silence>,
    /// Requests from peers; read by the group's inbound task.
    pub(crate) inbound: mpsc::Sender<Inbound>,
    /// Written by the group's watch task.
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// One permit for each proposal that may be in flight.
    pub(crate) proposals: Semaphore,
    /// Held while a proposal is handed to raft, which may have to wait: the others wait behind it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub(crate) catch_up: Mutex<CatchUp>,
    /// The last term in which this replica began to hand leadership over, so that it claims no
    /// lease any more: the votes of a hand-over do not wait for leases. 0 for none.
    pub(crate) handed_over_term: AtomicU64,
    /// The group's inbound and watch tasks.
    pub(crate) tasks: Vec<AbortHandle>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.0.id)
            .field("replica", &self.0.replica)
            .finish_non_exhaustive()
    }
}

/// A proposal that was committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Where it stands in the log.
    pub index: u64,
    /// What the machine answered.
    pub reply: Bytes,
}

impl Group {
    /// Returns which group it is.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Returns which of the group's replicas is the one on this node.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.0.replica
    }

    /// Forms the group with `voters`, this replica among them. To be called on exactly one of
    /// them, once in the group's life; the caller leads first.
    pub async fn initialize(&self, voters: &[Member]) -> Result<(), InitializeError> {
        let voters: BTreeMap<u64, NodeId> = voters
            .iter()
            .map(|voter| (voter.replica.0, voter.node))
            .collect();
        match self.0.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(RaftInitializeError::NotAllowed(_))) => {
                Err(InitializeError::Already)
            }
            Err(RaftError::APIError(RaftInitializeError::NotInMembers(_))) => {
                Err(InitializeError::NotAVoter(self.0.replica))
            }
            Err(RaftError::Fatal(_)) => Err(InitializeError::Stopped),
        }
    }

    /// Proposes `command` and waits until it is committed and applied here, or its fate cannot be
    /// told. Only the leader can.
    ///
    /// The order in which these futures are first polled is the order of the entries, so several
    /// may be in flight in sequence. Only a lease that runs out in that moment can change it. One
    /// that was polled is to be polled on or dropped: the next may wait behind it.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_as(None, command).await
    }

    /// Proposes `command` as [`Self::propose`] does, but only under the leadership `epoch`: what
    /// was worked out under one leadership never lands under another.
    pub async fn propose_under(
        &self,
        epoch: Epoch,
        command: Bytes,
    ) -> Result<Proposed, ProposeError> {
        self.propose_as(Some(epoch), command).await
    }

    async fn propose_as(
        &self,
        epoch: Option<Epoch>,
        command: Bytes,
    ) -> Result<Proposed, ProposeError> {
        let limit = self.0.limits.command_bytes;
        if command.len() > limit {
            return Err(ProposeError::TooLarge {
                bytes: command.len(),
                limit,
            });
        }
        let Ok(_permit) = self.0.proposals.try_acquire() else {
            telemetry::proposals_overloaded_total.count(1);
            return Err(ProposeError::Overloaded {
                limit: self.0.limits.proposals_in_flight,
            });
        };
        let begun = Instant::now();
        let deadline = begun + self.0.limits.propose_timeout;
        let written = tokio::time::timeout_at(deadline, self.write(epoch, Command(command))).await;
        let result = written.unwrap_or(Err(ProposeError::Unknown {
            cause: UnknownCause::TimedOut,
        }));
        match &result {
            Ok(_) => telemetry::commit_seconds.record(begun.elapsed()),
            Err(ProposeError::Unknown { .. }) => telemetry::proposals_unknown_total.count(1),
            Err(_) => {}
        }
        result
    }

    /// Writes to the log, when it is this proposal's turn and the leader has its lease. One that is
    /// refused all the same is tried again for at most one election time.
    async fn write(
        &self,
        epoch: Option<Epoch>,
        command: Command,
    ) -> Result<Proposed, ProposeError> {
        let retry_until = Instant::now() + self.0.timing.election_min;
        loop {
            // Unconstrained, as tokio's budget would let a later proposal of the same task pass.
            let turn = tokio::task::unconstrained(self.0.turn.lock()).await;
            self.wait_lease(retry_until).await;
            let (responder, completed) = ProgressResponder::complete_only();
            let mut request = self.0.raft.write(command.clone()).responder(responder);
            if let Some(Epoch { term, leader }) = epoch {
                request = request.with_leader(LeaderId {
                    term,
                    node_id: leader.0,
                });
            }
            let stopped = ProposeError::Unknown {
                cause: UnknownCause::Stopped,
            };
            let asked = tokio::task::unconstrained(request.into_future()).await;
            drop(turn);
            if asked.is_err() {
                return Err(stopped);
            }
            let forward = match completed.await {
                Err(_dropped) => return Err(stopped),
                Ok(Ok(written)) => {
                    return Ok(Proposed {
                        index: written.log_id.index(),
                        reply: written.data,
                    });
                }
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => forward,
                Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => {
                    return Err(ProposeError::Unknown {
                        cause: UnknownCause::LeaderLost,
                    });
                }
                // Only changes of members end in these.
                Ok(Err(
                    ClientWriteError::ChangeMembershipError(_)
                    | ClientWriteError::PreconditionFailed(_),
                )) => return Err(ProposeError::NotLeader { leader: None }),
            };
            if forward.reason != ForwardReason::LeaseExpired || Instant::now() >= retry_until {
                return Err(ProposeError::NotLeader {
                    leader: self.hint(&forward),
                });
            }
            tokio::time::sleep(self.0.timing.lease_pause()).await;
        }
    }

    /// Waits while this replica leads and may not write: a leader just elected has no lease for
    /// about one round trip, in which openraft refuses everything. Tried again one by one, proposals
    /// would overtake each other.
    async fn wait_lease(&self, until: Instant) {
        let lacks_lease = || {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            status::lacks_lease(&metrics, &self.0.timing)
        };
        while lacks_lease() && Instant::now() < until {
            tokio::time::sleep(self.0.timing.lease_pause()).await;
        }
    }

    /// Returns who leads instead, if openraft said so and it is not this replica.
    fn hint(&self, forward: &ForwardToLeader<Types>) -> Option<Member> {
        let member = Member {
            replica: ReplicaId(forward.leader_id?),
            node: forward.leader_node?,
        };
        (member.replica != self.0.replica).then_some(member)
    }

    /// Returns who leads and who belongs, as this replica knows it at this moment.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership::observe(&self.0.raft.server_metrics().borrow_watched())
    }

    /// Returns who leads: of [`Self::leadership`] what each read asks for.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        leader_of(&self.0.raft.server_metrics().borrow_watched())
    }

    /// Returns [`GroupStatus::quorum_acknowledged_age`] and [`GroupStatus::applied`], which each read
    /// asks for.
    #[must_use]
    pub fn freshness(&self) -> (Option<Duration>, Option<u64>) {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.map(|id| id.index());
        (quorum_acknowledged_age(&metrics), applied)
    }

    /// Returns how long ago a quorum acknowledged this replica, if it leads, and what was committed
    /// by then: nothing else can have been.
    #[must_use]
    pub fn acknowledged(&self) -> Option<(Duration, Option<u64>)> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.local_committed.map(|id| id.index());
        Some((quorum_acknowledged_age(&metrics)?, committed))
    }

    /// Returns a receiver that hears of every change of [`Self::leadership`]. It closes when the
    /// group stops.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Returns everything about the replica, at this moment.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let metrics = self.metrics();
        let mut status = GroupStatus::observe(&metrics, self.leadership(), &self.0.timing);
        let leads_as_voter = status
            .leadership
            .members
            .voters
            .contains_key(&self.0.replica);
        let handed_over = self.0.handed_over_term.load(Ordering::Relaxed);
        let now = status.leadership.epoch;
        if !leads_as_voter || now.is_some_and(|now| now.term <= handed_over) {
            status.leading_until = None;
        }
        status
    }

    fn metrics(&self) -> RaftMetrics<Types> {
        // Cloned at once: the borrow locks openraft's side.
        self.0.raft.metrics().borrow_watched().clone()
    }

    /// Takes one [`Step`] towards `target`. Only the leader can. To be
    /// called again until it says that it is done, some hundred milliseconds apart while it waits;
    /// by one caller at a time.
    pub async fn reconcile(&self, target: &Membership) -> Result<Reconciled, ReconcileError> {
        let metrics = self.metrics();
        let status = self.status();
        let Some(epoch) = status
            .leadership
            .epoch
            .filter(|epoch| epoch.leader == self.0.replica)
        else {
            return Err(ReconcileError::NotLeader {
                leader: status.leadership.leader,
            });
        };
        // One that is silent may be gone, however much it had.
        let patience = self.0.timing.election_max;
        let answering = status
            .followers
            .iter()
            .filter(|(_, follower)| follower.acknowledged_age.is_some_and(|age| age <= patience));
        let matched = answering.map(|(replica, follower)| (*replica, follower.matched));
        let caught_up = self
            .0
            .catch_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(epoch.term, status.last_log, &matched.collect());
        let effective = &metrics.membership_config;
        let observed = Observed {
            leader: self.0.replica,
            configs: effective
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().copied().map(ReplicaId).collect())
                .collect(),
            nodes: effective
                .nodes()
                .map(|(id, node)| (ReplicaId(*id), *node))
                .collect(),
            committed: effective.log_id() == metrics.committed_membership_config.log_id(),
            caught_up,
        };
        let reconciled = reconcile::plan(&observed, target)?;
        if let Reconciled::Stepped(step) = &reconciled {
            tracing::info!(target: "consensus", group = %self.0.id, ?step, "changing members");
            self.take(step, *effective.log_id()).await?;
        }
        Ok(reconciled)
    }

    /// Carries out `step`, provided that nobody changed the members since `observed`.
    async fn take(
        &self,
        step: &Step,
        observed: Option<crate::types::LogId>,
    ) -> Result<(), ReconcileError> {
        let ids = |replicas: &BTreeSet<ReplicaId>| replicas.iter().map(|id| id.0).collect();
        let (change, keep_removed) = match step {
            // Adding nobody is how openraft is told to end a joint configuration.
            Step::Flatten => (ChangeMembers::AddVoterIds(BTreeSet::new()), true),
            Step::AddLearners(added) => {
                let added = added
                    .iter()
                    .map(|(replica, node)| (replica.0, *node))
                    .collect();
                (ChangeMembers::AddNodes(added), true)
            }
            Step::HandOver(to) => return Ok(self.transfer_leader(*to).await?),
            Step::ReplaceVoters {
                voters,
                keep_removed,
            } => (ChangeMembers::ReplaceAllVoters(ids(voters)), *keep_removed),
            Step::RemoveLearners(gone) => (ChangeMembers::RemoveNodes(ids(gone)), true),
        };
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: observed,
        };
        let changing = self
            .0
            .raft
            .change_membership_if(change, keep_removed, [unchanged]);
        match tokio::time::timeout(self.0.limits.propose_timeout, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.reconcile_error(error)),
            Err(_elapsed) => Err(ReconcileError::Unknown {
                cause: UnknownCause::TimedOut,
            }),
        }
    }

    fn reconcile_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> ReconcileError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                ReconcileError::NotLeader {
                    leader: self.hint(&forward),
                }
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                ReconcileError::Unknown {
                    cause: UnknownCause::LeaderLost,
                }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                ReconcileError::Refused {
                    reason: error.to_string(),
                }
            }
            RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
                ReconcileError::Refused {
                    reason: error.to_string(),
                }
            }
            RaftError::Fatal(_) => ReconcileError::Unknown {
                cause: UnknownCause::Stopped,
            },
        }
    }

    /// Hands leadership to the voter `to` and waits until this replica has heard of a new leader.
    /// Refused if `to` does not answer now or lacks what the log has now, because a hand-over cannot
    /// be taken back: once it is begun this replica refuses proposals until someone is elected.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), TransferError> {
        let status = self.status();
        let before = status.leadership.epoch;
        let Some(epoch) = before.filter(|epoch| epoch.leader == self.0.replica) else {
            return Err(TransferError::NotLeader {
                leader: status.leadership.leader,
            });
        };
        if to == self.0.replica {
            return Ok(());
        }
        if !status.leadership.members.voters.contains_key(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        self.hear_heir(to).await?;
        self.0
            .handed_over_term
            .fetch_max(epoch.term, Ordering::Relaxed);
        let mut leadership = self.watch();
        let trigger = self.0.raft.trigger().transfer_leader(to.0).await;
        trigger.map_err(|_fatal| TransferError::Stopped)?;
        let changed = leadership.wait_for(|now| now.epoch.is_some() && now.epoch > before);
        match tokio::time::timeout(self.0.limits.propose_timeout, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_closed)) => Err(TransferError::Stopped),
            Err(_elapsed) => Err(TransferError::TimedOut(to)),
        }
    }

    /// Waits until a voter has answered what it is sent from now on, and has what the log holds now.
    /// What is known of it before may be of a life of its node that has ended since, and what is
    /// sent to it may be waiting until the way to it is tried again.
    async fn hear_heir(&self, heir: ReplicaId) -> Result<(), TransferError> {
        let asked = Instant::now();
        let last = self.status().last_log;
        let beat = self.0.raft.trigger().heartbeat().await;
        beat.map_err(|_fatal| TransferError::Stopped)?;
        let wait = self.0.raft.wait(Some(self.0.timing.election_max));
        let is_heard = |follower: &Follower, since: Duration| {
            follower.acknowledged_age.is_some_and(|age| age <= since)
        };
        let answering = wait.metrics(
            |metrics| {
                let since = asked.elapsed();
                // Without followers it leads no more, of which the caller is told below.
                followers(metrics)
                    .get(&heir)
                    .is_none_or(|follower| is_heard(follower, since) && follower.matched >= last)
            },
            "an heir answers",
        );
        let answered = answering.await;
        if let Err(RaftWaitError::ShuttingDown) = answered {
            return Err(TransferError::Stopped);
        }
        let since = asked.elapsed();
        let status = self.status();
        match status.followers.get(&heir) {
            None => Err(TransferError::NotLeader {
                leader: status.leadership.leader,
            }),
            Some(_) if answered.is_ok() => Ok(()),
            Some(follower) if is_heard(follower, since) => Err(TransferError::Behind {
                replica: heir,
                lag: follower.lag,
            }),
            Some(follower) => Err(TransferError::NotHeard {
                replica: heir,
                age: follower.acknowledged_age,
            }),
        }
    }

    /// Returns an index such that whoever has applied it has seen everything that was committed
    /// when this call began. Asks a quorum whether this replica still leads; only the leader can.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if Mutant::StaleStrongRead.is_planted() {
            return Ok(self.status().applied.unwrap_or(0));
        }
        let asking = self.0.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.0.limits.propose_timeout, asking).await {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ReadError::NotLeader {
                    leader: self.hint(&forward),
                })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                Err(ReadError::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
            Err(_elapsed) => Err(ReadError::NoQuorum),
        }
    }

    /// Waits until this replica has applied the entry at `index`.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), WaitError> {
        let waiting = self.0.raft.wait(Some(timeout));
        let applied = waiting
            .applied_index_at_least(Some(index), "wait_applied")
            .await;
        applied
            .map(|_metrics| ())
            .map_err(|error| wait_error(&error, timeout))
    }

    /// Waits until this replica, after a restart, has applied what it may have applied before.
    pub async fn wait_recovered(&self, timeout: Duration) -> Result<(), WaitError> {
        let recovered = self.0.raft.wait_for_recovery(Some(timeout)).await;
        recovered
            .map(|_metrics| ())
            .map_err(|error| wait_error(&error, timeout))
    }

    /// Waits until a leader is known here, and returns it.
    pub async fn wait_leader(&self, timeout: Duration) -> Result<Member, WaitError> {
        let mut leadership = self.watch();
        let known = leadership.wait_for(|now| now.leader.is_some());
        match tokio::time::timeout(timeout, known).await {
            Ok(Ok(now)) => now.leader.ok_or(WaitError::Stopped),
            Ok(Err(_closed)) => Err(WaitError::Stopped),
            Err(_elapsed) => Err(WaitError::TimedOut(timeout)),
        }
    }

    /// Begins to take a snapshot, unless one is being taken, and to delete the log behind it.
    pub async fn trigger_snapshot(&self) -> Result<(), WaitError> {
        self.0
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|_fatal| WaitError::Stopped)
    }

    /// Whether this replica leads, or thinks so; for metrics only.
    pub(crate) fn seems_to_lead(&self) -> bool {
        self.0.leadership.borrow().role == Role::Leader
    }

    /// How many proposals wait for their reply.
    pub(crate) fn proposals_in_flight(&self) -> u64 {
        (self.0.limits.proposals_in_flight - self.0.proposals.available_permits()) as u64
    }

    /// Stops the replica and all its tasks.
    pub(crate) async fn stop(&self) {
        // Nobody joins openraft's task, so nothing is lost with its result.
        drop(self.0.raft.shutdown().await);
        self.0.calls.close();
        for task in &self.0.tasks {
            task.abort();
        }
    }
}

fn wait_error(error: &RaftWaitError, timeout: Duration) -> WaitError {
    match error {
        RaftWaitError::Timeout(..) => WaitError::TimedOut(timeout),
        RaftWaitError::ShuttingDown => WaitError::Stopped,
    }
}
