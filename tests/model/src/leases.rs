//! The control group's leases and lives (R4, R5): one node, a standby, and the group's leaders.
//!
//! Here time matters, so it is counted: a tick ages everything alike. What takes time (a request,
//! an answer, a commit) takes any number of ticks, or is lost.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};

/// Length of a lease, in ticks.
const LEASE: u8 = 3;

/// What exists and how often the surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// How often the node's process restarts.
    pub restarts: u8,
    /// Lives that the node registers, all together.
    pub lives: u8,
    /// How often the control group elects another leader.
    pub elections: u8,
    /// Whether the process may end for good.
    pub crash: bool,
    /// Whether it is promised that one acts at a time.
    pub alone: bool,
}

impl World {
    /// The node's process may restart or end, under one leader.
    #[must_use]
    pub const fn lives() -> Self {
        Self {
            name: "lives",
            restarts: 2,
            lives: 3,
            elections: 0,
            crash: true,
            alone: true,
        }
    }

    /// The group changes its leader, and the old one may not know.
    #[must_use]
    pub const fn elections() -> Self {
        Self {
            name: "elections",
            restarts: 1,
            lives: 2,
            elections: 2,
            crash: true,
            alone: true,
        }
    }

    /// The same without what the product does not promise: a node that is cut off acts on, for its
    /// own region, when its lease is over.
    #[must_use]
    pub const fn as_built() -> Self {
        Self {
            name: "elections, as built",
            alone: false,
            ..Self::elections()
        }
    }

    /// The worlds of the tests.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::lives(), Self::elections()]
    }

    /// The same with more going on.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        vec![Self {
            name: "elections, 3 of them",
            restarts: 2,
            lives: 3,
            elections: 3,
            crash: true,
            alone: true,
        }]
    }
}

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Leases {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// Who may speak for the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Nobody yet.
    Nobody,
    /// This life of the node, under a fence of its own.
    Life(u8),
    /// The other node.
    Standby,
}

/// The replicated state of the control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Control {
    /// The node's last life.
    pub life: u8,
    /// Whether its lease stands.
    pub live: bool,
    /// Who owns.
    pub holder: Holder,
}

/// The node's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    /// The life it acts as; 0 before it registered.
    pub life: u8,
    /// Whether it registered that life itself.
    pub own: bool,
    /// Whether that life was given the ownership, as far as it heard.
    pub office: bool,
    /// Ticks that its lease has left by its own count.
    pub left: u8,
    /// Age of a request on its way.
    pub asked: Option<u8>,
    /// Age of the request that an answer on its way answers.
    pub answered: Option<u8>,
}

