//! The raft logs as the disks have them once a world is over: whether replicas agree, whether what
//! was told is on a majority of disks, and whether it is what the logs tell (C6, C10).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headcount_checker::{Fault, Log, Rule, Told};
use headcount_consensus::store::memory::MemoryDisk;
use headcount_consensus::store::{Store, StoreConfig};
use headcount_consensus::{Dump, DumpedMembers};
use headcount_coordinator::Shard;
use headcount_model::{
    ChannelKey, Command, Era, EventKind, LoggedEvent, ReplicaId, ShardId, ShardMap, WatchEvent,
};
use headcount_wire::{decode_entry, decode_snapshot};

/// The replicas of a raft group that are its members.
#[derive(Debug)]
struct Group {
    members: DumpedMembers,
    /// With the node on whose disk each is.
    dumps: Vec<(usize, Dump)>,
}

/// Judges what the disks of all nodes hold against what watchers were told, `watched`, of which
/// `is_whole` says whether somebody was told everything. Returns what is wrong, and how many events
/// the logs told again.
pub(crate) fn judge(
    disks: &[MemoryDisk],
    shards: u32,
    watched: &Log,
    is_whole: bool,
) -> (Vec<Fault>, usize) {
    let broken = |rule, what: String| (vec![Fault::new(rule, what)], 0);
    let (groups, _) = match read(disks) {
        Ok(read) => group(read),
        Err(why) => return broken(Rule::Durability, why),
    };
    let of_shards = groups.iter().filter(|group| group.is_of_shard()).count();
    // The control group is the one more.
    if of_shards != shards as usize || groups.len() != of_shards + 1 {
        let what = format!("{of_shards} of {} groups are of shards", groups.len());
        return broken(Rule::Durability, what);
    }
    let mut faults = Vec::new();
    let mut events = 0;
    for group in &groups {
        match group.judge(shards, watched, is_whole) {
            Ok((found, told)) => {
                faults.extend(found);
                events += told;
            }
            Err(why) => faults.push(Fault::new(Rule::Durability, why)),
        }
    }
    (faults, events)
}

/// Returns a replica that a node has kept although its group removed it, if there is one.
pub(crate) fn left(disks: &[MemoryDisk]) -> Option<String> {
    match read(disks) {
        Ok(read) => {
            let (_, left) = group(read);
            let (node, replica) = left.first()?;
            Some(format!("node {node} has not forgotten replica {replica}"))
        }
        Err(why) => Some(why),
    }
}

/// Returns all replicas on the disks, with the node on whose disk each is.
fn read(disks: &[MemoryDisk]) -> Result<Vec<(usize, Dump)>, String> {
    let mut dumps = Vec::new();
    for (node, disk) in disks.iter().enumerate() {
        let unread = |why: String| format!("the disk of node {node} cannot be read: {why}");
        // What it writes when it opens stays out of the world.
        let disk = Arc::new(MemoryDisk::with_files(&disk.files()));
        let opened = Store::open_on(disk, StoreConfig::default());
        let (store, _) = opened.map_err(|error| unread(error.to_string()))?;
        let held = Dump::all(&store).map_err(|error| unread(error.to_string()))?;
        dumps.extend(held.into_iter().map(|dump| (node, dump)));
    }
    Ok(dumps)
}

/// Returns the groups whose members these replicas are, and those that have been removed.
fn group(mut dumps: Vec<(usize, Dump)>) -> (Vec<Group>, Vec<(usize, ReplicaId)>) {
    // Who knows of the newest members of its group comes before who was told of older ones.
    dumps.sort_by_key(|(_, dump)| std::cmp::Reverse(dump.members.since));
    let mut groups: Vec<Group> = Vec::new();
    let mut left = Vec::new();
    for (node, dump) in dumps {
        let own = groups
            .iter_mut()
            .find(|group| !group.members.all.is_disjoint(&dump.members.all));
        match own {
            Some(group) if group.members.all.contains(&dump.replica) => {
                group.dumps.push((node, dump));
            }
            Some(_) => left.push((node, dump.replica)),
            None if dump.members.all.contains(&dump.replica) => groups.push(Group {
                members: dump.members.clone(),
                dumps: vec![(node, dump)],
            }),
            // It was placed and never told anything.
            None => {}
        }
    }
    // Where all whom it knew were removed as well, it has no group.
    groups.retain(|group| {
        let has_majority = group.few(|_| true).is_none();
        if !has_majority {
            let dumps = group.dumps.iter();
            left.extend(dumps.map(|(node, dump)| (*node, dump.replica)));
        }
        has_majority
    });
    (groups, left)
}

