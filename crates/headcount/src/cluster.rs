//! `headcount init` and `headcount cluster`.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_node::admin::ClusterStatus;
use headcount_node::admin::status::{LeaderRow, ShardRow};
use reqwest::Method;
use serde_json::{Value, json};

use crate::admin::Operator;
use crate::cli::{Cluster, Operate};
use crate::failure::Failure;
use crate::output::{Output, table};

pub(crate) async fn init(operate: &Operate, output: Output) -> Result<(), Failure> {
    let done = Operator::new(operate)?
        .ask(Method::POST, "v1/init", None)
        .await?;
    output.show(&done, |_| {
        "the cluster is founded; other nodes may join\n".to_owned()
    })
}

pub(crate) async fn run(
    command: Cluster,
    operate: &Operate,
    output: Output,
) -> Result<(), Failure> {
    let operator = Operator::new(operate)?;
    let (method, path, body, told) = match command {
        Cluster::Status { shards } => {
            let status = operator.status().await?;
            output.show(&status, |status| describe(status, shards))?;
            return match lost_majority(&status) {
                None => Ok(()),
                Some(lost) => Err(Failure::Failed(anyhow::anyhow!("{lost}"))),
            };
        }
        Cluster::Drain { node } => (
            Method::POST,
            format!("v1/nodes/{node}/drain"),
            None,
            "the node is being emptied",
        ),
        Cluster::Undrain { node } => (
            Method::POST,
            format!("v1/nodes/{node}/undrain"),
            None,
            "the node takes part again",
        ),
        Cluster::Remove { node } => (
            Method::POST,
            format!("v1/nodes/{node}/remove"),
            None,
            "the node is no member any more",
        ),
        Cluster::Weights { weights } => {
            let weights: BTreeMap<String, u32> = weights.into_iter().collect();
            (
                Method::PUT,
                "v1/weights".to_owned(),
                Some(json!(weights)),
                "the weights are set",
            )
        }
        Cluster::Set {
            occupancy_interval,
            copies,
        } => {
            if occupancy_interval.is_none() && copies.is_none() {
                return Err(Failure::usage(
                    "nothing to set: give --occupancy-interval or --copies",
                ));
            }
            let body = settings(occupancy_interval, copies);
            (
                Method::PUT,
                "v1/settings".to_owned(),
                Some(body),
                "the settings are changed",
            )
        }
    };
    let done = operator.ask(method, &path, body).await?;
    output.show(&done, |_| format!("{told}\n"))
}

fn settings(interval: Option<Duration>, copies: Option<u32>) -> Value {
    let mut body = serde_json::Map::new();
    if let Some(interval) = interval {
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        body.insert("occupancy_interval_ms".to_owned(), millis.into());
    }
    if let Some(copies) = copies {
        body.insert("copies".to_owned(), copies.into());
    }
    Value::Object(body)
}

/// Tells a status to people.
fn describe(status: &ClusterStatus, with_shards: bool) -> String {
    let Some(cluster) = &status.cluster else {
        return "this node belongs to no cluster yet: `headcount init` founds one, node.join joins \
                one\n"
            .to_owned();
    };
    let mut text = format!(
        "cluster {} ({}): {} shards, timing {}, era {}\n",
        cluster.name, cluster.id, cluster.shards, cluster.timing, cluster.era
    );
    text.push_str(&match lost_majority(status) {
        Some(lost) => format!("{lost}\n\n"),
        None => format!(
            "control group led by {}; {}\n\n",
            leader(status.control.leader.as_ref()),
            match status.plan_pending {
                0 => "everything is where it belongs".to_owned(),
                pending => format!("{pending} changes of the placement under way"),
            }
        ),
    });
    if let Some(traffic) = status.traffic.as_ref().filter(|traffic| traffic.items > 0) {
        let share = traffic.local_items * 100 / traffic.items;
        text.push_str(&format!(
            "{share} % of the traffic of late came from its coordinator's region\n\n"
        ));
    }
    let regions: Vec<_> = status
        .regions
        .iter()
        .map(|region| {
            let live = if region.live { "live" } else { "dead" };
            [
                region.name.clone(),
                live.to_owned(),
                region.nodes.to_string(),
                region.leaders.to_string(),
                region.followers.to_string(),
                region.weight.to_string(),
            ]
        })
        .collect();
    text.push_str(&table(
        ["region", "state", "nodes", "leaders", "follow", "weight"],
        &regions,
    ));
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            let standing = node
                .standing
                .as_ref()
                .filter(|standing| **standing != node.state);
            let state = standing.map_or_else(
                || node.state.clone(),
                |standing| format!("{} ({standing})", node.state),
            );
            [
                node.id.to_string(),
                node.region.clone(),
                node.zone.clone(),
                state,
                node.incarnation.to_string(),
                node.replicas.to_string(),
                node.voters.to_string(),
                node.leaders.to_string(),
                node.addresses.peer.clone(),
            ]
        })
        .collect();
    let headings = [
        "node", "region", "zone", "state", "life", "replicas", "voters", "leaders", "peer",
    ];
    text.push('\n');
    text.push_str(&table(headings, &nodes));
    if with_shards {
        let shards: Vec<_> = status.shards.iter().map(shard).collect();
        let headings = [
            "shard", "leader", "seat", "term", "owners", "voters", "learners", "lag", "channels",
            "traffic",
        ];
        text.push('\n');
        text.push_str(&table(headings, &shards));
    } else {
        text.push_str(&shards_in_brief(&status.shards));
    }
    text
}

