//! The control group's snapshot as chunks of protobuf, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use headcount_model::control::{
    ControlParts, Group, GroupId, LastOrder, Node, NodeState, Region, Replica, Revocation, Tenure,
};
use headcount_model::{Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId, Timestamp};
use prost::Message;

use super::{
    put_facts, put_new_node, put_settings, put_weight, take_facts, take_group, take_new_node,
    take_region, take_replicas, take_settings, take_weight, unknown,
};
use crate::error::{WireError, required};
use crate::proto::storage::v1 as proto;
use crate::shard::{FORMAT, check_format, decode_error};

/// Groups in one chunk: with replicas on every node of the largest cluster it stays below a
/// megabyte.
const CHUNK_GROUPS: usize = 32;

/// Ownerships in one chunk: at most a hundred bytes each.
const CHUNK_TENURES: usize = 4096;

/// Revocations in one chunk: at most two and a half kilobytes each.
const CHUNK_REVOCATIONS: usize = 400;

/// Encodes the control group's state; equal states give equal bytes.
#[must_use]
pub fn encode_control_snapshot(parts: &ControlParts) -> Vec<Bytes> {
    let regions = parts.regions.iter();
    let head = proto::ControlSnapshotHead {
        format: FORMAT,
        applied: parts.applied,
        facts: parts.facts.as_ref().map(put_facts),
        settings: Some(put_settings(&parts.settings)),
        last_node: parts.last_node.0,
        last_replica: parts.last_replica.0,
        last_fence: parts.last_fence.0,
        regions: regions
            .map(|(name, region)| put_weight(name, region.weight))
            .collect(),
        nodes: parts
            .nodes
            .iter()
            .map(|(id, node)| put_node(*id, node))
            .collect(),
        groups: parts.groups.len() as u64,
        tenures: parts.tenures.len() as u64,
        revocations: parts.revocations.values().map(Vec::len).sum::<usize>() as u64,
        last_order: parts.last_order.index,
        last_order_id: parts.last_order.id,
    };
    let groups: Vec<_> = parts
        .groups
        .iter()
        .map(|(id, group)| put_group(*id, group))
        .collect();
    let tenures: Vec<_> = parts.tenures.iter().map(put_tenure).collect();
    let head = proto::ControlSnapshotChunk {
        head: Some(head),
        ..Default::default()
    };
    let groups = groups
        .chunks(CHUNK_GROUPS)
        .map(|groups| proto::ControlSnapshotChunk {
            groups: groups.to_vec(),
            ..Default::default()
        });
    let tenures = tenures
        .chunks(CHUNK_TENURES)
        .map(|tenures| proto::ControlSnapshotChunk {
            tenures: tenures.to_vec(),
            ..Default::default()
        });
    let revocations = parts.revocations.iter();
    let revocations: Vec<_> = revocations.flat_map(put_revocations).collect();
    let revocations =
        revocations
            .chunks(CHUNK_REVOCATIONS)
            .map(|revocations| proto::ControlSnapshotChunk {
                revocations: revocations.to_vec(),
                ..Default::default()
            });
    let chunks = std::iter::once(head).chain(groups).chain(tenures);
    let chunks = chunks.chain(revocations);
    chunks.map(|chunk| chunk.encode_to_vec().into()).collect()
}

/// Decodes what [`encode_control_snapshot`] made, in this or an earlier release. Whether the parts
/// fit each other is for whoever takes them to check.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_control_snapshot(chunks: &[Bytes]) -> Result<ControlParts, WireError> {
    let mut head = None;
    let mut groups = BTreeMap::new();
    let mut tenures = BTreeMap::new();
    let mut revocations = BTreeMap::<_, Vec<_>>::new();
    let mut told = (0, 0, 0);
    for chunk in chunks {
        let decoded = proto::ControlSnapshotChunk::decode(chunk.as_ref());
        let chunk = decoded.map_err(|error| decode_error("control snapshot", &error))?;
        if let Some(found) = chunk.head {
            check_format("control snapshot", found.format)?;
            head.get_or_insert(found);
        }
        told = (
            told.0 + chunk.groups.len() as u64,
            told.1 + chunk.tenures.len() as u64,
            told.2 + chunk.revocations.len() as u64,
        );
        for group in chunk.groups {
            let (id, group) = take_group_state(group)?;
            groups.insert(id, group);
        }
        for tenure in chunk.tenures {
            let (place, tenure) = take_tenure(&tenure)?;
            tenures.insert(place, tenure);
        }
        for revocation in chunk.revocations {
            let (place, revocation) = take_revocation(revocation);
            revocations.entry(place).or_default().push(revocation);
        }
    }
    let head = required("head", head)?;
    let (groups_held, tenures_held) = (groups.len() as u64, tenures.len() as u64);
    let revocations_held = revocations.values().map(Vec::len).sum::<usize>() as u64;
    let whole = (groups_held, tenures_held, revocations_held);
    if whole != (head.groups, head.tenures, head.revocations) || whole != told {
        return Err(WireError::Contradiction(
            "the snapshot lacks groups, ownerships or revocations",
        ));
    }
    let regions = head.regions.into_iter().map(|region| {
        let (name, weight) = take_weight(&region)?;
        Ok((name, Region { weight }))
    });
    let nodes = head.nodes.into_iter().map(take_node);
    Ok(ControlParts {
        applied: head.applied,
        facts: head.facts.map(take_facts).transpose()?,
        settings: take_settings(required("settings", head.settings)?),
        last_node: NodeId(head.last_node),
        last_replica: ReplicaId(head.last_replica),
        last_fence: Fence(head.last_fence),
        last_order: LastOrder {
            index: head.last_order,
            id: head.last_order_id,
        },
        regions: regions.collect::<Result<_, WireError>>()?,
        nodes: nodes.collect::<Result<_, WireError>>()?,
        groups,
        tenures,
        revocations: Arc::new(revocations),
    })
}