impl Group {
    /// Returns whether it is a shard's, and not the control group.
    fn is_of_shard(&self) -> bool {
        self.dumps.iter().any(|(_, dump)| {
            let commands = dump.entries.iter();
            let first = commands.filter_map(|entry| entry.command.as_ref()).next();
            let snapshot = dump.snapshot.as_ref();
            first.is_some_and(|command| decode_entry(command).is_ok())
                || snapshot.is_some_and(|(_, chunks)| decode_snapshot(chunks).is_ok())
        })
    }

    /// Returns the shard whose it is, if anything in it tells.
    fn shard(&self, map: &ShardMap) -> Option<ShardId> {
        self.dumps.iter().find_map(|(_, dump)| {
            if let Some((_, chunks)) = &dump.snapshot {
                return Some(decode_snapshot(chunks).ok()?.shard);
            }
            let commands = dump
                .entries
                .iter()
                .filter_map(|entry| entry.command.as_ref());
            let entries = commands.filter_map(|command| decode_entry(command).ok());
            let mut channels = entries
                .flat_map(|entry| entry.commands)
                .filter_map(channel_of);
            Some(map.of(&channels.next()?))
        })
    }

    fn judge(
        &self,
        shards: u32,
        watched: &Log,
        is_whole: bool,
    ) -> Result<(Vec<Fault>, usize), String> {
        let dumps = || self.dumps.iter().map(|(_, dump)| dump);
        let shard = match self.is_of_shard() {
            true => self.shard(&ShardMap::from(shards)),
            false => None,
        };
        // What was told is committed, too.
        let committed = dumps().filter_map(|dump| dump.committed).max();
        let told = shard.and_then(|shard| watched.last(shard));
        let committed = committed.max(told).unwrap_or(0);
        let name = match shard {
            Some(shard) => format!("shard {shard}"),
            None => "a group".to_owned(),
        };
        let mut faults = self.agree(&name, committed);
        faults.extend(self.keep(&name, committed));
        let Some(shard) = shard else {
            return Ok((faults, 0));
        };
        let mut logged = Log::default();
        for (node, dump) in &self.dumps {
            let (from, events) = replay(dump, shard, committed)
                .map_err(|why| format!("node {node} cannot apply the log of {name}: {why}"))?;
            let mut own = Log::default();
            for told in events {
                faults.extend(logged.add(&told).err());
                faults.extend(own.add(&told).err());
            }
            // Who is behind, or begins with a snapshot, has a part.
            let part = from..=dump.last().unwrap_or(0).min(committed);
            for told in own.lacking(watched, shard, &part) {
                let what = format!("told, and not in node {node}'s log: {told}");
                faults.push(Fault::new(Rule::Durability, what));
            }
        }
        // A region's transitions are told ahead of the log, and then not again (R10).
        let global = |told: &&&Told| matches!(told.kind, EventKind::Opened | EventKind::Closed);
        let untold = watched.lacking(&logged, shard, &(0..=committed));
        for told in untold.iter().filter(global).filter(|_| is_whole) {
            let what = format!("in the log that the disks have, and told to nobody: {told}");
            faults.push(Fault::new(Rule::Contiguity, what));
        }
        Ok((faults, logged.len()))
    }

    /// Returns where two replicas have different entries in the same place.
    fn agree(&self, name: &str, committed: u64) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut known = BTreeMap::new();
        for (node, dump) in &self.dumps {
            let entries = dump.entries.iter();
            for entry in entries.filter(|entry| entry.index <= committed) {
                let (other, bytes) = known.entry(entry.index).or_insert((node, &entry.bytes));
                if *bytes != &entry.bytes {
                    let index = entry.index;
                    let what = format!("{name}: nodes {other} and {node} differ at {index}");
                    faults.push(Fault::new(Rule::ExactlyOnce, what));
                    break;
                }
            }
        }
        faults
    }

    /// Returns whether fewer than a majority of voters have all that was committed.
    fn keep(&self, name: &str, committed: u64) -> Option<Fault> {
        let (few, holders) = self.few(|dump| dump.last() >= Some(committed))?;
        let what = format!("{name}: of {few:?} only {holders:?} have entry {committed}");
        Some(Fault::new(Rule::Durability, what))
    }

    /// Returns voters of whom only these, not a majority, are such.
    fn few(
        &self,
        is_such: impl Fn(&Dump) -> bool,
    ) -> Option<(&BTreeSet<ReplicaId>, Vec<ReplicaId>)> {
        let dumps = self.dumps.iter().map(|(_, dump)| dump);
        let such: Vec<_> = dumps
            .filter(|dump| is_such(dump))
            .map(|dump| dump.replica)
            .collect();
        let few = self.members.voters.iter().find(|voters| {
            let among = such.iter().filter(|replica| voters.contains(replica));
            among.count() * 2 <= voters.len()
        });
        few.map(|voters| (voters, such))
    }
}

