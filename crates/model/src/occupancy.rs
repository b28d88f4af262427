//! The eight counts and the channel modes that they count.

use std::fmt;

/// Category: one of the eight metrics of occupancy (`contract.md` section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Category {
    /// Attachments of any kind.
    Connections,
    /// Attachments that may publish.
    Publishers,
    /// Attachments that receive messages.
    Subscribers,
    /// Attachments that may enter presence, whether or not they have.
    PresenceConnections,
    /// Entries of the presence set: (connection, client id) pairs, not attachments.
    PresenceMembers,
    /// Attachments that receive presence.
    PresenceSubscribers,
    /// Attachments that asked to publish objects.
    ObjectPublishers,
    /// Attachments that asked to receive objects.
    ObjectSubscribers,
}

impl Category {
    /// All categories, in the order in which an [`Occupancy`] holds them.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::Publishers,
        Self::Subscribers,
        Self::PresenceConnections,
        Self::PresenceMembers,
        Self::PresenceSubscribers,
        Self::ObjectPublishers,
        Self::ObjectSubscribers,
    ];

    /// Returns the contract's name of the category.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Publishers => "publishers",
            Self::Subscribers => "subscribers",
            Self::PresenceConnections => "presenceConnections",
            Self::PresenceMembers => "presenceMembers",
            Self::PresenceSubscribers => "presenceSubscribers",
            Self::ObjectPublishers => "objectPublishers",
            Self::ObjectSubscribers => "objectSubscribers",
        }
    }
}

/// Modes: what an attachment may do on its channel, already cut to what its credential permits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Modes(u8);

impl Modes {
    /// May publish messages.
    pub const PUBLISH: Self = Self(1);
    /// Receives messages.
    pub const SUBSCRIBE: Self = Self(2);
    /// May enter presence.
    pub const PRESENCE: Self = Self(4);
    /// Receives presence.
    pub const PRESENCE_SUBSCRIBE: Self = Self(8);
    /// Publishes objects.
    pub const OBJECT_PUBLISH: Self = Self(16);
    /// Receives objects.
    pub const OBJECT_SUBSCRIBE: Self = Self(32);
    /// What an ordinary attachment with a full credential has: everything but the object modes.
    pub const DEFAULT: Self = Self(15);

    /// Every mode with its protocol name.
    pub const NAMED: [(Self, &'static str); 6] = [
        (Self::PUBLISH, "publish"),
        (Self::SUBSCRIBE, "subscribe"),
        (Self::PRESENCE, "presence"),
        (Self::PRESENCE_SUBSCRIBE, "presence_subscribe"),
        (Self::OBJECT_PUBLISH, "object_publish"),
        (Self::OBJECT_SUBSCRIBE, "object_subscribe"),
    ];

    /// Returns the modes with these bits, or `None` if a bit is none of ours.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        u8::try_from(bits).ok().filter(|bits| *bits < 64).map(Self)
    }

    /// Returns the modes as bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    /// Returns whether every mode of `other` is among these.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the modes of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the counts of one attachment with these modes.
    #[must_use]
    pub fn occupancy(self) -> Occupancy {
        let one = |mode| u32::from(self.contains(mode));
        let mut occupancy = Occupancy::ZERO;
        occupancy.set(Category::Connections, 1);
        occupancy.set(Category::Publishers, one(Self::PUBLISH));
        occupancy.set(Category::Subscribers, one(Self::SUBSCRIBE));
        occupancy.set(Category::PresenceConnections, one(Self::PRESENCE));
        occupancy.set(Category::PresenceSubscribers, one(Self::PRESENCE_SUBSCRIBE));
        occupancy.set(Category::ObjectPublishers, one(Self::OBJECT_PUBLISH));
        occupancy.set(Category::ObjectSubscribers, one(Self::OBJECT_SUBSCRIBE));
        occupancy
    }
}

impl fmt::Debug for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMED.iter().filter(|(mode, _)| self.contains(*mode));
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}

/// Occupancy: the eight counts of one channel, as seen from one source, one region or everywhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Occupancy([u32; 8]);

impl Occupancy {
    /// Nobody there.
    pub const ZERO: Self = Self([0; 8]);

