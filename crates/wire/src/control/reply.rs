//! What the control group says to a command, as protobuf, and back.

use bytes::Bytes;
use headcount_model::control::{ClusterId, ControlReply, GroupId, Outcome, Refusal};
use headcount_model::{Era, Fence, Incarnation, NodeId, ReplicaId, ShardId};
use prost::Message;

use super::{put_id, take_group, take_id, take_region};
use crate::error::{WireError, required};
use crate::proto::control::v1 as proto;
use crate::proto::control::v1::control_reply::Outcome as ProtoOutcome;
use crate::proto::control::v1::refusal as reason;
use crate::proto::control::v1::refusal::Reason;
use crate::shard::decode_error;

/// Encodes a reply.
#[must_use]
pub fn encode_control_reply(reply: &ControlReply) -> Bytes {
    let outcome = match reply {
        Ok(Outcome::Changed) => ProtoOutcome::Changed(proto::Changed {}),
        Ok(Outcome::Unchanged) => ProtoOutcome::Unchanged(proto::Unchanged {}),
        Ok(Outcome::Joined {
            node,
            incarnation,
            replica,
        }) => ProtoOutcome::Joined(proto::Joined {
            node: node.0,
            incarnation: incarnation.0,
            replica: replica.0,
        }),
        Ok(Outcome::Started { incarnation }) => ProtoOutcome::Started(proto::Started {
            incarnation: incarnation.0,
        }),
        Err(refusal) => ProtoOutcome::Refused(proto::Refusal {
            reason: Some(put_reason(refusal)),
        }),
    };
    proto::ControlReply {
        outcome: Some(outcome),
    }
    .encode_to_vec()
    .into()
}

/// Decodes what [`encode_control_reply`] made.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_control_reply(bytes: &[u8]) -> Result<ControlReply, WireError> {
    let reply = proto::ControlReply::decode(bytes);
    let reply = reply.map_err(|error| decode_error("control reply", &error))?;
    Ok(match required("outcome", reply.outcome)? {
        ProtoOutcome::Changed(proto::Changed {}) => Ok(Outcome::Changed),
        ProtoOutcome::Unchanged(proto::Unchanged {}) => Ok(Outcome::Unchanged),
        ProtoOutcome::Joined(joined) => Ok(Outcome::Joined {
            node: NodeId(joined.node),
            incarnation: Incarnation(joined.incarnation),
            replica: ReplicaId(joined.replica),
        }),
        ProtoOutcome::Started(started) => Ok(Outcome::Started {
            incarnation: Incarnation(started.incarnation),
        }),
        ProtoOutcome::Refused(refusal) => {
            Err(take_reason(required("refused.reason", refusal.reason)?)?)
        }
    })
}

fn put_reason(refusal: &Refusal) -> Reason {
    let pair = |group: &GroupId, replica: &ReplicaId| reason::GroupReplica {
        group: group.number(),
        replica: replica.0,
    };
    let place = |group: &GroupId, node: &NodeId| reason::GroupNode {
        group: group.number(),
        node: node.0,
    };
    match refusal {
        Refusal::NotFounded => Reason::NotFounded(reason::NotFounded {}),
        Refusal::Founded { cluster } => Reason::Founded(reason::Founded {
            cluster: put_id(cluster.0),
        }),
        Refusal::TooMuch { what, max } => Reason::TooMuch(reason::TooMuch {
            what: what.clone(),
            max: *max,
        }),
        Refusal::Missing { what } => Reason::Missing(reason::Missing { what: what.clone() }),
        Refusal::UnknownNode { node } => Reason::UnknownNode(node.0),
        Refusal::NodeRemoved { node } => Reason::NodeRemoved(node.0),
        Refusal::OtherRegion { node, region } => Reason::OtherRegion(reason::OtherRegion {
            node: node.0,
            region: region.to_string(),
        }),
        Refusal::StaleIncarnation { node, current } => {
            Reason::StaleIncarnation(reason::StaleIncarnation {
                node: node.0,
                current: current.0,
            })
        }
        Refusal::LastNode { node } => Reason::LastNode(node.0),
        Refusal::NotDrained { node } => Reason::NotDrained(node.0),
        Refusal::StillHolds { node, replicas } => Reason::StillHolds(reason::StillHolds {
            node: node.0,
            replicas: *replicas,
        }),
        Refusal::UnknownRegion { region } => Reason::UnknownRegion(region.to_string()),
        Refusal::UnknownGroup { group } => Reason::UnknownGroup(group.number()),
        Refusal::UnknownReplica { group, replica } => Reason::UnknownReplica(pair(group, replica)),
        Refusal::Superseded { group, current } => Reason::Superseded(reason::Superseded {
            group: group.number(),
            current: *current,
        }),
        Refusal::OwnerMoved {
            region,
            shard,
            current,
        } => Reason::OwnerMoved(reason::OwnerMoved {
            region: region.to_string(),
            shard: shard.0,
            current: current.0,
        }),
        Refusal::Occupied { group, node } => Reason::Occupied(place(group, node)),
        Refusal::NotEligible { group, node } => Reason::NotEligible(place(group, node)),
        Refusal::BadVoters { group } => Reason::BadVoters(group.number()),
        Refusal::StillVotes { group, replica } => Reason::StillVotes(pair(group, replica)),
        Refusal::OldEra { current } => Reason::OldEra(current.0),
        Refusal::Overtaken { current } => Reason::Overtaken(*current),
    }
}

