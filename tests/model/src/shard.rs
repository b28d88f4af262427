//! The replicated state of a shard: `apply` as `design.md` §4 gives it, for the model's words.

use crate::rules::{Rule, Rules};
use crate::words::{CHANNELS, Command, Event, Fault, Fence, PerChannel, REGIONS, Transition};

/// What the log says about one region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegionState {
    /// The fence that claimed last.
    pub claimed: Fence,
    /// Whether an expiry ended it.
    pub ended: bool,
    /// The highest void fence that was applied.
    pub void: Fence,
    /// The next channel of an expiry that is under way.
    pub expiring: Option<usize>,
    /// Whether the claimed fence has settled.
    pub settled: bool,
    /// The last batch applied under the claimed fence.
    pub sequence: u8,
    /// The last transition applied under the claimed fence.
    pub number: u8,
    /// Activity.
    pub active: PerChannel<bool>,
    /// Counts.
    pub registers: PerChannel<u8>,
}

/// The state at the head of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Per region.
    pub regions: [RegionState; REGIONS],
    /// Channels that are open.
    pub opened: PerChannel<bool>,
}

/// What applying one command yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events, in order.
    pub events: Vec<Event>,
    /// Broken promises of the log itself.
    pub faults: Vec<Fault>,
}

impl Shard {
    /// Applies one committed command. `leader` is the region of the leader at this moment, which
    /// apply must not use (R12).
    pub fn apply(&mut self, rules: Rules, leader: usize, command: &Command) -> Outcome {
        let mut outcome = Outcome::default();
        match command {
            Command::Claim {
                region,
                fence,
                tail,
                witnesses,
            } => {
                self.apply_claim(
                    rules,
                    leader,
                    *region,
                    *fence,
                    tail,
                    *witnesses,
                    &mut outcome,
                );
            }
            Command::Batch {
                region,
                fence,
                sequence,
                transitions,
                registers,
            } => {
                if !self.admit(rules, *region, *fence) {
                    return outcome;
                }
                let state = &mut self.regions[*region];
                if rules.has(Rule::Sequence) && *sequence != state.sequence + 1 {
                    return outcome;
                }
                state.sequence = state.sequence.max(*sequence);
                for transition in transitions {
                    if !rules.has(Rule::Numbers)
                        || transition.number == self.regions[*region].number + 1
                    {
                        self.turn(rules, leader, *region, *transition, &mut outcome);
                    }
                }
                self.regions[*region].registers = *registers;
            }
            Command::Settled { region, fence } => {
                if self.admit(rules, *region, *fence) && !self.regions[*region].settled {
                    self.regions[*region].settled = true;
                    outcome.events.push(Event::Settled {
                        region: *region,
                        fence: *fence,
                    });
                }
            }
            Command::Expire { region, fence } => {
                self.apply_expiry(rules, *region, *fence, &mut outcome);
            }
        }
        self.nest(&mut outcome.events);
        self.check_counts(&mut outcome.faults);
        outcome
    }

    /// Whether the command can never have an effect again, so that the model may forget it.
    #[must_use]
    pub fn outlived(&self, rules: Rules, command: &Command) -> bool {
        let state = &self.regions[command.region()];
        let fence = command.fence();
        match command {
            Command::Claim { .. } => {
                fence <= state.claimed || (rules.has(Rule::ExpiryFloor) && fence <= state.void)
            }
            Command::Batch { sequence, .. } => {
                fence < state.claimed
                    || (fence == state.claimed && state.ended)
                    || (rules.has(Rule::Sequence)
                        && fence == state.claimed
                        && *sequence <= state.sequence)
            }
            Command::Settled { .. } => {
                fence < state.claimed || (fence == state.claimed && (state.ended || state.settled))
            }
            Command::Expire { .. } => {
                (rules.has(Rule::ExpiryGuard) && fence < state.claimed)
                    || fence < state.void
                    || (fence == state.void && state.expiring.is_none())
            }
        }
    }

    /// Whether nothing of the fence can be applied any more.
    #[must_use]
    pub fn refuses(&self, rules: Rules, region: usize, fence: Fence) -> bool {
        let state = &self.regions[region];
        let expired = rules.has(Rule::ExpiryEndsFence) && rules.has(Rule::ExpiryFloor);
        fence < state.claimed || (expired && fence <= state.void)
    }

