//! Replicated control state: members, leases, fences, placement.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod command;
mod state;
mod words;

pub use command::{ControlCommand, ControlReply, Outcome, Refusal};
pub use state::{
    Control, ControlParts, Group, Holdings, Hosted, Membership, Node, NodeState, Owner, Region,
    Replica, Tenure,
};
pub use words::{
    Addresses, ClusterFacts, ClusterId, FOUNDING_NODE, FOUNDING_REPLICA, Fingerprint, GroupId,
    NODES_MAX, NewNode, NodeKey, REGIONS_MAX, REMOVED_MAX, Settings, TEXT_BYTES_MAX, TimingProfile,
    WEIGHT_MAX,
};
