//! The way from the node to one shard's regional owner: numbered streams of numbered updates (R13).

use std::collections::{BTreeSet, VecDeque};

use headcount_model::{
    ChannelKey, ChannelName, CompactOccupancy, Fence, GatewayAck, GatewayItem, Monotonic,
};

use crate::slab::Slab;

/// One source's counts of one channel. Kept small: there is one for each channel of each source.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    pub(crate) name: ChannelName,
    pub(crate) occupancy: CompactOccupancy,
    /// Number of the source.
    pub(crate) source: u32,
    pub(crate) state: State,
}

/// What is special about a register.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// It waits in the queue of its shard, which owns the slot until then.
    pub(crate) queued: bool,
    /// It was told by counts, not by attachments.
    pub(crate) counted: bool,
    /// Its source is gone; it only waits to leave the queue.
    pub(crate) dead: bool,
}

/// A place in the queue that stands for the next of [`Shard::controls`] instead of a register.
pub(crate) const CONTROL: u32 = u32::MAX;

/// The registers of one shard and the way to its owner.
///
/// Invariant (queue): while an owner is live, each register whose owner may believe something else
/// than its counts is queued or on its way in an update of the current stream. What was lost on the
/// way ends in a new stream, which queues all.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) registers: Slab<Register>,
    /// What is to be told, in order: numbers of registers, or [`CONTROL`].
    pub(crate) queue: VecDeque<u32>,
    /// What else is to be told, at its places in the queue.
    pub(crate) controls: VecDeque<GatewayItem>,
    /// Channels that saw activity since the last update.
    pub(crate) activity: BTreeSet<ChannelKey>,
    /// The highest fence heard; 0 is none.
    pub(crate) fence: Fence,
    /// Whether the owner under that fence is reachable. Nothing is queued while it is not.
    pub(crate) live: bool,
    /// Number of the current stream, from 1 in each process.
    pub(crate) stream: u64,
    /// The last update sent on the stream.
    pub(crate) sent: u64,
    /// The last update acknowledged on it.
    pub(crate) acked: u64,
    /// Acknowledgements that did not come in time, in a row.
    pub(crate) timeouts: u32,
    /// When the next acknowledgement is due; set while there are unacknowledged updates.
    pub(crate) deadline: Option<Monotonic>,
    /// Whether the shard is in the list of those that the next flush looks at.
    pub(crate) scheduled: bool,
    /// Whether it is in the list of those that must not wait.
    pub(crate) urgent: bool,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            registers: Slab::new(),
            queue: VecDeque::new(),
            controls: VecDeque::new(),
            activity: BTreeSet::new(),
            fence: Fence(0),
            live: false,
            stream: 0,
            sent: 0,
            acked: 0,
            timeouts: 0,
            deadline: None,
            scheduled: false,
            urgent: false,
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.sent - self.acked
    }

    pub(crate) fn has_work(&self) -> bool {
        self.live && !(self.queue.is_empty() && self.activity.is_empty())
    }

    /// Queues something that is no register, if there is an owner to hear it.
    pub(crate) fn say(&mut self, item: GatewayItem) {
        if self.live {
            self.controls.push_back(item);
            self.queue.push_back(CONTROL);
        }
    }

    /// Takes an acknowledgement; returns whether it was news.
    pub(crate) fn acknowledge(&mut self, ack: GatewayAck) -> bool {
        let current = self.live && ack.fence == self.fence && ack.stream == self.stream;
        let news = current && self.acked < ack.sequence && ack.sequence <= self.sent;
        if news {
            self.acked = ack.sequence;
            self.timeouts = 0;
        }
        news
    }
}