fn put_revocations(
    ((key, target), revocations): (&(String, String), &Vec<Revocation>),
) -> impl Iterator<Item = proto::Revocation> {
    revocations.iter().map(|revocation| proto::Revocation {
        key: key.clone(),
        target: target.clone(),
        issued_before_ms: revocation.issued_before.0,
        applies_at_ms: revocation.applies_at.0,
    })
}

fn take_revocation(revocation: proto::Revocation) -> ((String, String), Revocation) {
    let taken = Revocation {
        issued_before: Timestamp(revocation.issued_before_ms),
        applies_at: Timestamp(revocation.applies_at_ms),
    };
    ((revocation.key, revocation.target), taken)
}

fn put_node(id: NodeId, node: &Node) -> proto::ControlNode {
    let state = match node.state {
        NodeState::Joining => proto::NodeState::Joining,
        NodeState::Live => proto::NodeState::Live,
        NodeState::Dead => proto::NodeState::Dead,
        NodeState::Removed => proto::NodeState::Removed,
    };
    let new = headcount_model::control::NewNode {
        key: node.key,
        region: node.region.clone(),
        zone: node.zone.clone(),
        addresses: node.addresses.clone(),
    };
    proto::ControlNode {
        id: id.0,
        node: Some(put_new_node(&new)),
        incarnation: node.incarnation.0,
        process: node.process,
        understands: node.understands,
        state: state.into(),
        draining: node.draining,
        stopping: node.stopping,
    }
}

fn take_node(node: proto::ControlNode) -> Result<(NodeId, Node), WireError> {
    let state = match proto::NodeState::try_from(node.state) {
        Ok(proto::NodeState::Joining) => NodeState::Joining,
        Ok(proto::NodeState::Live) => NodeState::Live,
        Ok(proto::NodeState::Dead) => NodeState::Dead,
        Ok(proto::NodeState::Removed) => NodeState::Removed,
        Ok(proto::NodeState::Unspecified) | Err(_) => {
            return Err(unknown("node.state", node.state));
        }
    };
    let new = take_new_node(required("node.node", node.node)?)?;
    let taken = Node {
        key: new.key,
        region: new.region,
        zone: new.zone,
        addresses: new.addresses,
        incarnation: Incarnation(node.incarnation),
        process: node.process,
        understands: node.understands,
        state,
        draining: node.draining,
        stopping: node.stopping,
    };
    Ok((NodeId(node.id), taken))
}

fn put_group(id: GroupId, group: &Group) -> proto::ControlGroup {
    let replicas = group
        .replicas
        .iter()
        .map(|(id, replica)| proto::ControlReplica {
            id: id.0,
            node: replica.node.0,
            ready: replica.ready,
            leaving: replica.leaving,
        });
    proto::ControlGroup {
        number: id.number(),
        founder: group.founder.0,
        replicas: replicas.collect(),
        voters: group.voters.iter().map(|voter| voter.0).collect(),
        version: group.version,
        voters_version: group.voters_version,
        confirmed: group.confirmed,
        leader: group.leader.map(|leader| leader.0),
        home: group.home.as_ref().map(ToString::to_string),
        follows: group.follows.as_ref().map(ToString::to_string),
    }
}

fn take_group_state(group: proto::ControlGroup) -> Result<(GroupId, Group), WireError> {
    let replicas = group.replicas.into_iter().map(|replica| {
        let state = Replica {
            node: NodeId(replica.node),
            ready: replica.ready,
            leaving: replica.leaving,
        };
        (ReplicaId(replica.id), state)
    });
    let taken = Group {
        founder: ReplicaId(group.founder),
        replicas: replicas.collect(),
        voters: take_replicas(group.voters),
        version: group.version,
        voters_version: group.voters_version,
        confirmed: group.confirmed,
        leader: group.leader.map(ReplicaId),
        home: group.home.as_deref().map(take_region).transpose()?,
        follows: group.follows.as_deref().map(take_region).transpose()?,
    };
    Ok((take_group(group.number)?, taken))
}

fn put_tenure(((region, shard), tenure): (&(RegionName, ShardId), &Tenure)) -> proto::Tenure {
    proto::Tenure {
        region: region.to_string(),
        shard: shard.0,
        fence: tenure.fence.0,
        holder: tenure
            .holder
            .map(|(node, incarnation)| proto::TenureHolder {
                node: node.0,
                incarnation: incarnation.0,
            }),
        void_fence: tenure.void.0,
    }
}

fn take_tenure(tenure: &proto::Tenure) -> Result<((RegionName, ShardId), Tenure), WireError> {
    let place = (take_region(&tenure.region)?, ShardId(tenure.shard));
    let taken = Tenure {
        fence: Fence(tenure.fence),
        holder: tenure
            .holder
            .map(|holder| (NodeId(holder.node), Incarnation(holder.incarnation))),
        void: Fence(tenure.void_fence),
    };
    Ok((place, taken))
}