/// A leader of the control group, or one that does not know that it is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The life that it knows.
    pub life: u8,
    /// Ticks since it last heard of it.
    pub age: u8,
    /// Whether it proposed that life's lease as lost.
    pub lost: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What is committed.
    pub control: Control,
    /// The process, unless it ended for good.
    pub process: Option<Process>,
    /// The leader.
    pub leader: Leader,
    /// The one before, as long as it does not know.
    pub former: Option<Leader>,
    /// Leases proposed as lost and not committed, by life.
    pub proposed: BTreeSet<u8>,
    /// Restarts left.
    pub restarts: u8,
    /// Elections left.
    pub elections: u8,
    /// Promises broken on the way here.
    pub faults: Vec<Fault>,
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A life was declared dead while its process held a lease by its own count.
    HeldLeaseLost,
    /// A process acted under a fence that another process received.
    FenceOfAnother,
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time goes on.
    Tick,
    /// The process registers its life.
    Start,
    /// The process is replaced by a new one.
    Restart,
    /// The process ends for good.
    Crash,
    /// It asks for a renewal.
    Ask,
    /// The request is lost, or its answer.
    Lose,
    /// The leader hears the request, or the former one does.
    Renew {
        /// Whether the former one.
        former: bool,
    },
    /// The answer comes.
    Answer,
    /// The leader finds the lease run out.
    Expire,
    /// What it proposed is committed.
    Commit {
        /// The life.
        life: u8,
    },
    /// Another leader is elected. What the one before had under way is in its log, or is lost.
    Elect {
        /// Whether it is in its log.
        keeps: bool,
    },
    /// The former leader learns that it is none.
    StepDown,
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            control: Control {
                life: 0,
                live: false,
                holder: Holder::Nobody,
            },
            process: Some(Process::default()),
            leader: Leader {
                life: 0,
                age: 0,
                lost: false,
            },
            former: None,
            proposed: BTreeSet::new(),
            restarts: self.world.restarts,
            elections: self.world.elections,
            faults: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.faults.is_empty() {
            return;
        }
        actions.push(Action::Tick);
        if let Some(process) = &state.process {
            let ended = !state.control.live || state.control.life != process.life;
            let waits = process.life == 0 || (ended && process.left == 0);
            if waits && state.control.life < self.world.lives {
                actions.push(Action::Start);
            }
            if process.life > 0 && process.asked.is_none() && process.answered.is_none() {
                actions.push(Action::Ask);
            }
            if process.asked.is_some() {
                actions.push(Action::Renew { former: false });
                if state.former.is_some() {
                    actions.push(Action::Renew { former: true });
                }
            }
            if process.asked.is_some() || process.answered.is_some() {
                actions.push(Action::Lose);
            }
            if process.answered.is_some() {
                actions.push(Action::Answer);
            }
            if state.restarts > 0 && process.life > 0 {
                actions.push(Action::Restart);
            }
            if self.world.crash {
                actions.push(Action::Crash);
            }
        }
        if self.may_expire(state) {
            actions.push(Action::Expire);
        }
        actions.extend(
            state
                .proposed
                .iter()
                .map(|life| Action::Commit { life: *life }),
        );
        if state.elections > 0 {
            actions.push(Action::Elect { keeps: false });
            if !state.proposed.is_empty() {
                actions.push(Action::Elect { keeps: true });
            }
        }
        if state.former.is_some() {
            actions.push(Action::StepDown);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        self.act(&mut state, &action);
        // A process that acts does so under what it received itself, or that is a fault.
        if self.acts(&state) && state.process.is_some_and(|process| !process.own) {
            state.faults.push(Fault::FenceOfAnother);
        }
        state.faults.sort_unstable();
        state.faults.dedup();
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("who holds a lease is not dead", |_, state: &State| {
                !state.faults.contains(&Fault::HeldLeaseLost)
            }),
            Property::always("one fence, one process", |_, state: &State| {
                !state.faults.contains(&Fault::FenceOfAnother)
            }),
            Property::always("one acts at a time", |model: &Self, state: &State| {
                let is_another = state.control.holder == Holder::Standby;
                !(model.world.alone && model.acts(state) && is_another)
            }),
            Property::always("no ended life is the owner", |_, state: &State| {
                let Control { life, live, holder } = state.control;
                match holder {
                    Holder::Nobody | Holder::Standby => true,
                    Holder::Life(holder) => live && holder == life,
                }
            }),
            Property::always("nothing is stuck", |model: &Self, state: &State| {
                !state.faults.is_empty() || model.is_well(state) || model.goes_on(state)
            }),
        ]
    }
}

impl Leases {
    /// Whether the node's process acts as the owner.
    fn acts(&self, state: &State) -> bool {
        let Some(process) = state.process else {
            return false;
        };
        process.office && (process.left > 0 || !self.rules.has(Rule::StopInTime))
    }

    fn may_expire(&self, state: &State) -> bool {
        let leader = &state.leader;
        let current = state.control.live && leader.life == state.control.life;
        current && leader.age >= LEASE && !state.proposed.contains(&leader.life)
    }