fn channel_of(command: Command) -> Option<ChannelKey> {
    let Command::Batch(batch) = command else {
        return None;
    };
    let transitions = batch.transitions.into_iter().map(|told| told.channel);
    let registers = batch.registers.into_iter().map(|told| told.channel);
    transitions.chain(registers).next()
}

/// Applies a replica's log again, up to an entry; returns from which entry on, and what that told.
fn replay(dump: &Dump, id: ShardId, upto: u64) -> Result<(u64, Vec<Told>), String> {
    let mut shard = match &dump.snapshot {
        Some((_, chunks)) => {
            let snapshot = decode_snapshot(chunks).map_err(|error| error.to_string())?;
            Shard::restore(snapshot).map_err(|error| error.to_string())?
        }
        None => Shard::new(id, Era(0)),
    };
    let from = shard.applied() + 1;
    let mut told = Vec::new();
    let entries = dump.entries.iter();
    for entry in entries.filter(|entry| (from..=upto).contains(&entry.index)) {
        let Some(command) = &entry.command else {
            shard.advance(entry.index);
            continue;
        };
        let command = decode_entry(command).map_err(|error| error.to_string())?;
        let applied = shard.apply(entry.index, command);
        told.extend(applied.logged.events.into_iter().map(|logged| {
            let LoggedEvent {
                position, event, ..
            } = logged;
            Told::from(&WatchEvent {
                shard: id,
                position: Some(position),
                event,
            })
        }));
    }
    Ok((from, told))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use headcount_consensus::DumpedEntry;
    use headcount_model::{
        Batch, Claim, Entry, Fence, Incarnation, Modes, NodeId, OwnerRef, Position, RegionName,
        Timestamp, Transition,
    };
    use headcount_wire::encode_entry;

    use super::*;

    fn members() -> DumpedMembers {
        let all: BTreeSet<ReplicaId> = [1, 2, 3].map(ReplicaId).into();
        DumpedMembers {
            since: Some(0),
            voters: vec![all.clone()],
            all,
        }
    }

    /// The log of a shard in which a channel opens in `us`, and then closes if it is so long.
    fn dump(replica: u64, entries: usize) -> Dump {
        let owner = OwnerRef {
            region: RegionName::new("us").unwrap(),
            fence: Fence(1),
        };
        let claim = Command::Claim(Claim {
            owner: owner.clone(),
            node: NodeId(1),
            incarnation: Incarnation(1),
            tails: Vec::new(),
        });
        let batch = |number, active| {
            Command::Batch(Batch {
                owner: owner.clone(),
                sequence: number,
                dropped: Vec::new(),
                transitions: vec![Transition {
                    number,
                    channel: ChannelKey::new("app", "c").unwrap(),
                    active,
                    occupancy: Modes::DEFAULT.occupancy(),
                    at: Timestamp(5),
                    is_global_master: true,
                }],
                registers: Vec::new(),
            })
        };
        let commands = [claim, batch(1, true), batch(2, false)];
        let entries = (1..).zip(commands).take(entries).map(|(index, command)| {
            let entry = Entry {
                stamp: Timestamp(1_000),
                coordinator: RegionName::new("us").unwrap(),
                commands: vec![command],
            };
            let command = encode_entry(&entry);
            DumpedEntry {
                index,
                bytes: command.clone(),
                command: Some(command),
            }
        });
        Dump {
            replica: ReplicaId(replica),
            snapshot: None,
            entries: entries.collect(),
            members: members(),
            committed: None,
        }
    }

    fn group(dumps: Vec<Dump>) -> Group {
        Group {
            members: members(),
            dumps: dumps.into_iter().enumerate().collect(),
        }
    }

    fn watched(dump: &Dump) -> Log {
        let (_, told) = replay(dump, ShardId(0), 9).unwrap();
        let mut log = Log::default();
        told.iter().for_each(|told| log.add(told).unwrap());
        log
    }

    /// Returns the rules that are broken.
    fn broken(group: &Group, watched: &Log) -> Vec<Rule> {
        let (faults, _) = group.judge(1, watched, true).unwrap();
        faults.iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn what_was_told_is_what_the_logs_tell() {
        let whole = group(vec![dump(1, 3), dump(2, 3), dump(3, 2)]);
        assert!(whole.is_of_shard());
        assert_eq!(whole.shard(&ShardMap::from(1)), Some(ShardId(0)));
        assert_eq!(broken(&whole, &watched(&dump(1, 3))), []);
        let (_, events) = whole.judge(1, &watched(&dump(1, 3)), true).unwrap();
        assert_eq!(
            events, 6,
            "active, opened, counts, inactive, counts, closed"
        );
    }

    #[test]
    fn what_was_told_and_is_on_few_disks_or_on_none_is_found() {
        let told = watched(&dump(1, 3));
        let few = group(vec![dump(1, 3), dump(2, 2), dump(3, 2)]);
        assert_eq!(broken(&few, &told), [Rule::Durability]);
        let none = group(vec![dump(1, 2), dump(2, 2), dump(3, 2)]);
        assert_eq!(broken(&none, &told), [Rule::Durability]);
    }

    #[test]
    fn what_was_told_and_is_not_in_a_log_where_that_has_its_place_is_found() {
        let told = watched(&dump(1, 3));
        let mut other = dump(3, 3);
        other.entries[1].command = None;
        let whole = group(vec![dump(1, 3), dump(2, 3), other]);
        // Its channel never opens: two transitions and counts are missing, and then once more.
        assert_eq!(broken(&whole, &told), [Rule::Durability; 6]);
    }

    #[test]
    fn replicas_that_differ_are_found_where_it_was_committed() {
        let mut other = dump(3, 3);
        other.entries[2].bytes = Bytes::from_static(b"another");
        let differ = group(vec![dump(1, 3), dump(2, 3), other]);
        assert_eq!(broken(&differ, &watched(&dump(1, 3))), [Rule::ExactlyOnce]);
        assert_eq!(broken(&differ, &watched(&dump(1, 2))), []);
    }

    #[test]
    fn removed_replicas_are_found_even_if_all_whom_they_knew_were_removed() {
        let mut newer = dump(3, 3);
        newer.members.all = [3, 4].map(ReplicaId).into();
        newer.members.voters = vec![newer.members.all.clone()];
        newer.members.since = Some(2);
        let other = Dump {
            replica: ReplicaId(4),
            ..newer.clone()
        };
        let mut stranger = dump(9, 3);
        stranger.members.all = [7, 8, 9].map(ReplicaId).into();
        stranger.members.voters = vec![stranger.members.all.clone()];
        let empty = Dump {
            members: DumpedMembers::default(),
            ..dump(5, 0)
        };
        let dumps = [newer, dump(1, 3), stranger, empty, other];
        let (groups, left) = super::group(dumps.into_iter().enumerate().collect());
        let members = |group: &Group| group.dumps.iter().map(|(node, _)| *node).collect();
        let members: Vec<Vec<usize>> = groups.iter().map(members).collect();
        assert_eq!(members, [[0, 4]]);
        assert_eq!(left, [(1, ReplicaId(1)), (2, ReplicaId(9))]);
    }

    #[test]
    fn what_is_committed_and_was_told_to_nobody_is_found() {
        let mut said = dump(1, 3);
        said.committed = Some(3);
        let whole = group(vec![said, dump(2, 3), dump(3, 3)]);
        let told = watched(&dump(1, 2));
        assert_eq!(broken(&whole, &told), [Rule::Contiguity]);
        let last = told.events(ShardId(0)).last().unwrap();
        assert_eq!(
            last.position.unwrap(),
            Position {
                index: 2,
                ordinal: 2
            }
        );
        let (faults, _) = whole.judge(1, &told, false).unwrap();
        assert_eq!(faults, [], "nobody was told everything");
    }
}
