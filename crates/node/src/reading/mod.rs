//! Reads: of this node's own replicas, and of other nodes for shards that it does not hold.
//!
//! A node reads a shard from its own replica once that has caught up ([`Here`]), and asks a holder
//! for it before that and wherever a region has more nodes than copies ([`Elsewhere`]): the
//! region's owner first, then the region's other holders, then any region's. What was asked of one
//! holder in vain is asked of the next, within a bounded time.

mod elsewhere;
mod here;
mod holders;
mod page;
mod past;
mod scan;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use here::{Here, JOURNAL_TIMEOUT, read_journal};
pub(crate) use holders::{Holder, holders};
pub(crate) use page::merge;
pub(crate) use past::{Past, PastHere};
