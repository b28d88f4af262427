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
    /// False while the set of a newer session is not complete and an older one stands for it.
    pub(crate) counted: bool,
    /// Its gateway said that all of it was told.
    complete: bool,
}

/// All sources of a region in one shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    slots: Vec<Option<Source>>,
    free: Vec<SourceIndex>,
    by_key: BTreeMap<SourceKey, SourceIndex>,
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
        let stands = self.sessions(&key).any(|other| other.key < key);
        let source = Source {
            key: key.clone(),
            node,
            incarnation,
            counted: !stands,
            complete: false,
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

    /// Marks a source as told whole and counted; returns the older sessions that it replaces.
    pub(crate) fn complete(&mut self, index: SourceIndex) -> Vec<SourceIndex> {
        let source = self.slots[index as usize]
            .as_mut()
            .expect("only called for known sources");
        source.complete = true;
        source.counted = true;
        let key = source.key.clone();
        let older = self.sessions(&key).filter(|other| other.key < key);
        older.map(|other| self.by_key[&other.key]).collect()
    }

    /// Takes a source out; returns sessions of its edge that count from now on, since none older
    /// stands for them.
    pub(crate) fn remove(&mut self, index: SourceIndex) -> Option<SourceIndex> {
        let source = self.slots[index as usize]
            .take()
            .expect("only called for known sources");
        self.by_key.remove(&source.key);
        self.free.push(index);
        let oldest = self.sessions(&source.key).next()?;
        let next = self.by_key[&oldest.key];
        let oldest = self.slots[next as usize]
            .as_mut()
            .expect("indexed sources exist");
        let starts = !std::mem::replace(&mut oldest.counted, true);
        starts.then_some(next)
    }

    /// Returns whether all of the source was told.
    pub(crate) fn is_complete(&self, index: SourceIndex) -> bool {
        self.get(index).complete
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
