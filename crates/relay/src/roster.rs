//! A channel's members, by who holds them.

use std::collections::BTreeMap;

use headcount_model::{NodeId, RegionName};
use smallvec::SmallVec;

use crate::member::{Change, Member, MemberKey};

/// Source: who says that a member is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A gateway of the region.
    Node(NodeId),
    /// The owner of another region.
    Region(RegionName),
}

impl Source {
    pub(crate) fn is_node(&self) -> bool {
        matches!(self, Self::Node(_))
    }
}

/// A member as one source holds it.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) source: Source,
    /// The round of the source's stream in which it was last told; 0 for regions.
    pub(crate) round: u64,
    pub(crate) member: Member,
}

/// Nearly always one: several hold a member only while its connection moves between nodes.
pub(crate) type Holdings = SmallVec<[Holding; 1]>;

/// All members of a channel.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    members: BTreeMap<MemberKey, Holdings>,
}

impl Roster {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn holdings(&self, key: &MemberKey) -> &[Holding] {
        self.members.get(key).map_or(&[], |holdings| holdings)
    }

    /// Replaces what `source` holds of the member. Returns false, and does nothing, if the member
    /// is new and there are `members_max` already.
    pub(crate) fn put(&mut self, holding: Holding, members_max: usize) -> bool {
        let full = self.members.len() >= members_max;
        if full && !self.members.contains_key(&holding.member.key) {
            return false;
        }
        let key = holding.member.key.clone();
        let holdings = self.members.entry(key).or_default();
        match holdings.iter_mut().find(|h| h.source == holding.source) {
            Some(held) => *held = holding,
            None => holdings.push(holding),
        }
        true
    }

    pub(crate) fn remove(&mut self, source: &Source, key: &MemberKey) {
        if let Some(holdings) = self.members.get_mut(key) {
            holdings.retain(|holding| holding.source != *source);
            if holdings.is_empty() {
                self.members.remove(key);
            }
        }
    }

    /// Returns what `source` holds, by key.
    pub(crate) fn held_by(&self, source: &Source) -> impl Iterator<Item = &Holding> {
        let holdings = self.members.values().flatten();
        holdings.filter(move |holding| holding.source == *source)
    }

    /// Returns each member, by key, as the newest of the sources has it that `seen` lets through.
    pub(crate) fn view(&self, seen: impl Fn(&Source) -> bool) -> impl Iterator<Item = &Member> {
        let members = self.members.values();
        members.filter_map(move |holdings| newest(holdings, &seen))
    }
}

/// Returns the newest among `holdings` whose source `seen` lets through. Equal newness is decided
/// by the source, so that all who see the same holdings see the same member.
pub(crate) fn newest(holdings: &[Holding], seen: impl Fn(&Source) -> bool) -> Option<&Member> {
    let holdings = holdings.iter().filter(|holding| seen(&holding.source));
    let newest = holdings.max_by_key(|holding| (holding.member.newness, &holding.source));
    newest.map(|holding| &holding.member)
}

/// Returns what leads from `before` to `after`, if they differ. `change` is what caused it.
pub(crate) fn difference(
    before: Option<&Member>,
    after: Option<&Member>,
    change: &Change,
) -> Option<Change> {
    match (before, after) {
        (_, Some(after)) => (before != Some(after)).then(|| Change::Put(after.clone())),
        (Some(before), None) => Some(match change {
            Change::Leave(_) => change.clone(),
            Change::Put(_) => Change::Leave(before.clone()),
        }),
        (None, None) => None,
    }
}
