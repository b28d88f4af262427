//! What a gateway tells the regional owner of a shard (R8, R13).

use crate::{ChannelKey, EdgeId, Fence, Incarnation, NodeId, Occupancy};

/// Source: who counted what a register says (R8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceId {
    /// One session of an edge. A session with a higher (incarnation, number) replaces the lower in
    /// one step, once its set is complete.
    Edge {
        /// The edge.
        edge: EdgeId,
        /// Which life of the edge.
        incarnation: Incarnation,
        /// The session's number, chosen by the edge, increasing within an incarnation.
        session: u64,
    },
    /// The realtime clients that are connected to the node itself.
    Clients,
}

/// One thing that a gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayItem {
    /// A source's absolute counts for a channel; zero when it has left.
    Register {
        /// Who counted.
        source: SourceId,
        /// The channel.
        channel: ChannelKey,
        /// The counts.
        occupancy: Occupancy,
    },
    /// Everything that the source has attached was told: it now replaces older sessions.
    SourceComplete(SourceId),
    /// The source is gone, with all its registers.
    SourceEnded(SourceId),
    /// Something happened on the channel that keeps it active, such as a publish.
    Activity(ChannelKey),
    /// The gateway's whole set was told on this stream: what was not mentioned is zero.
    StreamComplete,
    /// The gateway's recovery time is over: whoever was attached before its start has resumed or
    /// is gone, so its set may be believed when it lacks something (R9).
    Recovered,
}

/// Gateway update: what changed at one gateway for one shard, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUpdate {
    /// The gateway's node.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// The fence of the owner that it is meant for; another owner ignores it.
    pub fence: Fence,
    /// Number of the stream, increasing; a higher one starts over with the whole set.
    pub stream: u64,
    /// Number of the update in its stream, from 1, without holes.
    pub sequence: u64,
    /// What is told, applied in order.
    pub items: Vec<GatewayItem>,
}

/// Gateway acknowledgement: every update of the stream up to this one is in the owner's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayAck {
    /// The owner's fence.
    pub fence: Fence,
    /// The stream.
    pub stream: u64,
    /// The last update taken, 0 if none.
    pub sequence: u64,
}
