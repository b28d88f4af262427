//! The protocol as a state machine for stateright.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::owner::{Base, Gateway, Owner, Phase, View};
use crate::rules::{Rule, Rules};
use crate::shard::Shard;
use crate::subscriber::Subscriber;
use crate::words::{CHANNELS, Command, Event, Fault, Fence, REGIONS};
use crate::world::World;

/// The most transitions of an owner that has no state machine of its own (without R11).
const UNSOURCED_TRANSITIONS: usize = 3;

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// Everything, everywhere, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The state at the log's head.
    pub shard: Shard,
    /// The log's events that some subscriber may still read.
    pub log: Vec<Event>,
    /// Commands on their way to a coordinator: each may be committed now, later, again, or never,
    /// in any order and by any leader.
    pub sent: BTreeSet<Command>,
    /// All gateways, region by region.
    pub gateways: Vec<Gateway>,
    /// Per region, the incarnation of each granted fence. All but the last are zombies: they may
    /// go on as long as nobody refuses them, or have crashed, which is the same as doing nothing.
    pub owners: [Vec<Owner>; REGIONS],
    /// Per region, the highest fence that the control group declared void.
    pub void: [Fence; REGIONS],
    /// The subscribers.
    pub subscribers: Vec<Subscriber>,
    /// The region of the shard's leader.
    pub leader: usize,
    /// What the surroundings may still do.
    pub left: Left,
    /// Promises broken on the way here; a state with any is not followed further.
    pub faults: Vec<Fault>,
}

