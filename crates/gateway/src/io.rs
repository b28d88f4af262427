//! Everything that can happen to a gateway, and everything it can ask for.

use headcount_model::{
    AppId, Fence, GatewayAck, GatewayUpdate, Hello, Incarnation, Refusal, ReportAck, ReportBatch,
    ReportItem, SessionError, ShardId, Welcome,
};

/// Stream id: one stream of an edge, numbered by the driver and never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Everything that can happen to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// An edge opened a stream. Answered by [`Effect::Welcome`] or [`Effect::Close`].
    Open {
        /// The stream.
        stream: StreamId,
        /// The app that its credential speaks for.
        app: AppId,
        /// What it asks for.
        hello: Hello,
    },
    /// A batch came on a stream. Answered by [`Effect::Ack`] or [`Effect::Close`]; not at all if
    /// the stream was closed before.
    Batch {
        /// The stream.
        stream: StreamId,
        /// The batch.
        batch: ReportBatch,
    },
    /// The edge said goodbye on the stream: its session ends at once, and so do its older ones.
    /// Nothing answers.
    Goodbye {
        /// The stream.
        stream: StreamId,
    },
    /// The stream broke; its session may be resumed for the grace.
    Broken {
        /// The stream.
        stream: StreamId,
    },
    /// Realtime clients of the node itself did something; one app. Answered by
    /// [`Effect::ClientsAck`].
    Clients {
        /// Repeated in the answer.
        request: u64,
        /// The clients' app.
        app: AppId,
        /// What they did. [`ReportItem::Counts`] is refused.
        items: Vec<ReportItem>,
    },
    /// Somebody wants to know when the owners have heard what counts by now. Answered by
    /// [`Effect::Settled`].
    Settle {
        /// Repeated in the answer; never used twice.
        request: u64,
    },
    /// The shard's regional owner is reachable: a new one, or the same after it was lost. Its set is
    /// sent on a new stream. Ignored if a higher fence was heard.
    Owner {
        /// The shard.
        shard: ShardId,
        /// The owner's fence.
        fence: Fence,
    },
    /// The way to the shard's owner broke, or the way back, and both are open again. What was under
    /// way may be lost: if anything is unacknowledged, the set is sent on a new stream at once.
    /// Ignored if this is not the owner that is told of.
    WayReopened {
        /// The shard.
        shard: ShardId,
        /// The owner's fence.
        fence: Fence,
    },
    /// The shard's owner is not reachable, or is not known; nothing is sent until the next
    /// [`Input::Owner`]. Ignored if a higher fence was heard.
    OwnerLost {
        /// The shard.
        shard: ShardId,
        /// The fence of the owner that was lost.
        fence: Fence,
    },
    /// An owner acknowledged updates.
    Ack {
        /// The shard.
        shard: ShardId,
        /// Up to which.
        ack: GatewayAck,
    },
    /// The node lost its lease and has a new incarnation now (R13): every owner is told the whole
    /// set anew under it.
    Reborn {
        /// The new one.
        incarnation: Incarnation,
    },
    /// The node is about to stop: every stream is closed with [`SessionError::Draining`], and no
    /// new one is opened. What is attached goes on counting.
    Drain,
}

/// Everything that a gateway can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tells an edge that its stream carries a session.
    Welcome {
        /// The stream.
        stream: StreamId,
        /// Which session.
        welcome: Welcome,
    },
    /// Tells an edge that a batch is counted.
    Ack {
        /// The stream.
        stream: StreamId,
        /// Which batch, and what of it was refused.
        ack: ReportAck,
    },
    /// Ends a stream; the gateway has forgotten it.
    Close {
        /// The stream.
        stream: StreamId,
        /// Why.
        error: SessionError,
    },
    /// Tells the front end what of its items was refused; the others count.
    ClientsAck {
        /// Which request.
        request: u64,
        /// By ascending index.
        refusals: Vec<Refusal>,
    },
    /// Every owner that is reachable has acknowledged what counted, and what did not, when
    /// [`Input::Settle`] came. Whoever becomes an owner later is told the whole set anyway.
    Settled {
        /// Which request.
        request: u64,
    },
    /// Sends an update to the owner of the shard under the update's fence. May be lost together
    /// with everything after it on the same stream, never alone. The driver says so by
    /// [`Input::WayReopened`] if it can; what it does not say is noticed when the acknowledgement
    /// is overdue.
    Send {
        /// The shard.
        shard: ShardId,
        /// What is sent.
        update: GatewayUpdate,
    },
}
