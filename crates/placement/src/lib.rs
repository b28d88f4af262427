//! Replicated control state: members, leases, fences, placement.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod apply;
mod command;
mod leases;
mod plan;
mod state;
mod words;

pub use command::{ControlCommand, ControlReply, Outcome, Refusal};
pub use leases::{LeaseConfig, Leases, RenewError, Standing};
pub use plan::{PlanOptions, plan};
pub use state::{
    Control, ControlParts, Group, Holdings, Hosted, Membership, Node, NodeState, Owner, Region,
    Replica, Tenure,
};
pub use words::{
    Addresses, COMMANDS_VERSION, COPIES_MAX, ClusterFacts, ClusterId, FOUNDING_NODE,
    FOUNDING_REPLICA, Fingerprint, GroupId, NODES_MAX, NewNode, NodeKey, OCCUPANCY_INTERVAL_MAX,
    REGIONS_MAX, REMOVED_MAX, Settings, TEXT_BYTES_MAX, TimingProfile, WEIGHT_DEFAULT, WEIGHT_MAX,
};
