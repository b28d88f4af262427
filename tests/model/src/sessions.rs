//! Who counts (R8): the sessions of an edge that goes from node to node, and a direct client that
//! does, below the owners of one region. Words from a gateway come in order, or end with a stream.

use std::collections::VecDeque;

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};

/// The region's gateways.
const GATEWAYS: usize = 2;

/// What exists and how often the surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// Whether there is an edge, with one client.
    pub edge: bool,
    /// Whether there is a direct client.
    pub direct: bool,
    /// Whether the edge's client never leaves.
    pub steady: bool,
    /// How often it comes or goes.
    pub toggles: u8,
    /// How often the edge connects.
    pub connects: u8,
    /// How often it says goodbye.
    pub goodbyes: u8,
    /// How often the direct client resumes elsewhere.
    pub moves: u8,
    /// How often a gateway's stream to the owner ends and begins anew.
    pub breaks: u8,
    /// How often another owner is appointed.
    pub appoints: u8,
    /// Whether gateway 0 may be gone for ever.
    pub death: bool,
}

impl World {
    const SMALLEST: Self = Self {
        name: "",
        edge: true,
        direct: false,
        steady: false,
        toggles: 0,
        connects: 3,
        goodbyes: 0,
        moves: 0,
        breaks: 1,
        appoints: 0,
        death: false,
    };

    /// An edge whose client never leaves goes from gateway to gateway, while owners change.
    #[must_use]
    pub const fn takeover() -> Self {
        Self {
            name: "takeover",
            steady: true,
            appoints: 1,
            ..Self::SMALLEST
        }
    }

    /// An edge whose client comes and goes.
    #[must_use]
    pub const fn wandering() -> Self {
        Self {
            name: "wandering",
            toggles: 2,
            ..Self::SMALLEST
        }
    }

    /// An edge says goodbye, and may come back.
    #[must_use]
    pub const fn goodbye() -> Self {
        Self {
            name: "goodbye",
            toggles: 1,
            connects: 2,
            goodbyes: 1,
            ..Self::SMALLEST
        }
    }

    /// A direct client resumes at another gateway, as the old one lives or is gone.
    #[must_use]
    pub const fn handover() -> Self {
        Self {
            name: "handover",
            edge: false,
            direct: true,
            moves: 2,
            breaks: 1,
            appoints: 1,
            death: true,
            ..Self::SMALLEST
        }
    }

    /// The worlds of the tests.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::takeover(),
            Self::wandering(),
            Self::goodbye(),
            Self::handover(),
        ]
    }

    /// The same with more going on.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        vec![
            Self {
                name: "takeover, 4 connects",
                connects: 4,
                ..Self::takeover()
            },
            Self {
                name: "wandering, with an owner",
                appoints: 1,
                ..Self::wandering()
            },
        ]
    }
}

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// A session at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// Its number, chosen by the edge.
    pub number: u8,
    /// What it has attached.
    pub count: u8,
    /// Whether its set is complete.
    pub whole: bool,
}

/// What a gateway tells the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// A new stream begins.
    Begin,
    /// A session's count.
    Register(u8, u8),
    /// A session's set is complete.
    Whole(u8),
    /// A session is over.
    Ended(u8),
    /// The count of its own clients.
    Clients(u8),
    /// The stream has told the whole set.
    End,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Whether it runs.
    pub runs: bool,
    /// Its sessions, oldest first.
    pub sessions: Vec<Session>,
    /// Whether it counts the direct client.
    pub client: bool,
    /// What it told and the owner did not hear.
    pub queue: VecDeque<Word>,
}

/// The edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Its clients.
    pub count: u8,
    /// The last number used.
    pub offered: u8,
    /// The session that it was welcomed to last, 0 if none.
    pub session: u8,
    /// The gateway that it is connected to.
    pub at: Option<usize>,
}

/// A session as the owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Its number.
    pub number: u8,
    /// The gateway that speaks for it.
    pub gateway: usize,
    /// Its count.
    pub count: u8,
    /// Whether it counts.
    pub counted: bool,
    /// Whether its set is complete.
    pub whole: bool,
    /// Whether the gateway's present stream told its count.
    pub counted_anew: bool,
    /// Whether the gateway's present stream said that it is complete.
    pub whole_anew: bool,
}

