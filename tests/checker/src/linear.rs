//! A search for an order of calls that explains every answer (C12), after Wing, Gong and Lowe.
//!
//! Calls that overlapped may have taken effect in either order, calls that did not in theirs. One
//! whose outcome nobody knows may have taken effect at any time after it was made, or never.
//! The search takes calls in such an order and goes back where an answer does not fit; it never
//! looks again at the same set of calls with the same state. Each channel is searched by itself,
//! since a history is linearizable exactly if each object's part of it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Debug;

use headcount_model::Occupancy;

use crate::{At, Fault, Rule};

/// Model: what calls do to an object and answer, one after the other.
pub trait Model {
    /// The object's state.
    type State: Clone + Ord;
    /// A call, with its answer if it has one.
    type Op: Debug;

    /// Returns the state at the beginning.
    fn initial(&self) -> Self::State;

    /// Returns the state after a call, or nothing if the call cannot have been answered so here.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// Call: something asked of an object, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<Op> {
    /// What was asked and answered.
    pub op: Op,
    /// When it was asked.
    pub invoked: At,
    /// When it was answered; nothing if nobody knows whether it took effect.
    pub returned: Option<At>,
}

/// Verdict: what the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. The most calls that could be explained, by index, in their order, and those
    /// of which none could follow.
    Contradiction {
        /// The longest order that was found.
        explained: Vec<usize>,
        /// The answered calls that could not be explained after it.
        stuck: Vec<usize>,
    },
    /// The search was given up after so many steps.
    Undecided {
        /// How many.
        steps: u64,
    },
}

/// A set of calls by index.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Taken(Vec<u64>);

impl Taken {
    fn new(calls: usize) -> Self {
        Self(vec![0; calls.div_ceil(64)])
    }

    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn flip(&mut self, index: usize) {
        self.0[index / 64] ^= 1 << (index % 64);
    }
}

/// Searches for an order of `calls` that explains them, in at most `steps_max` steps.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Op>], steps_max: u64) -> Verdict {
    // By when they were asked, so that the search tries what is likely first.
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|index| (calls[*index].invoked, calls[*index].returned));
    let mut taken = Taken::new(calls.len());
    let mut seen: BTreeSet<(Taken, M::State)> = BTreeSet::new();
    let mut path: Vec<(usize, M::State)> = Vec::new();
    let mut state = model.initial();
    let mut longest: Vec<usize> = Vec::new();
    let mut steps = 0;
    // From which place in `order` the search goes on at this depth.
    let mut next = 0;
    loop {
        // What nobody has taken and was answered first bounds what may come next: a call that was
        // asked after an answer comes after it.
        let left = || order.iter().filter(|index| !taken.has(**index));
        let Some(bound) = left().filter_map(|index| calls[*index].returned).min() else {
            return Verdict::Linearizable;
        };
        let found = order[next..]
            .iter()
            .enumerate()
            .find_map(|(offset, index)| {
                steps += 1;
                if taken.has(*index) || calls[*index].invoked > bound {
                    return None;
                }
                let after = model.step(&state, &calls[*index].op)?;
                // What nobody knows of and changes nothing may as well never have happened.
                if calls[*index].returned.is_none() && after == state {
                    return None;
                }
                let mut with = taken.clone();
                with.flip(*index);
                seen.insert((with, after.clone()))
                    .then_some((next + offset, after))
            });
        if steps > steps_max {
            return Verdict::Undecided { steps };
        }
        if let Some((place, after)) = found {
            taken.flip(order[place]);
            path.push((place, std::mem::replace(&mut state, after)));
            if path.len() > longest.len() {
                longest = path.iter().map(|(place, _)| order[*place]).collect();
            }
            next = 0;
        } else if let Some((place, before)) = path.pop() {
            taken.flip(order[place]);
            state = before;
            next = place + 1;
        } else {
            let explained: BTreeSet<usize> = longest.iter().copied().collect();
            let answered = |index: &usize| calls[*index].returned.is_some();
            let mut stuck: Vec<usize> = order.iter().copied().filter(answered).collect();
            stuck.retain(|index| !explained.contains(index));
            return Verdict::Contradiction {
                explained: longest,
                stuck,
            };
        }
    }
}

/// The counts of one channel as its log has them, by region, each with the version that set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channel;

/// Op: a call to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A region's counts get into the log; nothing happens if newer ones are there.
    Apply {
        /// The region.
        region: String,
        /// A number that grows with each change of the region's counts.
        version: u64,
        /// The counts.
        occupancy: Occupancy,
    },
    /// A region's counts expire.
    Void {
        /// The region.
        region: String,
    },
    /// A strong read answers with the sum.
    Read(Occupancy),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply {
                region,
                version,
                occupancy,
            } => {
                write!(f, "apply {region} {version} {occupancy:?}")
            }
            Self::Void { region } => write!(f, "void {region}"),
            Self::Read(occupancy) => write!(f, "read {occupancy:?}"),
        }
    }
}

impl Model for Channel {
    type State = BTreeMap<String, (u64, Occupancy)>;
    type Op = Op;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(&self, state: &Self::State, op: &Op) -> Option<Self::State> {
        let mut state = state.clone();
        match op {
            Op::Apply {
                region,
                version,
                occupancy,
            } => {
                let counts = state.entry(region.clone()).or_default();
                if counts.0 <= *version {
                    *counts = (*version, *occupancy);
                }
            }
            Op::Void { region } => {
                state.entry(region.clone()).or_default().1 = Occupancy::ZERO;
            }
            Op::Read(read) => {
                let sum: Occupancy = state.values().map(|(_, counts)| *counts).sum();
                return (sum == *read).then_some(state);
            }
        }
        Some(state)
    }
}

/// Judges the calls to each channel by itself, each in at most `steps_max` steps. Returns the faults,
/// and how many channels were given up.
#[must_use]
pub fn judge(channels: &BTreeMap<String, Vec<Call<Op>>>, steps_max: u64) -> (Vec<Fault>, usize) {
    let (mut faults, mut undecided) = (Vec::new(), 0);
    for (channel, calls) in channels {
        match search(&Channel, calls, steps_max) {
            Verdict::Linearizable => {}
            Verdict::Undecided { .. } => undecided += 1,
            Verdict::Contradiction { explained, stuck } => {
                let line = |index: &usize| {
                    let Call {
                        op,
                        invoked,
                        returned,
                    } = &calls[*index];
                    format!("\n  {op} from {invoked:?} to {returned:?}")
                };
                let what = format!(
                    "no order explains what was read of {channel}; explained:{}\nnot explained:{}",
                    explained.iter().map(line).collect::<String>(),
                    stuck.iter().map(line).collect::<String>()
                );
                faults.push(Fault::new(Rule::Linearizability, what));
            }
        }
    }
    (faults, undecided)
}

#[cfg(test)]
mod tests;
