//! What can go wrong, by operation.

use std::time::Duration;

use headcount_model::ReplicaId;

use crate::{GroupId, Member, TargetError};

/// Why nobody can say whether a proposal was or will be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UnknownCause {
    /// The outcome did not come in time.
    #[error("it took too long")]
    TimedOut,
    /// Leadership was lost while it was on its way.
    #[error("leadership was lost")]
    LeaderLost,
    /// The group stopped here.
    #[error("the group stopped")]
    Stopped,
}

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or not under the epoch asked for. Nothing was proposed.
    #[error("this replica does not lead; {leader:?} may")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// Nobody can say whether it was or will be committed: whoever asks again must do so with a
    /// command that does no harm when applied twice.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// Why.
        cause: UnknownCause,
    },
    /// Too many proposals are in flight. Nothing was proposed.
    #[error("{limit} proposals are in flight")]
    Overloaded {
        /// How many may be.
        limit: usize,
    },
    /// The command is too large. Nothing was proposed.
    #[error("the command has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
}

/// Why a group was not formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitializeError {
    /// The replica is part of a group already.
    #[error("the group is formed already")]
    Already,
    /// The replica that forms a group must be one of its voters.
    #[error("replica {0} is not among the voters")]
    NotAVoter(ReplicaId),
    /// The group stopped here.
    #[error("the group stopped")]
    Stopped,
}

/// Why a step of [`crate::Group::reconcile`] was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// This replica does not lead.
    #[error("this replica does not lead; {leader:?} may")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// No step leads to the target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The hand-over that must come first was not begun.
    #[error(transparent)]
    HandOver(#[from] TransferError),
    /// The group was changed in between, or is not ready for a change; call again.
    #[error("refused: {reason}")]
    Refused {
        /// What openraft said.
        reason: String,
    },
    /// Nobody can say whether the change was or will be committed; call again.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// Why.
        cause: UnknownCause,
    },
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("this replica does not lead; {leader:?} may")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// Only a voter can lead.
    #[error("replica {0} is not a voter")]
    NotAVoter(ReplicaId),
    /// The heir does not answer.
    #[error("replica {replica} does not answer; it was last heard of {age:?} ago")]
    NotHeard {
        /// The heir.
        replica: ReplicaId,
        /// How long ago it was heard of; `None` if never.
        age: Option<Duration>,
    },
    /// The heir lacks too much of the log.
    #[error("replica {replica} lacks {lag} entries")]
    Behind {
        /// The heir.
        replica: ReplicaId,
        /// How many entries it lacks.
        lag: u64,
    },
    /// The hand-over was begun, but nobody was elected in time. The group elects by itself.
    #[error("nobody was elected in time after handing over to replica {0}")]
    TimedOut(ReplicaId),
    /// The group stopped here.
    #[error("the group stopped")]
    Stopped,
}

/// Why there is no read index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead.
    #[error("this replica does not lead; {leader:?} may")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// No quorum confirmed that this replica leads.
    #[error("no quorum answered")]
    NoQuorum,
    /// The group stopped here.
    #[error("the group stopped")]
    Stopped,
}

/// Why what was waited for did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It did not come in time.
    #[error("not within {0:?}")]
    TimedOut(Duration),
    /// The group stopped here.
    #[error("the group stopped")]
    Stopped,
}

/// Why a host was not made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The settings contradict each other.
    #[error("the settings are refused: {reason}")]
    Config {
        /// What openraft said.
        reason: String,
    },
}

/// Why a group was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The group has a replica here already.
    #[error("group {0} is started already")]
    Started(GroupId),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    ShuttingDown,
    /// The replica was forgotten here, and replica ids are never used twice.
    #[error("replica {replica} of group {group} was removed from this node for ever")]
    Forgotten {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The store failed, or holds what cannot be understood.
    #[error("group {group} cannot be read from the store: {reason}")]
    Store {
        /// The group.
        group: GroupId,
        /// What the store or openraft said.
        reason: String,
    },
}

/// Something after which a node must not go on: its store failed, or a machine panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FatalError {
    /// What happened first, and to which group.
    pub reason: String,
}
