//! Between nodes: reads of shards that the asking node does not hold, and their events to follow.
//!
//! [`ReadClient`] asks, [`service`] answers over a [`ReadPort`]. Calls that fail change nothing, so
//! whoever asked may ask another holder.

mod client;
mod ports;
mod server;

#[cfg(test)]
mod tests;

pub use client::{FollowStream, ReadClient};
pub use headcount_wire::Early;
pub use ports::{
    Basis, FollowAsk, FollowBatches, FollowItem, FollowStart, HistoryAsk, HistoryReply, JournalAsk,
    JournalReply, ListAsk, ListReply, ListedChannel, PastEvent, ReadError, ReadPort, Record,
    RegionStanding, ShardStanding, StatusAsk, StatusReply,
};
pub use server::{ReadService, service};
