//! Where names are, by their hashes. The names themselves are kept once, by what they name.

use std::fmt;

use hashbrown::HashTable;

/// Values by the hashes of their names. Hashes are kept, so that growing and shrinking look at no
/// name: these are all over memory, and a million of them would be a noticeable pause.
#[derive(Debug)]
pub(crate) struct Index<T>(HashTable<(u32, T)>);

/// The hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameHash(u32);

impl From<u64> for NameHash {
    fn from(hash: u64) -> Self {
        Self((hash >> 32) as u32)
    }
}

impl<T: Copy + PartialEq + fmt::Debug> Index<T> {
    pub(crate) fn new() -> Self {
        Self(HashTable::new())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }

    /// Returns the value whose name has this hash and is the one that is meant.
    pub(crate) fn find(&self, hash: NameHash, is_meant: impl Fn(T) -> bool) -> Option<T> {
        let found = self.0.find(spread(hash.0), |(other, value)| {
            *other == hash.0 && is_meant(*value)
        });
        found.map(|(_, value)| *value)
    }

    /// Adds a value, whose name must not be there.
    pub(crate) fn insert(&mut self, hash: NameHash, value: T) {
        self.0
            .insert_unique(spread(hash.0), (hash.0, value), |(hash, _)| spread(*hash));
    }

    /// Takes a value out, which must be there.
    pub(crate) fn remove(&mut self, hash: NameHash, value: T) {
        let entry = self
            .0
            .find_entry(spread(hash.0), |(_, other)| *other == value);
        entry.expect("what is named is indexed").remove();
        if self.0.len() * 8 < self.0.capacity() && self.0.capacity() > SHRINK_FLOOR {
            let half = self.0.len() * 2;
            self.0.shrink_to(half, |(hash, _)| spread(*hash));
        }
    }
}

/// Makes all bits of a table's hash of the bits that are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Indices below this capacity are not worth shrinking.
const SHRINK_FLOOR: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_one_hash_are_told_apart_and_memory_is_given_back() {
        let mut index = Index::new();
        let hash = |value: u32| NameHash::from(u64::from(value / 2) << 32);
        for value in 0..10_000 {
            index.insert(hash(value), value);
        }
        let full = index.0.capacity();
        for value in 0..10_000 {
            let found = index.find(hash(value), |other| other == value);
            assert_eq!(found, Some(value));
        }
        for value in 3..10_000 {
            index.remove(hash(value), value);
        }
        assert_eq!(index.find(hash(3), |other| other == 3), None);
        assert_eq!(index.find(hash(2), |other| other == 2), Some(2));
        assert_eq!(index.len(), 3);
        assert!(index.0.capacity() < full / 4, "{}", index.0.capacity());
        let mut values: Vec<_> = index.values().collect();
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2]);
    }
}
