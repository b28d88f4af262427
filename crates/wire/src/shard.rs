//! What a shard's log holds: commands and entries.

use std::time::Duration;

use bytes::Bytes;
use headcount_model::{
    Batch, Claim, Command, Entry, Fence, Incarnation, NodeId, OwnerRef, Pacing, RegionName,
    Register, Tail, Timestamp, Transition,
};
use prost::Message;

use crate::error::{WireError, named, required};
use crate::names::{NameReader, NameWriter, put_counts, take_counts};
use crate::proto::storage::v1 as proto;
use crate::proto::storage::v1::shard_command::Command as ProtoCommand;

/// The format of entries, snapshots and journal entries that this release writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Checks that a stored message is of the format that this release knows.
pub(crate) fn check_format(what: &'static str, format: u32) -> Result<(), WireError> {
    if format == FORMAT {
        Ok(())
    } else {
        Err(WireError::Format {
            what,
            format,
            known: FORMAT,
        })
    }
}

/// Encodes an entry as a raft command.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut names = NameWriter::default();
    let commands = entry.commands.iter();
    let commands = commands
        .map(|command| put_command(command, &mut names))
        .collect();
    let entry = proto::ShardEntry {
        format: FORMAT,
        stamp_ms: entry.stamp.0,
        coordinator: entry.coordinator.as_str().to_owned(),
        channels: names.take_fresh(),
        commands,
    };
    entry.encode_to_vec().into()
}

/// Decodes what [`encode_entry`] made, of this or an earlier release.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, WireError> {
    let decoded = proto::ShardEntry::decode(bytes);
    let entry = decoded.map_err(|error| decode_error("shard entry", &error))?;
    check_format("shard entry", entry.format)?;
    let mut names = NameReader::default();
    names.add(entry.channels)?;
    let commands = entry
        .commands
        .into_iter()
        .map(|command| take_command(command, &names));
    Ok(Entry {
        stamp: Timestamp(entry.stamp_ms),
        coordinator: RegionName::new(&entry.coordinator).map_err(named("coordinator"))?,
        commands: commands.collect::<Result<_, _>>()?,
    })
}

pub(crate) fn decode_error(what: &'static str, error: &prost::DecodeError) -> WireError {
    WireError::Decode {
        what,
        reason: error.to_string(),
    }
}

fn put_command(command: &Command, names: &mut NameWriter) -> proto::ShardCommand {
    let command = match command {
        Command::Claim(claim) => ProtoCommand::Claim(put_claim(claim, names)),
        Command::Batch(batch) => ProtoCommand::Batch(put_batch(batch, names)),
        Command::ExpireRegion(owner) => ProtoCommand::ExpireRegion(put_owner(owner)),
        Command::Settled(owner) => ProtoCommand::Settled(put_owner(owner)),
        Command::Configure(pacing) => ProtoCommand::Configure(put_pacing(pacing)),
        Command::Tick => ProtoCommand::Tick(proto::Tick {}),
    };
    proto::ShardCommand {
        command: Some(command),
    }
}

fn take_command(command: proto::ShardCommand, names: &NameReader) -> Result<Command, WireError> {
    Ok(match required("command", command.command)? {
        ProtoCommand::Claim(claim) => Command::Claim(take_claim(claim, names)?),
        ProtoCommand::Batch(batch) => Command::Batch(take_batch(batch, names)?),
        ProtoCommand::ExpireRegion(owner) => Command::ExpireRegion(take_owner(Some(owner))?),
        ProtoCommand::Settled(owner) => Command::Settled(take_owner(Some(owner))?),
        ProtoCommand::Configure(pacing) => Command::Configure(take_pacing(pacing)),
        ProtoCommand::Tick(proto::Tick {}) => Command::Tick,
    })
}

pub(crate) fn put_owner(owner: &OwnerRef) -> proto::Owner {
    proto::Owner {
        region: owner.region.as_str().to_owned(),
        fence: owner.fence.0,
    }
}

pub(crate) fn take_owner(owner: Option<proto::Owner>) -> Result<OwnerRef, WireError> {
    let owner = required("owner", owner)?;
    let region = RegionName::new(&owner.region).map_err(named("owner.region"))?;
    Ok(OwnerRef {
        region,
        fence: Fence(owner.fence),
    })
}

