//! Runs: a world under some rules, searched to its end or to the first counterexample.

use std::fmt::{self, Debug};
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

use crate::leases::Leases;
use crate::newness::Newness;
use crate::protocol::Protocol;
use crate::relay::Relay;
use crate::rules::{Rule, Rules};
use crate::sessions::Sessions;
use crate::uplink::Uplink;
use crate::world::World;
use crate::{leases, newness, relay, sessions, uplink};

/// A world of one of the machines.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Owners, the log and subscribers.
    Protocol(World),
    /// A gateway's words to its owner.
    Uplink(uplink::World),
    /// An edge's sessions and direct clients.
    Sessions(sessions::World),
    /// Presence between regions.
    Relay(relay::World),
    /// A member that several nodes hold.
    Newness(newness::World),
    /// The control group's leases.
    Leases(leases::World),
}

impl Subject {
    /// The world's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Protocol(world) => world.name,
            Self::Uplink(world) => world.name,
            Self::Sessions(world) => world.name,
            Self::Relay(world) => world.name,
            Self::Newness(world) => world.name,
            Self::Leases(world) => world.name,
        }
    }

    /// Every world that the tests exhaust.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let protocol = World::all().into_iter().map(Self::Protocol);
        let uplink = uplink::World::all().into_iter().map(Self::Uplink);
        let sessions = sessions::World::all().into_iter().map(Self::Sessions);
        let relay = relay::World::all().into_iter().map(Self::Relay);
        let newness = std::iter::once(Self::Newness(newness::World::newness()));
        let leases = leases::World::all().into_iter().map(Self::Leases);
        let control = relay.chain(newness).chain(leases);
        protocol
            .chain(uplink)
            .chain(sessions)
            .chain(control)
            .collect()
    }

    /// The same with more going on, for minutes rather than seconds.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        let protocol = World::deep().into_iter().map(Self::Protocol);
        let uplink = uplink::World::deep().into_iter().map(Self::Uplink);
        let sessions = sessions::World::deep().into_iter().map(Self::Sessions);
        let relay = relay::World::deep().into_iter().map(Self::Relay);
        let newness = std::iter::once(Self::Newness(newness::World::deep()));
        let leases = leases::World::deep().into_iter().map(Self::Leases);
        let control = relay.chain(newness).chain(leases);
        protocol
            .chain(uplink)
            .chain(sessions)
            .chain(control)
            .collect()
    }
}

macro_rules! subjects {
    ($($variant:ident: $world:ty;)*) => {$(
        impl From<$world> for Subject {
            fn from(world: $world) -> Self {
                Self::$variant(world)
            }
        }
    )*};
}

subjects! {
    Protocol: World;
    Uplink: uplink::World;
    Sessions: sessions::World;
    Relay: relay::World;
    Newness: newness::World;
    Leases: leases::World;
}

/// What one search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The world's name.
    pub world: &'static str,
    /// The rules kept.
    pub rules: Rules,
    /// States generated.
    pub states: usize,
    /// States that differ.
    pub unique: usize,
    /// The longest shortest path to a state.
    pub depth: usize,
    /// Whether every reachable state was seen.
    pub exhausted: bool,
    /// The first broken promise.
    pub counterexample: Option<Counterexample>,
}

/// A broken promise and how to get there.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The promise.
    pub property: &'static str,
    /// The steps, in order.
    pub steps: Vec<String>,
    /// The state at the end.
    pub end: String,
}

/// Searches a world breadth first.
#[must_use]
pub fn run(subject: Subject, rules: Rules) -> Report {
    let name = subject.name();
    match subject {
        Subject::Protocol(world) => search(name, Protocol { world, rules }, rules),
        Subject::Uplink(world) => search(name, Uplink { world, rules }, rules),
        Subject::Sessions(world) => search(name, Sessions { world, rules }, rules),
        Subject::Relay(world) => search(name, Relay { world, rules }, rules),
        Subject::Newness(world) => search(name, Newness { world, rules }, rules),
        Subject::Leases(world) => search(name, Leases { world, rules }, rules),
    }
}

