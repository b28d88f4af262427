//! What a store holds of its replicas, for whoever examines disks: nothing here runs a group.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use headcount_model::ReplicaId;

use crate::codec;
use crate::store::Store;
use crate::types::{Membership, Payload};

/// Dump: a replica as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Which replica; unique among all groups of a cluster.
    pub replica: ReplicaId,
    /// The snapshot's chunks, as the machine's [`Frozen`](crate::Frozen) view made them, and the
    /// index of the last entry in it.
    pub snapshot: Option<(u64, Vec<Bytes>)>,
    /// The log from where it begins, without holes. Its first entries may be in the snapshot, too.
    pub entries: Vec<DumpedEntry>,
    /// The newest members that it was told of.
    pub members: DumpedMembers,
    /// Up to where the store says that the log is committed; the truth may be later.
    pub committed: Option<u64>,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedEntry {
    /// Its place in the log, from 0.
    pub index: u64,
    /// Everything that was written of it, its leadership included.
    pub bytes: Bytes,
    /// The machine's command, if it is one.
    pub command: Option<Bytes>,
}

/// Members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpedMembers {
    /// The entry that brought them.
    pub since: Option<u64>,
    /// Voters and learners.
    pub all: BTreeSet<ReplicaId>,
    /// Those who vote: one set, or two while the group moves from one to the other.
    pub voters: Vec<BTreeSet<ReplicaId>>,
}

impl DumpedMembers {
    fn of(membership: &Membership, since: Option<u64>) -> Self {
        let replicas = |ids: &BTreeSet<u64>| ids.iter().copied().map(ReplicaId).collect();
        Self {
            since,
            all: membership.nodes().map(|(id, _)| ReplicaId(*id)).collect(),
            voters: membership.get_joint_config().iter().map(replicas).collect(),
        }
    }
}

impl Dump {
    /// Reads everything that a store holds of its replicas, ascending. Nobody may write to it
    /// meanwhile: what a new snapshot replaces would be missing.
    ///
    /// # Errors
    /// If something in it is not understood.
    pub fn all(store: &Store) -> io::Result<Vec<Self>> {
        let replicas = store.groups().into_iter();
        replicas.map(|id| Self::of(store, ReplicaId(id))).collect()
    }

    fn of(store: &Store, replica: ReplicaId) -> io::Result<Self> {
        let mut members = DumpedMembers::default();
        let mut snapshot = None;
        if let Some(reader) = store.snapshot(replica.0) {
            let meta = codec::snapshot_meta_from_bytes(reader.meta())?;
            let stored = &meta.last_membership;
            let since = stored.log_id().as_ref().map(|id| id.index());
            members = DumpedMembers::of(stored.membership(), since);
            let chunks = (0..reader.chunks()).map(|number| reader.chunk(number));
            let chunks = chunks.collect::<Result<_, _>>().map_err(io::Error::other)?;
            snapshot = Some((meta.last_log_id.map_or(0, |id| id.index()), chunks));
        }
        let mut entries = Vec::new();
        for record in store.entries(replica.0, 0..u64::MAX, usize::MAX) {
            let entry = codec::entry_from_bytes(record.payload.clone())?;
            let command = match entry.payload {
                Payload::Normal(command) => Some(command.0),
                Payload::Blank => None,
                // The snapshot's may be newer.
                Payload::Membership(_) if members.since > Some(record.index) => None,
                Payload::Membership(membership) => {
                    members = DumpedMembers::of(&membership, Some(record.index));
                    None
                }
            };
            entries.push(DumpedEntry {
                index: record.index,
                bytes: record.payload,
                command,
            });
        }
        let committed = store.committed(replica.0);
        let committed = committed.map(|bytes| codec::committed_from_bytes(&bytes));
        let committed = committed.transpose()?.flatten();
        Ok(Self {
            replica,
            snapshot,
            entries,
            members,
            committed: committed.map(|id| id.index()),
        })
    }

    /// Returns the index of the last entry that it has, in its log or in its snapshot.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        let logged = self.entries.last().map(|entry| entry.index);
        logged.max(self.snapshot.as_ref().map(|(last, _)| *last))
    }
}
