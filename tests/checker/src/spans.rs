//! Sets of moments.

use std::time::Duration;

/// At: a moment, as the time since the run began.
pub type At = Duration;

/// The last moment that there is.
pub(crate) const NEVER: At = Duration::MAX;

/// Spans: a set of moments, as disjoint spans in order; both ends belong to a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(At, At)>);

impl Spans {
    /// Takes spans in any order; those that end before they begin are none.
    #[must_use]
    pub fn new(spans: impl IntoIterator<Item = (At, At)>) -> Self {
        let mut sorted: Vec<(At, At)> = spans.into_iter().filter(|(from, to)| from <= to).collect();
        sorted.sort_unstable();
        let mut joined: Vec<(At, At)> = Vec::with_capacity(sorted.len());
        for (from, to) in sorted {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    /// Every moment.
    #[must_use]
    pub fn always() -> Self {
        Self(vec![(At::ZERO, NEVER)])
    }

    /// Returns the spans in order.
    #[must_use]
    pub fn spans(&self) -> &[(At, At)] {
        &self.0
    }

    /// Returns whether the moment is in the set.
    #[must_use]
    pub fn contains(&self, at: At) -> bool {
        self.overlaps(at, at)
    }

    /// Returns whether any moment from `from` to `to` is in the set.
    #[must_use]
    pub fn overlaps(&self, from: At, to: At) -> bool {
        self.first_from(from).is_some_and(|first| first <= to)
    }

    /// Returns the first moment of the set that is not before `at`.
    #[must_use]
    pub fn first_from(&self, at: At) -> Option<At> {
        let next = self.0.partition_point(|(_, to)| *to < at);
        self.0.get(next).map(|(from, _)| (*from).max(at))
    }

    /// Returns the moments of either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied())
    }

    /// Returns the moments of both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut mine, mut yours) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some((from, to)), Some((start, end))) = (mine.peek(), yours.peek()) {
            both.push((*from.max(start), *to.min(end)));
            if to < end {
                mine.next();
            } else {
                yours.next();
            }
        }
        Self::new(both)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans() -> impl Strategy<Value = Spans> {
        let span = (0..30_u64, 0..6_u64).prop_map(|(from, length)| {
            let second = Duration::from_secs;
            (second(from), second(from + length))
        });
        proptest::collection::vec(span, 0..6).prop_map(Spans::new)
    }

    proptest! {
        #[test]
        fn sets_of_moments_are_sets(a in spans(), b in spans()) {
            // Half seconds, so that moments between the ends are looked at, too.
            for at in (0..80).map(|half| Duration::from_millis(half * 500)) {
                let (in_a, in_b) = (a.contains(at), b.contains(at));
                prop_assert_eq!(a.or(&b).contains(at), in_a || in_b);
                prop_assert_eq!(a.and(&b).contains(at), in_a && in_b);
                let first = a.first_from(at);
                prop_assert!(first.is_none_or(|first| first >= at && a.contains(first)));
                prop_assert_eq!(first == Some(at), in_a);
            }
        }
    }
}
