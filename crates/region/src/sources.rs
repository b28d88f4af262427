//! Who counts: sessions of edges and the direct clients of nodes (R8).

use std::collections::BTreeMap;

use headcount_model::{EdgeId, Incarnation, NodeId, SourceId};

/// Number of a source in the table; small, because every register holds one.
pub(crate) type SourceIndex = u32;

/// A source, told apart across nodes and their incarnations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKey {
    /// A session of an edge, wherever it is connected.
    Session(EdgeId, Incarnation, u64),
    /// The direct clients of one life of a node.
    Clients(NodeId, Incarnation),
}

#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) key: SourceKey,
    /// The gateway that speaks for it.
    pub(crate) node: NodeId,
    /// The gateway's incarnation; an older one than the gateway's makes the source an orphan.
    pub(crate) incarnation: Incarnation,
    /// Whether it counts: of an edge's sessions one does. That is the complete one; while none is,
    /// the one that was heard first, so that nothing is counted twice whatever order they come in.
    pub(crate) counted: bool,
    /// Whether it began or ceased to count, so that its channels are to be looked at.
    pub(crate) changed: bool,
    /// Whether it has ended, so that its registers are to be taken out.
    pub(crate) ended: bool,
    /// Its gateway said that all of it was told.
    complete: bool,
    /// The number of the gateway's stream that said so last.
    completed_on: u64,
}

/// All sources of a region in one shard.
///
/// Those that end keep their slots until [`Sources::settle`], as registers name them by these: so
/// that one walk over all channels does for any number of sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    slots: Vec<Option<Source>>,
    free: Vec<SourceIndex>,
    by_key: BTreeMap<SourceKey, SourceIndex>,
    /// Sources that have ended.
    ended: Vec<SourceIndex>,
    /// Sources that began or ceased to count; they may have ended, too.
    changed: Vec<SourceIndex>,
}

impl Sources {
    pub(crate) fn get(&self, index: SourceIndex) -> &Source {
        self.slots[index as usize]
            .as_ref()
            .expect("a register's source is in the table")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SourceIndex, &Source)> {
        self.by_key.values().map(|index| (*index, self.get(*index)))
    }

    /// Returns the index of a source, adding it if it is new; `None` if a newer session of its edge
    /// has already replaced it.
    pub(crate) fn admit(
        &mut self,
        id: &SourceId,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Option<SourceIndex> {
        let key = match id {
            SourceId::Edge {
                edge,
                incarnation,
                session,
            } => SourceKey::Session(edge.clone(), *incarnation, *session),
            SourceId::Clients => SourceKey::Clients(node, incarnation),
        };
        if let Some(index) = self.by_key.get(&key).copied() {
            let source = self.slots[index as usize]
                .as_mut()
                .expect("indexed sources exist");
            // The session moved to another gateway without a new number: the later word counts.
            source.node = node;
            source.incarnation = incarnation;
            return Some(index);
        }
        let replaced = self
            .sessions(&key)
            .any(|other| other.key > key && other.complete);
        if replaced {
            return None;
        }
        let stands = self.sessions(&key).any(|other| other.counted);
        let source = Source {
            key: key.clone(),
            node,
            incarnation,
            counted: !stands,
            changed: false,
            ended: false,
            complete: false,
            completed_on: 0,
        };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(source);
            index
        } else {
            let index = SourceIndex::try_from(self.slots.len()).expect("fewer than 2^32 sources");
            self.slots.push(Some(source));
            index
        };
        self.by_key.insert(key, index);
        Some(index)
    }

    /// Marks a source as told whole, on this stream, and counted, in the place of a newer session
    /// that counted so far although it is not complete. Returns the older ones that it replaces.
    pub(crate) fn complete(&mut self, index: SourceIndex, stream: u64) -> Vec<SourceIndex> {
        self.count(index, true);
        let source = self.at_mut(index);
        source.complete = true;
        source.completed_on = stream;
        let key = source.key.clone();
        let older = self.sessions(&key).filter(|other| other.key < key);
        let older = older.map(|other| self.by_key[&other.key]).collect();
        let is_newer = |other: &&Source| other.key > key && other.counted;
        let newer = self.sessions(&key).find(is_newer);
        let newer = newer.map(|other| self.by_key[&other.key]);
        if let Some(newer) = newer {
            self.count(newer, false);
        }
        older
    }

    /// Ends sources. Where one was the session of its edge that counted, the oldest that is left
    /// does from now on.
    pub(crate) fn end_all(&mut self, indexes: impl IntoIterator<Item = SourceIndex>) {
        for index in indexes {
            self.end(index);
        }
    }

    fn end(&mut self, index: SourceIndex) {
        let key = self.get(index).key.clone();
        self.by_key.remove(&key);
        self.ended.push(index);
        self.at_mut(index).ended = true;
        if self.sessions(&key).any(|other| other.counted) {
            return;
        }
        let oldest = self.sessions(&key).next();
        if let Some(next) = oldest.map(|oldest| self.by_key[&oldest.key]) {
            self.count(next, true);
        }
    }

    /// Sets whether a source counts.
    fn count(&mut self, index: SourceIndex, counted: bool) {
        let source = self.at_mut(index);
        if source.counted != counted {
            source.counted = counted;
            if !std::mem::replace(&mut source.changed, true) {
                self.changed.push(index);
            }
        }
    }

    /// Returns whether registers are to be taken out, or channels to be looked at.
    pub(crate) fn is_unsettled(&self) -> bool {
        !(self.ended.is_empty() && self.changed.is_empty())
    }

    /// Gives up the slots of ended sources, which no register names any more, and forgets what has
    /// changed.
    pub(crate) fn settle(&mut self) {
        for index in std::mem::take(&mut self.changed) {
            self.at_mut(index).changed = false;
        }
        for index in std::mem::take(&mut self.ended) {
            self.slots[index as usize] = None;
            self.free.push(index);
        }
    }

    /// Returns whether the source's gateway said on this stream that all of it was told.
    pub(crate) fn is_complete_on(&self, index: SourceIndex, stream: u64) -> bool {
        let source = self.get(index);
        source.complete && source.completed_on == stream
    }

    fn at_mut(&mut self, index: SourceIndex) -> &mut Source {
        self.slots[index as usize]
            .as_mut()
            .expect("only called for known sources")
    }

    /// Returns every session of the same edge as `key`, oldest first; nothing for direct clients.
    fn sessions(&self, key: &SourceKey) -> impl Iterator<Item = &Source> {
        let edge = match key {
            SourceKey::Session(edge, ..) => Some(edge.clone()),
            SourceKey::Clients(..) => None,
        };
        edge.into_iter().flat_map(|edge| {
            let first = SourceKey::Session(edge.clone(), Incarnation(0), 0);
            let last = SourceKey::Session(edge, Incarnation(u64::MAX), u64::MAX);
            self.by_key
                .range(first..=last)
                .map(|(_, index)| self.get(*index))
        })
    }
}
