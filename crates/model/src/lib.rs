//! The words that every stage of Headcount shares, and nothing that acts.
//!
//! A count travels `gateway → region → gossip → coordinator → feed`; each of those stages is a crate
//! that depends on this one and on none of the others, so whatever two of them have in common is a
//! word defined here. The first line of each type's documentation is its definition in the
//! project's glossary.
//!
//! * Names and numbers: [`AppId`], [`ChannelName`], [`ChannelKey`], [`RegionName`], [`NodeId`],
//!   [`Incarnation`], [`Fence`], [`ShardId`], [`Position`].
//! * Counts: [`Occupancy`], [`Category`], [`Modes`].
//! * What edges tell a node: [`Hello`], [`ReportBatch`], [`ReportAck`].
//! * What gateways tell the regional owner: [`GatewayUpdate`].
//! * What owners tell the coordinator and what the log holds: [`Register`], [`Transition`],
//!   [`Batch`], [`Claim`], [`Command`], [`Entry`].
//! * What people are told: [`Event`], [`LoggedEvent`], [`ChannelDetails`], [`Cursor`].
//! * The control group's words, for members, leases, fences and placement: [`control`].
//! * How often something may happen: [`Rate`], [`Bucket`].
//! * Bugs that the simulator plants to see them caught: [`mutants`].
//! * The contract of a stage: [`Stage`], [`Now`].
//!
//! Nothing here does I/O, reads a clock or draws a random number.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod control;
mod cursor;
mod event;
mod gather;
mod ids;
mod journal;
mod limits;
pub mod mutants;
mod occupancy;
mod protocol;
mod rate;
mod report;
mod shard;
mod snapshot;
mod stage;
mod time;
pub mod varint;
mod watch;

pub use cursor::{Cursor, CursorError, EarlyMark, ShardCursor, TOLD_MAX, Told};
pub use event::{
    ChannelDetails, ChannelStatus, Event, EventId, EventIdError, EventKind, LoggedEvent,
    OccupancyMetrics, Position,
};
pub use gather::{GatewayAck, GatewayItem, GatewayUpdate, SourceId};
pub use ids::{
    AppId, ChannelKey, ChannelName, ConnectionId, EdgeId, Era, Fence, Incarnation, MemberId,
    NameError, NodeId, RegionName, ReplicaId, ShardId,
};
pub use journal::{HistoryPoint, Logged, Mark};
pub use limits::{
    APP_BYTES_MAX, CHANNEL_BYTES_MAX, COUNT_MAX, ID_BYTES_MAX, REGION_BYTES_MAX, SHARDS_MAX,
};
pub use occupancy::{Category, CompactOccupancy, Modes, Occupancy};
pub use protocol::{Batch, Claim, Command, Entry, OwnerRef, Pacing, Register, Tail, Transition};
pub use rate::{Bucket, Rate};
pub use report::{
    EDGE_BYTES_MAX, Hello, Refusal, RefusalCode, RefusalReason, ReportAck, ReportBatch,
    ReportChange, ReportItem, ReportItems, ReportLimits, SessionError, Welcome,
};
pub use shard::{ShardMap, channel_hash, name_hash, shard_of, shard_of_hash};
pub use snapshot::{ChannelSnapshot, RegionSnapshot, ShardSnapshot, ToldOccupancy};
pub use stage::Stage;
pub use time::{Monotonic, Now, Timestamp};
pub use watch::{EventKinds, WatchEnd, WatchError, WatchEvent, WatchFilter, WatchItem};
