//! The relay between two regions (R17): where members are, and where they are shown.
//!
//! One region's owners tell the set of a channel with two members; another region's owners show it.
//! Words of one owner to one other come in order, or end with a stream.

use std::collections::VecDeque;

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};
use crate::words::Fence;

/// The channel's members.
const MEMBERS: usize = 2;

/// A set of them.
type Set = [bool; MEMBERS];

/// What exists and how often the surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// Whether the first member never leaves.
    pub steady: bool,
    /// How often a member enters or leaves.
    pub toggles: u8,
    /// How often somebody in the other region attaches first, or detaches last.
    pub interests: u8,
    /// Owners that tell, one after another.
    pub tellers: Fence,
    /// How often the owner that shows is another.
    pub showers: u8,
    /// How often the way from the one that tells breaks, or the way back.
    pub breaks: u8,
    /// How often a told interest is not held any longer before the log agrees.
    pub timeouts: u8,
    /// Whether the region that tells may be given up.
    pub expiry: bool,
}

impl World {
    const SMALLEST: Self = Self {
        name: "",
        steady: false,
        toggles: 3,
        interests: 1,
        tellers: 1,
        showers: 0,
        breaks: 0,
        timeouts: 0,
        expiry: false,
    };

    /// Somebody is interested before the log knows, and not any more, and again.
    #[must_use]
    pub const fn interest() -> Self {
        Self {
            name: "interest",
            interests: 3,
            timeouts: 1,
            breaks: 1,
            ..Self::SMALLEST
        }
    }

    /// Owners move, below a member that stays.
    #[must_use]
    pub const fn moving() -> Self {
        Self {
            name: "moving",
            steady: true,
            toggles: 2,
            tellers: 3,
            showers: 1,
            ..Self::SMALLEST
        }
    }

    /// The region that tells is given up, and returns or not.
    #[must_use]
    pub const fn dead() -> Self {
        Self {
            name: "dead",
            tellers: 2,
            toggles: 2,
            expiry: true,
            breaks: 1,
            ..Self::SMALLEST
        }
    }

    /// The worlds of the tests.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::interest(), Self::moving(), Self::dead()]
    }

    /// The same with more going on.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        vec![
            Self {
                name: "interest, 4 toggles",
                toggles: 4,
                breaks: 2,
                ..Self::interest()
            },
            Self {
                name: "moving, with breaks",
                breaks: 1,
                timeouts: 1,
                ..Self::moving()
            },
            Self {
                name: "dead, 3 owners",
                tellers: 3,
                showers: 1,
                ..Self::dead()
            },
        ]
    }
}

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Relay {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// What an owner that tells says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// A new stream begins, and sets may be pulled.
    Ready,
    /// The whole set.
    Set {
        /// Its version.
        version: u8,
        /// The members.
        set: Set,
    },
    /// A member enters or leaves.
    Change {
        /// The version from which this leads.
        previous: u8,
        /// The version to which it leads.
        version: u8,
        /// Who.
        member: usize,
        /// Whether it is there.
        is_there: bool,
    },
    /// The version is still this one.
    Same {
        /// Which.
        version: u8,
    },
}

/// What an owner that shows asks: it is interested, and pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest {
    /// The owner that is asked.
    pub to: Fence,
    /// Whose set is known, 0 if none.
    pub fence: Fence,
    /// In which version.
    pub version: u8,
}

/// An owner that tells, or what an earlier one has still under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Teller {
    /// Its fence.
    pub fence: Fence,
    /// Whether all its gateways told their sets.
    pub gathered: bool,
    /// Its region's set, as far as it knows.
    pub set: Set,
    /// That set's version.
    pub version: u8,
    /// Whether it holds an interest that it was told.
    pub told: bool,
    /// What it said and nobody heard.
    pub queue: VecDeque<Word>,
}

