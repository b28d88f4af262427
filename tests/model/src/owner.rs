//! A region's gateways and the owner incarnations that sum them.

use crate::rules::{Rule, Rules};
use crate::shard::RegionState;
use crate::words::{CHANNELS, Command, Fence, PerChannel, Transition};

/// A gateway: what is attached to it, and what it told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Clients that are, or after a restart will again be, attached here.
    pub attached: PerChannel<u8>,
    /// Those it knows of.
    pub known: PerChannel<u8>,
    /// Whether its set is complete (R9).
    pub complete: bool,
    /// The highest owner fence it heard of; lower owners are ignored.
    pub heard: Fence,
    /// Early transitions it passed on, all of one fence.
    pub told: Vec<Transition>,
}

/// What an owner knows of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Its counts.
    pub counts: PerChannel<u8>,
    /// Whether they are complete.
    pub complete: bool,
}

/// What the log says about the region at an owner's claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    /// Activity.
    pub active: PerChannel<bool>,
    /// Counts.
    pub registers: PerChannel<u8>,
    /// The last transition's number, 0 after a claim.
    pub number: u8,
    /// The last batch's sequence, 0 after a claim.
    pub sequence: u8,
}

impl Base {
    /// What the log says now.
    #[must_use]
    pub const fn of(state: &RegionState) -> Self {
        Self {
            active: state.active,
            registers: state.registers,
            number: state.number,
            sequence: state.sequence,
        }
    }
}

/// How far an owner has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It has its fence from the control group.
    Granted,
    /// It sent its claim.
    Claiming,
    /// It has its base and waits for complete sets (R9).
    Adopting,
    /// The region is the sum of its gateways.
    Live,
    /// Nobody listens to it any more, so that the model forgets it.
    Over,
}

/// One owner incarnation: a process acting under one fence, believed dead or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its fence.
    pub fence: Fence,
    /// How far it has come.
    pub phase: Phase,
    /// Gateways heard before the claim, one bit each.
    pub witnesses: u8,
    /// What they were told under the newest fence among them.
    pub tail: Vec<Transition>,
    /// The log at its claim, once the claim is committed and until the owner saw it.
    pub base: Option<Base>,
    /// Its gateways' counts, as far as reported.
    pub views: Vec<Option<View>>,
    /// Its own state machine.
    pub active: PerChannel<bool>,
    /// The log's counts at its claim, raised by what was seen while adopting: no decrease.
    pub adopted: PerChannel<u8>,
    /// Its transitions, told early.
    pub emitted: Vec<Transition>,
    /// How many of them are in batches.
    pub batched: usize,
    /// The last batch's sequence.
    pub sequence: u8,
    /// The number before its first transition.
    pub first_number: u8,
    /// The registers of the last batch.
    pub sent: PerChannel<u8>,
}

impl Owner {
    /// An owner that has just been given its fence.
    #[must_use]
    pub fn new(fence: Fence, gateways: usize) -> Self {
        Self {
            fence,
            phase: Phase::Granted,
            witnesses: 0,
            tail: Vec::new(),
            base: None,
            views: vec![None; gateways],
            active: [false; CHANNELS],
            adopted: [0; CHANNELS],
            emitted: Vec::new(),
            batched: 0,
            sequence: 0,
            first_number: 0,
            sent: [0; CHANNELS],
        }
    }

    /// The clients it knows of on a channel.
    #[must_use]
    pub fn sum(&self, channel: usize) -> u8 {
        self.views
            .iter()
            .flatten()
            .map(|view| view.counts[channel])
            .sum()
    }

    /// Its transition of this number.
    #[must_use]
    pub fn transition(&self, number: u8) -> Option<&Transition> {
        self.emitted
            .iter()
            .find(|transition| transition.number == number)
    }

    /// Whether every gateway's set is complete.
    #[must_use]
    pub fn all_complete(&self) -> bool {
        self.views
            .iter()
            .all(|view| view.is_some_and(|view| view.complete))
    }