    /// Whether a claim that carries the transition in its tail could still apply it.
    #[must_use]
    pub fn may_carry_on(&self, region: usize, transition: &Transition) -> bool {
        let state = &self.regions[region];
        let logged = transition.fence == state.claimed && transition.number <= state.number;
        transition.fence >= state.claimed && !logged
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a command's fields, taken apart once"
    )]
    fn apply_claim(
        &mut self,
        rules: Rules,
        leader: usize,
        region: usize,
        fence: Fence,
        tail: &[Transition],
        witnesses: u8,
        outcome: &mut Outcome,
    ) {
        let state = &self.regions[region];
        if fence <= state.claimed || (rules.has(Rule::ExpiryFloor) && fence <= state.void) {
            return;
        }
        let after = if state.ended { 0 } else { state.claimed };
        for transition in tail {
            let carries_on =
                transition.fence == after && transition.number == self.regions[region].number + 1;
            if carries_on {
                self.turn(rules, leader, region, *transition, outcome);
            }
        }
        self.begin(region, fence);
        outcome.events.push(Event::Claimed {
            region,
            fence,
            after,
            witnesses,
        });
    }

    fn apply_expiry(&mut self, rules: Rules, region: usize, fence: Fence, outcome: &mut Outcome) {
        let state = &mut self.regions[region];
        let over = fence < state.void || (fence == state.void && state.expiring.is_none());
        if over || (rules.has(Rule::ExpiryGuard) && fence < state.claimed) {
            return;
        }
        if state.void < fence {
            state.void = fence;
            state.ended |= state.claimed <= fence && rules.has(Rule::ExpiryEndsFence);
            state.expiring = Some(0);
            outcome.events.push(Event::ExpiryBegun { region, fence });
            return;
        }
        let Some(channel) = state.expiring else {
            return;
        };
        state.registers[channel] = 0;
        if state.active[channel] {
            state.active[channel] = false;
            outcome.events.push(Event::Expired {
                region,
                fence,
                channel,
            });
            self.follow(channel, rules, outcome);
        }
        let state = &mut self.regions[region];
        state.expiring = (channel + 1 < CHANNELS).then_some(channel + 1);
        if state.expiring.is_none() {
            outcome.events.push(Event::ExpiryEnded { region, fence });
        }
    }

    /// Whether commands of the fence count. Without claims, a higher fence takes over by speaking.
    fn admit(&mut self, rules: Rules, region: usize, fence: Fence) -> bool {
        let state = &self.regions[region];
        if !rules.has(Rule::Claim) && fence > state.claimed && fence > state.void {
            self.begin(region, fence);
        }
        let state = &self.regions[region];
        fence == state.claimed && !state.ended
    }

    fn begin(&mut self, region: usize, fence: Fence) {
        let state = &mut self.regions[region];
        state.claimed = fence;
        state.ended = false;
        state.expiring = None;
        state.settled = false;
        state.sequence = 0;
        state.number = 0;
    }

    /// Applies one transition and what follows from it.
    fn turn(
        &mut self,
        rules: Rules,
        leader: usize,
        region: usize,
        mut transition: Transition,
        outcome: &mut Outcome,
    ) {
        if !rules.has(Rule::SameBody) {
            transition.global_master = leader == region;
        }
        let state = &mut self.regions[region];
        state.number = state.number.max(transition.number);
        if state.active[transition.channel] == transition.active {
            outcome.faults.push(Fault::LogRepeats);
        }
        state.active[transition.channel] = transition.active;
        if rules.has(Rule::TransitionCounts) {
            state.registers[transition.channel] = transition.count;
        }
        outcome
            .events
            .push(Event::Transition { region, transition });
        self.follow(transition.channel, rules, outcome);
    }

    /// Emits opened or closed directly after the regional event that causes it.
    fn follow(&mut self, channel: usize, rules: Rules, outcome: &mut Outcome) {
        if rules.has(Rule::Nesting) {
            self.open_or_close(channel, &mut outcome.events);
        }
    }

    /// Catches up at the end of the entry; finds nothing left to do while the rule is kept.
    fn nest(&mut self, events: &mut Vec<Event>) {
        for channel in 0..CHANNELS {
            self.open_or_close(channel, events);
        }
    }

    fn open_or_close(&mut self, channel: usize, events: &mut Vec<Event>) {
        let open = self.regions.iter().any(|state| state.active[channel]);
        if open != self.opened[channel] {
            self.opened[channel] = open;
            events.push(if open {
                Event::Opened { channel }
            } else {
                Event::Closed { channel }
            });
        }
    }

    fn check_counts(&self, faults: &mut Vec<Fault>) {
        let counted_while_inactive = self.regions.iter().any(|state| {
            (0..CHANNELS).any(|channel| state.registers[channel] > 0 && !state.active[channel])
        });
        if counted_while_inactive {
            faults.push(Fault::CountedWhileInactive);
        }
    }
}
