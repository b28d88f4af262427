//! Presence sets and messages between the nodes of all regions (R17): traffic, which no log holds.
//!
//! ```text
//! client ──▶ GATEWAY ──▶ OWNER ──▶ OWNERs of the regions where the channel is active ──▶ their GATEWAYs
//!                          └─────▶ other GATEWAYs of the region
//! ```
//!
//! * [`Gateway`], one for each node and shard: local members and interests go up; what others enter
//!   and publish comes down, as the fewest changes that lead to what is the case.
//! * [`Owner`], one for each shard in the node that owns its region: who of the region is interested
//!   and entered, in numbered versions; what other regions told; who is told what.
//! * [`GatewayMessage`], [`OwnerMessage`], [`RegionMessage`] are all that goes over the wire.
//!
//! Best effort, and self-repairing: whatever is lost ends in a new stream, a pull, or a set anew.
//! `DESIGN.md` says why that is enough.
//!
//! Duties of a gateway's driver:
//! 1. Show a local change to local subscribers, then step, then carry out the effects in order.
//!    Local subscribers get local changes and messages from the driver alone.
//! 2. Check capabilities and sizes first. When a connection ends or detaches, say an explicit leave
//!    for each of its members ([`Newness::LAST`]) before the interest ends.
//! 3. Say [`GatewayInput::Owner`] when there is a way to the shard's owner, and again after it broke;
//!    [`GatewayInput::OwnerLost`] when it breaks. Both directions are one way: it keeps order, and
//!    what it loses is its end. A queue that is full is a broken way, not a message dropped.
//! 4. Say [`GatewayInput::Reborn`] when the node gets a new incarnation while it runs.
//! 5. Call [`Stage::on_deadline`](headcount_model::Stage) when it is due: held messages grow old.
//!
//! Duties of an owner's driver:
//! 1. Make the owner with the fence that the control group handed out and the regions that have an
//!    owner then; drop it when a higher fence of its region is heard of.
//! 2. Say which gateways hold a lease before their messages, and whenever that changes.
//! 3. Check that a message is of the node or region that it names. Look up, for each item of a
//!    gateway's message, where the log says that the channel is active; for a metachannel, say all.
//! 4. Say [`OwnerInput::RegionOwner`] and [`OwnerInput::RegionLost`] as for gateways' ways, one for
//!    each direction; one of the two soon after the start for each region that was awaited.
//! 5. Say what the log activates and expires, in its order, once its replica has applied it. If the
//!    replica skipped entries by a snapshot, say [`OwnerInput::RegionOwner`] of each region anew.
//! 6. Call [`Stage::on_deadline`](headcount_model::Stage) when it is due. Nothing is to be stored.
//!
//! All nodes choose the same shard for a channel's name, with its qualifier or without.
//!
//! What it does not do: no counts (they are registers, and exact), no acknowledgement and no history
//! of messages, no permissions, no fan-out to connections.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod config;
mod gateway;
mod io;
mod member;
mod messages;
mod outbox;
mod owner;
mod roster;
mod stream;
mod told;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod world;

pub use config::Config;
pub use gateway::{Gateway, GatewayStats};
pub use io::{
    Action, Delivery, GatewayEffect, GatewayInput, Lost, OwnerEffect, OwnerInput, Refusal,
};
pub use member::{
    Change, Member, MemberKey, Message, Newness, RELAY_NAME_BYTES_MAX, Regions, RelayChannel,
};
pub use messages::{
    GatewayItem, GatewayMessage, OwnerItem, OwnerMessage, RegionItem, RegionMessage,
};
pub use owner::{Owner, OwnerStats};
