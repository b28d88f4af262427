//! Raft groups over one shared durable store; hides every openraft type.
//!
//! ```text
//! gateway ─▶ region ─▶ gossip ─▶ coordinator ─▶ CONSENSUS ─▶ every replica's machine ─▶ feed
//! ```
//!
//! A [`Host`] holds all raft groups of a node: one per shard, and the control group. A [`Group`] is
//! one replica's handle: propose, read, watch, change members. What a group replicates is opaque
//! bytes; a [`Machine`] makes sense of them. Envelopes reach other nodes through [`Peers`], which
//! somebody else implements over gRPC; what arrives is given to [`Host::receive`]. Everything
//! durable of all groups lies in one [`store::Store`], with group commit.
//!
//! Duties of whoever drives it:
//!
//! 1. Open the store, make the host, start each group that the node holds, before peers are heard.
//! 2. Hand every envelope and snapshot that arrives to the host, with the node that it came from,
//!    which the transport must have authenticated.
//! 3. Watch [`Host::fatal`], and end the process when it speaks.
//! 4. On the leader, call [`Group::reconcile`] until the group's members are those that the control
//!    group wants; on a node that a replica was removed from, [`Host::stop_group`] it and forget.
//! 5. Draw replica ids from one counter for all groups, and never use one twice.
//! 6. Fence by [`Epoch`], never by a role: see [`Group::propose_under`] and
//!    [`GroupStatus::leading_until`].
//! 7. Treat [`ProposeError::Unknown`] as what it is, and make commands that may be applied twice.
//!
//! It does not know what commands mean, how envelopes travel, or where replicas belong. `DESIGN.md`
//! beside this crate's manifest gives the reasons.

mod beat;
mod calls;
mod codec;
mod config;
#[cfg(test)]
mod conformance;
mod dump;
mod error;
mod group;
mod host;
mod inbound;
mod log_store;
mod machine;
mod network;
mod ports;
mod reconcile;
mod state_machine;
mod status;
pub mod store;
mod telemetry;
mod types;

use std::fmt;

pub use config::{HostConfig, Limits, Timing};
pub use dump::{Dump, DumpedEntry, DumpedMembers};
pub use error::{
    FatalError, HostError, InitializeError, ProposeError, ReadError, ReconcileError, StartError,
    TransferError, UnknownCause, WaitError,
};
pub use group::{Group, Proposed};
pub use host::{Host, ReplicaConfig};
pub use machine::{AppliedAt, Epoch, Frozen, Machine, MachineError, SNAPSHOT_CHUNK_BYTES_MAX};
pub use ports::{PeerError, Peers};
pub use reconcile::{Member, Membership, Reconciled, Step, TargetError, Wait};
pub use status::{Follower, GroupStatus, Leadership, Role};

/// Group id: one raft group of the cluster; the same on every node, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
