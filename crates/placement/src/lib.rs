//! Placement: who belongs to the cluster, who holds what, who may speak for a region's shard.
//!
//! ```text
//! edge ─▶ gateway ─▶ region ─▶ gossip ─▶ coordinator ─▶ feed
//!                  PLACEMENT says which node is each of them
//! ```
//!
//! [`Control`] is the state that the control group's log makes, one copy on every node:
//! [`Control::apply`] is deterministic, hands out node ids, replica ids and fences from counters
//! that never go back, and moves ownership the moment a lease ends or a process restarts (R4, R5).
//! [`plan()`] says what should change next about replicas, voters, owners and leaders. [`Leases`] is
//! the leader's own account of who was heard, [`Traffic`] that of where the traffic of each shard
//! comes from. The words are those of [`headcount_model::control`].
//!
//! The state also remembers what else must hold on every node and outlive each: revoked tokens,
//! whose targets it does not read ([`Control::revocations`]).
//!
//! # The driver's duties
//! 1. Exactly one node founds a cluster: it initialises the control group with [`FOUNDING_REPLICA`]
//!    as its only voter, waits until it leads, and proposes [`ControlCommand::Init`] (R20). All
//!    others join.
//! 2. Every process, at every start: propose [`ControlCommand::Join`] (through any member), keep the
//!    node id, then [`ControlCommand::Start`] with the incarnation after the one returned, before it
//!    hosts, owns or leads anything. It acts only under fences handed to that incarnation. When a
//!    renewal says that its lease has ended, it stops to own, and starts with the next incarnation.
//! 3. After each applied command, compare [`Control::replicas_of`] with what runs: start what is
//!    new, initialise a group's log if it is empty and `founder` is set, and stop and destroy what is
//!    no longer named. [`Control::owned_by`] says in the same way which shards to claim and which to
//!    let go; [`Control::voids`] which `ExpireRegion`s to propose.
//! 4. The leader of each group, shards' and control, brings about [`Control::target_membership`]:
//!    learners first, then the voters in one joint change, then removals. It reports a learner that
//!    has caught up by [`ControlCommand::ReplicaReady`], and a reached target by
//!    [`ControlCommand::Confirm`] with its version. It hands leadership to
//!    [`Control::leader_target`], once that voter has caught up.
//! 5. The control group's leader, once it has applied what earlier leaders committed, makes
//!    [`Leases`], renews its own lease like everybody's, proposes what [`Leases::expire`] returns at
//!    each [`Leases::next_deadline`], and drops them when it no longer leads.
//!    It keeps [`Traffic`] for as long, tells it what the shards' leaders counted, and proposes what
//!    [`Traffic::decide`] returns.
//! 6. The same leader proposes what [`plan()`] returns, in order, one call at a time. It is a function
//!    of its arguments: ask again when the state or the options have changed, or a proposal has
//!    failed. [`Refusal::Superseded`] means that another leader was faster: plan again. A proposal
//!    whose outcome is unknown may be repeated; every command is idempotent, or refuses the
//!    repetition.
//! 7. Propose every command under the leadership on whose state it was decided, never under a later
//!    one.
//! 8. Persist [`Control::parts`] in snapshots and restore by [`Control::from_parts`].
//!
//! It does not know raft, sockets or clocks, and does not decide what a shard's log says.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod apply;
mod leases;
mod plan;
mod restore;
mod state;
mod traffic;

pub use headcount_model::control::{
    Addresses, COMMANDS_VERSION, COPIES_MAX, ClusterFacts, ClusterId, ControlCommand, ControlParts,
    ControlReply, DisagreeError, FOLLOWING_VERSION, FOUNDING_NODE, FOUNDING_REPLICA, Fingerprint,
    Group, GroupId, Handshake, LastOrder, Membership, NODES_MAX, NewNode, Node, NodeKey, NodeState,
    OCCUPANCY_INTERVAL_MAX, OCCUPANCY_INTERVAL_MIN, ORDERS_VERSION, Outcome, PINS_MAX, Pin,
    Protocols, REGIONS_MAX, REMOVED_MAX, REVOCATIONS_MAX, REVOKED_AT_ONCE_MAX, REVOKED_BYTES_MAX,
    REVOKED_SPAN_MIN, REVOKING_VERSION, Refusal, Region, Replica, Revocation, RevokedTokens,
    STOPPING_VERSION, Settings, Standing, TEXT_BYTES_MAX, Tenure, TimingProfile, WEIGHT_DEFAULT,
    WEIGHT_MAX,
};
pub use leases::{LeaseConfig, Leases, RenewError};
pub use plan::{PlanOptions, plan};
pub use restore::PartsError;
pub use state::{Concern, Control, Holdings, Hosted, Owner};
pub use traffic::{MoveReason, Traffic, TrafficConfig};