fn search<M>(name: &'static str, machine: M, rules: Rules) -> Report
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Eq + Hash + Send + Sync,
    M::Action: Clone + Debug + Eq + Send + Sync,
{
    let checker = machine
        .checker()
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let counterexample = checker.discoveries().into_iter().map(|(property, path)| {
        let end = format!("{:#?}", path.last_state());
        let steps = path
            .into_actions()
            .iter()
            .map(|action| format!("{action:?}"))
            .collect();
        Counterexample {
            property,
            steps,
            end,
        }
    });
    let counterexample = counterexample.min_by_key(|found| (found.steps.len(), found.property));
    Report {
        world: name,
        rules,
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: counterexample.is_none() && checker.is_done(),
        counterexample,
    }
}

/// What is left out, and the world that shows why it must not be.
#[must_use]
pub fn ablations() -> Vec<(Subject, Vec<Rule>)> {
    vec![
        (World::claims().into(), vec![Rule::Claim]),
        (World::claims().into(), vec![Rule::ClaimWait]),
        (World::churn().into(), vec![Rule::FeedWait]),
        (World::claims().into(), vec![Rule::Sequence, Rule::Numbers]),
        (World::claims().into(), vec![Rule::Sequence]),
        (World::claims().into(), vec![Rule::FixedBatches]),
        (World::claims().into(), vec![Rule::RegisterOrder]),
        (World::claims().into(), vec![Rule::Settling]),
        (World::witnesses().into(), vec![Rule::Tail]),
        (World::claims().into(), vec![Rule::Incarnations]),
        (World::expiry().into(), vec![Rule::ExpiryGuard]),
        (World::expiry().into(), vec![Rule::ExpiryEndsFence]),
        (World::expiry().into(), vec![Rule::ExpiryFloor]),
        (World::cursors().into(), vec![Rule::ExpirySettles]),
        (World::claims().into(), vec![Rule::Nesting]),
        (World::adoption().into(), vec![Rule::AdoptionWait]),
        (World::adoption().into(), vec![Rule::AdoptionKeep]),
        (World::adoption().into(), vec![Rule::AdoptionHold]),
        (World::adoption().into(), vec![Rule::Recovery]),
        (World::adoption().into(), vec![Rule::KeepIncomplete]),
        (World::churn().into(), vec![Rule::EarlyInOrder]),
        (World::cursors().into(), vec![Rule::CursorUnlogged]),
        (World::claims().into(), vec![Rule::Overlay]),
        (World::overflow().into(), vec![Rule::OverflowGap]),
        (World::claims().into(), vec![Rule::OneSource]),
        (World::regions().into(), vec![Rule::SameBody]),
        (World::claims().into(), vec![Rule::TransitionCounts]),
        (World::witnesses().into(), vec![Rule::IgnoreOlder]),
        (uplink::World::reborn().into(), vec![Rule::LaterLife]),
        (uplink::World::reborn().into(), vec![Rule::LapsedRefused]),
        (uplink::World::owners().into(), vec![Rule::OwnFence]),
        (uplink::World::uplink().into(), vec![Rule::LaterStream]),
        (uplink::World::uplink().into(), vec![Rule::NextInStream]),
        (
            uplink::World::uplink().into(),
            vec![Rule::UntilAcknowledged],
        ),
        (uplink::World::uplink().into(), vec![Rule::WholeSet]),
        (uplink::World::uplink().into(), vec![Rule::AbsentIsZero]),
        (uplink::World::owners().into(), vec![Rule::EndMark]),
        (sessions::World::takeover().into(), vec![Rule::OneCounts]),
        (
            sessions::World::takeover().into(),
            vec![Rule::SwapWhenWhole],
        ),
        (
            sessions::World::wandering().into(),
            vec![Rule::StaleSession],
        ),
        (
            sessions::World::takeover().into(),
            vec![Rule::OneCountsInAnyOrder],
        ),
        (sessions::World::goodbye().into(), vec![Rule::AbsentIsOver]),
        (sessions::World::wandering().into(), vec![Rule::ResumeLast]),
        (sessions::World::handover().into(), vec![Rule::HandOver]),
        (
            sessions::World::handover().into(),
            vec![Rule::HandOverHeard],
        ),
        (relay::World::interest().into(), vec![Rule::InterestTold]),
        (relay::World::interest().into(), vec![Rule::InterestHeld]),
        (
            relay::World::interest().into(),
            vec![Rule::ActivationVersion],
        ),
        (relay::World::interest().into(), vec![Rule::Gap]),
        (relay::World::moving().into(), vec![Rule::NewFence]),
        (relay::World::moving().into(), vec![Rule::OlderRelay]),
        (relay::World::dead().into(), vec![Rule::ExpiryDrops]),
        (relay::World::dead().into(), vec![Rule::ExpiredVoid]),
        (relay::World::moving().into(), vec![Rule::Gather]),
        (relay::World::moving().into(), vec![Rule::PullFirst]),
        (newness::World::newness().into(), vec![Rule::Newness]),
        (leases::World::lives().into(), vec![Rule::LifePerProcess]),
        (leases::World::lives().into(), vec![Rule::StartEndsLife]),
        (leases::World::lives().into(), vec![Rule::LostNamesLife]),
        (leases::World::elections().into(), vec![Rule::FullLease]),
        (leases::World::lives().into(), vec![Rule::FromAsking]),
        (leases::World::lives().into(), vec![Rule::StopInTime]),
        (leases::World::elections().into(), vec![Rule::LeaderHeard]),
        (leases::World::elections().into(), vec![Rule::OwnLeadership]),
        (leases::World::lives().into(), vec![Rule::LostIsLost]),
    ]
}

/// The table's head, in Markdown.
pub const TABLE_HEAD: &str = "\
| world | rules | states | unique | depth | result |
|---|---|---:|---:|---:|---|";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            world,
            rules,
            states,
            unique,
            depth,
            ..
        } = self;
        write!(
            f,
            "| {world} | {rules:?} | {states} | {unique} | {depth} | "
        )?;
        match &self.counterexample {
            Some(found) => {
                write!(
                    f,
                    "{} steps break “{}” |",
                    found.steps.len(),
                    found.property
                )
            }
            None if self.exhausted => write!(f, "exhausted, no counterexample |"),
            None => write!(f, "not exhausted |"),
        }
    }
}
