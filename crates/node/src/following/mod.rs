//! Feeds: of the shards that this node holds, and of those that it follows.
//!
//! A watcher is told of every shard, wherever it watches. For a shard that this node does not hold
//! it keeps a feed of its own, which a holder tells everything that it tells its own feed, in the
//! same order: so both tell the same, and a cursor of one is good for the other. Early transitions
//! come that way too, each with what the holder's replica says of its channel at that very moment;
//! told apart from the log they could not be judged (R10).
//!
//! Shards are followed only while somebody watches: the events of a region's other nodes would
//! else be brought to each of its nodes for nobody.

mod feeds;
mod follower;

pub(crate) use feeds::{Feeds, Interest, Source};
pub(crate) use follower::Following;
