//! The way from a gateway to its regional owner (R13): lives, fences, streams and sequences over a
//! network that loses, repeats, delays and reorders whatever it carries.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};
use crate::words::{CHANNELS, Fence, PerChannel};

/// What exists and how often the surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// Owners that the control group may appoint, one after another.
    pub fences: Fence,
    /// Attaches and detaches.
    pub toggles: u8,
    /// Words that the network may lose.
    pub losses: u8,
    /// New streams that the gateway starts without need.
    pub breaks: u8,
    /// Restarts of the gateway's process.
    pub restarts: u8,
    /// Leases that end while the process runs, or after it ended for good.
    pub lapses: u8,
    /// Whether the process may end for good.
    pub death: bool,
}

impl World {
    const SMALLEST: Self = Self {
        name: "",
        fences: 1,
        toggles: 3,
        losses: 0,
        breaks: 0,
        restarts: 0,
        lapses: 0,
        death: false,
    };

    /// One owner, words that are lost, and streams that begin anew.
    #[must_use]
    pub const fn uplink() -> Self {
        Self {
            name: "uplink",
            losses: 1,
            breaks: 1,
            ..Self::SMALLEST
        }
    }

    /// The gateway restarts, loses its lease, or is gone for ever.
    #[must_use]
    pub const fn reborn() -> Self {
        Self {
            name: "reborn",
            toggles: 2,
            restarts: 1,
            lapses: 1,
            death: true,
            ..Self::SMALLEST
        }
    }

    /// Owners follow each other.
    #[must_use]
    pub const fn owners() -> Self {
        Self {
            name: "owners",
            fences: 3,
            ..Self::SMALLEST
        }
    }

    /// The worlds of the tests.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::uplink(), Self::reborn(), Self::owners()]
    }

    /// The same with more going on.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        vec![
            Self {
                name: "uplink, 2 losses",
                losses: 2,
                ..Self::uplink()
            },
            Self {
                name: "reborn, with a break",
                breaks: 1,
                ..Self::reborn()
            },
            Self {
                name: "owners, with a loss",
                losses: 1,
                ..Self::owners()
            },
        ]
    }
}

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// What one word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A channel's count.
    Register(usize, u8),
    /// The stream has told the whole set.
    End,
}

/// A word on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word {
    /// The owner that it is meant for.
    pub fence: Fence,
    /// The life of the node that says it.
    pub life: u8,
    /// Number of the stream, from 1 in each process.
    pub stream: u8,
    /// Number in the stream, from 1.
    pub sequence: u8,
    /// What it says.
    pub item: Item,
}

/// The gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Whether its process runs.
    pub runs: bool,
    /// What is attached.
    pub attached: PerChannel<u8>,
    /// Its life.
    pub life: u8,
    /// The owner that it speaks to.
    pub fence: Fence,
    /// Its stream.
    pub stream: u8,
    /// The last word sent on it.
    pub sent: u8,
    /// The last one acknowledged.
    pub acknowledged: u8,
    /// Channels to tell.
    pub dirty: PerChannel<bool>,
    /// Whether the end mark is to be told after them.
    pub end: bool,
}

/// The owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its fence.
    pub fence: Fence,
    /// The life of the gateway that it knows to hold a lease, or held it last.
    pub life: u8,
    /// Whether that lease stands, as far as it knows.
    pub live: bool,
    /// The gateway's stream, and the last word taken of it.
    pub heard: (u8, u8),
    /// Whether the set is complete.
    pub complete: bool,
    /// Counts.
    pub counts: PerChannel<u8>,
    /// Channels that the stream mentioned.
    pub mentioned: PerChannel<bool>,
    /// The fewest that were attached since it is the owner; for the checker only.
    pub fewest: PerChannel<u8>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The gateway.
    pub gateway: Gateway,
    /// The present owner; those before it are heard by nobody.
    pub owner: Owner,
    /// What is on its way, and may come any number of times.
    pub sent: BTreeSet<Word>,
    /// The control group: the gateway's life, and whether its lease stands.
    pub control: (u8, bool),
    /// What the surroundings may still do.
    pub left: Left,
}