/// What the surroundings may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    toggles: u8,
    voids: u8,
    gateway_restarts: u8,
    owner_restarts: u8,
    moves: u8,
    leader_changes: u8,
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client attaches, or the one that is there leaves.
    Toggle {
        /// Where.
        gateway: usize,
        /// On which channel.
        channel: usize,
    },
    /// The control group gives the region's ownership to a new incarnation.
    Grant {
        /// Which region.
        region: usize,
    },
    /// The control group gives a region up.
    Void {
        /// Which region.
        region: usize,
    },
    /// An owner's process restarts and goes on under its old fence (only without R4).
    RestartOwner {
        /// Whose.
        region: usize,
    },
    /// A gateway loses all it knows.
    RestartGateway {
        /// Which one.
        gateway: usize,
    },
    /// The shard's leader moves to the other region.
    ChangeLeader,
    /// A subscriber resumes elsewhere.
    Move {
        /// Who.
        subscriber: usize,
        /// Where to.
        gateway: usize,
    },
    /// A restarted gateway has its clients again and says that its set is complete.
    Recover {
        /// Which one.
        gateway: usize,
    },
    /// A gateway learns of an owner and tells it what it told subscribers.
    Witness {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
        /// The gateway.
        gateway: usize,
    },
    /// A gateway's counts reach an owner.
    Report {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
        /// The gateway.
        gateway: usize,
    },
    /// An owner sends its claim.
    Claim {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
    /// An owner takes its base: it sees its claim applied.
    Begin {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
    /// An owner's adoption ends.
    Settle {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
    /// Nobody is there and the linger is over: an owner emits inactive.
    Linger {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
        /// The channel.
        channel: usize,
    },
    /// An owner emits what it finds by comparing the log with its sum (only without R11).
    Compare {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
        /// The channel.
        channel: usize,
    },
    /// An owner sends its next batch.
    Flush {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
    /// An owner sends a batch of registers ahead of its transitions (only without that part of R2).
    FlushRegisters {
        /// The owner's region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
    /// A coordinator commits a command that was sent some time, and the log's head applies it.
    Commit(Command),
    /// A subscriber is told an early transition.
    Hear {
        /// Who.
        subscriber: usize,
        /// The fence that it comes from.
        fence: Fence,
        /// The transition's number.
        number: u8,
    },
    /// A subscriber reads the log's next event.
    Read {
        /// Who.
        subscriber: usize,
    },
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let gateways = (0..self.world.gateways.iter().sum())
            .map(|gateway| {
                let attached = [u8::from(self.world.steady && gateway == 0), 0];
                let told = Vec::new();
                Gateway {
                    attached,
                    known: attached,
                    complete: true,
                    heard: 0,
                    told,
                }
            })
            .collect();
        let owners = std::array::from_fn(|region| {
            (1..=self.world.fences[region].min(1))
                .map(|fence| Owner::new(fence, self.world.gateways[region]))
                .collect()
        });
        let resumes = self.world.resumes();
        let subscribers = self
            .world
            .subscribers
            .iter()
            .map(|gateway| Subscriber::new(*gateway, resumes, self.world.unlogged_max));
        vec![State {
            shard: Shard::default(),
            log: Vec::new(),
            sent: BTreeSet::new(),
            gateways,
            owners,
            void: [0; REGIONS],
            subscribers: subscribers.collect(),
            leader: 0,
            left: Left {
                toggles: self.world.toggles,
                voids: self.world.voids,
                gateway_restarts: self.world.gateway_restarts,
                owner_restarts: self.world.owner_restarts,
                moves: self.world.moves,
                leader_changes: self.world.leader_changes,
            },
            faults: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.faults.is_empty() {
            self.progress(state, actions);
            self.surroundings(state, actions);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        self.act(&mut state, action);
        self.tidy(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        /// A property that holds unless this fault occurred.
        macro_rules! never {
            ($fault:ident, $name:literal) => {
                Property::always($name, |_, state: &State| {
                    !state.faults.contains(&Fault::$fault)
                })
            };
        }
        vec![
            never!(LogRepeats, "log alternates"),
            never!(NotNested, "opened and closed enclose the log's activity"),
            never!(
                CountedWhileInactive,
                "who is counted is on an active channel"
            ),
            never!(ToldRepeats, "told alternates"),
            never!(BodyDiffers, "same id, same body"),
            never!(NeedlessVoid, "nothing is voided that a witness could save"),
            never!(Flap, "a steady client's channel never goes inactive"),
            never!(Dip, "a steady client is never counted away"),
            Property::always(
                "the end counts what is attached",
                |model: &Self, state: &State| !model.quiet(state) || model.counts_are_true(state),
            ),
            Property::always(
                "told ends in the log's state",
                |model: &Self, state: &State| !model.quiet(state) || model.told_is_logged(state),
            ),
            Property::always("nothing is stuck", |model: &Self, state: &State| {
                !state.faults.is_empty() || model.quiet(state) || {
                    let mut actions = Vec::new();
                    model.progress(state, &mut actions);
                    actions
                        .iter()
                        .any(|action| model.must_happen(state, action))
                }
            }),
        ]
    }
}

impl Protocol {
    /// Steps that clients, failures and the control group may take or not.
    fn surroundings(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &self.world;
        if state.left.toggles > 0 {
            for &gateway in world.togglers {
                actions.extend((0..world.channels).map(|c| Action::Toggle {
                    gateway,
                    channel: c,
                }));
            }
        }
        for region in 0..REGIONS {
            let granted = state.granted(region);
            if granted > 0 && granted < world.fences[region] {
                actions.push(Action::Grant { region });
            }
            if state.left.voids > 0 && region == 0 && state.void[region] < granted {
                actions.push(Action::Void { region });
            }
            if state.left.owner_restarts > 0
                && !self.rules.has(Rule::Incarnations)
                && state.owners[region]
                    .last()
                    .is_some_and(|owner| matches!(owner.phase, Phase::Adopting | Phase::Live))
            {
                actions.push(Action::RestartOwner { region });
            }
        }
        if state.left.gateway_restarts > 0 {
            let restarts = (0..state.gateways.len()).map(|g| Action::RestartGateway { gateway: g });
            actions.extend(restarts);
        }
        if state.left.moves > 0 {
            for subscriber in 0..state.subscribers.len() {
                let moves = (0..state.gateways.len()).map(|gateway| Action::Move {
                    subscriber,
                    gateway,
                });
                actions.extend(moves);
            }
        }
        if state.left.leader_changes > 0 {
            actions.push(Action::ChangeLeader);
        }
    }

    /// Steps of the protocol itself.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        for (gateway, it) in state.gateways.iter().enumerate() {
            if !it.complete || it.known != it.attached {
                actions.push(Action::Recover { gateway });
            }
        }
        for region in 0..REGIONS {
            for owner in &state.owners[region] {
                self.owner_steps(state, region, owner, actions);
            }
        }
        for command in &state.sent {
            let mut shard = state.shard.clone();
            let outcome = shard.apply(self.rules, state.leader, command);
            if shard != state.shard || !outcome.events.is_empty() {
                actions.push(Action::Commit(command.clone()));
            }
        }
        for (subscriber, it) in state.subscribers.iter().enumerate() {
            let region = self.world.region_of(it.gateway);
            for owner in &state.owners[region] {
                let fence = owner.fence;
                let next = it.next_early(self.rules, region, fence);
                let Some(next) = next.filter(|_| self.listens(&state.gateways[it.gateway], fence))
                else {
                    continue;
                };
                let in_order = self.rules.has(Rule::EarlyInOrder);
                let may_hear = |number: u8| number == next || (!in_order && number > next);
                let numbers = owner.emitted.iter().map(|transition| transition.number);
                actions.extend(numbers.filter(|number| may_hear(*number)).map(|number| {
                    Action::Hear {
                        subscriber,
                        fence,
                        number,
                    }
                }));
            }
            if it.cursor.position < state.log.len() {
                actions.push(Action::Read { subscriber });
            }
        }
    }

    fn owner_steps(&self, state: &State, region: usize, owner: &Owner, actions: &mut Vec<Action>) {
        let rules = self.rules;
        let fence = owner.fence;
        let may_begin = owner.base.is_some()
            || (owner.phase == Phase::Granted && !rules.has(Rule::Claim))
            || (owner.phase == Phase::Claiming && !rules.has(Rule::ClaimWait));
        match owner.phase {
            Phase::Granted if rules.has(Rule::Claim) => {
                for (place, gateway) in self.world.gateways_of(region).enumerate() {
                    if owner.witnesses & (1 << place) == 0 && state.gateways[gateway].heard < fence
                    {
                        actions.push(Action::Witness {
                            region,
                            fence,
                            gateway,
                        });
                    }
                }
                actions.push(Action::Claim { region, fence });
            }
            Phase::Granted | Phase::Claiming | Phase::Over => {}
            Phase::Adopting | Phase::Live => {
                self.running_owner_steps(state, region, owner, actions);
            }
        }
        if may_begin {
            actions.push(Action::Begin { region, fence });
        }
    }

    fn running_owner_steps(
        &self,
        state: &State,
        region: usize,
        owner: &Owner,
        actions: &mut Vec<Action>,
    ) {
        let rules = self.rules;
        let fence = owner.fence;
        for (place, gateway) in self.world.gateways_of(region).enumerate() {
            let it = &state.gateways[gateway];
            let view = View {
                counts: it.known,
                complete: it.complete,
            };
            let news = match owner.views[place] {
                Some(old) if !view.complete && rules.has(Rule::KeepIncomplete) => {
                    old.complete || (0..CHANNELS).any(|c| view.counts[c] > old.counts[c])
                }
                old => old != Some(view),
            };
            if news && self.listens(it, fence) {
                actions.push(Action::Report {
                    region,
                    fence,
                    gateway,
                });
            }
        }
        if owner.phase == Phase::Adopting && owner.all_complete() {
            actions.push(Action::Settle { region, fence });
        }
        let may_linger = owner.phase == Phase::Live || !rules.has(Rule::AdoptionHold);
        for channel in 0..self.world.channels {
            let absent = owner.sum(channel) == 0;
            if !rules.has(Rule::OneSource) {
                let differs = state.shard.regions[region].active[channel] == absent;
                let may = owner.phase == Phase::Live || !absent;
                if differs && may && owner.emitted.len() < UNSOURCED_TRANSITIONS {
                    actions.push(Action::Compare {
                        region,
                        fence,
                        channel,
                    });
                }
            } else if owner.active[channel] && absent && may_linger {
                actions.push(Action::Linger {
                    region,
                    fence,
                    channel,
                });
            }
        }
        if owner.is_dirty(rules) {
            actions.push(Action::Flush { region, fence });
        }
        if !rules.has(Rule::RegisterOrder) && owner.registers(rules) != owner.sent {
            actions.push(Action::FlushRegisters { region, fence });
        }
    }

    /// Whether a gateway takes an owner's word and gives it its own.
    fn listens(&self, gateway: &Gateway, fence: Fence) -> bool {
        gateway.heard <= fence || !self.rules.has(Rule::IgnoreOlder)
    }

    /// Whether a step of the protocol happens for certain if nothing else does: what the current
    /// owners, the log and the readers do. Zombies and what they sent may be gone.
    fn must_happen(&self, state: &State, action: &Action) -> bool {
        let current = |region: usize, fence: Fence| {
            fence == state.granted(region) && fence > state.void[region]
        };
        match action {
            Action::Recover { .. } | Action::Read { .. } => true,
            Action::Claim { region, fence }
            | Action::Begin { region, fence }
            | Action::Settle { region, fence }
            | Action::Linger { region, fence, .. }
            | Action::Compare { region, fence, .. }
            | Action::Flush { region, fence }
            | Action::FlushRegisters { region, fence }
            | Action::Report { region, fence, .. } => current(*region, *fence),
            Action::Commit(Command::Expire { region, fence }) => *fence == state.void[*region],
            Action::Commit(command) => current(command.region(), command.fence()),
            Action::Toggle { .. }
            | Action::Grant { .. }
            | Action::Void { .. }
            | Action::RestartOwner { .. }
            | Action::RestartGateway { .. }
            | Action::ChangeLeader
            | Action::Move { .. }
            | Action::Witness { .. }
            | Action::Hear { .. } => false,
        }
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Toggle { gateway, channel } => {
                state.left.toggles -= 1;
                let it = &mut state.gateways[gateway];
                it.attached[channel] = 1 - it.attached[channel];
                if it.complete {
                    it.known = it.attached;
                }
            }
            Action::Grant { region } => {
                let fence = state.granted(region) + 1;
                state.owners[region].push(Owner::new(fence, self.world.gateways[region]));
            }
            Action::Void { region } => {
                state.left.voids -= 1;
                let fence = state.granted(region);
                state.void[region] = fence;
                state.sent.insert(Command::Expire { region, fence });
            }
            Action::RestartOwner { region } => {
                state.left.owner_restarts -= 1;
                let logged = Base::of(&state.shard.regions[region]);
                let claimed = state.shard.regions[region].claimed;
                if let Some(owner) = state.owners[region].last_mut() {
                    let mut restarted = Owner::new(owner.fence, owner.views.len());
                    restarted.phase = Phase::Claiming;
                    restarted.base = (claimed == owner.fence).then_some(logged);
                    *owner = restarted;
                }
            }
            Action::RestartGateway { gateway } => {
                state.left.gateway_restarts -= 1;
                let it = &mut state.gateways[gateway];
                it.known = [0; CHANNELS];
                it.complete = !self.rules.has(Rule::Recovery);
                it.heard = 0;
                it.told.clear();
                for subscriber in &mut state.subscribers {
                    if subscriber.gateway == gateway {
                        subscriber.resume(self.rules, gateway);
                    }
                }
            }
            Action::ChangeLeader => {
                state.left.leader_changes -= 1;
                state.leader = 1 - state.leader;
            }
            Action::Move {
                subscriber,
                gateway,
            } => {
                state.left.moves -= 1;
                state.subscribers[subscriber].resume(self.rules, gateway);
            }
            Action::Recover { gateway } => {
                let it = &mut state.gateways[gateway];
                it.known = it.attached;
                it.complete = true;
            }
            Action::Commit(command) => self.commit(state, &command),
            Action::Hear {
                subscriber,
                fence,
                number,
            } => {
                self.hear(state, subscriber, fence, number);
            }
            Action::Read { subscriber } => {
                let it = &mut state.subscribers[subscriber];
                loop {
                    let event = state.log[it.cursor.position];
                    it.read(self.rules, &event, &mut state.faults);
                    // Where nobody resumes, nobody sees whether a step ends before a global event.
                    let next = state.log.get(it.cursor.position);
                    let global = matches!(next, Some(Event::Opened { .. } | Event::Closed { .. }));
                    if self.world.resumes() || !global {
                        break;
                    }
                }
            }
            Action::Witness { region, fence, .. }
            | Action::Report { region, fence, .. }
            | Action::Claim { region, fence }
            | Action::Begin { region, fence }
            | Action::Settle { region, fence }
            | Action::Linger { region, fence, .. }
            | Action::Compare { region, fence, .. }
            | Action::Flush { region, fence }
            | Action::FlushRegisters { region, fence } => {
                self.act_as_owner(state, region, fence, &action);
            }
        }
    }

    fn act_as_owner(&self, state: &mut State, region: usize, fence: Fence, action: &Action) {
        let rules = self.rules;
        let global_master = state.leader == region;
        let first_gateway = self.world.gateways_of(region).start;
        let logged = &state.shard.regions[region];
        let owner = &mut state.owners[region][usize::from(fence) - 1];
        match *action {
            Action::Witness { gateway, .. } => {
                let it = &mut state.gateways[gateway];
                it.heard = fence;
                owner.hear(gateway - first_gateway, &it.told);
            }
            Action::Report { gateway, .. } => {
                let it = &mut state.gateways[gateway];
                it.heard = it.heard.max(fence);
                let report = View {
                    counts: it.known,
                    complete: it.complete,
                };
                owner.report(rules, gateway - first_gateway, report, global_master);
                if !rules.has(Rule::OneSource) {
                    for channel in 0..self.world.channels {
                        if owner.sum(channel) > 0 && !logged.active[channel] {
                            owner.emit(channel, true, global_master);
                        }
                    }
                }
            }
            Action::Claim { .. } => {
                let tail = if rules.has(Rule::Tail) {
                    owner.tail.clone()
                } else {
                    Vec::new()
                };
                let witnesses = owner.witnesses << first_gateway;
                state.sent.insert(Command::Claim {
                    region,
                    fence,
                    tail,
                    witnesses,
                });
                owner.phase = Phase::Claiming;
            }
            Action::Begin { .. } => {
                let base = owner.base.take().unwrap_or_else(|| {
                    let mut now = Base::of(logged);
                    if logged.claimed != fence {
                        now.number = 0;
                        now.sequence = 0;
                    }
                    now
                });
                owner.adopt(&base);
                if !rules.has(Rule::AdoptionWait) {
                    Self::settle(rules, region, owner, &mut state.sent);
                }
            }
            Action::Settle { .. } => Self::settle(rules, region, owner, &mut state.sent),
            Action::Linger { channel, .. } => owner.emit(channel, false, global_master),
            Action::Compare { channel, .. } => {
                let active = owner.sum(channel) > 0;
                owner.emit(channel, active, global_master);
            }
            Action::Flush { .. } => {
                let batch = owner.flush(rules, region, logged);
                state.sent.insert(batch);
            }
            Action::FlushRegisters { .. } => {
                let batch = owner.flush_registers(rules, region);
                state.sent.insert(batch);
            }
            _ => unreachable!("not an owner's step: {action:?}"),
        }
    }

    fn settle(rules: Rules, region: usize, owner: &mut Owner, sent: &mut BTreeSet<Command>) {
        owner.settle();
        if rules.has(Rule::Settling) {
            sent.insert(Command::Settled {
                region,
                fence: owner.fence,
            });
        }
    }

    fn commit(&self, state: &mut State, command: &Command) {
        let counted_before = state.shard.regions[0].registers[0];
        let outcome = state.shard.apply(self.rules, state.leader, command);
        state.faults.extend(outcome.faults);
        if self.world.steady && !matches!(command, Command::Expire { .. }) {
            let inactive = |event: &Event| {
                matches!(event, Event::Transition { region: 0, transition }
                    if transition.channel == 0 && !transition.active)
            };
            if outcome.events.iter().any(inactive) {
                state.faults.push(Fault::Flap);
            } else if counted_before > 0 && state.shard.regions[0].registers[0] == 0 {
                state.faults.push(Fault::Dip);
            }
        }
        for event in &outcome.events {
            if let Event::Claimed { region, fence, .. } = *event {
                let base = Base::of(&state.shard.regions[region]);
                let owner = &mut state.owners[region][usize::from(fence) - 1];
                if owner.phase == Phase::Claiming {
                    owner.base = Some(base);
                }
            }
        }
        state.log.extend(outcome.events);
    }

    fn hear(&self, state: &mut State, subscriber: usize, fence: Fence, number: u8) {
        let it = &mut state.subscribers[subscriber];
        let region = self.world.region_of(it.gateway);
        let owner = &state.owners[region][usize::from(fence) - 1];
        let Some(transition) = owner.transition(number).copied() else {
            return;
        };
        it.hear(self.rules, region, transition, &mut state.faults);
        let gateway = &mut state.gateways[it.gateway];
        gateway.heard = gateway.heard.max(fence);
        gateway
            .told
            .retain(|told| told.fence == fence && told.number != number);
        gateway.told.push(transition);
    }

    /// Forgets what can have no further effect, so that histories with one future become one.
    fn tidy(&self, state: &mut State) {
        let rules = self.rules;
        let shard = &state.shard;
        state.sent = std::mem::take(&mut state.sent)
            .into_iter()
            .filter(|command| !shard.outlived(rules, command))
            .map(|mut command| {
                if let Command::Claim { region, tail, .. } = &mut command {
                    tail.retain(|transition| shard.may_carry_on(*region, transition));
                }
                command
            })
            .collect();
        for (gateway, it) in state.gateways.iter_mut().enumerate() {
            let region = self.world.region_of(gateway);
            it.told
                .retain(|transition| shard.may_carry_on(region, transition));
        }
        for (region, owners) in state.owners.iter_mut().enumerate() {
            for owner in owners {
                owner
                    .tail
                    .retain(|transition| shard.may_carry_on(region, transition));
                let unheard = state
                    .subscribers
                    .iter()
                    .all(|it| it.is_past(region, owner.fence));
                if unheard && shard.refuses(rules, region, owner.fence) {
                    *owner = Owner {
                        phase: Phase::Over,
                        ..Owner::new(owner.fence, 0)
                    };
                }
            }
        }
        let read = state.subscribers.iter().map(Subscriber::earliest).min();
        let read = read.unwrap_or(state.log.len());
        state.log.drain(..read);
        for subscriber in &mut state.subscribers {
            subscriber.shift(read);
            if rules.has(Rule::Claim) && rules.has(Rule::FeedWait) {
                subscriber.forget();
            }
        }
        state.faults.sort_unstable();
        state.faults.dedup();
    }

    /// Whether the protocol has nothing left to do: current owners live, everything that they
    /// know logged, every subscriber at the log's end.
    fn quiet(&self, state: &State) -> bool {
        let recovered = state
            .gateways
            .iter()
            .all(|it| it.complete && it.known == it.attached);
        let read = state
            .subscribers
            .iter()
            .all(|it| it.cursor.position == state.log.len());
        recovered && read && (0..REGIONS).all(|region| self.region_is_quiet(state, region))
    }

    fn region_is_quiet(&self, state: &State, region: usize) -> bool {
        let Some(owner) = state.owners[region].last() else {
            return true;
        };
        let logged = &state.shard.regions[region];
        if state.void[region] >= owner.fence {
            return logged.void >= state.void[region] && logged.expiring.is_none();
        }
        let attached = self
            .world
            .gateways_of(region)
            .map(|gateway| &state.gateways[gateway]);
        let heard = owner.views.iter().zip(attached).all(|(view, gateway)| {
            view.is_some_and(|view| view.complete && view.counts == gateway.attached)
        });
        let decided = (0..CHANNELS).all(|channel| {
            !self.rules.has(Rule::OneSource) || owner.active[channel] == (owner.sum(channel) > 0)
        });
        let applied = owner.sequence == 0
            || (logged.claimed == owner.fence && logged.sequence == owner.sequence);
        owner.phase == Phase::Live
            && heard
            && decided
            && applied
            && !owner.is_dirty(self.rules)
            && (logged.settled || !self.rules.has(Rule::Settling))
    }

    fn counts_are_true(&self, state: &State) -> bool {
        (0..REGIONS).all(|region| {
            let logged = &state.shard.regions[region];
            let dead = state.void[region] >= state.granted(region);
            (0..CHANNELS).all(|channel| {
                let attached: u8 = self
                    .world
                    .gateways_of(region)
                    .map(|gateway| state.gateways[gateway].attached[channel])
                    .sum();
                let count = if dead { 0 } else { attached };
                logged.registers[channel] == count && logged.active[channel] == (count > 0)
            })
        })
    }

    /// What happens in a region that is given up is nobody's business but its own until it
    /// returns: there, subscribers may believe what its zombies told them.
    fn told_is_logged(&self, state: &State) -> bool {
        state.subscribers.iter().all(|it| {
            let home = self.world.region_of(it.gateway);
            let regions = (0..REGIONS).all(|region| {
                let cut_off = region == home && state.void[region] >= state.granted(region);
                cut_off || it.believes[region] == state.shard.regions[region].active
            });
            regions && it.cursor.opened == state.shard.opened
        })
    }
}

impl State {
    /// The highest fence that the control group granted in a region.
    #[must_use]
    pub fn granted(&self, region: usize) -> Fence {
        self.owners[region].last().map_or(0, |owner| owner.fence)
    }
}
