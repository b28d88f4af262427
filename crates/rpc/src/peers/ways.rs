//! Which nodes something can be exchanged with, and whether that was so all the time.

use std::collections::BTreeMap;

use headcount_model::NodeId;
use tokio::sync::watch;

/// Ways: the streams of one kind that are open at present, to other nodes and from them.
///
/// Each opening has a number, higher than that of any stream that was opened before in this
/// network, so whoever remembers the number of a node's way notices that it broke, however shortly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    opened: u64,
    to: BTreeMap<NodeId, u64>,
    from: BTreeMap<NodeId, u64>,
}

impl Ways {
    /// Returns the number of the latest opening, in either direction, of the way to and from
    /// `node`; `None` unless both directions are open.
    ///
    /// While the number stays the same, nothing that was carried in either direction was lost on
    /// the way.
    #[must_use]
    pub fn opening(&self, node: NodeId) -> Option<u64> {
        Some(*self.to.get(&node)?.max(self.from.get(&node)?))
    }

    /// Returns the number of the latest opening of the way to `node`, whether or not there is one
    /// back; `None` unless it is open.
    #[must_use]
    pub fn opening_to(&self, node: NodeId) -> Option<u64> {
        self.to.get(&node).copied()
    }

    /// Returns the nodes whose ways are open in both directions, with [`Self::opening`] of each.
    pub fn openings(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let nodes = self.to.keys().copied();
        nodes.filter_map(|node| Some((node, self.opening(node)?)))
    }

    fn streams(&mut self, direction: Direction) -> &mut BTreeMap<NodeId, u64> {
        match direction {
            Direction::To => &mut self.to,
            Direction::From => &mut self.from,
        }
    }
}

/// Which way parcels go on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    To,
    From,
}

/// A stream that is open, for as long as this exists.
#[derive(Debug)]
pub(crate) struct OpenWay {
    ways: watch::Sender<Ways>,
    node: NodeId,
    direction: Direction,
    number: u64,
}

impl OpenWay {
    /// Enters a stream that was opened right now. One to or from the same node that has not been
    /// found broken yet is over with it.
    pub(crate) fn new(ways: &watch::Sender<Ways>, node: NodeId, direction: Direction) -> Self {
        let mut number = 0;
        ways.send_modify(|ways| {
            ways.opened += 1;
            number = ways.opened;
            ways.streams(direction).insert(node, number);
        });
        Self {
            ways: ways.clone(),
            node,
            direction,
            number,
        }
    }
}

impl Drop for OpenWay {
    fn drop(&mut self) {
        self.ways.send_if_modified(|ways| {
            let streams = ways.streams(self.direction);
            let is_latest = streams.get(&self.node) == Some(&self.number);
            if is_latest {
                streams.remove(&self.node);
            }
            is_latest
        });
    }
}

/// How often streams of envelopes to and from each node have begun and ended. What was said before
/// may be lost whenever the number rises: when one ends, what was on its way; when one begins, what
/// could not be said until then.
pub type Breaks = BTreeMap<NodeId, u64>;

/// A stream of envelopes, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Breakable {
    breaks: watch::Sender<Breaks>,
    node: NodeId,
}

impl Breakable {
    pub(crate) fn begin(breaks: &watch::Sender<Breaks>, node: NodeId) -> Self {
        let stream = Self {
            breaks: breaks.clone(),
            node,
        };
        stream.count();
        stream
    }

    fn count(&self) {
        self.breaks
            .send_modify(|breaks| *breaks.entry(self.node).or_default() += 1);
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    #[test]
    fn a_way_is_open_in_both_directions_or_not_at_all() {
        let ways = watch::Sender::new(Ways::default());
        let to = OpenWay::new(&ways, NODE, Direction::To);
        assert_eq!(ways.borrow().opening(NODE), None);
        assert_eq!(ways.borrow().opening_to(NODE), Some(1));
        let from = OpenWay::new(&ways, NODE, Direction::From);
        assert_eq!(ways.borrow().opening(NODE), Some(2));
        assert_eq!(ways.borrow().openings().collect::<Vec<_>>(), [(NODE, 2)]);
        drop(to);
        assert_eq!(ways.borrow().opening(NODE), None);
        let _to = OpenWay::new(&ways, NODE, Direction::To);
        assert_eq!(ways.borrow().opening(NODE), Some(3));
        drop(from);
        assert_eq!(ways.borrow().openings().count(), 0);
    }

    #[test]
    fn a_late_end_does_not_close_the_next_stream() {
        let ways = watch::Sender::new(Ways::default());
        let _to = OpenWay::new(&ways, NODE, Direction::To);
        let old = OpenWay::new(&ways, NODE, Direction::From);
        let _new = OpenWay::new(&ways, NODE, Direction::From);
        let seen = ways.subscribe();
        drop(old);
        assert_eq!(ways.borrow().opening(NODE), Some(3));
        assert!(!seen.has_changed().unwrap());
    }
}