/// What the surroundings may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    toggles: u8,
    losses: u8,
    breaks: u8,
    restarts: u8,
    lapses: u8,
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Somebody attaches, or who is there leaves.
    Toggle {
        /// On which channel.
        channel: usize,
    },
    /// The control group appoints the next owner.
    Appoint,
    /// The gateway hears of the present owner.
    HearOwner,
    /// The gateway's process is replaced by a new one, which registers its life.
    Restart,
    /// The gateway's process is gone for ever.
    Die,
    /// The control group ends the gateway's lease.
    Lapse,
    /// The running gateway has heard so, and has a new life.
    Reborn,
    /// The owner hears of the gateway's life and lease.
    HearControl,
    /// The gateway sends its next word.
    Send,
    /// A word comes.
    Deliver(Word),
    /// A word is lost.
    Lose(Word),
    /// The gateway hears how far the owner is.
    Acknowledge,
    /// The gateway starts a new stream without need.
    Break,
    /// The gateway waited too long for an acknowledgement.
    Timeout,
}

impl Model for Uplink {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut gateway = Gateway {
            runs: true,
            attached: [0; CHANNELS],
            life: 1,
            fence: 1,
            stream: 0,
            sent: 0,
            acknowledged: 0,
            dirty: [false; CHANNELS],
            end: false,
        };
        gateway.begin(self.rules);
        vec![State {
            gateway,
            owner: Owner::new(1, (1, true), [0; CHANNELS]),
            sent: BTreeSet::new(),
            control: (1, true),
            left: Left {
                toggles: self.world.toggles,
                losses: self.world.losses,
                breaks: self.world.breaks,
                restarts: self.world.restarts,
                lapses: self.world.lapses,
            },
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        let (left, gateway) = (&state.left, &state.gateway);
        if left.toggles > 0 && gateway.runs {
            actions.extend((0..CHANNELS).map(|channel| Action::Toggle { channel }));
        }
        if state.owner.fence < self.world.fences {
            actions.push(Action::Appoint);
        }
        if left.restarts > 0 && gateway.runs {
            actions.push(Action::Restart);
        }
        if self.world.death && gateway.runs {
            actions.push(Action::Die);
        }
        if left.lapses > 0 && state.control.1 && gateway.runs {
            actions.push(Action::Lapse);
        }
        if left.losses > 0 {
            actions.extend(state.sent.iter().map(|word| Action::Lose(*word)));
        }
        if left.breaks > 0 && gateway.runs {
            actions.push(Action::Break);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        self.act(&mut state, &action);
        self.tidy(&mut state);
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the owner ends with what is attached",
                |model: &Self, state: &State| {
                    !model.quiet(state) || state.owner.counts == state.gateway.attached
                },
            ),
            Property::always("a complete set lacks nobody", |_, state: &State| {
                let owner = &state.owner;
                let lacks = |channel: usize| owner.counts[channel] < owner.fewest[channel];
                !owner.complete || !(0..CHANNELS).any(lacks)
            }),
            Property::always("nothing is stuck", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.progress(state, &mut actions);
                model.quiet(state) || !actions.is_empty()
            }),
        ]
    }
}

