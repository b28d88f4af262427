//! The openraft types that this crate is built with, in one place.
//!
//! A raft node id is a replica id ([`headcount_model::ReplicaId`]) and a raft node is the
//! [`NodeId`] of the process that the replica lives on. Leader ids are of the `adv` kind, so that a
//! split vote is settled within the term.

use std::fmt;

use bytes::Bytes;
use headcount_model::NodeId;
use openraft::type_config::alias;

use crate::state_machine::StateMachine;

/// What a proposer hands over; opaque.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = Bytes,
        NodeId = u64,
        Node = NodeId,
        Term = u64,
        LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;
pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type Payload = alias::PayloadOf<Types>;
pub(crate) type LeaderId = alias::LeaderIdOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, NodeId>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, crate::state_machine::SnapshotChunks>;
