//! What an edge tells a node, and what it is answered: the words of the reporter API.

mod items;

use std::time::Duration;

use crate::{
    Category, ChannelName, ConnectionId, EdgeId, Incarnation, MemberId, Modes, NameError, Occupancy,
};

/// Longest edge name in the reporter API, in bytes: with the app before it, it still fits the
/// [`EdgeId`] of a source.
pub const EDGE_BYTES_MAX: usize = 128;

/// Hello: how an edge opens a session, or goes on with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The edge's name in its app; at most [`EDGE_BYTES_MAX`] bytes.
    pub edge: EdgeId,
    /// Which life of the edge it is.
    pub incarnation: Incarnation,
    /// Number for a new session: above all that were used before in the incarnation.
    pub session: u64,
    /// The session to go on with, if the node still has it; below `session`.
    pub resume: Option<u64>,
}

/// Report limits: what a node accepts on a stream of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportLimits {
    /// Most batches that are sent and not yet acknowledged.
    pub window_batches: u32,
    /// Most items in a batch.
    pub batch_items_max: u32,
    /// Most bytes of an encoded request.
    pub batch_bytes_max: u32,
    /// How long a session outlives its stream.
    pub grace: Duration,
}

impl Default for ReportLimits {
    /// A window that covers a round trip of 250 ms at 250,000 items a second; batches that take a
    /// few milliseconds to count; the usual bound of a gRPC message.
    fn default() -> Self {
        Self {
            window_batches: 16,
            batch_items_max: 4_096,
            batch_bytes_max: 4 * 1_024 * 1_024,
            grace: Duration::from_secs(5),
        }
    }
}

/// Welcome: the session that a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Its number: [`Hello::resume`] if it was resumed, else [`Hello::session`].
    pub session: u64,
    /// Whether it was resumed; otherwise it is new and empty.
    pub resumed: bool,
    /// The last batch applied in it, 0 if none.
    pub last_sequence: u64,
}

/// Report batch: numbered items of one session, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportBatch<Items = ReportItems> {
    /// From 1 in each session, without holes.
    pub sequence: u64,
    /// What changed at the edge.
    pub items: Items,
    /// Whether everything attached at the edge was told in the session with this batch.
    pub set_complete: bool,
}

/// One change at an edge, in the app of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportItem {
    /// A connection attaches, or changes its modes where it is attached.
    Attach {
        /// Who.
        connection: ConnectionId,
        /// To what.
        channel: ChannelName,
        /// What it may do there.
        modes: Modes,
    },
    /// A connection detaches, its members leave; nothing if it is not attached.
    Detach {
        /// Who.
        connection: ConnectionId,
        /// From what.
        channel: ChannelName,
    },
    /// A connection enters a member; nothing if it is there.
    PresenceEnter {
        /// Whose member it is.
        connection: ConnectionId,
        /// Where.
        channel: ChannelName,
        /// Who.
        member: MemberId,
    },
    /// A member leaves; nothing if it is not there.
    PresenceLeave {
        /// Whose member it was.
        connection: ConnectionId,
        /// Where.
        channel: ChannelName,
        /// Who.
        member: MemberId,
    },
    /// A connection is gone, with its attachments and members.
    ConnectionClosed {
        /// Who.
        connection: ConnectionId,
    },
    /// Absolute counts of a channel, told by an edge that counts itself.
    Counts {
        /// Where.
        channel: ChannelName,
        /// Each at most [`COUNT_MAX`](crate::COUNT_MAX).
        occupancy: Occupancy,
    },
    /// Something happened on the channel that keeps it active.
    Activity {
        /// Where.
        channel: ChannelName,
    },
}

impl ReportItem {
    /// Returns the channel that the item is about, if it names one.
    #[must_use]
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Attach { channel, .. }
            | Self::Detach { channel, .. }
            | Self::PresenceEnter { channel, .. }
            | Self::PresenceLeave { channel, .. }
            | Self::Counts { channel, .. }
            | Self::Activity { channel } => Some(channel),
            Self::ConnectionClosed { .. } => None,
        }
    }

    /// Borrows its names.
    #[must_use]
    pub fn as_change(&self) -> ReportChange<'_> {
        match self {
            Self::Attach {
                connection,
                channel,
                modes,
            } => ReportChange::Attach {
                connection: connection.as_str(),
                channel: channel.as_str(),
                modes: *modes,
            },
            Self::Detach {
                connection,
                channel,
            } => ReportChange::Detach {
                connection: connection.as_str(),
                channel: channel.as_str(),
            },
            Self::PresenceEnter {
                connection,
                channel,
                member,
            } => ReportChange::PresenceEnter {
                connection: connection.as_str(),
                channel: channel.as_str(),
                member: member.as_str(),
            },
            Self::PresenceLeave {
                connection,
                channel,
                member,
            } => ReportChange::PresenceLeave {
                connection: connection.as_str(),
                channel: channel.as_str(),
                member: member.as_str(),
            },
            Self::ConnectionClosed { connection } => ReportChange::ConnectionClosed {
                connection: connection.as_str(),
            },
            Self::Counts { channel, occupancy } => ReportChange::Counts {
                channel: channel.as_str(),
                occupancy: *occupancy,
            },
            Self::Activity { channel } => ReportChange::Activity {
                channel: channel.as_str(),
            },
        }
    }
}

