//! The control group's commands, replies and snapshots as protobuf, and back.

mod reply;
mod state;

#[cfg(test)]
mod tests;

pub use reply::{decode_control_reply, encode_control_reply};
pub use state::{decode_control_snapshot, encode_control_snapshot};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use headcount_model::control::{
    Addresses, ClusterFacts, ClusterId, ControlCommand, Fingerprint, GroupId, NewNode, NodeKey,
    Pin, Revocation, Settings, TimingProfile,
};
use headcount_model::{Era, Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId, Timestamp};
use prost::Message;

use crate::error::{WireError, named, required};
use crate::proto::storage::v1 as proto;
use crate::proto::storage::v1::control_entry as entry;
use crate::proto::storage::v1::control_entry::Command;
use crate::shard::{FORMAT, check_format, decode_error};

/// Encodes a command as the control group's log holds it.
#[must_use]
pub fn encode_control_command(command: &ControlCommand) -> Bytes {
    put_entry(command).encode_to_vec().into()
}

/// Decodes what [`encode_control_command`] made, in this or an earlier release. Every command that
/// can be encoded can be decoded: whether its values make sense is for whoever applies it to say,
/// since an entry that no replica understands would stop them all.
///
/// # Errors
/// [`WireError`] names what cannot be understood; `command` is missing if a later release wrote it.
pub fn decode_control_command(bytes: &[u8]) -> Result<ControlCommand, WireError> {
    let entry = proto::ControlEntry::decode(bytes);
    let entry = entry.map_err(|error| decode_error("control entry", &error))?;
    take_entry(entry)
}

fn put_entry(command: &ControlCommand) -> proto::ControlEntry {
    proto::ControlEntry {
        format: FORMAT,
        command: Some(put_command(command)),
    }
}

fn take_entry(entry: proto::ControlEntry) -> Result<ControlCommand, WireError> {
    check_format("control entry", entry.format)?;
    take_command(required("command", entry.command)?)
}