    /// Returns the counts in the order of [`Category::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u32; 8] {
        self.0
    }

    /// Takes counts in the order of [`Category::ALL`].
    #[must_use]
    pub fn from_counts(counts: [u32; 8]) -> Self {
        Self(counts)
    }

    /// Returns one count.
    #[must_use]
    pub fn get(&self, category: Category) -> u32 {
        self.0[category as usize]
    }

    /// Sets one count.
    pub fn set(&mut self, category: Category, count: u32) {
        self.0[category as usize] = count;
    }

    /// Returns whether every count is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Returns the sum, category by category, each at most `u32::MAX`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u32::saturating_add)
    }

    /// Returns the difference, category by category, each at least zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u32::saturating_sub)
    }

    /// Returns the larger count of each category: what an adopting owner publishes (R9).
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u32::max)
    }

    /// Returns whether going from `self` to `next` is a crossing: some category goes 0 ↔ non-zero.
    #[must_use]
    pub fn crosses(&self, next: &Self) -> bool {
        // Asked of each attach: without branches, all categories at once.
        let both = self.0.iter().zip(&next.0);
        both.fold(false, |any, (from, to)| any | ((*from == 0) != (*to == 0)))
    }

    fn zip(self, other: Self, combine: impl Fn(u32, u32) -> u32) -> Self {
        Self(std::array::from_fn(|i| combine(self.0[i], other.0[i])))
    }
}

impl std::iter::Sum for Occupancy {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Debug for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Category::ALL
            .iter()
            .map(|category| (category.as_str(), self.get(*category)));
        f.debug_map()
            .entries(counts.filter(|(_, count)| *count > 0))
            .finish()
    }
}

/// Compact occupancy: an [`Occupancy`] as tables hold it by the million, in half of the memory
/// while no count is above 255.
#[derive(Clone, PartialEq, Eq)]
pub struct CompactOccupancy(Counts);

/// Equal counts have one form.
#[derive(Clone, PartialEq, Eq)]
enum Counts {
    Small([u8; 8]),
    Large(Box<Occupancy>),
}

impl CompactOccupancy {
    /// Nobody there.
    pub const ZERO: Self = Self(Counts::Small([0; 8]));

    /// Returns the counts.
    #[must_use]
    pub fn get(&self) -> Occupancy {
        match &self.0 {
            Counts::Small(counts) => Occupancy(counts.map(u32::from)),
            Counts::Large(occupancy) => **occupancy,
        }
    }

    /// Returns whether every count is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl From<Occupancy> for CompactOccupancy {
    fn from(occupancy: Occupancy) -> Self {
        if occupancy.0.iter().any(|count| *count > u32::from(u8::MAX)) {
            return Self(Counts::Large(Box::new(occupancy)));
        }
        Self(Counts::Small(occupancy.0.map(|count| count as u8)))
    }
}

impl Default for CompactOccupancy {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for CompactOccupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn occupancies() -> impl Strategy<Value = Occupancy> {
        // Some are near the bound, where sums stay.
        let count = prop_oneof![0..10_u32, u32::MAX - 5..=u32::MAX];
        proptest::collection::vec(count, Category::ALL.len()).prop_map(|counts| {
            let mut occupancy = Occupancy::ZERO;
            for (category, count) in Category::ALL.into_iter().zip(counts) {
                occupancy.set(category, count);
            }
            occupancy
        })
    }

    proptest! {
        #[test]
        fn counts_add_up_in_any_order(
            a in occupancies(), b in occupancies(), c in occupancies()
        ) {
            prop_assert_eq!(a.plus(b), b.plus(a));
            prop_assert_eq!(a.plus(b).plus(c), a.plus(b.plus(c)));
            prop_assert_eq!(a.plus(Occupancy::ZERO), a);
        }

        #[test]
        fn compact_counts_are_the_same_counts(a in occupancies(), b in occupancies()) {
            let (small, large) = (CompactOccupancy::from(a), CompactOccupancy::from(b));
            prop_assert_eq!((small.get(), large.get()), (a, b));
            prop_assert_eq!(small == large, a == b);
            prop_assert_eq!(small.is_zero(), a.is_zero());
        }
    }

    #[test]
    fn compact_counts_take_half_of_the_memory() {
        assert_eq!(size_of::<CompactOccupancy>() * 2, size_of::<Occupancy>());
        let mut counts = Occupancy::ZERO;
        for count in [255, 256] {
            counts.set(Category::ObjectSubscribers, count);
            assert_eq!(CompactOccupancy::from(counts).get(), counts);
        }
        assert!(CompactOccupancy::default().is_zero());
    }

    #[test]
    fn a_plain_attachment_counts_in_five_categories() {
        let counts = Modes::DEFAULT.occupancy().counts();
        assert_eq!(counts, [1, 1, 1, 1, 0, 1, 0, 0]);
    }

    #[test]
    fn crossing_is_about_zero_only() {
        let one = Modes::DEFAULT.occupancy();
        assert!(Occupancy::ZERO.crosses(&one) && one.crosses(&Occupancy::ZERO));
        assert!(!one.crosses(&one.plus(one)));
    }
}