fn take_reason(told: Reason) -> Result<Refusal, WireError> {
    Ok(match told {
        Reason::NotFounded(reason::NotFounded {}) => Refusal::NotFounded,
        Reason::Founded(founded) => Refusal::Founded {
            cluster: ClusterId(take_id("cluster", &founded.cluster)?),
        },
        Reason::TooMuch(much) => Refusal::TooMuch {
            what: much.what,
            max: much.max,
        },
        Reason::Missing(missing) => Refusal::Missing { what: missing.what },
        Reason::UnknownNode(node) => Refusal::UnknownNode { node: NodeId(node) },
        Reason::NodeRemoved(node) => Refusal::NodeRemoved { node: NodeId(node) },
        Reason::OtherRegion(other) => Refusal::OtherRegion {
            node: NodeId(other.node),
            region: take_region(&other.region)?,
        },
        Reason::StaleIncarnation(stale) => Refusal::StaleIncarnation {
            node: NodeId(stale.node),
            current: Incarnation(stale.current),
        },
        Reason::LastNode(node) => Refusal::LastNode { node: NodeId(node) },
        Reason::NotDrained(node) => Refusal::NotDrained { node: NodeId(node) },
        Reason::StillHolds(holds) => Refusal::StillHolds {
            node: NodeId(holds.node),
            replicas: holds.replicas,
        },
        Reason::UnknownRegion(region) => Refusal::UnknownRegion {
            region: take_region(&region)?,
        },
        Reason::UnknownGroup(group) => Refusal::UnknownGroup {
            group: take_group(group)?,
        },
        Reason::UnknownReplica(pair) => Refusal::UnknownReplica {
            group: take_group(pair.group)?,
            replica: ReplicaId(pair.replica),
        },
        Reason::Superseded(it) => Refusal::Superseded {
            group: take_group(it.group)?,
            current: it.current,
        },
        Reason::OwnerMoved(moved) => Refusal::OwnerMoved {
            region: take_region(&moved.region)?,
            shard: ShardId(moved.shard),
            current: Fence(moved.current),
        },
        Reason::Occupied(place) => Refusal::Occupied {
            group: take_group(place.group)?,
            node: NodeId(place.node),
        },
        Reason::NotEligible(place) => Refusal::NotEligible {
            group: take_group(place.group)?,
            node: NodeId(place.node),
        },
        Reason::BadVoters(group) => Refusal::BadVoters {
            group: take_group(group)?,
        },
        Reason::StillVotes(pair) => Refusal::StillVotes {
            group: take_group(pair.group)?,
            replica: ReplicaId(pair.replica),
        },
        Reason::OldEra(current) => Refusal::OldEra {
            current: Era(current),
        },
        Reason::Overtaken(current) => Refusal::Overtaken { current },
    })
}