fn put_command(command: &ControlCommand) -> Command {
    match command {
        ControlCommand::Init {
            facts,
            settings,
            node,
        } => Command::Init(entry::Init {
            facts: Some(put_facts(facts)),
            settings: Some(put_settings(settings)),
            node: Some(put_new_node(node)),
        }),
        ControlCommand::Join(node) => Command::Join(put_new_node(node)),
        ControlCommand::Start {
            node,
            incarnation,
            process,
            addresses,
            understands,
        } => Command::Start(entry::Start {
            node: node.0,
            incarnation: incarnation.0,
            process: *process,
            addresses: Some(put_addresses(addresses)),
            understands: *understands,
        }),
        ControlCommand::LeaseLost { node, incarnation } => Command::LeaseLost(entry::LeaseLost {
            node: node.0,
            incarnation: incarnation.0,
        }),
        ControlCommand::Stop { node, incarnation } => Command::Stop(entry::Stop {
            node: node.0,
            incarnation: incarnation.0,
        }),
        ControlCommand::Drain(node) => Command::Drain(entry::Drain { node: node.0 }),
        ControlCommand::Undrain(node) => Command::Undrain(entry::Undrain { node: node.0 }),
        ControlCommand::Remove(node) => Command::Remove(entry::Remove { node: node.0 }),
        ControlCommand::AddReplicas {
            group,
            version,
            nodes,
        } => Command::AddReplicas(entry::AddReplicas {
            group: group.number(),
            version: *version,
            nodes: nodes.iter().map(|node| node.0).collect(),
        }),
        ControlCommand::SetVoters {
            group,
            version,
            voters,
        } => Command::SetVoters(entry::SetVoters {
            group: group.number(),
            version: *version,
            voters: put_replicas(voters),
        }),
        ControlCommand::RemoveReplicas {
            group,
            version,
            replicas,
        } => Command::RemoveReplicas(entry::RemoveReplicas {
            group: group.number(),
            version: *version,
            replicas: put_replicas(replicas),
        }),
        ControlCommand::ReplicaReady { group, replica } => {
            Command::ReplicaReady(entry::ReplicaReady {
                group: group.number(),
                replica: replica.0,
            })
        }
        ControlCommand::Confirm { group, version } => Command::Confirm(entry::Confirm {
            group: group.number(),
            version: *version,
        }),
        ControlCommand::MoveOwner {
            region,
            shard,
            fence,
            node,
        } => Command::MoveOwner(entry::MoveOwner {
            region: region.to_string(),
            shard: shard.0,
            fence: fence.0,
            node: node.0,
        }),
        ControlCommand::PreferLeader { group, replica } => {
            Command::PreferLeader(entry::PreferLeader {
                group: group.number(),
                replica: replica.0,
            })
        }
        ControlCommand::SetHome { shard, home } => Command::SetHome(entry::SetHome {
            shard: shard.0,
            region: home.as_ref().map(ToString::to_string),
        }),
        ControlCommand::FollowTraffic { shard, region } => {
            Command::FollowTraffic(entry::FollowTraffic {
                shard: shard.0,
                region: region.as_ref().map(ToString::to_string),
            })
        }
        ControlCommand::SetPacing { occupancy_interval } => Command::SetPacing(entry::SetPacing {
            occupancy_interval_ms: put_millis(*occupancy_interval),
        }),
        ControlCommand::SetWeights(weights) => Command::SetWeights(entry::SetWeights {
            weights: weights
                .iter()
                .map(|(region, weight)| put_weight(region, *weight))
                .collect(),
        }),
        ControlCommand::SetCopies(copies) => {
            Command::SetCopies(entry::SetCopies { copies: *copies })
        }
        ControlCommand::RaiseEra(era) => Command::RaiseEra(entry::RaiseEra { era: era.0 }),
        ControlCommand::RevokeTokens {
            key,
            targets,
            revocation,
            now,
        } => Command::RevokeTokens(entry::RevokeTokens {
            key: key.clone(),
            targets: targets.iter().cloned().collect(),
            issued_before_ms: revocation.issued_before.0,
            applies_at_ms: revocation.applies_at.0,
            now_ms: now.0,
        }),
        ControlCommand::Order { after, id, command } => Command::Order(Box::new(entry::Order {
            after: *after,
            id: *id,
            entry: Some(Box::new(put_entry(command))),
        })),
    }
}

