//! What each source has registered on each channel, and what of it was published.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use headcount_model::{AppId, ChannelKey, ChannelName, CompactOccupancy, Monotonic, Occupancy};

use crate::sources::{SourceIndex, SourceKey, Sources};

/// One source's counts on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) source: SourceIndex,
    /// Low bits of the number of the stream that said it last: what a complete stream did not
    /// mention is gone.
    pub(crate) stream: u32,
    pub(crate) occupancy: CompactOccupancy,
}

/// Who registered a channel; mostly one does.
#[derive(Clone, Debug, Default)]
pub(crate) enum Registrations {
    #[default]
    None,
    One(Registered),
    /// Two or more. In a box, since every channel has room for what is largest here.
    #[expect(
        clippy::box_collection,
        reason = "a vector takes as much as one registration"
    )]
    Many(Box<Vec<Registered>>),
}

impl Registrations {
    pub(crate) fn as_slice(&self) -> &[Registered] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Sets one source's counts; zero takes them out.
    fn set(&mut self, registered: Registered) {
        match self {
            Self::None if registered.occupancy.is_zero() => {}
            Self::None => *self = Self::One(registered),
            Self::One(old) if old.source == registered.source => {
                *self = if registered.occupancy.is_zero() {
                    Self::None
                } else {
                    Self::One(registered)
                };
            }
            Self::One(_) if registered.occupancy.is_zero() => {}
            Self::One(old) => *self = Self::Many(Box::new(vec![old.clone(), registered])),
            Self::Many(many) => {
                let at = many.iter().position(|old| old.source == registered.source);
                match at {
                    Some(at) if registered.occupancy.is_zero() => {
                        many.swap_remove(at);
                        self.settle();
                    }
                    Some(at) => many[at] = registered,
                    None if registered.occupancy.is_zero() => {}
                    None => many.push(registered),
                }
            }
        }
    }

    /// Takes out what does not stay; returns whether something was.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&Registered) -> bool) -> bool {
        let before = self.as_slice().len();
        match self {
            Self::None => {}
            Self::One(one) => {
                if !stays(one) {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.retain(stays);
                self.settle();
            }
        }
        self.as_slice().len() != before
    }

    /// Brings fewer than two into their own form.
    fn settle(&mut self) {
        if let Self::Many(many) = self
            && many.len() < 2
        {
            *self = many.pop().map_or(Self::None, Self::One);
        }
    }
}

/// Whether a channel is active in the region, and until when, in eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity(u64);

impl Activity {
    pub(crate) const INACTIVE: Self = Self(0);
    pub(crate) const ACTIVE: Self = Self(u64::MAX);

    /// Goes inactive at this time unless somebody comes back.
    ///
    /// # Panics
    /// In five hundred years.
    pub(crate) fn lingering(until: Monotonic) -> Self {
        let nanoseconds = u64::try_from(until.0.as_nanos()).expect("a process ends before");
        Self(nanoseconds + 1)
    }
}

/// A channel that is active in the region, or registered by somebody.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    name: ChannelName,
    pub(crate) registered: Registrations,
    /// What the log or a transition says of the region; zero while inactive.
    pub(crate) published: CompactOccupancy,
    pub(crate) activity: Activity,
}

impl Channel {
    fn new(name: ChannelName) -> Self {
        Self {
            name,
            registered: Registrations::None,
            published: CompactOccupancy::ZERO,
            activity: Activity::INACTIVE,
        }
    }