/// The owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Sessions by number.
    pub sources: Vec<Source>,
    /// Direct clients by gateway.
    pub clients: [u8; GATEWAYS],
    /// Whether the gateway's present stream told them.
    pub clients_anew: [bool; GATEWAYS],
    /// Gateways whose set is complete.
    pub complete: [bool; GATEWAYS],
    /// Whether its adoption is over: every set was complete once.
    pub settled: bool,
    /// Whether it knows that gateway 0 is gone.
    pub knows_death: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The gateways.
    pub gateways: [Gateway; GATEWAYS],
    /// The present owner.
    pub owner: Owner,
    /// What the region publishes.
    pub published: u8,
    /// The edge.
    pub edge: Edge,
    /// Where the direct client is.
    pub client: usize,
    /// What the surroundings may still do.
    pub left: Left,
    /// Promises broken on the way here.
    pub faults: Vec<Fault>,
}

/// What the surroundings may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    toggles: u8,
    connects: u8,
    goodbyes: u8,
    moves: u8,
    breaks: u8,
    appoints: u8,
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// One client was counted as two.
    CountedTwice,
    /// A client that never left was counted as none.
    CountedAway,
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The edge's client comes or goes.
    Toggle,
    /// The edge connects: goes on with a session, or opens one.
    Connect {
        /// Where.
        gateway: usize,
        /// Whether it hears the welcome.
        welcomed: bool,
    },
    /// The edge tells its count in its session.
    Tell,
    /// The edge says that its set is complete.
    Complete,
    /// The edge says goodbye: its session is over, and its older ones there.
    Goodbye,
    /// A session's grace is over.
    Expire {
        /// Where.
        gateway: usize,
        /// Which.
        number: u8,
    },
    /// The direct client resumes elsewhere.
    Move,
    /// The client's gateway counts it.
    Count,
    /// The gateway that it left lets it go.
    LetGo {
        /// Which.
        gateway: usize,
    },
    /// A gateway's stream ends and begins anew.
    Break {
        /// Whose.
        gateway: usize,
    },
    /// The owner hears a gateway's next word.
    Deliver {
        /// Whose.
        gateway: usize,
    },
    /// Another owner is appointed.
    Appoint,
    /// Gateway 0 is gone, and its lease ends.
    Die,
    /// The owner hears that.
    HearDeath,
}

impl Model for Sessions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let gateway = |client: bool| Gateway {
            runs: true,
            sessions: Vec::new(),
            client,
            queue: VecDeque::new(),
        };
        // The owner has heard both.
        let gateways = [gateway(self.world.direct), gateway(false)];
        let owner = Owner {
            clients: [u8::from(self.world.direct), 0],
            complete: [true; GATEWAYS],
            settled: true,
            ..Owner::default()
        };
        vec![State {
            gateways,
            published: owner.sum(),
            owner,
            edge: Edge {
                count: u8::from(self.world.steady),
                offered: 0,
                session: 0,
                at: None,
            },
            client: 0,
            left: Left {
                toggles: self.world.toggles,
                connects: self.world.connects,
                goodbyes: self.world.goodbyes,
                moves: self.world.moves,
                breaks: self.world.breaks,
                appoints: self.world.appoints,
            },
            faults: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.faults.is_empty() {
            return;
        }
        self.progress(state, actions);
        let left = &state.left;
        if left.toggles > 0 {
            actions.push(Action::Toggle);
        }
        if left.connects > 0 && self.world.edge {
            for gateway in 0..GATEWAYS {
                actions.extend([true, false].map(|welcomed| Action::Connect { gateway, welcomed }));
            }
        }
        if left.goodbyes > 0 && state.place().is_some() {
            actions.push(Action::Goodbye);
        }
        if left.moves > 0 && state.gateways[1 - state.client].runs {
            actions.push(Action::Move);
        }
        if left.breaks > 0 {
            let runs = (0..GATEWAYS).filter(|gateway| state.gateways[*gateway].runs);
            actions.extend(runs.map(|gateway| Action::Break { gateway }));
        }
        if left.appoints > 0 {
            actions.push(Action::Appoint);
        }
        if self.world.death && state.gateways[0].runs && state.client == 1 {
            actions.push(Action::Die);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        self.act(&mut state, &action);
        let owner = &mut state.owner;
        owner.settled |= owner.complete == [true; GATEWAYS];
        let (before, sum) = (state.published, owner.sum());
        state.published = if owner.settled { sum } else { before.max(sum) };
        if state.published > 1 {
            state.faults.push(Fault::CountedTwice);
        } else if self.world.steady && before > 0 && state.published == 0 {
            state.faults.push(Fault::CountedAway);
        }
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody is counted twice", |_, state: &State| {
                !state.faults.contains(&Fault::CountedTwice)
            }),
            Property::always(
                "a steady client is never counted away",
                |_, state: &State| !state.faults.contains(&Fault::CountedAway),
            ),
            Property::always(
                "the owner ends with what is attached",
                |model: &Self, state: &State| {
                    let counts = state.edge.at.is_some();
                    let counted = if counts { state.edge.count } else { 0 };
                    let attached = counted + u8::from(model.world.direct);
                    !model.quiet(state) || state.published == attached
                },
            ),
            Property::always(
                "the owner ends with the sessions that there are",
                |model: &Self, state: &State| {
                    let mut sources = state.owner.sources.iter();
                    let is = |source: &Source| {
                        let mut sessions = state.gateways[source.gateway].sessions.iter();
                        sessions.any(|session| session.number == source.number)
                    };
                    !model.quiet(state) || sources.all(is)
                },
            ),
            Property::always("nothing is stuck", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.progress(state, &mut actions);
                // An edge that is not connected may have no more attempts.
                let alone = model.world.edge && state.edge.at.is_none();
                !state.faults.is_empty() || alone || model.quiet(state) || !actions.is_empty()
            }),
        ]
    }
}

