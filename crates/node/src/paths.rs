//! Which way something takes to a group's leader (R18): an owner's commands to the coordinator, the
//! renewal of a lease to the control group's.
//!
//! Usually straight there. What is not acknowledged in time is sent again, and then another way: to
//! another replica, which takes it on to the leader. Two nodes that do not reach each other are not
//! cut off, as long as there is a third that both reach.

use std::time::Duration;

use headcount_model::{Monotonic, NodeId};

/// How long a detour is kept before the straight way is tried again: what failed for a moment
/// only must not cost a hop for ever.
const DETOUR: Duration = Duration::from_secs(30);

/// A way to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is sent to the leader.
    Straight(NodeId),
    /// It is sent to another replica, to be taken on.
    Through(NodeId),
}

/// The ways to one group's leader.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// How many ways were given up since the straight one.
    given_up: usize,
    /// Since when the present way is taken.
    since: Monotonic,
}

impl Paths {
    /// Begins anew with the straight way: the leader is another one.
    pub(crate) fn reset(&mut self, now: Monotonic) {
        *self = Self {
            given_up: 0,
            since: now,
        };
    }

    /// Gives the present way up if it was taken for `patience`: something was not acknowledged.
    pub(crate) fn unacknowledged(&mut self, now: Monotonic, patience: Duration) {
        if now >= self.since.after(patience) {
            self.given_up += 1;
            self.since = now;
        }
    }

    /// Returns the way to take to `leader`, with the `others` of its replicas that live elsewhere.
    pub(crate) fn choose(
        &mut self,
        now: Monotonic,
        leader: Option<NodeId>,
        others: impl Iterator<Item = NodeId>,
    ) -> Option<Way> {
        if self.given_up > 0 && now >= self.since.after(DETOUR) {
            self.reset(now);
        }
        let others = others.filter(|other| Some(*other) != leader);
        let ways: Vec<Way> = leader
            .map(Way::Straight)
            .into_iter()
            .chain(others.map(Way::Through))
            .collect();
        let way = self.given_up.checked_rem(ways.len())?;
        Some(ways[way])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: NodeId = NodeId(2);
    const OTHERS: [NodeId; 3] = [NodeId(2), NodeId(3), NodeId(4)];
    const PATIENCE: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_way_is_given_up_when_nothing_is_acknowledged_and_all_are_tried_in_turn() {
        let mut paths = Paths::default();
        let mut choose = |seconds, fails| {
            if fails {
                paths.unacknowledged(at(seconds), PATIENCE);
            }
            paths.choose(at(seconds), Some(LEADER), OTHERS.into_iter())
        };
        assert_eq!(choose(10, false), Some(Way::Straight(LEADER)));
        assert_eq!(choose(11, true), Some(Way::Through(NodeId(3))));
        // What else is sent again at the same time fails no second way.
        assert_eq!(choose(11, true), Some(Way::Through(NodeId(3))));
        assert_eq!(choose(12, false), Some(Way::Through(NodeId(3))));
        assert_eq!(choose(13, true), Some(Way::Through(NodeId(4))));
        assert_eq!(choose(14, true), Some(Way::Straight(LEADER)));
    }

    #[test]
    fn another_coordinator_and_a_long_detour_begin_with_the_straight_way() {
        let mut paths = Paths::default();
        let choose = |paths: &mut Paths, seconds| {
            paths.choose(at(seconds), Some(LEADER), OTHERS.into_iter())
        };
        paths.unacknowledged(at(10), PATIENCE);
        assert_eq!(choose(&mut paths, 39), Some(Way::Through(NodeId(3))));
        assert_eq!(choose(&mut paths, 40), Some(Way::Straight(LEADER)));
        paths.unacknowledged(at(50), PATIENCE);
        assert_eq!(choose(&mut paths, 50), Some(Way::Through(NodeId(3))));
        paths.reset(at(51));
        assert_eq!(choose(&mut paths, 51), Some(Way::Straight(LEADER)));
        paths.unacknowledged(at(51), PATIENCE);
        assert_eq!(choose(&mut paths, 51), Some(Way::Straight(LEADER)));
    }

    #[test]
    fn whoever_knows_no_coordinator_asks_the_others() {
        let mut paths = Paths::default();
        let ways = paths.choose(at(10), None, [NodeId(3)].into_iter());
        assert_eq!(ways, Some(Way::Through(NodeId(3))));
        assert_eq!(paths.choose(at(10), None, std::iter::empty()), None);
    }
}