fn take_command(command: Command) -> Result<ControlCommand, WireError> {
    Ok(match command {
        Command::Init(init) => ControlCommand::Init {
            facts: take_facts(required("init.facts", init.facts)?)?,
            settings: take_settings(required("init.settings", init.settings)?),
            node: take_new_node(required("init.node", init.node)?)?,
        },
        Command::Join(node) => ControlCommand::Join(take_new_node(node)?),
        Command::Start(start) => ControlCommand::Start {
            node: NodeId(start.node),
            incarnation: Incarnation(start.incarnation),
            process: start.process,
            addresses: take_addresses(start.addresses),
            understands: start.understands,
        },
        Command::LeaseLost(lost) => ControlCommand::LeaseLost {
            node: NodeId(lost.node),
            incarnation: Incarnation(lost.incarnation),
        },
        Command::Stop(stop) => ControlCommand::Stop {
            node: NodeId(stop.node),
            incarnation: Incarnation(stop.incarnation),
        },
        Command::Drain(drain) => ControlCommand::Drain(NodeId(drain.node)),
        Command::Undrain(undrain) => ControlCommand::Undrain(NodeId(undrain.node)),
        Command::Remove(remove) => ControlCommand::Remove(NodeId(remove.node)),
        Command::AddReplicas(add) => ControlCommand::AddReplicas {
            group: take_group(add.group)?,
            version: add.version,
            nodes: add.nodes.into_iter().map(NodeId).collect(),
        },
        Command::SetVoters(set) => ControlCommand::SetVoters {
            group: take_group(set.group)?,
            version: set.version,
            voters: take_replicas(set.voters),
        },
        Command::RemoveReplicas(remove) => ControlCommand::RemoveReplicas {
            group: take_group(remove.group)?,
            version: remove.version,
            replicas: take_replicas(remove.replicas),
        },
        Command::ReplicaReady(ready) => ControlCommand::ReplicaReady {
            group: take_group(ready.group)?,
            replica: ReplicaId(ready.replica),
        },
        Command::Confirm(confirm) => ControlCommand::Confirm {
            group: take_group(confirm.group)?,
            version: confirm.version,
        },
        Command::MoveOwner(moved) => ControlCommand::MoveOwner {
            region: take_region(&moved.region)?,
            shard: ShardId(moved.shard),
            fence: Fence(moved.fence),
            node: NodeId(moved.node),
        },
        Command::PreferLeader(prefer) => ControlCommand::PreferLeader {
            group: take_group(prefer.group)?,
            replica: ReplicaId(prefer.replica),
        },
        Command::SetHome(set) => ControlCommand::SetHome {
            shard: ShardId(set.shard),
            home: set.region.as_deref().map(take_region).transpose()?,
        },
        Command::FollowTraffic(follow) => ControlCommand::FollowTraffic {
            shard: ShardId(follow.shard),
            region: follow.region.as_deref().map(take_region).transpose()?,
        },
        Command::SetPacing(set) => ControlCommand::SetPacing {
            occupancy_interval: Duration::from_millis(set.occupancy_interval_ms),
        },
        Command::SetWeights(set) => {
            let weights = set.weights.iter().map(take_weight);
            ControlCommand::SetWeights(weights.collect::<Result<BTreeMap<_, _>, _>>()?)
        }
        Command::SetCopies(set) => ControlCommand::SetCopies(set.copies),
        Command::RaiseEra(raise) => ControlCommand::RaiseEra(Era(raise.era)),
        Command::RevokeTokens(revoke) => ControlCommand::RevokeTokens {
            key: revoke.key,
            targets: revoke.targets.into_iter().collect(),
            revocation: Revocation {
                issued_before: Timestamp(revoke.issued_before_ms),
                applies_at: Timestamp(revoke.applies_at_ms),
            },
            now: Timestamp(revoke.now_ms),
        },
        Command::Order(order) => ControlCommand::Order {
            after: order.after,
            id: order.id,
            command: Box::new(take_entry(*required("order.entry", order.entry)?)?),
        },
    })
}

fn put_facts(facts: &ClusterFacts) -> proto::ClusterFacts {
    let timing = match facts.timing {
        TimingProfile::Local => proto::TimingProfile::Local,
        TimingProfile::Regional => proto::TimingProfile::Regional,
        TimingProfile::Wan => proto::TimingProfile::Wan,
    };
    proto::ClusterFacts {
        id: put_id(facts.id.0),
        name: facts.name.clone(),
        shards: facts.shards,
        timing: timing.into(),
        era: facts.era.0,
        format: facts.format,
        fingerprint: facts.fingerprint.0,
        pins: facts.pins.iter().map(put_pin).collect(),
    }
}

fn put_pin(pin: &Pin) -> proto::Pin {
    proto::Pin {
        prefix: pin.prefix.clone(),
        home: pin.home.to_string(),
        shards: pin.shards,
    }
}

fn take_pin(pin: proto::Pin) -> Result<Pin, WireError> {
    Ok(Pin {
        prefix: pin.prefix,
        home: take_region(&pin.home)?,
        shards: pin.shards,
    })
}

