//! The control group on this node: its state, its leader's work, and this node's own standing.
//!
//! Every node holds a replica of the control group and reads members, placement, owners and fences
//! from it. [`ControlHandle`] takes commands to its leader, wherever that is; [`keeper`] is what the
//! leader does; [`membership`] makes raft groups be what the control group wants; [`hosting`] starts
//! and stops the replicas of this node; [`concerns`] wakes the drivers of shards; [`standing`]
//! registers this life of the node and keeps its lease; [`traffic`] counts where batches come from.

pub(crate) mod concerns;
mod handle;
pub(crate) mod hosting;
pub(crate) mod keeper;
mod machine;
pub(crate) mod membership;
pub(crate) mod standing;
pub(crate) mod traffic;

pub(crate) use handle::{ControlError, ControlHandle, Heard};
pub(crate) use machine::ControlMachine;
