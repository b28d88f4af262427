//! Early transitions that cannot be told yet.

use std::collections::BTreeMap;

use headcount_model::{ChannelKey, Event, Fence};

/// Waiting: transitions that came before their claim or before a predecessor, and what the log
/// says of their channels. The driver says it once, the log's events keep it current.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    events: BTreeMap<(Fence, u64), Event>,
    channels: BTreeMap<ChannelKey, Logged>,
}

#[derive(Debug)]
struct Logged {
    /// How many transitions of the channel wait.
    waiting: usize,
    /// Whether the log says that the channel is active in the region.
    active: bool,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn contains(&self, fence: Fence, number: u64) -> bool {
        self.events.contains_key(&(fence, number))
    }

    pub(crate) fn insert(&mut self, fence: Fence, number: u64, event: Event, logged: bool) {
        let channel = event.channel.clone();
        if self.events.insert((fence, number), event).is_none() {
            let channel = self.channels.entry(channel).or_insert(Logged {
                waiting: 0,
                active: logged,
            });
            channel.waiting += 1;
            channel.active = logged;
        }
    }

    /// Notes that the log says something new of a channel's activity in the region.
    pub(crate) fn log(&mut self, channel: &ChannelKey, active: bool) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.active = active;
        }
    }

    /// The first by fence and number.
    pub(crate) fn first(&self) -> Option<(Fence, u64, &Event)> {
        self.events
            .first_key_value()
            .map(|((fence, number), event)| (*fence, *number, event))
    }

    /// Takes the first, with what the log says of its channel.
    pub(crate) fn pop_first(&mut self) -> Option<(Event, bool)> {
        let (_, event) = self.events.pop_first()?;
        let active = self.release(&event.channel);
        Some((event, active))
    }

    /// Drops what lower fences made.
    pub(crate) fn drop_below(&mut self, fence: Fence) {
        while self
            .events
            .first_key_value()
            .is_some_and(|((of, _), _)| *of < fence)
        {
            self.pop_first();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.channels.clear();
    }

    fn release(&mut self, channel: &ChannelKey) -> bool {
        let logged = self
            .channels
            .get_mut(channel)
            .expect("I1: each waiting channel is known");
        let active = logged.active;
        logged.waiting -= 1;
        if logged.waiting == 0 {
            self.channels.remove(channel);
        }
        active
    }
}