fn take_facts(facts: proto::ClusterFacts) -> Result<ClusterFacts, WireError> {
    let timing = match proto::TimingProfile::try_from(facts.timing) {
        Ok(proto::TimingProfile::Local) => TimingProfile::Local,
        Ok(proto::TimingProfile::Regional) => TimingProfile::Regional,
        Ok(proto::TimingProfile::Wan) => TimingProfile::Wan,
        Ok(proto::TimingProfile::Unspecified) | Err(_) => {
            return Err(unknown("facts.timing", facts.timing));
        }
    };
    Ok(ClusterFacts {
        id: ClusterId(take_id("facts.id", &facts.id)?),
        name: facts.name,
        shards: facts.shards,
        timing,
        era: Era(facts.era),
        format: facts.format,
        fingerprint: Fingerprint(facts.fingerprint),
        pins: facts
            .pins
            .into_iter()
            .map(take_pin)
            .collect::<Result<_, _>>()?,
    })
}

fn put_settings(settings: &Settings) -> proto::ControlSettings {
    proto::ControlSettings {
        version: settings.version,
        occupancy_interval_ms: put_millis(settings.occupancy_interval),
        copies: settings.copies,
    }
}

fn take_settings(settings: proto::ControlSettings) -> Settings {
    Settings {
        version: settings.version,
        occupancy_interval: Duration::from_millis(settings.occupancy_interval_ms),
        copies: settings.copies,
    }
}

fn put_new_node(node: &NewNode) -> proto::NewNode {
    proto::NewNode {
        key: put_id(node.key.0),
        region: node.region.to_string(),
        zone: node.zone.clone(),
        addresses: Some(put_addresses(&node.addresses)),
    }
}

fn take_new_node(node: proto::NewNode) -> Result<NewNode, WireError> {
    Ok(NewNode {
        key: NodeKey(take_id("node.key", &node.key)?),
        region: take_region(&node.region)?,
        zone: node.zone,
        addresses: take_addresses(node.addresses),
    })
}

fn put_addresses(addresses: &Addresses) -> proto::NodeAddresses {
    proto::NodeAddresses {
        client: addresses.client.clone(),
        reporter: addresses.reporter.clone(),
        peer: addresses.peer.clone(),
        admin: addresses.admin.clone(),
    }
}

/// Missing ones are empty; whether they may be is for whoever applies the command.
fn take_addresses(addresses: Option<proto::NodeAddresses>) -> Addresses {
    let addresses = addresses.unwrap_or_default();
    Addresses {
        client: addresses.client,
        reporter: addresses.reporter,
        peer: addresses.peer,
        admin: addresses.admin,
    }
}

fn put_weight(region: &RegionName, weight: u32) -> proto::RegionWeight {
    proto::RegionWeight {
        region: region.to_string(),
        weight,
    }
}

fn take_weight(weight: &proto::RegionWeight) -> Result<(RegionName, u32), WireError> {
    Ok((take_region(&weight.region)?, weight.weight))
}

fn put_replicas(replicas: &BTreeSet<ReplicaId>) -> Vec<u64> {
    replicas.iter().map(|replica| replica.0).collect()
}

fn take_replicas(replicas: Vec<u64>) -> BTreeSet<ReplicaId> {
    replicas.into_iter().map(ReplicaId).collect()
}

fn take_group(number: u64) -> Result<GroupId, WireError> {
    GroupId::from_number(number).ok_or(WireError::Range {
        field: "group",
        value: number,
    })
}

fn take_region(region: &str) -> Result<RegionName, WireError> {
    RegionName::new(region).map_err(named("region"))
}

fn put_id(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

fn take_id(field: &'static str, bytes: &[u8]) -> Result<u128, WireError> {
    let bytes = bytes.try_into().map_err(|_| WireError::Range {
        field,
        value: bytes.len() as u64,
    });
    bytes.map(u128::from_be_bytes)
}

/// A value of an enum that this release does not know.
fn unknown(field: &'static str, value: i32) -> WireError {
    WireError::Range {
        field,
        value: u64::try_from(value).unwrap_or(u64::MAX),
    }
}

fn put_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