pub(crate) fn put_pacing(pacing: &Pacing) -> proto::Pacing {
    let millis = pacing.occupancy_interval.as_millis();
    proto::Pacing {
        version: pacing.version,
        occupancy_interval_ms: u64::try_from(millis).unwrap_or(u64::MAX),
    }
}

pub(crate) fn take_pacing(pacing: proto::Pacing) -> Pacing {
    let occupancy_interval = Duration::from_millis(pacing.occupancy_interval_ms);
    Pacing {
        version: pacing.version,
        occupancy_interval,
    }
}

pub(crate) fn put_claim(claim: &Claim, names: &mut NameWriter) -> proto::Claim {
    let mut tail = |tail: &Tail| {
        let transitions = tail.transitions.iter();
        let transitions = transitions
            .map(|told| put_transition(told, names))
            .collect();
        proto::Tail {
            fence: tail.fence.0,
            transitions,
        }
    };
    proto::Claim {
        owner: Some(put_owner(&claim.owner)),
        node: claim.node.0,
        incarnation: claim.incarnation.0,
        tails: claim.tails.iter().map(&mut tail).collect(),
    }
}

pub(crate) fn take_claim(claim: proto::Claim, names: &NameReader) -> Result<Claim, WireError> {
    let tail = |tail: proto::Tail| -> Result<Tail, WireError> {
        let transitions = tail
            .transitions
            .into_iter()
            .map(|told| take_transition(&told, names));
        let transitions = transitions.collect::<Result<_, _>>()?;
        Ok(Tail {
            fence: Fence(tail.fence),
            transitions,
        })
    };
    Ok(Claim {
        owner: take_owner(claim.owner)?,
        node: NodeId(claim.node),
        incarnation: Incarnation(claim.incarnation),
        tails: claim
            .tails
            .into_iter()
            .map(tail)
            .collect::<Result<_, _>>()?,
    })
}

pub(crate) fn put_batch(batch: &Batch, names: &mut NameWriter) -> proto::Batch {
    let transitions = batch.transitions.iter();
    let transitions = transitions
        .map(|told| put_transition(told, names))
        .collect();
    let registers = batch.registers.iter().map(|register| proto::Register {
        channel: names.number(&register.channel),
        counts: put_counts(&register.occupancy),
    });
    proto::Batch {
        owner: Some(put_owner(&batch.owner)),
        sequence: batch.sequence,
        dropped: batch.dropped.clone(),
        registers: registers.collect(),
        transitions,
    }
}

pub(crate) fn take_batch(batch: proto::Batch, names: &NameReader) -> Result<Batch, WireError> {
    let transitions = batch
        .transitions
        .into_iter()
        .map(|told| take_transition(&told, names));
    let register = |register: proto::Register| -> Result<Register, WireError> {
        let channel = names.channel(register.channel)?;
        Ok(Register {
            channel,
            occupancy: take_counts(&register.counts)?,
        })
    };
    Ok(Batch {
        owner: take_owner(batch.owner)?,
        sequence: batch.sequence,
        dropped: batch.dropped,
        transitions: transitions.collect::<Result<_, _>>()?,
        registers: batch
            .registers
            .into_iter()
            .map(register)
            .collect::<Result<_, _>>()?,
    })
}

pub(crate) fn put_transition(told: &Transition, names: &mut NameWriter) -> proto::Transition {
    proto::Transition {
        number: told.number,
        channel: names.number(&told.channel),
        active: told.active,
        counts: put_counts(&told.occupancy),
        at_ms: told.at.0,
        is_global_master: told.is_global_master,
    }
}

pub(crate) fn take_transition(
    told: &proto::Transition,
    names: &NameReader,
) -> Result<Transition, WireError> {
    Ok(Transition {
        number: told.number,
        channel: names.channel(told.channel)?,
        active: told.active,
        occupancy: take_counts(&told.counts)?,
        at: Timestamp(told.at_ms),
        is_global_master: told.is_global_master,
    })
}
