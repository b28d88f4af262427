//! The words of the control group: members, leases, fences, placement. `headcount-placement` decides
//! with them; they are here because they also cross the wire and outlive a release on disk.

mod command;
mod handshake;
mod state;
mod words;

pub use command::{ControlCommand, ControlReply, LastOrder, Outcome, Refusal};
pub use handshake::{DisagreeError, Handshake, Protocols};
pub use state::{
    ControlParts, Group, Membership, Node, NodeState, Region, Replica, Revocation, RevokedTokens,
    Standing, Tenure,
};
pub use words::{
    Addresses, COMMANDS_VERSION, COPIES_MAX, ClusterFacts, ClusterId, FOLLOWING_VERSION,
    FOUNDING_NODE, FOUNDING_REPLICA, Fingerprint, GroupId, NODES_MAX, NewNode, NodeKey,
    OCCUPANCY_INTERVAL_MAX, OCCUPANCY_INTERVAL_MIN, ORDERS_VERSION, PIN_SHARDS_DEFAULT, PINS_MAX,
    Pin, REGIONS_MAX, REMOVED_MAX, REVOCATIONS_MAX, REVOKED_AT_ONCE_MAX, REVOKED_BYTES_MAX,
    REVOKED_SPAN_MIN, REVOKING_VERSION, STOPPING_VERSION, Settings, TEXT_BYTES_MAX, TimingProfile,
    WEIGHT_DEFAULT, WEIGHT_MAX,
};
