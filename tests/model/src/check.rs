//! Runs: a world under some rules, searched to its end or to the first counterexample.

use std::fmt;

use stateright::{Checker, HasDiscoveries, Model};

use crate::protocol::Protocol;
use crate::rules::{Rule, Rules};
use crate::world::World;

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
pub fn run(world: World, rules: Rules) -> Report {
    let name = world.name;
    let checker = Protocol { world, rules }
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
pub fn ablations() -> Vec<(World, Vec<Rule>)> {
    vec![
        (World::claims(), vec![Rule::Claim]),
        (World::claims(), vec![Rule::ClaimWait]),
        (World::churn(), vec![Rule::FeedWait]),
        (World::claims(), vec![Rule::Sequence, Rule::Numbers]),
        (World::claims(), vec![Rule::Sequence]),
        (World::claims(), vec![Rule::FixedBatches]),
        (World::claims(), vec![Rule::RegisterOrder]),
        (World::claims(), vec![Rule::Settling]),
        (World::witnesses(), vec![Rule::Tail]),
        (World::claims(), vec![Rule::Incarnations]),
        (World::expiry(), vec![Rule::ExpiryGuard]),
        (World::expiry(), vec![Rule::ExpiryEndsFence]),
        (World::expiry(), vec![Rule::ExpiryFloor]),
        (World::cursors(), vec![Rule::ExpirySettles]),
        (World::claims(), vec![Rule::Nesting]),
        (World::adoption(), vec![Rule::AdoptionWait]),
        (World::adoption(), vec![Rule::AdoptionKeep]),
        (World::adoption(), vec![Rule::AdoptionHold]),
        (World::adoption(), vec![Rule::Recovery]),
        (World::adoption(), vec![Rule::KeepIncomplete]),
        (World::churn(), vec![Rule::EarlyInOrder]),
        (World::cursors(), vec![Rule::CursorUnlogged]),
        (World::claims(), vec![Rule::Overlay]),
        (World::overflow(), vec![Rule::OverflowGap]),
        (World::claims(), vec![Rule::OneSource]),
        (World::regions(), vec![Rule::SameBody]),
        (World::claims(), vec![Rule::TransitionCounts]),
        (World::witnesses(), vec![Rule::IgnoreOlder]),
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
