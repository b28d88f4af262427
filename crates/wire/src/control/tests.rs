//! Whatever the control group is told decodes to itself, and no bytes make decoding panic.

use std::sync::Arc;
use std::time::Duration;

use headcount_model::control::{
    Addresses, ClusterFacts, ClusterId, ControlCommand, ControlParts, Fingerprint, Group, GroupId,
    LastOrder, NewNode, Node, NodeKey, NodeState, Outcome, Refusal, Region, Replica, Revocation,
    Settings, Tenure, TimingProfile,
};
use headcount_model::{Era, Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId, Timestamp};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::WireError;

fn region() -> impl Strategy<Value = RegionName> {
    "[a-z]{1,4}".prop_map(|name| RegionName::new(&name).unwrap())
}

fn node_id() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn replica_id() -> impl Strategy<Value = ReplicaId> {
    any::<u64>().prop_map(ReplicaId)
}

fn shard_id() -> impl Strategy<Value = ShardId> {
    any::<u32>().prop_map(ShardId)
}

fn group_id() -> impl Strategy<Value = GroupId> {
    option::of(shard_id()).prop_map(|shard| shard.map_or(GroupId::Control, GroupId::Shard))
}

fn addresses() -> impl Strategy<Value = Addresses> {
    ("[a-z.:0-9]{0,9}", "[a-z]{0,3}", "[a-z]{0,3}", "[a-z]{0,3}").prop_map(
        |(client, reporter, peer, admin)| Addresses {
            client,
            reporter,
            peer,
            admin,
        },
    )
}

fn new_node() -> impl Strategy<Value = NewNode> {
    (any::<u128>(), region(), "[a-z]{0,3}", addresses()).prop_map(
        |(key, region, zone, addresses)| NewNode {
            key: NodeKey(key),
            region,
            zone,
            addresses,
        },
    )
}