    /// Returns the channel's key in this app.
    pub(crate) fn key(&self, app: &AppId) -> ChannelKey {
        ChannelKey {
            app: app.clone(),
            name: self.name.clone(),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.activity != Activity::INACTIVE
    }

    /// Returns when it goes inactive unless somebody comes back.
    pub(crate) fn inactive_at(&self) -> Option<Monotonic> {
        match self.activity {
            Activity::INACTIVE | Activity::ACTIVE => None,
            Activity(at) => Some(Monotonic(Duration::from_nanos(at - 1))),
        }
    }

    /// Sets one source's counts; zero takes them out.
    pub(crate) fn register(&mut self, registered: Registered) {
        self.registered.set(registered);
    }

    /// Returns the sum of the channel's sources.
    ///
    /// Direct clients of an earlier life of a node may be among those of its present life, so of
    /// the two only the larger counts, category by category.
    pub(crate) fn sum(&self, sources: &Sources) -> Occupancy {
        let registered = self.registered.as_slice();
        let counted = registered
            .iter()
            .filter(|entry| sources.get(entry.source).counted);
        let mut sum = Occupancy::ZERO;
        for entry in counted {
            let source = sources.get(entry.source);
            let resumed = match source.key {
                SourceKey::Clients(node, incarnation) => {
                    let later = registered.iter().filter(|other| {
                        matches!(sources.get(other.source).key, SourceKey::Clients(n, i)
                            if n == node && i > incarnation)
                    });
                    later.map(|other| other.occupancy.get()).sum()
                }
                SourceKey::Session(..) => Occupancy::ZERO,
            };
            sum = sum.plus(entry.occupancy.get().minus(resumed));
        }
        sum
    }

    /// Returns whether nothing is known of the channel any more.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_active() && self.registered.as_slice().is_empty()
    }
}

/// All channels. Their order is nobody's business.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    /// An app is here while it has channels.
    apps: BTreeMap<AppId, Names>,
    hasher: FixedState,
}

/// The channels of an app. A name stands with its channel only, and channels lie side by side, so
/// that there is nothing but a place for each to pay besides.
#[derive(Clone, Debug, Default)]
struct Names {
    places: HashTable<u32>,
    channels: Vec<Channel>,
}