impl Sessions {
    /// Steps that certainly come if nothing else does.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let edge = &state.edge;
        if let Some(session) = state.session() {
            if session.count != edge.count {
                actions.push(Action::Tell);
            } else if !session.whole {
                actions.push(Action::Complete);
            }
        }
        for (gateway, it) in state.gateways.iter().enumerate() {
            let expired = it
                .sessions
                .iter()
                .filter(|it| state.may_expire(gateway, it));
            actions.extend(expired.map(|session| Action::Expire {
                gateway,
                number: session.number,
            }));
            if it.client && state.client != gateway {
                actions.push(Action::LetGo { gateway });
            }
            if !it.queue.is_empty() {
                actions.push(Action::Deliver { gateway });
            }
        }
        if self.world.direct && !state.gateways[state.client].client && self.may_count(state) {
            actions.push(Action::Count);
        }
        if !state.gateways[0].runs && !state.owner.knows_death {
            actions.push(Action::HearDeath);
        }
    }

    /// Whether the direct client counts where it is now.
    fn may_count(&self, state: &State) -> bool {
        let other = 1 - state.client;
        let before = &state.gateways[other];
        let let_go = !before.client || !before.runs;
        let words = before.queue.iter();
        let mut words = words.filter(|word| matches!(word, Word::Clients(_) | Word::Begin));
        let heard = words.next().is_none() && state.owner.clients[other] == 0;
        (let_go || !self.rules.has(Rule::HandOver))
            && (heard || !self.rules.has(Rule::HandOver) || !self.rules.has(Rule::HandOverHeard))
    }

    fn act(&self, state: &mut State, action: &Action) {
        match *action {
            Action::Toggle => {
                state.left.toggles -= 1;
                state.edge.count = 1 - state.edge.count;
            }
            Action::Connect { gateway, welcomed } => {
                state.left.connects -= 1;
                self.connect(state, gateway, welcomed);
            }
            Action::Tell => {
                let count = state.edge.count;
                if let Some((gateway, place)) = state.place() {
                    let it = &mut state.gateways[gateway];
                    it.sessions[place].count = count;
                    let number = it.sessions[place].number;
                    it.queue.push_back(Word::Register(number, count));
                }
            }
            Action::Complete => {
                if let Some((gateway, place)) = state.place() {
                    let it = &mut state.gateways[gateway];
                    it.sessions[place].whole = true;
                    it.queue.push_back(Word::Whole(it.sessions[place].number));
                    let older = it.sessions.drain(..place);
                    it.queue.extend(older.map(|old| Word::Ended(old.number)));
                }
            }
            Action::Goodbye => {
                state.left.goodbyes -= 1;
                if let Some((gateway, place)) = state.place() {
                    let it = &mut state.gateways[gateway];
                    let over = it.sessions.drain(..=place);
                    it.queue.extend(over.map(|old| Word::Ended(old.number)));
                }
                state.edge.at = None;
                state.edge.session = 0;
            }
            Action::Expire { gateway, number } => {
                let it = &mut state.gateways[gateway];
                it.sessions.retain(|session| session.number != number);
                it.queue.push_back(Word::Ended(number));
            }
            Action::Move => {
                state.left.moves -= 1;
                state.client = 1 - state.client;
            }
            Action::Count => {
                let it = &mut state.gateways[state.client];
                it.client = true;
                it.queue.push_back(Word::Clients(1));
            }
            Action::LetGo { gateway } => {
                let it = &mut state.gateways[gateway];
                it.client = false;
                it.queue.push_back(Word::Clients(0));
            }
            Action::Break { gateway } => {
                state.left.breaks -= 1;
                state.gateways[gateway].begin();
            }
            Action::Deliver { gateway } => {
                if let Some(word) = state.gateways[gateway].queue.pop_front() {
                    state.owner.hear(self.rules, gateway, word);
                }
            }
            Action::Appoint => {
                state.left.appoints -= 1;
                state.owner = Owner {
                    knows_death: state.owner.knows_death,
                    complete: [state.owner.knows_death, false],
                    ..Owner::default()
                };
                for gateway in state.gateways.iter_mut().filter(|gateway| gateway.runs) {
                    gateway.begin();
                }
            }
            Action::Die => {
                let it = &mut state.gateways[0];
                it.runs = false;
                it.client = false;
                it.sessions.clear();
            }
            Action::HearDeath => {
                state.owner.knows_death = true;
                state.owner.clients[0] = 0;
                state.owner.complete[0] = true;
                state.gateways[0].queue.clear();
            }
        }
    }

    fn connect(&self, state: &mut State, gateway: usize, welcomed: bool) {
        let edge = &mut state.edge;
        edge.offered += 1;
        let it = &mut state.gateways[gateway];
        let resumed = it.sessions.last().map(|session| session.number);
        let resumed = resumed.filter(|number| {
            edge.session > 0 && (*number == edge.session || !self.rules.has(Rule::ResumeLast))
        });
        let number = resumed.unwrap_or(edge.offered);
        if resumed.is_none() {
            it.sessions.push(Session {
                number,
                count: 0,
                whole: false,
            });
        }
        edge.at = welcomed.then_some(gateway);
        if welcomed {
            edge.session = number;
        }
    }

    fn quiet(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.progress(state, &mut actions);
        // An edge without a session never came, or said goodbye.
        let edge = state.session().is_some() || state.edge.session == 0;
        let client = !self.world.direct || state.gateways[state.client].client;
        actions.is_empty() && edge && client
    }
}

