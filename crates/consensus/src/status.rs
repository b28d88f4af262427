//! What a group's replica knows of its group.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_model::{NodeId, ReplicaId};
use openraft::{Instant as _, ServerState, TokioInstant};
use tokio::time::Instant;

use crate::types::{Types, Vote};
use crate::{Epoch, Member, Membership, Timing};

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Listens, and does not vote.
    #[default]
    Learner,
    /// Votes, and follows a leader or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads, or has not heard yet that it does no longer: see [`GroupStatus::leading_until`].
    Leader,
    /// Does nothing any more.
    Stopped,
}

impl From<ServerState> for Role {
    fn from(state: ServerState) -> Self {
        match state {
            ServerState::Learner => Self::Learner,
            ServerState::Follower => Self::Follower,
            ServerState::Candidate => Self::Candidate,
            ServerState::Leader => Self::Leader,
            ServerState::Shutdown => Self::Stopped,
        }
    }
}

/// Who leads a group and who belongs to it, as one replica knows it. Changes seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// What this replica is.
    pub role: Role,
    /// Who leads, if that is known. The node is missing from nothing but a stale membership.
    pub leader: Option<Member>,
    /// The leadership in force here, if a leader is known.
    pub epoch: Option<Epoch>,
    /// The members. In a joint configuration the voters are those of both sets.
    pub members: Membership,
    /// Whether a change of voters is half done.
    pub joint: bool,
    /// Whether the last change of members is committed.
    pub committed: bool,
}

/// What a leader knows of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Where it lives.
    pub node: NodeId,
    /// The last entry known to be durable there.
    pub matched: Option<u64>,
    /// How many entries of the leader's log it lacks.
    pub lag: u64,
    /// How long ago what it last acknowledged was sent; `None` if it never did.
    pub acknowledged_age: Option<Duration>,
}

/// Everything about a group's replica.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupStatus {
    /// Who leads and who belongs.
    pub leadership: Leadership,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    /// Index of the last entry known here to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry applied here.
    pub applied: Option<u64>,
    /// Index of the last entry in the snapshot.
    pub snapshot: Option<u64>,
    /// Index of the last entry deleted from the log.
    pub purged: Option<u64>,
    /// The other replicas; empty unless this one leads.
    pub followers: BTreeMap<ReplicaId, Follower>,
    /// How long ago was sent what a quorum last acknowledged; `None` unless this replica leads
    /// and was acknowledged.
    pub quorum_acknowledged_age: Option<Duration>,
    /// Until when nobody else can lead, by this replica's clock; `None` unless it leads. What
    /// only a leader may do needs this to lie ahead. The clock may stand still while a machine
    /// sleeps, so the [`Epoch`] is what keeps others safe; this only keeps the usual overlap away.
    pub leading_until: Option<Instant>,
}

type Metrics = openraft::RaftMetrics<Types>;
type ServerMetrics = openraft::metrics::RaftServerMetrics<Types>;

/// Returns the leadership that `vote` stands for, if it was granted.
fn epoch_of(vote: &Vote) -> Option<Epoch> {
    let leader = vote.leader_id;
    vote.committed.then_some(Epoch {
        term: leader.term,
        leader: ReplicaId(leader.node_id),
    })
}

/// Returns who leads, if that is known.
pub(crate) fn leader_of(metrics: &ServerMetrics) -> Option<Member> {
    let replica = epoch_of(&metrics.vote)?.leader;
    let node = *metrics.membership_config.get_node(&replica.0)?;
    Some(Member { replica, node })
}

fn leads(metrics: &Metrics) -> bool {
    metrics.state == ServerState::Leader
        && epoch_of(&metrics.vote).is_some_and(|epoch| epoch.leader.0 == metrics.id)
}

/// Returns whether this replica leads, and no quorum has acknowledged that lately.
pub(crate) fn lacks_lease(metrics: &Metrics, timing: &Timing) -> bool {
    let has_lease = |age: Duration| age < timing.election_max;
    leads(metrics) && !quorum_acknowledged_age(metrics).is_some_and(has_lease)
}

/// Returns how long ago a quorum last acknowledged this replica, if it leads. The only voter needs
/// nobody's word but its own.
pub(crate) fn quorum_acknowledged_age(metrics: &Metrics) -> Option<Duration> {
    if !leads(metrics) {
        return None;
    }
    if metrics.membership_config.voter_ids().eq([metrics.id]) {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.map(|at| age(*at))
}

impl Leadership {
    pub(crate) fn observe(metrics: &ServerMetrics) -> Self {
        let effective = &metrics.membership_config;
        let mut members = Membership::default();
        let voters: Vec<u64> = effective.voter_ids().collect();
        for (replica, node) in effective.nodes() {
            let side = if voters.contains(replica) {
                &mut members.voters
            } else {
                &mut members.learners
            };
            side.insert(ReplicaId(*replica), *node);
        }
        Self {
            role: metrics.state.into(),
            leader: leader_of(metrics),
            epoch: epoch_of(&metrics.vote),
            members,
            joint: effective.get_joint_config().len() > 1,
            committed: effective.log_id() == metrics.committed_membership_config.log_id(),
        }
    }
}

impl GroupStatus {
    pub(crate) fn observe(metrics: &Metrics, leadership: Leadership, timing: &Timing) -> Self {
        let leads = leadership.role == Role::Leader;
        let acknowledged = quorum_acknowledged_age(metrics).filter(|_| leads);
        Self {
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index()),
            applied: metrics.last_applied.map(|id| id.index()),
            snapshot: metrics.snapshot.map(|id| id.index()),
            purged: metrics.purged.map(|id| id.index()),
            followers: followers(metrics),
            quorum_acknowledged_age: acknowledged,
            leading_until: acknowledged.and_then(|age| {
                let lease = timing.election_max - timing.lease_margin();
                (Instant::now() + lease).checked_sub(age)
            }),
            leadership,
        }
    }
}

/// Returns how long ago a moment by openraft's clock was; it does not give away more.
fn age(at: TokioInstant) -> Duration {
    at.elapsed()
}

pub(crate) fn followers(metrics: &Metrics) -> BTreeMap<ReplicaId, Follower> {
    let Some(replication) = &metrics.replication else {
        return BTreeMap::new();
    };
    let entries = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let heard = metrics.heartbeat.as_ref();
    replication
        .iter()
        .filter(|(replica, _)| **replica != metrics.id)
        .filter_map(|(replica, matched)| {
            let node = *metrics.membership_config.get_node(replica)?;
            let matched = matched.map(|id| id.index());
            let at = heard.and_then(|heard| heard.get(replica).copied().flatten());
            let follower = Follower {
                node,
                matched,
                lag: entries(metrics.last_log_index).saturating_sub(entries(matched)),
                acknowledged_age: at.map(|at| age(*at)),
            };
            Some((ReplicaId(*replica), follower))
        })
        .collect()
}
