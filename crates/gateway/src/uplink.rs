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
    /// How many places were ever taken off the queue.
    pub(crate) taken: u64,
    /// Of those, how many the owner has heard of.
    heard: u64,
    /// The unacknowledged updates by their sequence, with what was taken up to each.
    flying: VecDeque<(u64, u64)>,
    /// Requests to be told once so many were heard of, the nearest first.
    settling: VecDeque<(u64, u64)>,
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
            taken: 0,
            heard: 0,
            flying: VecDeque::new(),
            settling: VecDeque::new(),
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
            while let Some((sequence, taken)) = self.flying.front().copied()
                && sequence <= ack.sequence
            {
                self.flying.pop_front();
                self.heard = taken;
            }
        }
        news
    }

    /// Numbers an update with what was taken off the queue.
    pub(crate) fn number_update(&mut self) -> u64 {
        self.sent += 1;
        self.flying.push_back((self.sent, self.taken));
        self.sent
    }

    /// Forgets the updates that are on their way.
    pub(crate) fn forget_updates(&mut self) {
        self.acked = self.sent;
        self.flying.clear();
    }

    /// Lets a request wait until the owner has heard what is queued or on its way; false if there
    /// is nothing to wait for.
    pub(crate) fn settle(&mut self, request: u64) -> bool {
        let waits = self.live && (self.in_flight() > 0 || !self.queue.is_empty());
        if waits {
            self.settling.push_back((self.everything(), request));
        }
        waits
    }

    /// Lets requests wait for a whole set that was queued in the place of everything before.
    pub(crate) fn settle_anew(&mut self) {
        let everything = self.everything();
        for (until, _) in &mut self.settling {
            *until = everything;
        }
    }

    /// Returns a request that need not wait any longer.
    pub(crate) fn settled(&mut self) -> Option<u64> {
        if self.in_flight() == 0 {
            self.heard = self.taken;
        }
        let (until, request) = self.settling.front().copied()?;
        if self.live && until > self.heard {
            return None;
        }
        self.settling.pop_front();
        Some(request)
    }

    /// Panics if it contradicts itself.
    pub(crate) fn invariants(&self) {
        assert_eq!(
            self.flying.len() as u64,
            self.in_flight(),
            "each update flies"
        );
        assert!(self.heard <= self.taken, "what was heard of was taken");
        assert!(
            self.live || self.settling.is_empty(),
            "nobody waits for an owner that is not there"
        );
    }

    /// How many places will have been taken once all that is queued now is.
    fn everything(&self) -> u64 {
        self.taken + self.queue.len() as u64
    }
}
