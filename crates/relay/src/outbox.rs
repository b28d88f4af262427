//! What is to be sent to one receiver, gathered during a step and cut into messages at its end.

use crate::config::Config;
use crate::member::{Change, Member, Message, RelayChannel};

/// Weight: what something adds to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    items: usize,
    bytes: usize,
}

impl Weight {
    /// Numbers, flags and framing of an item, roughly.
    const OVERHEAD_BYTES: usize = 32;

    fn item(bytes: usize) -> Self {
        Self {
            items: 1,
            bytes: Self::OVERHEAD_BYTES + bytes,
        }
    }

    /// Returns the weight of an item that says nothing but what it is.
    pub(crate) fn bare() -> Self {
        Self::item(0)
    }

    pub(crate) fn channel(channel: &RelayChannel) -> Self {
        Self::item(channel.app.as_str().len() + channel.name.len())
    }

    pub(crate) fn member(member: &Member) -> Self {
        let key = &member.key;
        Self::item(key.connection.as_str().len() + key.id.as_str().len() + member.data.len())
    }

    pub(crate) fn message(message: &Message) -> Self {
        let more = message.publisher.as_str().len() + message.body.len();
        let channel = Self::channel(&message.channel);
        Self {
            bytes: channel.bytes + more,
            ..channel
        }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn fits(self, config: &Config) -> bool {
        self.items <= config.message_items_max && self.bytes <= config.message_bytes_max
    }
}

/// An item that can hold changes of a channel.
pub(crate) trait Item: Sized {
    /// Returns the changes that a further one of `channel` may join, with their version if there
    /// are versions.
    fn changes(&mut self, channel: &RelayChannel) -> Option<(&mut Vec<Change>, Option<&mut u64>)>;
}

/// Items for one receiver, in order.
#[derive(Debug)]
pub(crate) struct Outbox<I> {
    items: Vec<(I, Weight)>,
}

impl<I> Default for Outbox<I> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<I: Item> Outbox<I> {
    pub(crate) fn push(&mut self, item: I, weight: Weight) {
        self.items.push((item, weight));
    }

    /// Adds a change to the last item if it holds changes of the same channel and has room, and
    /// else as the item that `make` returns. `version` is the one to which the change leads.
    pub(crate) fn push_change(
        &mut self,
        config: &Config,
        channel: &RelayChannel,
        version: u64,
        change: Change,
        make: impl FnOnce(Vec<Change>) -> I,
    ) {
        let weight = Weight::member(change.member());
        if let Some((item, sum)) = self.items.last_mut()
            && sum.plus(weight).fits(config)
            && let Some((changes, last)) = item.changes(channel)
        {
            changes.push(change);
            if let Some(last) = last {
                *last = version;
            }
            *sum = sum.plus(weight);
            return;
        }
        self.push(make(vec![change]), Weight::channel(channel).plus(weight));
    }

    /// Adds a set of members in parts: one part at least, and each marked if it is the first or
    /// the last.
    pub(crate) fn push_set<'a>(
        &mut self,
        config: &Config,
        channel: &RelayChannel,
        members: impl Iterator<Item = &'a Member>,
        make: impl Fn(Vec<Member>, bool, bool) -> I,
    ) {
        let empty = Weight::channel(channel);
        let (mut part, mut sum, mut first) = (Vec::new(), empty, true);
        for member in members {
            let weight = Weight::member(member);
            if !part.is_empty() && !sum.plus(weight).fits(config) {
                self.push(make(std::mem::take(&mut part), first, false), sum);
                (sum, first) = (empty, false);
            }
            part.push(member.clone());
            sum = sum.plus(weight);
        }
        self.push(make(part, first, true), sum);
    }

    /// Forgets everything; the stream that it was for is over.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    /// Takes everything out, as the items of messages that are each within their bounds.
    pub(crate) fn take(&mut self, config: &Config) -> Vec<Vec<I>> {
        let mut messages: Vec<Vec<I>> = Vec::new();
        let mut sum = Weight::default();
        for (item, weight) in self.items.drain(..) {
            match messages.last_mut() {
                Some(message) if sum.plus(weight).fits(config) => {
                    message.push(item);
                    sum = sum.plus(weight);
                }
                _ => {
                    messages.push(vec![item]);
                    sum = weight;
                }
            }
        }
        messages
    }
}
