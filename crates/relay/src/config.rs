//! The relay's settings, for both of its stages.

use std::time::Duration;

/// Settings of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most members of a channel that a gateway or an owner keeps. Default 20,000. At a gateway
    /// further local members are refused; what comes from elsewhere is dropped and counted. Too
    /// low: people on a large channel do not see each other. Too high: one channel fills a node.
    pub members_max: usize,
    /// Most channels of a shard that a gateway, or all gateways of a region, are interested in.
    /// Default 100,000. Gateways refuse further ones; an owner ignores and counts them, and members
    /// elsewhere are not seen there.
    pub channels_max: usize,
    /// Most interests that other regions told an owner and that it holds. Default 100,000. Beyond
    /// it an interest is answered and not held: that region hears of later changes only once the
    /// log says that the channel is active there.
    pub told_max: usize,
    /// How long a told interest is held while the log does not say the same. Default 30 s. Too low:
    /// while the log is late, a region sees nothing of a channel until the log has caught up. Too
    /// high costs memory, and messages that nobody wants.
    pub told_hold: Duration,
    /// Longest time that a new owner waits for its gateways' sets, and for other regions' sets,
    /// before it believes what it has. Default 10 s: a lease that has to run out, and some round
    /// trips. Too low: members leave and enter again when an owner moves. Too high: with one
    /// gateway or region that does not answer, changes are seen late by as much.
    pub adoption_cap: Duration,
    /// How long, at most, a gateway that is the first of its region to be interested in a channel
    /// waits for the sets of other regions, so that it is told one whole set. Default 2 s: some round
    /// trips. Too low: who was there already seems to enter. Too high: if an answer is lost, others in
    /// the region are not seen for as long.
    pub pull_wait: Duration,
    /// Most members, changes and other items in a message; at least 1. Default 500.
    pub message_items_max: usize,
    /// About how many bytes of names, data and bodies a message may have, so that it fits the usual
    /// 4 MiB of a gRPC message; an item that is larger by itself travels alone. Default 1 MiB.
    pub message_bytes_max: usize,
    /// Most bytes of published messages that a gateway holds while its owner is not reachable.
    /// Default 1 MiB; beyond it the oldest are dropped and counted.
    pub held_bytes_max: usize,
    /// How long such a message is held. Default 10 s: as long as it takes to replace an owner. Too
    /// high: people are told what is long past.
    pub held_for: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            members_max: 20_000,
            channels_max: 100_000,
            told_max: 100_000,
            told_hold: Duration::from_secs(30),
            adoption_cap: Duration::from_secs(10),
            pull_wait: Duration::from_secs(2),
            message_items_max: 500,
            message_bytes_max: 1024 * 1024,
            held_bytes_max: 1024 * 1024,
            held_for: Duration::from_secs(10),
        }
    }
}
