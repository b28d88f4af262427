//! `headcount init` and `headcount cluster`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use headcount_node::admin::ClusterStatus;
use headcount_node::admin::status::{LeaderRow, PinRow, ShardRow};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::admin::Operator;
use crate::cli::{Cluster, Nodes, Operate, Waiting};
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
        Cluster::Drain { nodes, waiting } => {
            let nodes = each(&operator, &nodes, "drain", output).await?;
            return wait(&operator, &nodes, &waiting, Goal::Empty, output).await;
        }
        Cluster::Undrain { nodes } => {
            each(&operator, &nodes, "undrain", output).await?;
            return Ok(());
        }
        Cluster::Remove { nodes, waiting } => {
            let nodes = each(&operator, &nodes, "remove", output).await?;
            return wait(&operator, &nodes, &waiting, Goal::Settled, output).await;
        }
        Cluster::Home { homes } => {
            let homes: BTreeMap<String, String> = homes.into_iter().collect();
            (
                Method::PUT,
                "v1/homes".to_owned(),
                Some(json!(homes)),
                "the homes are set",
            )
        }
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

/// Has the same done with each of some nodes; returns which those are.
async fn each(
    operator: &Operator,
    nodes: &Nodes,
    operation: &str,
    output: Output,
) -> Result<Vec<u64>, Failure> {
    let mut ids = nodes.nodes.clone();
    if let Some(region) = &nodes.region {
        let status = operator.status().await?;
        let members = status.nodes.iter().filter(|node| node.state != "removed");
        let theirs = members.filter(|node| node.region == *region);
        ids.extend(theirs.map(|node| node.id));
        if ids.len() == nodes.nodes.len() {
            let known: Vec<_> = status.regions.iter().map(|region| &region.name).collect();
            return Err(Failure::usage(format!(
                "--region: {region:?} has no nodes; the regions are {known:?}"
            )));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    let told = match operation {
        "drain" => "is being emptied",
        "undrain" => "takes part again",
        _ => "is no member any more",
    };
    for node in &ids {
        let path = format!("v1/nodes/{node}/{operation}");
        let done = operator.ask(Method::POST, &path, None).await;
        done.with_context(|| format!("node {node}"))?;
        let done = json!({ "done": true, "node": node, "operation": operation });
        output.show(&done, |_| format!("node {node} {told}\n"))?;
    }
    Ok(ids)
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// That nothing binds the nodes any more.
    Empty,
    /// That everything is where it belongs without them.
    Settled,
}

/// How far something is, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Progress {
    /// What is left: replicas and votes of the nodes, or changes of the placement.
    left: usize,
    /// The most that was ever left.
    total: usize,
    percent: usize,
    /// What each node still holds.
    nodes: BTreeMap<u64, usize>,
}

impl Progress {
    fn of(status: &ClusterStatus, nodes: &[u64], goal: Goal, total: usize) -> Self {
        let rows = status.nodes.iter().filter(|row| nodes.contains(&row.id));
        let held: BTreeMap<u64, usize> = rows.map(|row| (row.id, row.held)).collect();
        let mut left = held.values().sum();
        if goal == Goal::Settled {
            left += status.plan_pending;
        }
        let total = total.max(left);
        Self {
            left,
            total,
            percent: ((total - left) * 100).checked_div(total).unwrap_or(100),
            nodes: held,
        }
    }
}

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until a goal is reached, and shows how far it is whenever that changes.
async fn wait(
    operator: &Operator,
    nodes: &[u64],
    waiting: &Waiting,
    goal: Goal,
    output: Output,
) -> Result<(), Failure> {
    if !waiting.wait {
        return Ok(());
    }
    let begun = Instant::now();
    let mut shown: Option<Progress> = None;
    loop {
        let status = operator.status().await?;
        let total = shown.as_ref().map_or(0, |shown| shown.total);
        let progress = Progress::of(&status, nodes, goal, total);
        if shown.as_ref() != Some(&progress) {
            output.show(&progress, describe_progress)?;
        }
        if progress.left == 0 {
            return output.say("done");
        }
        if begun.elapsed() >= waiting.timeout {
            return Err(Failure::Failed(anyhow::anyhow!(
                "not done within {:?}: {} of {} are left; it goes on, see `headcount cluster status`",
                waiting.timeout,
                progress.left,
                progress.total
            )));
        }
        shown = Some(progress);
        tokio::time::sleep(LOOK).await;
    }
}

fn describe_progress(progress: &Progress) -> String {
    let Progress {
        left,
        total,
        percent,
        nodes,
    } = progress;
    let nodes: Vec<String> = nodes
        .iter()
        .filter(|(_, held)| **held > 0)
        .map(|(node, held)| format!("node {node} holds {held}"))
        .collect();
    let nodes = if nodes.is_empty() {
        String::new()
    } else {
        format!(": {}", nodes.join(", "))
    };
    format!("{percent} %, {left} of {total} replicas and votes are left{nodes}\n")
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
    if !status.pins.is_empty() {
        let pins: Vec<_> = status.pins.iter().map(pin).collect();
        text.push('\n');
        text.push_str(&table(["pin", "home", "shards", "led at home"], &pins));
    }
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

fn pin(pin: &PinRow) -> [String; 4] {
    let shards: Vec<String> = pin.shards.iter().map(u32::to_string).collect();
    [
        pin.prefix.clone(),
        pin.home.clone(),
        shards.join(","),
        pin.at_home.to_string(),
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
            pins: vec![PinRow {
                prefix: "eu:".to_owned(),
                home: "eu-west-1".to_owned(),
                shards: vec![64, 65],
                at_home: 2,
            }],
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
            "64,65",
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

    #[test]
    fn progress_counts_down_and_never_begins_anew() {
        let status = |held: &[(u64, usize)], plan_pending| ClusterStatus {
            nodes: held
                .iter()
                .map(|(id, held)| NodeRow {
                    id: *id,
                    held: *held,
                    ..NodeRow::default()
                })
                .collect(),
            plan_pending,
            ..ClusterStatus::default()
        };
        let empty = |held: &[(u64, usize)], total| {
            Progress::of(&status(held, 3), &[1, 2], Goal::Empty, total)
        };
        let begun = empty(&[(1, 6), (2, 4), (3, 9)], 0);
        assert_eq!((begun.left, begun.total, begun.percent), (10, 10, 0));
        let text = describe_progress(&begun);
        assert!(text.contains("node 1 holds 6, node 2 holds 4"), "{text}");
        let half = empty(&[(1, 0), (2, 5), (3, 9)], begun.total);
        assert_eq!((half.left, half.percent), (5, 50));
        let done = empty(&[(1, 0), (2, 0)], begun.total);
        assert_eq!((done.left, done.percent), (0, 100));
        let moving = Progress::of(&status(&[(1, 0)], 3), &[1], Goal::Settled, 0);
        assert_eq!(moving.left, 3, "what moves is waited for, too");
    }
}