impl Channels {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            apps: BTreeMap::new(),
            hasher: FixedState::with_seed(hash_seed),
        }
    }

    pub(crate) fn get(&self, key: &ChannelKey) -> Option<&Channel> {
        let names = self.apps.get(&key.app)?;
        let place = names.find(&self.hasher, &key.name)?;
        Some(&names.channels[place])
    }

    pub(crate) fn get_mut(&mut self, key: &ChannelKey) -> Option<&mut Channel> {
        let names = self.apps.get_mut(&key.app)?;
        let place = names.find(&self.hasher, &key.name)?;
        Some(&mut names.channels[place])
    }

    /// Returns a channel, added with nothing known of it if it is new.
    pub(crate) fn get_or_add(&mut self, key: &ChannelKey) -> &mut Channel {
        if !self.apps.contains_key(&key.app) {
            self.apps.insert(key.app.clone(), Names::default());
        }
        let names = self.apps.get_mut(&key.app).expect("it is there by now");
        let place = match names.find(&self.hasher, &key.name) {
            Some(place) => place,
            None => names.add(&self.hasher, key.name.clone()),
        };
        &mut names.channels[place]
    }

    pub(crate) fn remove(&mut self, key: &ChannelKey) {
        let Some(names) = self.apps.get_mut(&key.app) else {
            return;
        };
        names.remove(&self.hasher, &key.name);
        if names.channels.is_empty() {
            self.apps.remove(&key.app);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&AppId, &Channel)> {
        let apps = self.apps.iter();
        apps.flat_map(|(app, names)| names.channels.iter().map(move |channel| (app, channel)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&AppId, &mut Channel)> {
        let apps = self.apps.iter_mut();
        apps.flat_map(|(app, names)| names.channels.iter_mut().map(move |channel| (app, channel)))
    }
}

impl Names {
    fn find(&self, hasher: &FixedState, name: &ChannelName) -> Option<usize> {
        let is_it = |place: &u32| self.channels[*place as usize].name == *name;
        let place = self.places.find(hash(hasher, name), is_it)?;
        Some(*place as usize)
    }

    /// Adds a channel that is not there, at the end.
    fn add(&mut self, hasher: &FixedState, name: ChannelName) -> usize {
        let Self { places, channels } = self;
        let hash_now = hash(hasher, &name);
        let place = channels.len();
        channels.push(Channel::new(name));
        let number = u32::try_from(place).expect("fewer than 2^32 channels");
        places.insert_unique(hash_now, number, |place| {
            hash(hasher, &channels[*place as usize].name)
        });
        place
    }

    /// Takes a channel out; the last one takes its place.
    fn remove(&mut self, hasher: &FixedState, name: &ChannelName) {
        let Self { places, channels } = self;
        let is_it = |place: &u32| channels[*place as usize].name == *name;
        let Ok(found) = places.find_entry(hash(hasher, name), is_it) else {
            return;
        };
        let (free, _) = found.remove();
        let last = channels.len() - 1;
        channels.swap_remove(free as usize);
        if let Some(moved) = channels.get(free as usize) {
            let place = places.find_mut(hash(hasher, &moved.name), |place| *place as usize == last);
            *place.expect("every channel has its place") = free;
        }
    }
}

fn hash(hasher: &FixedState, name: &ChannelName) -> u64 {
    hasher.hash_one(name.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_channel_takes_64_bytes_and_its_name() {
        assert_eq!(size_of::<Channel>(), 64);
    }

    #[test]
    fn a_channel_remembers_to_the_nanosecond_until_when_it_lingers() {
        let mut channel = Channel::new(ChannelName::new("room").unwrap());
        assert!(!channel.is_active());
        for at in [Duration::ZERO, Duration::new(7_000_000, 123_456_789)] {
            channel.activity = Activity::lingering(Monotonic(at));
            assert!(channel.is_active());
            assert_eq!(channel.inactive_at(), Some(Monotonic(at)));
        }
        channel.activity = Activity::ACTIVE;
        assert_eq!((channel.is_active(), channel.inactive_at()), (true, None));
    }

    proptest! {
        #[test]
        fn registrations_are_what_was_said_last(
            steps in proptest::collection::vec((0..4_u32, 0..3_u32, any::<bool>()), 0..60)
        ) {
            let mut registrations = Registrations::None;
            let mut expected = BTreeMap::new();
            for (source, count, ends) in steps {
                let mut occupancy = Occupancy::ZERO;
                occupancy.set(headcount_model::Category::Connections, count);
                if ends {
                    let was_there = expected.remove(&source).is_some();
                    prop_assert_eq!(registrations.retain(|held| held.source != source), was_there);
                } else {
                    registrations.set(Registered { source, stream: 1, occupancy: occupancy.into() });
                    expected.insert(source, occupancy);
                    expected.retain(|_, occupancy| !occupancy.is_zero());
                }
                let held = registrations.as_slice().iter();
                let held: BTreeMap<_, _> =
                    held.map(|held| (held.source, held.occupancy.get())).collect();
                prop_assert_eq!(&held, &expected);
                prop_assert_eq!(held.len(), registrations.as_slice().len());
                prop_assert_eq!(held.len() > 1, matches!(registrations, Registrations::Many(_)));
            }
        }

        #[test]
        fn channels_are_found_whatever_came_and_went(
            steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..20_u8), 0..120)
        ) {
            let mut channels = Channels::new(7);
            let mut expected = std::collections::BTreeSet::new();
            for (adds, app, name) in steps {
                let key = ChannelKey::new(&format!("app{app}"), &format!("room{name}")).unwrap();
                if adds {
                    channels.get_or_add(&key).activity = Activity::ACTIVE;
                    expected.insert(key);
                } else {
                    channels.remove(&key);
                    expected.remove(&key);
                }
                let all: std::collections::BTreeSet<_> =
                    channels.iter().map(|(app, channel)| channel.key(app)).collect();
                prop_assert_eq!(&all, &expected);
                for key in &all {
                    let found = channels.get(key).map(Channel::is_active);
                    prop_assert_eq!(found, Some(true), "{}", key);
                    prop_assert!(channels.get_mut(key).is_some());
                }
            }
            prop_assert!(expected.is_empty() == channels.apps.is_empty());
        }
    }
}
