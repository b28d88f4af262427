//! What waits to be put into a batch: transitions in order, registers by channel, dropped numbers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use headcount_model::{ChannelKey, Occupancy, Register, Transition};

/// About how many bytes a batch may have: several of them share one entry of the log, whose command
/// may have a megabyte. The longest item is far below it, so there is always progress.
const BATCH_BYTES_MAX: usize = 128 << 10;

/// The part of a batch, one in so many items, that transitions leave to counts that wait.
const COUNTS_SHARE: usize = 8;

/// Contents of a batch to be.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) dropped: Vec<u64>,
    pub(crate) transitions: Vec<Transition>,
    pub(crate) registers: Vec<Register>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    transitions: VecDeque<Transition>,
    dropped: BTreeSet<u64>,
    /// Registers whose turn it is. Those that came since wait in `later` until these are taken, so
    /// that no channel that changes all the time is put before one that has waited.
    registers: BTreeMap<ChannelKey, Occupancy>,
    later: BTreeMap<ChannelKey, Occupancy>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.transitions.is_empty() && self.dropped.is_empty() && self.registers() == 0
    }

    pub(crate) fn transitions(&self) -> usize {
        self.transitions.len()
    }

    pub(crate) fn registers(&self) -> usize {
        self.registers.len() + self.later.len()
    }

    /// Queues a transition. It carries counts of its own, so an older register is moot.
    pub(crate) fn transition(&mut self, transition: Transition) {
        self.registers.remove(&transition.channel);
        self.later.remove(&transition.channel);
        self.transitions.push_back(transition);
    }

    pub(crate) fn register(&mut self, channel: ChannelKey, occupancy: Occupancy) {
        match self.registers.get_mut(&channel) {
            Some(waiting) => *waiting = occupancy,
            None => drop(self.later.insert(channel, occupancy)),
        }
    }

    /// Drops adjacent pairs of one channel's transitions (R7); returns how many transitions went.
    ///
    /// What is left of each channel is at most its last transition, and where a pair ended active,
    /// a register brings the counts that the pair would have.
    pub(crate) fn drop_pairs(&mut self) -> usize {
        let before = self.transitions.len();
        let mut open: BTreeMap<ChannelKey, usize> = BTreeMap::new();
        let mut kept: Vec<Option<Transition>> = Vec::with_capacity(before);
        let mut left_active: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        for transition in self.transitions.drain(..) {
            let Some(first) = open.remove(&transition.channel) else {
                left_active.remove(&transition.channel);
                open.insert(transition.channel.clone(), kept.len());
                kept.push(Some(transition));
                continue;
            };
            let first = kept[first]
                .take()
                .expect("a channel's open transition was kept");
            self.dropped.extend([first.number, transition.number]);
            if transition.active {
                left_active.insert(transition.channel, transition.occupancy);
            }
        }
        for (channel, occupancy) in left_active {
            if !self.registers.contains_key(&channel) {
                self.later.entry(channel).or_insert(occupancy);
            }
        }
        self.transitions = kept.into_iter().flatten().collect();
        before - self.transitions.len()
    }

    /// Takes the contents of the next batch: at most `items_max` of all kinds together, and about
    /// [`BATCH_BYTES_MAX`].
    pub(crate) fn take(&mut self, items_max: usize) -> Contents {
        let mut contents = Contents::default();
        // However many transitions there are, counts go on.
        let reserved = self.registers().min(items_max / COUNTS_SHARE);
        let kept_bytes = if reserved > 0 {
            BATCH_BYTES_MAX / COUNTS_SHARE
        } else {
            0
        };
        let (mut room, mut bytes) = (items_max - reserved, BATCH_BYTES_MAX - kept_bytes);
        while room > 0 {
            let next = self.transitions.front();
            let number = next.map(|transition| transition.number);
            match (self.dropped.first().copied(), next) {
                (Some(dropped), _) if number.is_none_or(|number| dropped < number) => {
                    self.dropped.pop_first();
                    contents.dropped.push(dropped);
                }
                (_, Some(next)) => {
                    let weight = weight(&next.channel);
                    if weight > bytes {
                        break;
                    }
                    bytes -= weight;
                    contents.transitions.extend(self.transitions.pop_front());
                }
                (_, None) => break,
            }
            room -= 1;
        }
        room += reserved;
        bytes += kept_bytes;
        // What is left of this turn, and the next one as far as there is room.
        for _ in 0..2 {
            let taken = self.take_registers(room, &mut bytes);
            room -= taken.len();
            contents.registers.extend(taken);
            if !self.registers.is_empty() {
                break;
            }
            self.registers = std::mem::take(&mut self.later);
        }
        contents
    }

    /// Takes up to `room` registers and `bytes` bytes of this turn, save those of channels whose
    /// transitions wait: a register may not overtake a transition of its channel (R2). Those wait
    /// for the next turn.
    fn take_registers(&mut self, room: usize, bytes: &mut usize) -> Vec<Register> {
        let waiting: BTreeSet<ChannelKey> = self
            .transitions
            .iter()
            .map(|transition| transition.channel.clone())
            .collect();
        let mut fits = 0;
        let ready = |channel: &&ChannelKey| waiting.is_empty() || !waiting.contains(*channel);
        let mut keys = self.registers.keys().filter(ready);
        let rest = loop {
            let Some(channel) = keys.next() else {
                break None;
            };
            let weight = weight(channel);
            if fits == room || weight > *bytes {
                break Some(channel.clone());
            }
            *bytes -= weight;
            fits += 1;
        };
        // Mostly all are taken, and a tree is taken apart faster than it is searched.
        let rest = rest.map(|first| self.registers.split_off(&first));
        let taken = std::mem::replace(&mut self.registers, rest.unwrap_or_default());
        let mut registers = Vec::with_capacity(fits);
        for (channel, occupancy) in taken {
            if ready(&&channel) {
                registers.push(Register { channel, occupancy });
            } else {
                self.later.insert(channel, occupancy);
            }
        }
        registers
    }
}

/// Returns about how many bytes an item about a channel takes in a batch.
fn weight(channel: &ChannelKey) -> usize {
    channel.app.as_str().len() + channel.name.as_str().len() + 48
}
