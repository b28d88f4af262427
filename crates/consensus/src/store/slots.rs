//! A run of values by index, cut at both ends as logs are.

use std::collections::VecDeque;

/// Values by consecutive index. Holes occur only while a log is replayed, where records that were
/// written again come after their successors.
#[derive(Debug)]
pub(super) struct Slots<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
        }
    }
}

impl<T> Slots<T> {
    /// The index after the last, if there is any.
    pub(super) fn next(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first + self.slots.len() as u64)
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.slots.back().and_then(Option::as_ref)
    }

    pub(super) fn get(&self, index: u64) -> Option<&T> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(at)?.as_ref()
    }

    /// The values from `index` on, ascending.
    pub(super) fn from(&self, index: u64) -> impl Iterator<Item = (u64, &T)> {
        let skip = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let skip = skip.min(self.slots.len());
        let base = self.first + skip as u64;
        (base..)
            .zip(self.slots.range(skip..))
            .filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
    }

    /// Sets the value at `index` and returns what was there.
    pub(super) fn set(&mut self, index: u64, value: T) -> Option<T> {
        if self.slots.is_empty() {
            self.first = index;
        }
        while index < self.first {
            self.slots.push_front(None);
            self.first -= 1;
        }
        let at = (index - self.first) as usize;
        while self.slots.len() <= at {
            self.slots.push_back(None);
        }
        self.slots[at].replace(value)
    }

    /// Removes what comes after `keep`, or everything.
    pub(super) fn truncate_after(&mut self, keep: Option<u64>, mut removed: impl FnMut(T)) {
        while let Some(next) = self.next()
            && (keep.is_none_or(|keep| next - 1 > keep) || self.last().is_none())
        {
            self.slots
                .pop_back()
                .flatten()
                .into_iter()
                .for_each(&mut removed);
        }
    }

    /// Removes what lies at or before `upto`.
    pub(super) fn purge(&mut self, upto: u64, mut removed: impl FnMut(T)) {
        while let Some(first) = self.slots.front()
            && (self.first <= upto || first.is_none())
        {
            self.slots
                .pop_front()
                .flatten()
                .into_iter()
                .for_each(&mut removed);
            self.first += 1;
        }
        // A log that shrank much gives its memory back.
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// The first index between the ends that holds nothing.
    pub(super) fn hole(&self) -> Option<u64> {
        let at = self.slots.iter().position(Option::is_none)?;
        Some(self.first + at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(slots: &Slots<char>) -> Vec<(u64, char)> {
        slots
            .from(0)
            .map(|(index, value)| (index, *value))
            .collect()
    }

    #[test]
    fn is_cut_at_both_ends() {
        let mut slots = Slots::default();
        for (index, value) in (5..).zip("abcdef".chars()) {
            assert_eq!(slots.set(index, value), None);
        }
        let mut gone = Vec::new();
        slots.truncate_after(Some(8), |value| gone.push(value));
        slots.purge(5, |value| gone.push(value));
        assert_eq!(gone, ['f', 'e', 'a']);
        assert_eq!(all(&slots), [(6, 'b'), (7, 'c'), (8, 'd')]);
        assert_eq!(slots.next(), Some(9));
        assert_eq!(slots.from(8).count(), 1);
        assert_eq!(slots.from(9).count(), 0);
        slots.truncate_after(None, drop);
        assert_eq!(slots.next(), None);
        slots.set(3, 'x');
        assert_eq!(all(&slots), [(3, 'x')]);
    }

    #[test]
    fn may_be_filled_in_any_order() {
        let mut slots = Slots::default();
        slots.set(7, 'c');
        slots.set(5, 'a');
        assert_eq!(slots.hole(), Some(6));
        assert_eq!(slots.get(6), None);
        slots.set(6, 'b');
        assert_eq!(slots.hole(), None);
        assert_eq!(slots.set(6, 'B'), Some('b'));
        assert_eq!(all(&slots), [(5, 'a'), (6, 'B'), (7, 'c')]);
    }

    #[test]
    fn holes_at_the_ends_are_not_kept() {
        let mut slots = Slots::default();
        slots.set(1, 'a');
        slots.set(5, 'e');
        slots.truncate_after(Some(4), drop);
        assert_eq!(slots.next(), Some(2));
        slots.set(5, 'e');
        slots.purge(1, drop);
        assert_eq!(all(&slots), [(5, 'e')]);
        assert_eq!(slots.hole(), None);
    }
}
