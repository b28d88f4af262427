//! The words of the control group: members, leases, fences, placement. `headcount-placement` decides
//! with them; they are here because they also cross the wire and outlive a release on disk.

mod command;
mod handshake;
mod state;
mod words;

pub use command::{ControlCommand, ControlReply, Outcome, Refusal};
pub use handshake::{DisagreeError, Handshake, Protocols};
pub use state::{
    ControlParts, Group, Membership, Node, NodeState, Region, Replica, Standing, Tenure,
};
pub use words::{
    Addresses, COMMANDS_VERSION, COPIES_MAX, ClusterFacts, ClusterId, FOUNDING_NODE,
    FOUNDING_REPLICA, Fingerprint, GroupId, NODES_MAX, NewNode, NodeKey, OCCUPANCY_INTERVAL_MAX,
    REGIONS_MAX, REMOVED_MAX, Settings, TEXT_BYTES_MAX, TimingProfile, WEIGHT_DEFAULT, WEIGHT_MAX,
};