/// The owner that shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shower {
    /// Whether somebody is interested.
    pub interested: bool,
    /// The highest fence heard.
    pub heard: Fence,
    /// What carries this fence or a lower one is void.
    pub expired: Fence,
    /// Whose set is known, and in which version.
    pub known: (Fence, u8),
    /// The set.
    pub set: Set,
    /// Whether a pull is under way.
    pub pulls: bool,
    /// Whether its gateways are told the set.
    pub open: bool,
    /// What it asked and nobody heard.
    pub queue: VecDeque<Interest>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Who is there.
    pub there: Set,
    /// Who tells: the present owner last.
    pub tellers: Vec<Teller>,
    /// Whether the region that tells was given up and has no owner since.
    pub dead: bool,
    /// Who shows.
    pub shower: Shower,
    /// What is shown.
    pub shown: Set,
    /// Whether the log says that the channel is active where it is shown.
    pub active: bool,
    /// What the surroundings may still do.
    pub left: Left,
    /// Whether a member that never left was shown leaving.
    pub flapped: bool,
}

/// What the surroundings may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    toggles: u8,
    interests: u8,
    showers: u8,
    breaks: u8,
    timeouts: u8,
    expiry: bool,
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A member enters or leaves.
    Toggle {
        /// Which.
        member: usize,
    },
    /// Somebody is interested first, or the last one is not any more.
    Interest,
    /// The log says now what is so.
    Log,
    /// A told interest was held long enough.
    Timeout,
    /// The region that tells has another owner.
    Appoint,
    /// The owner that tells knows its region's set.
    Gather,
    /// The region that shows has another owner.
    Replace,
    /// The way from the one that tells breaks, and begins anew.
    BreakForth,
    /// The way back breaks, and begins anew.
    BreakBack,
    /// The region that tells is given up, and the log says so where it is shown.
    Expire,
    /// The owner that shows hears a word.
    Hear {
        /// Of whom.
        fence: Fence,
    },
    /// The owner that tells hears an interest.
    Pull,
}

impl Model for Relay {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let there = [self.world.steady, false];
        let mut first = Teller::new(1);
        first.gather(there, false);
        vec![State {
            there,
            tellers: vec![first],
            dead: false,
            shower: Shower::default(),
            shown: [false; MEMBERS],
            active: false,
            left: Left {
                toggles: self.world.toggles,
                interests: self.world.interests,
                showers: self.world.showers,
                breaks: self.world.breaks,
                timeouts: self.world.timeouts,
                expiry: self.world.expiry,
            },
            flapped: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.flapped {
            return;
        }
        self.progress(state, actions);
        let left = &state.left;
        if left.toggles > 0 && !state.dead {
            let members = usize::from(self.world.steady)..MEMBERS;
            actions.extend(members.map(|member| Action::Toggle { member }));
        }
        if left.interests > 0 {
            actions.push(Action::Interest);
        }
        if left.timeouts > 0 && state.teller().told {
            actions.push(Action::Timeout);
        }
        if state.teller().fence < self.world.tellers {
            actions.push(Action::Appoint);
        }
        if left.showers > 0 {
            actions.push(Action::Replace);
        }
        if left.breaks > 0 {
            actions.extend([Action::BreakForth, Action::BreakBack]);
        }
        if left.expiry {
            actions.push(Action::Expire);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        let expires = action == Action::Expire;
        self.act(&mut state, &action);
        let shower = &state.shower;
        if !shower.interested {
            state.shown = [false; MEMBERS];
        } else if shower.open {
            let left = state.shown[0] && !shower.set[0];
            state.flapped = self.world.steady && left && !expires;
            state.shown = shower.set;
        }
        self.tidy(&mut state);
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a member that stays is not shown leaving",
                |_, state: &State| !state.flapped,
            ),
            Property::always(
                "what is shown ends as it is",
                |model: &Self, state: &State| {
                    let shows = state.shower.interested && !state.dead;
                    let is = if shows { state.there } else { [false; MEMBERS] };
                    !model.quiet(state) || state.shown == is
                },
            ),
            Property::always("nothing is stuck", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.progress(state, &mut actions);
                state.flapped || model.quiet(state) || !actions.is_empty()
            }),
        ]
    }
}