pub use items::{ReportChange, ReportItems};

/// Report acknowledgement: the batch and all before it are counted, save what is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportAck {
    /// The batch.
    pub sequence: u64,
    /// What of the batch was refused, by ascending index.
    pub refusals: Vec<Refusal>,
}

/// Refusal: one item that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its index in the batch, from 0.
    pub item: u32,
    /// Why.
    pub reason: RefusalReason,
}

/// Why an item was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// Sent by a newer edge, or empty.
    #[error("the item holds no change that this node knows")]
    UnknownItem,
    /// A name breaks its rules.
    #[error("{field}: {fault}")]
    Name {
        /// The field that holds it.
        field: &'static str,
        /// Which rule.
        fault: NameError,
    },
    /// Bits that are no modes.
    #[error("modes: {0} has bits that are no mode; the modes are 1, 2, 4, 8, 16 and 32")]
    Modes(u32),
    /// A count above its bound.
    #[error(
        "occupancy: {count} {} are above the bound of {}",
        .category.as_str(),
        crate::COUNT_MAX
    )]
    Count {
        /// Of what.
        category: Category,
        /// How many.
        count: u32,
    },
    /// The credential may not report the channel.
    #[error("channel: the credential lacks `occupancy-report` on {0:?}")]
    NotPermitted(ChannelName),
    /// The channel is told by counts in this session.
    #[error("channel: {0:?} is told by counts in this session; set them to zero first")]
    ToldByCounts(ChannelName),
    /// The channel is told by attachments in this session.
    #[error("channel: {0:?} is told by attachments in this session; detach them first")]
    ToldByAttachments(ChannelName),
    /// The connection is not attached to the channel.
    #[error("connection: {connection:?} is not attached to channel {channel:?}")]
    NotAttached {
        /// Who.
        connection: ConnectionId,
        /// Where.
        channel: ChannelName,
    },
    /// The attachment may not enter presence.
    #[error(
        "connection: {connection:?} is attached to channel {channel:?} without the mode presence"
    )]
    NoPresenceMode {
        /// Who.
        connection: ConnectionId,
        /// Where.
        channel: ChannelName,
    },
    /// The node is full.
    #[error("the node holds {limit} {what}, as many as it may; try later, or another node")]
    Overloaded {
        /// Of what it has too many.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

impl RefusalReason {
    /// Returns the code that stands for the reason on the wire.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::UnknownItem => RefusalCode::UnknownItem,
            Self::Name { .. } => RefusalCode::InvalidName,
            Self::Modes(_) => RefusalCode::InvalidModes,
            Self::Count { .. } => RefusalCode::InvalidCount,
            Self::NotPermitted(_) => RefusalCode::NotPermitted,
            Self::ToldByCounts(_) | Self::ToldByAttachments(_) => RefusalCode::Mixed,
            Self::NotAttached { .. } => RefusalCode::NotAttached,
            Self::NoPresenceMode { .. } => RefusalCode::NoPresenceMode,
            Self::Overloaded { .. } => RefusalCode::Overloaded,
        }
    }
}

/// Refusal code: the kind of a refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalCode {
    /// The item holds no change that the node knows.
    UnknownItem,
    /// A name breaks its rules.
    InvalidName,
    /// A bit that is no mode.
    InvalidModes,
    /// A count above its bound.
    InvalidCount,
    /// The credential may not report the channel.
    NotPermitted,
    /// Attachments and counts on one channel.
    Mixed,
    /// The connection is not attached.
    NotAttached,
    /// The attachment may not enter presence.
    NoPresenceMode,
    /// The node is full; worth another try.
    Overloaded,
}

/// Why a session was not opened, or its stream ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The edge has used this number, or a higher one, before.
    #[error(
        "session: ({asked_incarnation}, {asked_session}) is stale, ({seen_incarnation}, \
         {seen_session}) was seen; open a higher (incarnation, session)"
    )]
    Stale {
        /// The incarnation asked for.
        asked_incarnation: Incarnation,
        /// The session asked for.
        asked_session: u64,
        /// The highest incarnation seen.
        seen_incarnation: Incarnation,
        /// The highest session seen in it.
        seen_session: u64,
    },
    /// Another stream of the edge took over.
    #[error("a newer stream of the edge took over, as session {by}")]
    Superseded {
        /// The session that the newer stream carries.
        by: u64,
    },
    /// A batch is missing.
    #[error("sequence: expected {expected}, got {got}; send again from {expected}")]
    Hole {
        /// The next sequence.
        expected: u64,
        /// What came instead.
        got: u64,
    },
    /// The node is full.
    #[error("the node holds {limit} {what}, as many as it may; try later, or another node")]
    Overloaded {
        /// Of what it has too many.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The node is about to stop; its sessions go on elsewhere.
    #[error("the node is draining; open a session at another node")]
    Draining,
    /// The node does not answer any more.
    #[error("the node is stopping")]
    Stopped,
}
