//! The places of one connection: mostly a handful, sometimes very many.

use std::collections::BTreeMap;

use headcount_model::Modes;
use smallvec::SmallVec;

use crate::table::Place;

/// What a connection has at a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachment {
    pub(crate) modes: Modes,
    /// Whether its source holds members of it.
    pub(crate) has_members: bool,
}

/// Attachments by place; iteration is by ascending place.
#[derive(Clone, Debug)]
pub(crate) enum Attachments {
    /// Ascending. Inserting moves what follows, which is cheapest for few and dear for many.
    Few(SmallVec<[(Place, Attachment); 1]>),
    Many(BTreeMap<Place, Attachment>),
}

/// For how many more attachments room is made with the second.
const MORE: usize = 3;

/// Most attachments that are kept in a row.
const FEW_MAX: usize = 128;

impl Attachments {
    pub(crate) fn new() -> Self {
        Self::Few(SmallVec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Attachment> {
        match self {
            Self::Few(few) => {
                let index = few.binary_search_by_key(&place, |(at, _)| *at).ok()?;
                Some(&mut few[index].1)
            }
            Self::Many(many) => many.get_mut(&place),
        }
    }

    /// Adds an attachment at a place that has none.
    pub(crate) fn insert(&mut self, place: Place, attachment: Attachment) {
        match self {
            Self::Few(few) if few.len() < FEW_MAX => {
                if few.len() == 1 {
                    // Whoever is attached to two channels is often attached to more.
                    few.reserve_exact(MORE);
                }
                let index = few.partition_point(|(at, _)| *at < place);
                few.insert(index, (place, attachment));
            }
            Self::Few(few) => {
                let mut many: BTreeMap<_, _> = few.drain(..).collect();
                many.insert(place, attachment);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(place, attachment);
            }
        }
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<Attachment> {
        match self {
            Self::Few(few) => {
                let index = few.binary_search_by_key(&place, |(at, _)| *at).ok()?;
                Some(few.remove(index).1)
            }
            Self::Many(many) => many.remove(&place),
        }
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<(Place, Attachment)> {
        match std::mem::replace(self, Self::new()) {
            Self::Few(few) => few.into_vec(),
            Self::Many(many) => many.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_behave_alike() {
        let attachment = |n: u32| Attachment {
            modes: Modes::from_bits(n % 64).unwrap(),
            has_members: false,
        };
        let mut all = Attachments::new();
        let numbers = || (0..500_u32).map(|n| n * 77 % 500);
        for n in numbers() {
            assert!(all.get_mut(Place::new(1, n)).is_none());
            all.insert(Place::new(1, n), attachment(n));
        }
        for n in numbers().take(250) {
            let modes = all.get_mut(Place::new(1, n)).map(|held| held.modes.bits());
            assert_eq!(modes, Some(n % 64));
            assert!(all.remove(Place::new(1, n)).is_some());
            assert!(all.remove(Place::new(1, n)).is_none());
        }
        assert!(!all.is_empty());
        let places: Vec<_> = all.take().into_iter().map(|(place, _)| place).collect();
        assert_eq!(places.len(), 250);
        assert!(places.is_sorted() && all.is_empty());
    }
}
