//! What the commands of a shard's log are made of, as other messages hold it too.

use std::time::Duration;

use headcount_model::{
    Batch, Claim, Fence, Incarnation, NodeId, OwnerRef, Pacing, RegionName, Register, Tail,
    Timestamp, Transition,
};

use crate::error::{WireError, named, required};
use crate::names::{NameReader, Numbers, put_counts, take_counts};
use crate::proto::storage::v1 as proto;

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

pub(crate) fn decode_error(what: &'static str, error: &prost::DecodeError) -> WireError {
    WireError::Decode {
        what,
        reason: error.to_string(),
    }
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

pub(crate) fn put_claim<'a>(claim: &'a Claim, names: &mut impl Numbers<'a>) -> proto::Claim {
    let mut tail = |tail: &'a Tail| {
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

pub(crate) fn put_batch<'a>(batch: &'a Batch, names: &mut impl Numbers<'a>) -> proto::Batch {
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

pub(crate) fn put_transition<'a>(
    told: &'a Transition,
    names: &mut impl Numbers<'a>,
) -> proto::Transition {
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
