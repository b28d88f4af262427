//! The regional owner of a shard: `gateway → REGION → gossip → coordinator → feed`.
//!
//! An [`Owner`] adds up what the gateways of its region have registered, decides when a channel
//! goes active and inactive in the region, and says so at once. It asks nobody: a transition comes
//! from its own state alone, whose base it reads from the log once, at its claim (R11).
//!
//! The driver's duties:
//! 1. Make an owner with the fence that the control group handed out, propose its
//!    [`headcount_model::Claim`], and give it [`Input::Claimed`] once its own replica of the shard
//!    has applied that claim, with the base at that very log position (R1).
//! 2. Tell it which gateways hold a lease ([`Input::Gateways`]) before their updates, and whenever
//!    that changes.
//! 3. Carry [`Effect::Transition`] to the feed at once and to gossip, [`Effect::Register`] to
//!    gossip, both in their order; propose [`headcount_model::Command::Settled`] on
//!    [`Effect::Settled`].
//! 4. Drop the owner as soon as a higher fence of its region is heard of.
//!
//! Acknowledgements may be lost; updates may be lost, repeated or reordered.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod owner;
mod sources;
mod table;

#[cfg(test)]
mod tests;

use std::time::Duration;

use headcount_model::{
    ChannelKey, GatewayAck, GatewayUpdate, Incarnation, NodeId, Occupancy, Transition,
};

pub use owner::Owner;

/// How an owner decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a channel stays active in the region after the last attachment has left. Bounds how
    /// often a busy channel flaps: too low tells every short absence, too high tells the end of a
    /// channel late. Default 5 s, 0 to 10 min.
    pub linger: Duration,
    /// Longest adoption: after this, a gateway that is not complete is no longer waited for, and
    /// its absence is believed. Must exceed the gateways' recovery time, else a restart flaps
    /// channels. Default 20 s.
    pub adoption_cap: Duration,
    /// Seed of the table of channels; random in production, so that nobody can name channels that
    /// collide. No decision depends on it.
    pub hash_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(5),
            adoption_cap: Duration::from_secs(20),
            hash_seed: 0,
        }
    }
}

/// What can happen to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The owner's replica applied its claim; these channels were active in the region then.
    Claimed {
        /// The base, from the log.
        base: Vec<(ChannelKey, Occupancy)>,
    },
    /// The nodes of the region that hold a lease now, each with its incarnation.
    Gateways {
        /// All of them.
        live: Vec<(NodeId, Incarnation)>,
    },
    /// A gateway said something.
    Update(GatewayUpdate),
    /// The coordinator of the shard is, or is no longer, in this region.
    CoordinatorHere(bool),
}

/// What an owner asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Acknowledge what a gateway said.
    Acknowledge {
        /// The gateway's node.
        node: NodeId,
        /// Up to here.
        ack: GatewayAck,
    },
    /// A channel went active or inactive in the region: tell it at once, and log it.
    Transition(Transition),
    /// An active channel's counts changed: log them.
    Register {
        /// The channel.
        channel: ChannelKey,
        /// Its counts in the region.
        occupancy: Occupancy,
        /// Whether a category went 0 ↔ non-zero, which is logged without delay.
        crossing: bool,
    },
    /// Adoption has ended: from here on the region is what its gateways say.
    Settled {
        /// Nodes that were not waited for any longer; not empty is worth an alarm.
        missing: Vec<NodeId>,
    },
}
