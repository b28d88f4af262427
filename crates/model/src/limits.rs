//! Bounds of names and numbers, each with its reason.

/// Longest app id, in bytes. Apps are named by operators; 64 leaves room for a UUID with a prefix.
pub const APP_BYTES_MAX: usize = 64;

/// Longest channel name, in bytes of UTF-8: what the contract recommends to stay below
/// (`contract.md` section 8), made a bound so that a batch of names has one too.
pub const CHANNEL_BYTES_MAX: usize = 2048;

/// Longest region name, in bytes.
pub const REGION_BYTES_MAX: usize = 64;

/// Longest edge, connection or presence member id, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// Largest count that one source may report for one category of one channel. Ten million is beyond
/// any real edge, and four hundred sources at the bound still fit a `u32`.
pub const COUNT_MAX: u32 = 10_000_000;

/// Most shards of a cluster: one raft group each costs about 1.5 MiB and 0.2 ms of CPU a second.
pub const SHARDS_MAX: u32 = 1024;