fn facts() -> impl Strategy<Value = ClusterFacts> {
    let timing = prop::sample::select(TimingProfile::ALL.to_vec());
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
    let pin = (".{0,4}", region(), any::<u32>()).prop_map(|(prefix, home, shards)| Pin {
        prefix,
        home,
        shards,
    });
    (any::<u128>(), ".{0,9}", timing, numbers, vec(pin, 0..3)).prop_map(
        |(id, name, timing, (shards, era, format, fingerprint), pins)| ClusterFacts {
            id: ClusterId(id),
            name,
            shards,
            timing,
            era: Era(era),
            format,
            fingerprint: Fingerprint(fingerprint),
            pins,
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(version, millis, copies)| Settings {
        version,
        occupancy_interval: Duration::from_millis(millis.into()),
        copies,
    })
}

fn commands() -> impl Strategy<Value = ControlCommand> {
    let init = (facts(), settings(), new_node()).prop_map(|(facts, settings, node)| {
        ControlCommand::Init {
            facts,
            settings,
            node,
        }
    });
    let start = (node_id(), any::<(u64, u64, u32)>(), addresses()).prop_map(
        |(node, (incarnation, process, understands), addresses)| ControlCommand::Start {
            node,
            incarnation: Incarnation(incarnation),
            process,
            addresses,
            understands,
        },
    );
    let lost =
        (node_id(), any::<u64>()).prop_map(|(node, incarnation)| ControlCommand::LeaseLost {
            node,
            incarnation: Incarnation(incarnation),
        });
    let stop = (node_id(), any::<u64>()).prop_map(|(node, incarnation)| ControlCommand::Stop {
        node,
        incarnation: Incarnation(incarnation),
    });
    let add = (group_id(), any::<u64>(), btree_set(node_id(), 0..4)).prop_map(
        |(group, version, nodes)| ControlCommand::AddReplicas {
            group,
            version,
            nodes,
        },
    );
    let vote = (group_id(), any::<u64>(), btree_set(replica_id(), 0..4)).prop_map(
        |(group, version, voters)| ControlCommand::SetVoters {
            group,
            version,
            voters,
        },
    );
    let remove = (group_id(), any::<u64>(), btree_set(replica_id(), 0..4)).prop_map(
        |(group, version, replicas)| ControlCommand::RemoveReplicas {
            group,
            version,
            replicas,
        },
    );
    let ready = (group_id(), replica_id())
        .prop_map(|(group, replica)| ControlCommand::ReplicaReady { group, replica });
    let confirm = (group_id(), any::<u64>())
        .prop_map(|(group, version)| ControlCommand::Confirm { group, version });
    let owner =
        (region(), shard_id(), any::<u64>(), node_id()).prop_map(|(region, shard, fence, node)| {
            ControlCommand::MoveOwner {
                region,
                shard,
                fence: Fence(fence),
                node,
            }
        });
    let prefer = (group_id(), replica_id())
        .prop_map(|(group, replica)| ControlCommand::PreferLeader { group, replica });
    let home = (shard_id(), option::of(region()))
        .prop_map(|(shard, home)| ControlCommand::SetHome { shard, home });
    let follow = (shard_id(), option::of(region()))
        .prop_map(|(shard, region)| ControlCommand::FollowTraffic { shard, region });
    let pacing = any::<u32>().prop_map(|millis| ControlCommand::SetPacing {
        occupancy_interval: Duration::from_millis(millis.into()),
    });
    let revoke = (
        "[a-z.]{0,3}",
        btree_set("[a-z:]{0,3}", 0..4),
        revocations(),
        any::<u64>(),
    )
        .prop_map(
            |(key, targets, revocation, now)| ControlCommand::RevokeTokens {
                key,
                targets,
                revocation,
                now: Timestamp(now),
            },
        );
    let single = prop_oneof![
        init,
        new_node().prop_map(ControlCommand::Join),
        start,
        lost,
        stop,
        node_id().prop_map(ControlCommand::Drain),
        node_id().prop_map(ControlCommand::Undrain),
        node_id().prop_map(ControlCommand::Remove),
        add,
        vote,
        remove,
        ready,
        confirm,
        owner,
        prefer,
        home,
        follow,
        pacing,
        btree_map(region(), any::<u32>(), 0..4).prop_map(ControlCommand::SetWeights),
        any::<u32>().prop_map(ControlCommand::SetCopies),
        any::<u32>().prop_map(|era| ControlCommand::RaiseEra(Era(era))),
        revoke,
    ];
    (single, option::of(any::<(u64, u64)>())).prop_map(|(command, order)| match order {
        None => command,
        Some((after, id)) => ControlCommand::Order {
            after,
            id,
            command: Box::new(command),
        },
    })
}

fn revocations() -> impl Strategy<Value = Revocation> {
    any::<(u64, u64)>().prop_map(|(issued, applies)| Revocation {
        issued_before: Timestamp(issued),
        applies_at: Timestamp(applies),
    })
}

fn refusals() -> impl Strategy<Value = Refusal> {
    let values = (
        node_id(),
        region(),
        group_id(),
        replica_id(),
        shard_id(),
        any::<u64>(),
    );
    values.prop_flat_map(|(node, region, group, replica, shard, number)| {
        let what = "shards".to_owned();
        prop::sample::select(vec![
            Refusal::NotFounded,
            Refusal::Founded {
                cluster: ClusterId(number.into()),
            },
            Refusal::TooMuch {
                what: what.clone(),
                max: number,
            },
            Refusal::Missing { what },
            Refusal::UnknownNode { node },
            Refusal::NodeRemoved { node },
            Refusal::OtherRegion {
                node,
                region: region.clone(),
            },
            Refusal::StaleIncarnation {
                node,
                current: Incarnation(number),
            },
            Refusal::LastNode { node },
            Refusal::NotDrained { node },
            Refusal::StillHolds {
                node,
                replicas: number,
            },
            Refusal::UnknownRegion {
                region: region.clone(),
            },
            Refusal::UnknownGroup { group },
            Refusal::UnknownReplica { group, replica },
            Refusal::Superseded {
                group,
                current: number,
            },
            Refusal::OwnerMoved {
                region,
                shard,
                current: Fence(number),
            },
            Refusal::Occupied { group, node },
            Refusal::NotEligible { group, node },
            Refusal::BadVoters { group },
            Refusal::StillVotes { group, replica },
            Refusal::OldEra { current: Era(7) },
            Refusal::Overtaken { current: number },
        ])
    })
}

fn replies() -> impl Strategy<Value = headcount_model::control::ControlReply> {
    let joined =
        (node_id(), any::<u64>(), replica_id()).prop_map(|(node, incarnation, replica)| {
            Outcome::Joined {
                node,
                incarnation: Incarnation(incarnation),
                replica,
            }
        });
    let started = any::<u64>().prop_map(|number| Outcome::Started {
        incarnation: Incarnation(number),
    });
    prop_oneof![
        Just(Ok(Outcome::Changed)),
        Just(Ok(Outcome::Unchanged)),
        joined.prop_map(Ok),
        started.prop_map(Ok),
        refusals().prop_map(Err),
    ]
}

fn nodes() -> impl Strategy<Value = Node> {
    let states = [
        NodeState::Joining,
        NodeState::Live,
        NodeState::Dead,
        NodeState::Removed,
    ];
    let rest = (prop::sample::select(states.to_vec()), any::<(bool, bool)>());
    (new_node(), any::<(u64, u64, u32)>(), rest).prop_map(
        |(new, (incarnation, process, understands), (state, (draining, stopping)))| Node {
            key: new.key,
            region: new.region,
            zone: new.zone,
            addresses: new.addresses,
            incarnation: Incarnation(incarnation),
            process,
            understands,
            state,
            draining,
            stopping,
        },
    )
}

fn groups() -> impl Strategy<Value = Group> {
    let replica =
        (node_id(), any::<bool>(), option::of(any::<u64>())).prop_map(|(node, ready, leaving)| {
            Replica {
                node,
                ready,
                leaving,
            }
        });
    let seats = (option::of(region()), option::of(region()));
    let ids = (replica_id(), option::of(replica_id()), seats);
    let members = (
        btree_map(replica_id(), replica, 0..5),
        btree_set(replica_id(), 0..4),
    );
    (ids, members, any::<(u64, u64, u64)>()).prop_map(
        |(
            (founder, leader, (home, follows)),
            (replicas, voters),
            (version, voters_version, confirmed),
        )| {
            Group {
                founder,
                replicas,
                voters,
                version,
                voters_version,
                confirmed,
                leader,
                home,
                follows,
            }
        },
    )
}

fn states() -> impl Strategy<Value = ControlParts> {
    let holder = option::of((node_id(), any::<u64>().prop_map(Incarnation)));
    let tenure = (any::<(u64, u64)>(), holder).prop_map(|((fence, void), holder)| Tenure {
        fence: Fence(fence),
        holder,
        void: Fence(void),
    });
    let regions = any::<u32>().prop_map(|weight| Region { weight });
    let maps = (
        btree_map(region(), regions, 0..4),
        btree_map(node_id(), nodes(), 0..4),
        btree_map(group_id(), groups(), 0..100),
        btree_map((region(), shard_id()), tenure, 0..9),
        btree_map(("[a-z]{1,3}", "[a-z]{1,3}"), vec(revocations(), 1..3), 0..9),
    );
    (
        any::<([u64; 4], u64, u64)>(),
        option::of(facts()),
        settings(),
        maps,
    )
        .prop_map(
            |(
                ([applied, node, replica, fence], order, order_id),
                facts,
                settings,
                (regions, nodes, groups, tenures, revocations),
            )| {
                ControlParts {
                    applied,
                    facts,
                    settings,
                    last_node: NodeId(node),
                    last_replica: ReplicaId(replica),
                    last_fence: Fence(fence),
                    last_order: LastOrder {
                        index: order,
                        id: order_id,
                    },
                    regions,
                    nodes,
                    groups,
                    tenures,
                    revocations: Arc::new(revocations),
                }
            },
        )
}

proptest! {
    #[test]
    fn commands_survive(command in commands()) {
        let bytes = encode_control_command(&command);
        prop_assert_eq!(decode_control_command(&bytes), Ok(command));
    }

    #[test]
    fn replies_survive(reply in replies()) {
        prop_assert_eq!(decode_control_reply(&encode_control_reply(&reply)), Ok(reply));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..60)) {
        drop(decode_control_command(&bytes));
        drop(decode_control_reply(&bytes));
        drop(decode_control_snapshot(&[bytes.into()]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    #[test]
    fn snapshots_survive_and_a_lost_chunk_is_noticed(state in states()) {
        let chunks = encode_control_snapshot(&state);
        prop_assert_eq!(&chunks, &encode_control_snapshot(&state));
        prop_assert_eq!(decode_control_snapshot(&chunks), Ok(state));
        for lost in 0..chunks.len() {
            let mut rest = chunks.clone();
            rest.remove(lost);
            prop_assert!(decode_control_snapshot(&rest).is_err());
        }
    }
}

/// A cluster at every bound: no chunk may exceed what travels in one message.
#[test]
fn the_largest_chunk_is_below_a_megabyte() {
    let text = "x".repeat(headcount_model::control::TEXT_BYTES_MAX);
    let long = RegionName::new(&"r".repeat(headcount_model::REGION_BYTES_MAX)).unwrap();
    let addresses = Addresses {
        client: text.clone(),
        reporter: text.clone(),
        peer: text.clone(),
        admin: text.clone(),
    };
    let node = Node {
        key: NodeKey(u128::MAX),
        region: long.clone(),
        zone: text,
        addresses,
        incarnation: Incarnation(u64::MAX),
        process: u64::MAX,
        understands: u32::MAX,
        state: NodeState::Live,
        draining: true,
        stopping: true,
    };
    let most = headcount_model::control::NODES_MAX + headcount_model::control::REMOVED_MAX;
    let ids = || (0..most as u64).map(|id| u64::MAX - id);
    let replica = Replica {
        node: NodeId(u64::MAX),
        ready: true,
        leaving: Some(u64::MAX),
    };
    let group = Group {
        founder: ReplicaId(u64::MAX),
        replicas: ids().map(|id| (ReplicaId(id), replica)).collect(),
        voters: ids().take(5).map(ReplicaId).collect(),
        version: u64::MAX,
        voters_version: u64::MAX,
        confirmed: u64::MAX,
        leader: Some(ReplicaId(u64::MAX)),
        home: Some(long.clone()),
        follows: Some(long.clone()),
    };
    let tenure = Tenure {
        fence: Fence(u64::MAX),
        holder: Some((NodeId(u64::MAX), Incarnation(u64::MAX))),
        void: Fence(u64::MAX),
    };
    let shards = 0..headcount_model::SHARDS_MAX;
    let state = ControlParts {
        nodes: ids().map(|id| (NodeId(id), node.clone())).collect(),
        groups: shards
            .clone()
            .map(|id| (GroupId::Shard(ShardId(id)), group.clone()))
            .collect(),
        tenures: (0..8)
            .flat_map(|n| {
                let region = RegionName::new(&format!("{n}{}", &long.as_str()[1..])).unwrap();
                shards
                    .clone()
                    .map(move |id| ((region.clone(), ShardId(id)), tenure))
            })
            .collect(),
        revocations: Arc::new(
            (0..headcount_model::control::REVOCATIONS_MAX)
                .map(|n| {
                    let key = "k".repeat(headcount_model::control::TEXT_BYTES_MAX);
                    let fill = "x".repeat(headcount_model::control::REVOKED_BYTES_MAX - 5);
                    let revocation = Revocation {
                        issued_before: Timestamp(u64::MAX),
                        applies_at: Timestamp(u64::MAX),
                    };
                    ((key, format!("{n:05}{fill}")), vec![revocation])
                })
                .collect(),
        ),
        ..ControlParts::default()
    };
    let chunks = encode_control_snapshot(&state);
    let largest = chunks.iter().map(|chunk| chunk.len()).max().unwrap();
    assert!(largest <= 1 << 20, "{largest} bytes");
}

#[test]
fn another_format_is_refused_and_a_later_command_is_missing() {
    use prost::Message as _;
    let later = proto::ControlEntry {
        format: 2,
        command: None,
    }
    .encode_to_vec();
    assert!(matches!(
        decode_control_command(&later),
        Err(WireError::Format { format: 2, .. })
    ));
    let mut unknown = proto::ControlEntry {
        format: 1,
        command: None,
    }
    .encode_to_vec();
    unknown.extend([0xfa, 0x06, 0x00]); // field 111, empty
    assert_eq!(
        decode_control_command(&unknown),
        Err(WireError::Missing("command"))
    );
}