/// Says that what follows is old, if no majority of the control group confirms it.
fn lost_majority(status: &ClusterStatus) -> Option<String> {
    if status.cluster.is_none() || status.control.has_majority {
        return None;
    }
    Some(match status.control.heard_age_ms {
        Some(age) => format!(
            "no majority: known as of {:.1} s ago",
            Duration::from_millis(age).as_secs_f64()
        ),
        None => "no majority: known from before the node started".to_owned(),
    })
}

fn shards_in_brief(shards: &[ShardRow]) -> String {
    let leaderless = shards.iter().filter(|shard| shard.leader.is_none()).count();
    let lag: u64 = shards.iter().filter_map(lag).sum();
    let channels: usize = shards.iter().filter_map(|shard| shard.channels).sum();
    format!(
        "\n{} shards, {leaderless} without a known leader; this node is {lag} entries behind and \
         knows {channels} active channels (--shards for each)\n",
        shards.len()
    )
}

fn lag(shard: &ShardRow) -> Option<u64> {
    Some(shard.committed?.saturating_sub(shard.applied?))
}

fn shard(shard: &ShardRow) -> [String; 10] {
    let owners: Vec<String> = shard
        .owners
        .iter()
        .map(|owner| {
            let node = owner
                .node
                .map_or_else(|| "-".to_owned(), |node| node.to_string());
            let adopting = if owner.settled { "" } else { " adopting" };
            format!("{}:{node}@{}{adopting}", owner.region, owner.fence)
        })
        .collect();
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    [
        shard.shard.to_string(),
        leader(shard.leader.as_ref()),
        seat(shard),
        shard.term.to_string(),
        owners.join(" "),
        ids(&shard.voters),
        ids(&shard.learners),
        number(lag(shard)),
        number(shard.channels.map(|channels| channels as u64)),
        traffic(shard),
    ]
}

/// Says where the coordinator should be, and why.
fn seat(shard: &ShardRow) -> String {
    match (&shard.home, &shard.follows) {
        (Some(home), _) => format!("{home} (pinned)"),
        (None, Some(region)) => format!("{region} (traffic)"),
        (None, None) => "-".to_owned(),
    }
}

/// Says where traffic came from.
fn traffic(shard: &ShardRow) -> String {
    let regions = shard.traffic.iter();
    let regions: Vec<String> = regions
        .map(|(region, items)| format!("{region}:{items}"))
        .collect();
    if regions.is_empty() {
        "-".to_owned()
    } else {
        regions.join(" ")
    }
}

fn leader(leader: Option<&LeaderRow>) -> String {
    leader.map_or_else(
        || "nobody".to_owned(),
        |leader| format!("{}/{}", leader.region, leader.node),
    )
}

fn ids(nodes: &[u64]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(",")
}

#[cfg(test)]
mod tests {
    use headcount_node::admin::status::{
        ClusterRow, ControlRow, NodeRow, OwnerRow, RegionRow, TrafficRow,
    };

    use super::*;

    #[test]
    fn a_status_is_told_in_tables() {
        let leads = Some(LeaderRow {
            node: 1,
            region: "eu".to_owned(),
        });
        let status = ClusterStatus {
            answered_by: Some(1),
            cluster: Some(ClusterRow {
                name: "c".to_owned(),
                shards: 1,
                ..ClusterRow::default()
            }),
            regions: vec![RegionRow {
                name: "eu".to_owned(),
                live: true,
                ..RegionRow::default()
            }],
            nodes: vec![NodeRow {
                id: 1,
                state: "live".to_owned(),
                standing: Some("suspect".to_owned()),
                ..NodeRow::default()
            }],
            shards: vec![ShardRow {
                leader: leads,
                applied: Some(5),
                committed: Some(7),
                follows: Some("ap".to_owned()),
                traffic: BTreeMap::from([("eu".to_owned(), 30)]),
                owners: vec![OwnerRow {
                    region: "eu".to_owned(),
                    fence: 3,
                    ..OwnerRow::default()
                }],
                ..ShardRow::default()
            }],
            plan_pending: 2,
            traffic: Some(TrafficRow {
                items: 40,
                local_items: 30,
            }),
            control: ControlRow {
                has_majority: true,
                ..ControlRow::default()
            },
        };
        let text = describe(&status, true);
        for part in [
            "control group led by nobody",
            "2 changes",
            "live (suspect)",
            "eu/1",
            "eu:-@3",
            "ap (traffic)",
            "eu:30",
            "75 % of the traffic",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(describe(&status, false).contains("2 entries behind"));
        assert!(describe(&ClusterStatus::default(), false).contains("no cluster yet"));
        assert!(lost_majority(&ClusterStatus::default()).is_none());

        let mut cut_off = status;
        cut_off.control.has_majority = false;
        assert!(describe(&cut_off, false).contains("no majority: known from before"));
        cut_off.control.heard_age_ms = Some(12_340);
        let text = describe(&cut_off, false);
        assert!(
            text.contains("no majority: known as of 12.3 s ago"),
            "{text}"
        );
        assert!(!text.contains("belongs"), "{text}");
    }
}
