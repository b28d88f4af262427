//! A member whose connection moves between two nodes of a region (R17, newness): both hold it for a
//! while, each tells the owner in its own order, and the owner shows one state of it.

use std::collections::VecDeque;

use stateright::{Model, Property};

use crate::rules::{Rule, Rules};

/// The nodes.
const NODES: usize = 2;

/// What exists and how often the surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// How often the connection moves.
    pub moves: u8,
    /// How often the member is updated.
    pub updates: u8,
    /// How often a node's stream begins anew.
    pub breaks: u8,
}

impl World {
    /// One member.
    #[must_use]
    pub const fn newness() -> Self {
        Self {
            name: "newness",
            moves: 2,
            updates: 1,
            breaks: 2,
        }
    }

    /// The same with more going on.
    #[must_use]
    pub const fn deep() -> Self {
        Self {
            name: "newness, 3 moves",
            moves: 3,
            updates: 2,
            breaks: 3,
        }
    }
}

/// A world under some rules.
#[derive(Clone, Debug)]
pub struct Newness {
    /// What there is.
    pub world: World,
    /// What holds.
    pub rules: Rules,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// The serial of the member's state here.
    pub holds: Option<u8>,
    /// What the owner has not heard: a state, or that there is none.
    pub queue: VecDeque<Option<u8>>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The nodes.
    pub nodes: [Node; NODES],
    /// Where the connection is.
    pub at: usize,
    /// Its last message serial.
    pub serial: u8,
    /// What the owner holds of each node.
    pub held: [Option<u8>; NODES],
    /// What the owner was told last.
    pub last: Option<u8>,
    /// What the surroundings may still do: moves, updates, breaks.
    pub left: [u8; 3],
}

/// One step of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The connection goes on at the other node, and its member is entered there.
    Move,
    /// The member's data changes.
    Update,
    /// The node that the connection left lets it go.
    LetGo,
    /// A node's stream begins anew: what it holds is told again.
    Break {
        /// Whose.
        node: usize,
    },
    /// The owner hears a node.
    Hear {
        /// Which.
        node: usize,
    },
}

impl Model for Newness {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut nodes = <[Node; NODES]>::default();
        nodes[0].tell(Some(1));
        let World {
            moves,
            updates,
            breaks,
            ..
        } = self.world;
        vec![State {
            nodes,
            at: 0,
            serial: 1,
            held: [None; NODES],
            last: None,
            left: [moves, updates, breaks],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let [moves, updates, breaks] = state.left;
        if moves > 0 {
            actions.push(Action::Move);
        }
        if updates > 0 {
            actions.push(Action::Update);
        }
        if state.nodes[1 - state.at].holds.is_some() {
            actions.push(Action::LetGo);
        }
        for node in 0..NODES {
            if breaks > 0 {
                actions.push(Action::Break { node });
            }
            if !state.nodes[node].queue.is_empty() {
                actions.push(Action::Hear { node });
            }
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        match action {
            Action::Move => {
                state.left[0] -= 1;
                state.at = 1 - state.at;
                state.serial += 1;
                let serial = state.serial;
                state.nodes[state.at].tell(Some(serial));
            }
            Action::Update => {
                state.left[1] -= 1;
                state.serial += 1;
                let serial = state.serial;
                state.nodes[state.at].tell(Some(serial));
            }
            Action::LetGo => state.nodes[1 - state.at].tell(None),
            Action::Break { node } => {
                state.left[2] -= 1;
                let it = &mut state.nodes[node];
                it.queue = VecDeque::from([it.holds]);
            }
            Action::Hear { node } => {
                if let Some(word) = state.nodes[node].queue.pop_front() {
                    state.held[node] = word;
                    state.last = word;
                }
            }
        }
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(
            "the newest state is shown",
            |model: &Self, state: &State| {
                let heard = state.nodes.iter().all(|node| node.queue.is_empty());
                let shown = if model.rules.has(Rule::Newness) {
                    state.held.iter().flatten().max().copied()
                } else {
                    state.last
                };
                !heard || shown == Some(state.serial)
            },
        )]
    }
}

impl Node {
    fn tell(&mut self, state: Option<u8>) {
        self.holds = state;
        self.queue.push_back(state);
    }
}