impl State {
    /// The edge's session: where it is, and its place there.
    fn place(&self) -> Option<(usize, usize)> {
        let gateway = self.edge.at?;
        let sessions = &self.gateways[gateway].sessions;
        let place = sessions
            .iter()
            .position(|it| it.number == self.edge.session)?;
        Some((gateway, place))
    }

    fn session(&self) -> Option<&Session> {
        let (gateway, place) = self.place()?;
        Some(&self.gateways[gateway].sessions[place])
    }

    /// Whether a session's grace may be over: not before the edge comes back, and a newer session
    /// of it is complete at the owner. Otherwise the edge was away for too long, which is told.
    fn may_expire(&self, gateway: usize, session: &Session) -> bool {
        let current = self.edge.at == Some(gateway) && session.number == self.edge.session;
        let sources = &self.owner.sources;
        let replaced = sources
            .iter()
            .any(|it| it.whole && it.number > session.number);
        let unheard = session.number > self.edge.session;
        !current && (replaced || unheard)
    }
}

impl Gateway {
    /// Starts a new stream: what was on its way is lost, and the whole set is told.
    fn begin(&mut self) {
        self.queue = VecDeque::from([Word::Begin]);
        let counting = self.sessions.iter().filter(|it| it.count > 0);
        let registers = counting.map(|it| Word::Register(it.number, it.count));
        let whole = self.sessions.iter().filter(|it| it.whole);
        let whole = whole.map(|it| Word::Whole(it.number));
        self.queue.extend(registers.chain(whole));
        if self.client {
            self.queue.push_back(Word::Clients(1));
        }
        self.queue.push_back(Word::End);
    }
}

