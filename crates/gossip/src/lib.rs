//! What a region is and its shard's log does not say yet: `gateway → region → GOSSIP → coordinator`.
//!
//! An [`Outbox`] carries one owner's facts into the log: first its claim, then numbered batches of
//! transitions and registers, and once its adoption is over, word of that. Whatever is lost on the
//! way is sent again, unchanged, until the owner's own replica shows it applied (R2); there is no
//! other repair.
//!
//! The driver's duties:
//! 1. Feed it the owner's effects in their order, then call [`Stage::on_deadline`]: everything that
//!    is fed between two calls shares a batch.
//! 2. Carry [`Effect::Propose`] to the coordinator. It may lose, repeat and reorder.
//! 3. After each entry that the owner's replica applies, give it [`Input::Applied`] with the
//!    region's mark.
//! 4. Give it [`Input::PathChanged`] when there is a new coordinator or path to it.
//!
//! [`Stage::on_deadline`]: headcount_model::Stage::on_deadline
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod outbox;
mod pending;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use headcount_model::{Batch, ChannelKey, Claim, Fence, Occupancy, OwnerRef, Transition};

pub use outbox::{Outbox, OutboxStats};

/// When and how much an outbox sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest time that a register which crosses nothing waits for company. Too low costs the log
    /// an entry per change, too high delays counts. Default 50 ms.
    pub interval: Duration,
    /// Most transitions, dropped numbers and registers of one batch together. Default 1,000.
    pub items_max: usize,
    /// Most batches that are sent and not known to be applied; further changes coalesce meanwhile.
    /// Default 32, enough to keep a path of 250 ms busy.
    pub window: usize,
    /// How long to wait for a proposal to be applied before it is sent again. Should exceed a round
    /// trip to the coordinator plus a commit. Default 1 s.
    pub resend_after: Duration,
    /// Most transitions that wait to be put into a batch; beyond it, adjacent pairs of one channel
    /// are dropped (R7). Default 100,000.
    pub pending_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(50),
            items_max: 1_000,
            window: 32,
            resend_after: Duration::from_secs(1),
            pending_max: 100_000,
        }
    }
}

/// What can happen to an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The owner decided a transition.
    Transition(Transition),
    /// An active channel's counts changed.
    Register {
        /// The channel.
        channel: ChannelKey,
        /// Its counts in the region.
        occupancy: Occupancy,
        /// Whether it is to be sent without delay.
        crossing: bool,
    },
    /// The owner's adoption is over.
    Settled,
    /// What the owner's own replica says of the region now.
    Applied {
        /// The fence that has claimed.
        fence: Fence,
        /// Sequence of the last batch applied under it.
        sequence: u64,
        /// Number of the last transition consumed under it.
        number: u64,
        /// Whether it is settled.
        settled: bool,
    },
    /// There is a new coordinator, or a new path to it: what is in flight may be lost.
    PathChanged,
}

/// What an outbox wants in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// The owner's claim.
    Claim(Arc<Claim>),
    /// A numbered batch.
    Batch(Arc<Batch>),
    /// The end of its adoption.
    Settled(OwnerRef),
}

/// What an outbox asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Carry this to the coordinator.
    Propose(Proposal),
}