    /// What it says that the region's counts are.
    #[must_use]
    pub fn registers(&self, rules: Rules) -> PerChannel<u8> {
        let keep = self.phase == Phase::Adopting && rules.has(Rule::AdoptionKeep);
        std::array::from_fn(|channel| {
            if keep {
                self.adopted[channel].max(self.sum(channel))
            } else {
                self.sum(channel)
            }
        })
    }

    /// Takes a gateway's told transitions for the claim's tail, merged by number. Choosing one
    /// gateway's run by its length would not do: a short run can reach further.
    pub fn hear(&mut self, gateway: usize, told: &[Transition]) {
        self.witnesses |= 1 << gateway;
        let newest = |run: &[Transition]| run.last().map_or(0, |transition| transition.fence);
        if newest(told) > newest(&self.tail) {
            self.tail.clear();
        }
        if newest(told) >= newest(&self.tail) {
            self.tail.extend_from_slice(told);
            self.tail.sort_unstable();
            self.tail.dedup();
        }
    }

    /// Starts from what the log says.
    pub fn adopt(&mut self, base: &Base) {
        self.phase = Phase::Adopting;
        self.base = None;
        self.witnesses = 0;
        self.tail.clear();
        self.active = base.active;
        self.adopted = base.registers;
        self.sent = base.registers;
        self.first_number = base.number;
        self.sequence = base.sequence;
    }

    /// Takes a gateway's report. A set that is not complete adds and takes nothing away.
    pub fn report(&mut self, rules: Rules, gateway: usize, report: View, global_master: bool) {
        let counts = match self.views[gateway] {
            Some(old) if !report.complete && rules.has(Rule::KeepIncomplete) => {
                std::array::from_fn(|channel| old.counts[channel].max(report.counts[channel]))
            }
            _ => report.counts,
        };
        self.views[gateway] = Some(View {
            counts,
            complete: report.complete,
        });
        if self.phase == Phase::Adopting {
            self.adopted =
                std::array::from_fn(|channel| self.adopted[channel].max(self.sum(channel)));
        }
        if rules.has(Rule::OneSource) {
            for channel in 0..CHANNELS {
                if self.sum(channel) > 0 && !self.active[channel] {
                    self.emit(channel, true, global_master);
                }
            }
        }
    }

    /// Emits the next transition.
    pub fn emit(&mut self, channel: usize, active: bool, global_master: bool) {
        self.active[channel] = active;
        let last = self
            .emitted
            .last()
            .map_or(self.first_number, |transition| transition.number);
        let count = if active { self.sum(channel) } else { 0 };
        self.emitted.push(Transition {
            fence: self.fence,
            number: last + 1,
            channel,
            active,
            count,
            global_master,
        });
    }

    /// Whether there is something to put into a batch.
    #[must_use]
    pub fn is_dirty(&self, rules: Rules) -> bool {
        self.batched < self.emitted.len() || self.registers(rules) != self.sent
    }

    /// Makes the next batch. `logged` is what the log says of the region now, for owners that
    /// rewrite their last batch as long as it is not applied.
    pub fn flush(&mut self, rules: Rules, region: usize, logged: &RegionState) -> Command {
        let rewrite = !rules.has(Rule::FixedBatches)
            && logged.claimed == self.fence
            && logged.sequence < self.sequence;
        let transitions = if rewrite {
            let unlogged = |transition: &&Transition| transition.number > logged.number;
            self.emitted.iter().filter(unlogged).copied().collect()
        } else {
            self.sequence += 1;
            self.emitted[self.batched..].to_vec()
        };
        self.batched = self.emitted.len();
        self.batch(rules, region, transitions)
    }

    /// Ends adoption.
    pub fn settle(&mut self) {
        self.phase = Phase::Live;
        self.adopted = [0; CHANNELS];
    }

    /// Makes a batch of registers alone, although transitions wait.
    pub fn flush_registers(&mut self, rules: Rules, region: usize) -> Command {
        self.sequence += 1;
        self.batch(rules, region, Vec::new())
    }

    fn batch(&mut self, rules: Rules, region: usize, transitions: Vec<Transition>) -> Command {
        self.sent = self.registers(rules);
        Command::Batch {
            region,
            fence: self.fence,
            sequence: self.sequence,
            transitions,
            registers: self.sent,
        }
    }
}
