//! A channel that the node is interested in, as its subscribers see it.

use std::collections::BTreeMap;

use crate::io::{Action, Refusal};
use crate::member::{Change, Member, MemberKey};

/// What subscribers are shown, in order.
type Shown = Vec<(Action, Member)>;

/// The channel's members here, and what the owner told of those elsewhere.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) local: BTreeMap<MemberKey, Member>,
    /// Kept while there is no owner. Those that are local, too, are not shown.
    pub(super) remote: BTreeMap<MemberKey, Member>,
    /// Whether a set was told since the interest began.
    pub(super) known: bool,
    /// Whether a set was told on the current stream; changes before it lead from nowhere.
    synced: bool,
    /// The parts of a set so far, until its last.
    incoming: Option<BTreeMap<MemberKey, Member>>,
}

impl Channel {
    /// Prepares for a new stream. What is shown stays until its set has come.
    pub(super) fn reopen(&mut self) {
        self.synced = false;
        self.incoming = None;
    }

    /// Takes a local change, unless it is not news. Returns whether the owner is to be told.
    pub(super) fn take_local(
        &mut self,
        change: &Change,
        members_max: usize,
        shown: &mut Shown,
    ) -> Result<bool, Refusal> {
        let Member { key, newness, .. } = change.member();
        let held = self.local.get(key);
        if held.is_some_and(|held| held.newness >= *newness) {
            return Ok(false);
        }
        match change {
            Change::Put(member) => {
                let full = self.local.len() + self.remote.len() >= members_max;
                if held.is_none() && full {
                    return Err(Refusal::MembersFull { max: members_max });
                }
                self.local.insert(key.clone(), member.clone());
                Ok(true)
            }
            Change::Leave(_) => {
                let told = self.local.remove(key).is_some();
                // Its connection moved, and another node has it already.
                let elsewhere = self.remote.get(key).filter(|_| told);
                shown.extend(elsewhere.map(|member| (Action::Enter, member.clone())));
                Ok(told)
            }
        }
    }

    /// Takes a part of a set; with the last, what is shown becomes that set. Returns how many
    /// members there was no room for.
    pub(super) fn take_part(
        &mut self,
        members: Vec<Member>,
        (first, last): (bool, bool),
        members_max: usize,
        shown: &mut Shown,
    ) -> u64 {
        if first {
            self.incoming = Some(BTreeMap::new());
        }
        // A set whose beginning was for an earlier interest is of no use; another one follows.
        let Some(incoming) = &mut self.incoming else {
            return 0;
        };
        let mut dropped = 0;
        for member in members {
            if incoming.len() < members_max {
                incoming.insert(member.key.clone(), member);
            } else {
                dropped += 1;
            }
        }
        if last {
            let set = self.incoming.take().unwrap_or_default();
            self.replace(set, shown);
        }
        dropped
    }

    fn replace(&mut self, set: BTreeMap<MemberKey, Member>, shown: &mut Shown) {
        let gone = self.remote.keys().filter(|key| !set.contains_key(key));
        let gone: Vec<MemberKey> = gone.cloned().collect();
        for key in gone {
            let removed = self.remove(&key);
            shown.extend(removed.map(|member| (Action::Leave, member)));
        }
        let new = if self.known {
            Action::Enter
        } else {
            Action::Present
        };
        for member in set.into_values() {
            self.put(member, new, shown);
        }
        self.synced = true;
        self.known = true;
    }

    /// Takes changes that follow a set. Returns how many members there was no room for.
    pub(super) fn take_changes(
        &mut self,
        changes: Vec<Change>,
        members_max: usize,
        shown: &mut Shown,
    ) -> u64 {
        if !self.synced {
            return 0;
        }
        let mut dropped = 0;
        for change in changes {
            match change {
                Change::Put(member) => {
                    let full = self.remote.len() >= members_max;
                    if full && !self.remote.contains_key(&member.key) {
                        dropped += 1;
                    } else {
                        self.put(member, Action::Enter, shown);
                    }
                }
                Change::Leave(member) => {
                    let removed = self.remove(&member.key);
                    shown.extend(removed.map(|_| (Action::Leave, member)));
                }
            }
        }
        dropped
    }

    /// Takes a remote member: shown as `new` if it was not there.
    fn put(&mut self, member: Member, new: Action, shown: &mut Shown) {
        let before = self.remote.insert(member.key.clone(), member.clone());
        if self.local.contains_key(&member.key) {
            return;
        }
        match before {
            None => shown.push((new, member)),
            Some(before) if before != member => shown.push((Action::Update, member)),
            Some(_) => {}
        }
    }

    /// Removes a remote member, and returns it if it was shown.
    fn remove(&mut self, key: &MemberKey) -> Option<Member> {
        let hidden = self.local.contains_key(key);
        self.remote.remove(key).filter(|_| !hidden)
    }
}