impl Owner {
    fn sum(&self) -> u8 {
        let counted = self.sources.iter().filter(|source| source.counted);
        let sessions: u8 = counted.map(|source| source.count).sum();
        sessions + self.clients.iter().sum::<u8>()
    }

    fn hear(&mut self, rules: Rules, gateway: usize, word: Word) {
        match word {
            Word::Begin => {
                self.complete[gateway] = false;
                self.clients_anew[gateway] = false;
                for source in self.of(gateway) {
                    source.counted_anew = false;
                    source.whole_anew = false;
                }
            }
            Word::Register(number, count) => {
                if let Some(source) = self.admit(rules, gateway, number) {
                    source.count = count;
                    source.counted_anew = true;
                }
            }
            Word::Whole(number) => {
                if let Some(source) = self.admit(rules, gateway, number) {
                    source.whole = true;
                    source.whole_anew = true;
                    source.counted = true;
                    self.sources.retain(|other| other.number >= number);
                    if rules.has(Rule::OneCountsInAnyOrder) {
                        // Only a newer one that is not complete can be left: else this is stale.
                        for newer in self.sources.iter_mut().filter(|it| it.number > number) {
                            newer.counted &= newer.whole;
                        }
                    }
                }
            }
            Word::Ended(number) => self.end(number),
            Word::Clients(count) => {
                self.clients[gateway] = count;
                self.clients_anew[gateway] = true;
            }
            Word::End => {
                self.complete[gateway] = true;
                if !self.clients_anew[gateway] {
                    self.clients[gateway] = 0;
                }
                let mut over = Vec::new();
                for source in self.of(gateway).filter(|source| !source.counted_anew) {
                    source.count = 0;
                    // A complete one that has nothing keeps older ones away.
                    let stands = source.whole_anew || !rules.has(Rule::AbsentIsOver);
                    if !(source.whole && stands) {
                        over.push(source.number);
                    }
                }
                for number in over {
                    self.end(number);
                }
            }
        }
    }

    fn of(&mut self, gateway: usize) -> impl Iterator<Item = &mut Source> {
        let sources = self.sources.iter_mut();
        sources.filter(move |source| source.gateway == gateway)
    }

    /// Finds or adds a session; `None` if a newer one has replaced it.
    fn admit(&mut self, rules: Rules, gateway: usize, number: u8) -> Option<&mut Source> {
        let known = self.sources.iter().position(|it| it.number == number);
        if let Some(place) = known {
            let source = &mut self.sources[place];
            source.gateway = gateway;
            return Some(source);
        }
        let replaced = self.sources.iter().any(|it| it.number > number && it.whole);
        if replaced && rules.has(Rule::StaleSession) {
            return None;
        }
        if !rules.has(Rule::SwapWhenWhole) {
            self.sources.retain(|it| it.number > number);
        }
        let mut others = self.sources.iter();
        let counts = if !rules.has(Rule::OneCounts) {
            true
        } else if rules.has(Rule::OneCountsInAnyOrder) {
            !others.any(|it| it.counted)
        } else {
            !others.any(|it| it.number < number)
        };
        let place = self.sources.partition_point(|it| it.number < number);
        self.sources.insert(
            place,
            Source {
                number,
                gateway,
                count: 0,
                counted: counts,
                whole: false,
                counted_anew: false,
                whole_anew: false,
            },
        );
        self.sources.get_mut(place)
    }

    /// Takes a session out; the oldest of the others counts from now on if none does.
    fn end(&mut self, number: u8) {
        self.sources.retain(|source| source.number != number);
        if !self.sources.iter().any(|source| source.counted)
            && let Some(oldest) = self.sources.first_mut()
        {
            oldest.counted = true;
        }
    }
}