impl Relay {
    /// Steps that certainly come if nothing else does, and the late words of earlier owners.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        if state.active != state.shower.interested {
            actions.push(Action::Log);
        }
        if !state.teller().gathered && !state.dead {
            actions.push(Action::Gather);
        }
        let speak = state
            .tellers
            .iter()
            .filter(|teller| !teller.queue.is_empty());
        actions.extend(speak.map(|teller| Action::Hear {
            fence: teller.fence,
        }));
        if !state.shower.queue.is_empty() {
            actions.push(Action::Pull);
        }
    }

    fn act(&self, state: &mut State, action: &Action) {
        let rules = self.rules;
        let active = state.active;
        match *action {
            Action::Toggle { member } => {
                state.left.toggles -= 1;
                state.there[member] = !state.there[member];
                let is_there = state.there[member];
                let teller = state.teller_mut();
                if teller.gathered {
                    teller.change(member, is_there, active);
                }
            }
            Action::Interest => {
                state.left.interests -= 1;
                let shower = &mut state.shower;
                if shower.interested {
                    shower.forget();
                } else {
                    shower.interested = true;
                    if rules.has(Rule::InterestTold) {
                        shower.pull();
                    }
                }
            }
            Action::Log => {
                state.active = state.shower.interested;
                let active = state.active;
                let teller = state.teller_mut();
                if active {
                    teller.told = false;
                    if teller.gathered && rules.has(Rule::ActivationVersion) {
                        let version = teller.version;
                        teller.queue.push_back(Word::Same { version });
                    }
                }
            }
            Action::Timeout => {
                state.left.timeouts -= 1;
                state.teller_mut().told = false;
            }
            Action::Appoint => {
                let mut next = Teller::new(state.teller().fence + 1);
                if !rules.has(Rule::Gather) {
                    // It speaks before its gateways did.
                    next.queue.push_back(Word::Ready);
                }
                state.dead = false;
                state.tellers.push(next);
            }
            Action::Gather => {
                let there = state.there;
                let teller = state.teller_mut();
                teller.gather(there, active);
                if rules.has(Rule::Gather) {
                    teller.queue = VecDeque::from([Word::Ready]);
                }
            }
            Action::Replace => {
                state.left.showers -= 1;
                let before = std::mem::take(&mut state.shower);
                state.shower.interested = before.interested;
                state.shower.expired = before.expired;
                state.shower.open = !rules.has(Rule::PullFirst);
                let teller = state.teller_mut();
                teller.told = false;
                teller.begin();
                let last = state.tellers.len() - 1;
                state.tellers.drain(..last);
            }
            Action::BreakForth => {
                state.left.breaks -= 1;
                state.teller_mut().begin();
            }
            Action::BreakBack => {
                state.left.breaks -= 1;
                state.shower.queue.clear();
                // A new stream tells interests anew.
                state.teller_mut().told = false;
                state.shower.pull();
            }
            Action::Expire => {
                state.left.expiry = false;
                state.dead = true;
                let fence = state.teller().fence;
                state.teller_mut().told = false;
                let shower = &mut state.shower;
                if rules.has(Rule::ExpiredVoid) {
                    shower.expired = fence;
                }
                if rules.has(Rule::ExpiryDrops) {
                    shower.set = [false; MEMBERS];
                    shower.known = (0, 0);
                }
                shower.heard = shower.heard.max(fence);
                shower.pulls = false;
                // Nothing is waited for any more.
                shower.open = shower.interested;
            }
            Action::Hear { fence } => {
                let teller = state.tellers.iter_mut().find(|it| it.fence == fence);
                if let Some(word) = teller.and_then(|teller| teller.queue.pop_front()) {
                    state.shower.hear(rules, fence, word);
                }
            }
            Action::Pull => {
                if let Some(interest) = state.shower.queue.pop_front() {
                    let dead = state.dead;
                    let teller = state.teller_mut();
                    if interest.to == teller.fence && !dead {
                        teller.answer(rules, interest);
                    }
                }
            }
        }
    }

    /// Forgets what can have no further effect.
    fn tidy(&self, state: &mut State) {
        let heard = state.shower.heard;
        let expired = state.shower.expired;
        let ignored = self.rules.has(Rule::OlderRelay);
        let last = state.tellers.len() - 1;
        let mut place = 0;
        state.tellers.retain(|teller| {
            let is_last = place == last;
            place += 1;
            let past = (ignored && teller.fence < heard) || teller.fence <= expired;
            is_last || !(past || teller.queue.is_empty())
        });
        for teller in &mut state.tellers {
            if teller.fence <= expired {
                teller.queue.clear();
            }
            if place > 1 && teller.queue.is_empty() && teller.fence < heard {
                teller.told = false;
            }
        }
    }

    /// Whether all words were heard, and the log says what is so, unless nothing hangs on it.
    fn quiet(&self, state: &State) -> bool {
        let heard = state.tellers.iter().all(|teller| teller.queue.is_empty());
        let logged = state.active == state.shower.interested;
        // As long as no told interest was dropped, nobody needs the log.
        let held = state.left.timeouts == self.world.timeouts;
        let gathered = state.dead || state.teller().gathered;
        heard && gathered && state.shower.queue.is_empty() && (logged || held)
    }
}