    fn act(&self, state: &mut State, action: &Action) {
        match *action {
            Action::Tick => {
                let older = |age: u8| (age + 1).min(LEASE);
                state.leader.age = older(state.leader.age);
                if let Some(former) = &mut state.former {
                    former.age = older(former.age);
                }
                if let Some(process) = &mut state.process {
                    process.left = process.left.saturating_sub(1);
                    process.asked = process.asked.map(older);
                    process.answered = process.answered.map(older);
                }
            }
            Action::Start => self.start(state),
            Action::Restart => {
                state.restarts -= 1;
                let before = state.process.unwrap_or_default();
                let after = if self.rules.has(Rule::LifePerProcess) {
                    Process::default()
                } else {
                    Process {
                        life: before.life,
                        office: before.office,
                        ..Process::default()
                    }
                };
                state.process = Some(after);
            }
            Action::Crash => state.process = None,
            Action::Ask => {
                if let Some(process) = &mut state.process {
                    process.asked = Some(0);
                }
            }
            Action::Lose => {
                if let Some(process) = &mut state.process {
                    process.asked = None;
                    process.answered = None;
                }
            }
            Action::Renew { former } => self.renew(state, former),
            Action::Answer => {
                if let Some(process) = &mut state.process
                    && let Some(age) = process.answered.take()
                {
                    let age = if self.rules.has(Rule::FromAsking) {
                        age
                    } else {
                        0
                    };
                    process.left = process.left.max(LEASE.saturating_sub(age));
                }
            }
            Action::Expire => {
                state.leader.lost = true;
                state.proposed.insert(state.leader.life);
            }
            Action::Commit { life } => self.lose(state, life),
            Action::Elect { keeps } => {
                state.elections -= 1;
                state.former = Some(state.leader);
                if self.rules.has(Rule::OwnLeadership) {
                    for life in std::mem::take(&mut state.proposed) {
                        if keeps {
                            self.lose(state, life);
                        }
                    }
                }
                state.leader = Leader {
                    life: state.control.life,
                    age: if self.rules.has(Rule::FullLease) {
                        0
                    } else {
                        LEASE
                    },
                    lost: false,
                };
            }
            Action::StepDown => state.former = None,
        }
    }

    /// The control group commits the process's next life.
    fn start(&self, state: &mut State) {
        let control = &mut state.control;
        control.life += 1;
        control.live = true;
        let ends = self.rules.has(Rule::StartEndsLife) || control.holder == Holder::Nobody;
        if ends && control.holder != Holder::Standby {
            control.holder = Holder::Life(control.life);
        }
        state.leader = Leader {
            life: control.life,
            age: 0,
            lost: false,
        };
        state.process = Some(Process {
            life: control.life,
            own: true,
            office: control.holder == Holder::Life(control.life),
            left: LEASE,
            asked: None,
            answered: None,
        });
        if self.rules.has(Rule::LostNamesLife) {
            state.proposed.retain(|life| *life >= control.life);
        }
    }

    fn renew(&self, state: &mut State, former: bool) {
        let Some(process) = &mut state.process else {
            return;
        };
        let Some(age) = process.asked.take() else {
            return;
        };
        if former && self.rules.has(Rule::LeaderHeard) {
            return;
        }
        let known = if former {
            &mut state.former
        } else {
            &mut Some(state.leader)
        };
        let Some(leader) = known else { return };
        let stands = state.control.live && state.control.life == process.life;
        let ended = !former && !stands;
        let lost = leader.lost && self.rules.has(Rule::LostIsLost);
        if leader.life != process.life || ended || lost {
            return;
        }
        leader.age = 0;
        if !former {
            state.leader.age = 0;
        }
        process.answered = Some(age);
    }

    /// A lost lease is committed.
    fn lose(&self, state: &mut State, life: u8) {
        state.proposed.remove(&life);
        let control = &mut state.control;
        let current = life == control.life || !self.rules.has(Rule::LostNamesLife);
        if !control.live || !current {
            return;
        }
        control.live = false;
        if control.holder != Holder::Nobody {
            control.holder = Holder::Standby;
        }
        let held = |process: Process| process.life == control.life && process.left > 0;
        if state.process.is_some_and(held) {
            state.faults.push(Fault::HeldLeaseLost);
        }
    }

    /// Whether somebody who lives owns, and nobody dead is believed to live.
    fn is_well(&self, state: &State) -> bool {
        let Control { life, live, holder } = state.control;
        let lives = state
            .process
            .is_some_and(|process| process.life == life && life > 0);
        holder != Holder::Nobody && (lives || !live)
    }

    /// Whether a step that is certain to come leads on.
    fn goes_on(&self, state: &State) -> bool {
        let control = state.control;
        let never = control.holder == Holder::Nobody && state.process.is_none();
        let ages = control.live && state.leader.life == control.life && state.leader.age < LEASE;
        let starts = state.process.is_some() && control.life < self.world.lives;
        never || ages || starts || self.may_expire(state) || !state.proposed.is_empty()
    }
}