impl Uplink {
    /// Steps that certainly come if nothing else does.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let State { gateway, owner, .. } = state;
        let (life, live) = state.control;
        if gateway.runs {
            if gateway.fence != owner.fence {
                actions.push(Action::HearOwner);
            }
            if gateway.life == life && !live {
                actions.push(Action::Reborn);
            }
            if gateway.dirty.contains(&true) || gateway.end {
                actions.push(Action::Send);
            }
            let heard = self.is_heard(state);
            if heard && gateway.acknowledged < owner.heard.1 {
                actions.push(Action::Acknowledge);
            }
            let next = if heard { owner.heard.1 + 1 } else { 1 };
            let of_stream = |word: &&Word| word.stream == gateway.stream && word.sequence == next;
            let comes = state.sent.iter().any(|word| of_stream(&word));
            // It hears first that its lease is over, or the owner another.
            let stands = state.control == (gateway.life, true) && gateway.fence == owner.fence;
            let waits = stands && gateway.acknowledged < gateway.sent && next <= gateway.sent;
            if waits && !comes && self.rules.has(Rule::UntilAcknowledged) {
                actions.push(Action::Timeout);
            }
        } else if live {
            actions.push(Action::Lapse);
        }
        if (owner.life, owner.live) != state.control {
            actions.push(Action::HearControl);
        }
        for word in &state.sent {
            if self.takes(owner, word) {
                actions.push(Action::Deliver(*word));
            }
        }
    }

    /// Whether the owner's mark is one of the gateway's present stream.
    fn is_heard(&self, state: &State) -> bool {
        let State { gateway, owner, .. } = state;
        let life =
            owner.life == gateway.life && (owner.live || !self.rules.has(Rule::LapsedRefused));
        life && gateway.fence == owner.fence && owner.heard.0 == gateway.stream
    }

    /// Whether the owner takes a word.
    fn takes(&self, owner: &Owner, word: &Word) -> bool {
        let rules = self.rules;
        if rules.has(Rule::OwnFence) && word.fence != owner.fence {
            return false;
        }
        if rules.has(Rule::LapsedRefused) && !owner.live {
            return false;
        }
        // It cannot know of a life before the control group told it.
        if word.life > owner.life || (rules.has(Rule::LaterLife) && word.life < owner.life) {
            return false;
        }
        let (stream, sequence) = owner.heard;
        if word.stream > stream {
            return word.sequence == 1 || !rules.has(Rule::NextInStream);
        }
        if word.stream < stream {
            return !rules.has(Rule::LaterStream);
        }
        word.sequence == sequence + 1 || !rules.has(Rule::NextInStream)
    }

    fn act(&self, state: &mut State, action: &Action) {
        let State {
            gateway,
            owner,
            control,
            left,
            ..
        } = state;
        match *action {
            Action::Toggle { channel } => {
                left.toggles -= 1;
                gateway.attached[channel] = 1 - gateway.attached[channel];
                gateway.dirty[channel] = true;
                let fewest = &mut owner.fewest[channel];
                *fewest = (*fewest).min(gateway.attached[channel]);
            }
            Action::Appoint => {
                *owner = Owner::new(owner.fence + 1, *control, gateway.attached);
            }
            Action::HearOwner => {
                gateway.fence = owner.fence;
                gateway.begin(self.rules);
            }
            Action::Restart => {
                left.restarts -= 1;
                if self.rules.has(Rule::LifePerProcess) {
                    *control = (control.0 + 1, true);
                    gateway.life = control.0;
                }
                gateway.attached = [0; CHANNELS];
                gateway.dirty = [false; CHANNELS];
                gateway.stream = 0;
                gateway.begin(self.rules);
                owner.fewest = [0; CHANNELS];
            }
            Action::Die => {
                gateway.runs = false;
                gateway.attached = [0; CHANNELS];
                owner.fewest = [0; CHANNELS];
            }
            Action::Lapse => {
                left.lapses = left.lapses.saturating_sub(1);
                control.1 = false;
            }
            Action::Reborn => {
                *control = (control.0 + 1, true);
                gateway.life = control.0;
                gateway.begin(self.rules);
            }
            Action::HearControl => {
                let (life, live) = *control;
                if owner.live && (!live || life != owner.life) {
                    owner.complete = false;
                }
                if !live {
                    owner.counts = [0; CHANNELS];
                }
                if life != owner.life {
                    owner.heard = (0, 0);
                    owner.mentioned = [false; CHANNELS];
                }
                (owner.life, owner.live) = *control;
            }
            Action::Send => {
                let word = gateway.next();
                state.sent.insert(word);
            }
            Action::Deliver(word) => self.take(owner, &word),
            Action::Lose(word) => {
                left.losses -= 1;
                state.sent.remove(&word);
            }
            Action::Acknowledge => gateway.acknowledged = owner.heard.1,
            Action::Break => {
                left.breaks -= 1;
                gateway.begin(self.rules);
            }
            Action::Timeout => gateway.begin(self.rules),
        }
    }

    fn take(&self, owner: &mut Owner, word: &Word) {
        if word.stream > owner.heard.0 {
            owner.mentioned = [false; CHANNELS];
            owner.complete = false;
        }
        owner.heard = owner.heard.max((word.stream, word.sequence));
        match word.item {
            Item::Register(channel, count) => {
                owner.counts[channel] = count;
                owner.mentioned[channel] = true;
                owner.complete |= !self.rules.has(Rule::EndMark);
            }
            Item::End => {
                owner.complete = true;
                if self.rules.has(Rule::AbsentIsZero) {
                    for channel in 0..CHANNELS {
                        if !owner.mentioned[channel] {
                            owner.counts[channel] = 0;
                        }
                    }
                }
            }
        }
    }

    /// Forgets words that nobody will ever take.
    fn tidy(&self, state: &mut State) {
        let (rules, owner) = (self.rules, &state.owner);
        state.sent.retain(|word| {
            let fence = rules.has(Rule::OwnFence) && word.fence < owner.fence;
            let life = rules.has(Rule::LaterLife) && word.life < owner.life;
            let ended = rules.has(Rule::LapsedRefused) && word.life == owner.life && !owner.live;
            let ordered = rules.has(Rule::LaterStream) && rules.has(Rule::NextInStream);
            let place = (word.stream, word.sequence);
            let past = ordered && word.life == owner.life && place <= owner.heard;
            !(fence || life || ended || past)
        });
    }

    /// Whether everybody has told and heard everything.
    fn quiet(&self, state: &State) -> bool {
        let State { gateway, owner, .. } = state;
        let knows = (owner.life, owner.live) == state.control;
        let news = |word: &&Word| (word.stream, word.sequence) > owner.heard;
        let mut news = state.sent.iter().filter(news);
        let delivered = news.all(|word| !self.takes(owner, word));
        if !gateway.runs {
            return knows && !state.control.1 && delivered;
        }
        let told = !gateway.dirty.contains(&true) && !gateway.end;
        let heard = !self.rules.has(Rule::UntilAcknowledged)
            || (self.is_heard(state) && gateway.acknowledged == gateway.sent);
        let present = gateway.fence == owner.fence && gateway.life == state.control.0;
        knows && state.control.1 && present && told && heard && delivered
    }
}

impl Gateway {
    /// Starts a new stream.
    fn begin(&mut self, rules: Rules) {
        self.stream += 1;
        self.sent = 0;
        self.acknowledged = 0;
        self.end = true;
        if rules.has(Rule::WholeSet) {
            self.dirty = self.attached.map(|count| count > 0);
        }
    }

    /// Takes the next word out: what is dirty, and then the end mark.
    fn next(&mut self) -> Word {
        let item = match self.dirty.iter().position(|dirty| *dirty) {
            Some(channel) => {
                self.dirty[channel] = false;
                Item::Register(channel, self.attached[channel])
            }
            None => {
                self.end = false;
                Item::End
            }
        };
        self.sent += 1;
        Word {
            fence: self.fence,
            life: self.life,
            stream: self.stream,
            sequence: self.sent,
            item,
        }
    }
}

impl Owner {
    fn new(fence: Fence, (life, live): (u8, bool), attached: PerChannel<u8>) -> Self {
        Self {
            fence,
            life,
            live,
            heard: (0, 0),
            complete: false,
            counts: [0; CHANNELS],
            mentioned: [false; CHANNELS],
            fewest: attached,
        }
    }
}