impl State {
    fn teller(&self) -> &Teller {
        self.tellers
            .last()
            .expect("there is always an owner, or there was one")
    }

    fn teller_mut(&mut self) -> &mut Teller {
        let last = self.tellers.last_mut();
        last.expect("there is always an owner, or there was one")
    }
}

impl Teller {
    fn new(fence: Fence) -> Self {
        Self {
            fence,
            gathered: false,
            set: [false; MEMBERS],
            version: 0,
            told: false,
            queue: VecDeque::new(),
        }
    }

    /// Its gateways told their sets.
    fn gather(&mut self, there: Set, active: bool) {
        for (member, is_there) in there.into_iter().enumerate() {
            if self.set[member] != is_there {
                self.change(member, is_there, active);
            }
        }
        self.gathered = true;
    }

    fn change(&mut self, member: usize, is_there: bool, active: bool) {
        self.set[member] = is_there;
        let previous = self.version;
        self.version += 1;
        if active || self.told {
            self.queue.push_back(Word::Change {
                previous,
                version: self.version,
                member,
                is_there,
            });
        }
    }

    /// Starts a new stream.
    fn begin(&mut self) {
        self.queue.clear();
        if self.gathered {
            self.queue.push_back(Word::Ready);
        }
    }

    fn answer(&mut self, rules: Rules, interest: Interest) {
        self.told = rules.has(Rule::InterestHeld);
        let version = self.version;
        let set = self.set;
        if !self.gathered && rules.has(Rule::Gather) {
            return; // it pulls again when this owner is ready
        }
        let same = (interest.fence, interest.version) == (self.fence, version);
        self.queue.push_back(if same {
            Word::Same { version }
        } else {
            Word::Set { version, set }
        });
    }
}

impl Shower {
    fn forget(&mut self) {
        self.interested = false;
        self.known = (0, 0);
        self.set = [false; MEMBERS];
        self.pulls = false;
        self.open = false;
    }

    fn pull(&mut self) {
        if self.interested {
            self.pulls = true;
            let (fence, version) = self.known;
            self.queue.push_back(Interest {
                to: self.heard.max(1),
                fence,
                version,
            });
        }
    }

    fn hear(&mut self, rules: Rules, fence: Fence, word: Word) {
        if fence <= self.expired || (fence < self.heard && rules.has(Rule::OlderRelay)) {
            return;
        }
        let new = fence != self.heard;
        if new {
            self.heard = fence;
            self.pulls = false;
        }
        if word == Word::Ready {
            if !new || self.known.0 == 0 || rules.has(Rule::NewFence) {
                self.pull();
            }
            return;
        }
        if !self.interested {
            return;
        }
        let knows = |version: u8| {
            let same = self.known.0 == fence || !rules.has(Rule::NewFence);
            same && self.known.1 == version
        };
        match word {
            Word::Ready => {}
            Word::Set { version, set } => {
                self.set = set;
                self.know(fence, version);
            }
            Word::Change {
                previous,
                version,
                member,
                is_there,
            } => {
                if knows(previous) || !rules.has(Rule::Gap) {
                    self.set[member] = is_there;
                    self.know(fence, version);
                } else if previous == 0 {
                    self.set = [false; MEMBERS];
                    self.set[member] = is_there;
                    self.know(fence, version);
                } else if !self.pulls {
                    self.pull();
                }
            }
            Word::Same { version } => {
                if knows(version) || !rules.has(Rule::Gap) {
                    self.know(fence, version);
                } else if version == 0 {
                    self.set = [false; MEMBERS];
                    self.know(fence, version);
                } else if !self.pulls {
                    self.pull();
                }
            }
        }
    }

    fn know(&mut self, fence: Fence, version: u8) {
        self.known = (fence, version);
        self.pulls = false;
        self.open = true;
    }
}
