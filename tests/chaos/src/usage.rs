//! Usage: what nodes hold when a run begins, and once it is right again (C14).

use std::time::Duration;

use anyhow::Result;

use crate::cluster::{Cluster, said, wait_until};
use crate::record::Record;

const MIB: u64 = 1024 * 1024;

/// How much more memory a node may hold than at the beginning. No tenth, as nothing had happened
/// then: its rings fill with up to 25 MiB (4 shards, each with 4,096 events and 16,384 that were
/// early, of 300 bytes), and its allocator keeps what the largest burst took.
const RESIDENT_MORE: u64 = 64 * MIB;

/// How many more files and connections a node may have open. At the beginning its edges were not
/// there, 9 that churn, 3 that write and 3 in peace, nor readers, who keep up to 4 connections, nor
/// further segments of the log and the journals.
const FILES_MORE: usize = 32;

/// What waits in a node, of which nothing is left once it is quiet.
const QUEUES: [&str; 5] = [
    "gateway_registers_dirty",
    "gossip_batches_in_flight",
    "node_mailbox_letters",
    "node_peer_queue_items",
    "node_store_queued_bytes",
];

/// Longest wait until what broke is let go: a listener finds dead connections within 25 s.
const LET_GO: Duration = Duration::from_secs(30);

/// Usage: what a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Memory, in bytes.
    resident: u64,
    /// Open files and connections.
    files: usize,
    /// What waits in all queues together.
    waiting: f64,
}

impl Usage {
    async fn of(cluster: &Cluster, node: usize) -> Result<Self> {
        let mut waiting = 0.0;
        for queue in QUEUES {
            waiting += cluster.metric(node, queue).await?;
        }
        Ok(Self {
            resident: cluster.resident(node).unwrap_or_default(),
            files: cluster.open_files(node).unwrap_or_default(),
            waiting,
        })
    }

    /// Returns what there is too much of, compared with the beginning.
    fn excess(&self, before: &Self) -> Result<(), String> {
        let resident = self.resident <= before.resident + RESIDENT_MORE;
        let files = self.files <= before.files + FILES_MORE;
        if resident && files && self.waiting <= 0.0 {
            return Ok(());
        }
        Err(format!("{self}, and {before} at the beginning"))
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            resident,
            files,
            waiting,
        } = self;
        let mib = resident / MIB;
        write!(f, "{mib} MiB, {files} files, {waiting} in queues")
    }
}

/// Looks what every node holds.
pub(crate) async fn of_all(cluster: &Cluster) -> Result<Vec<Usage>> {
    let mut usages = Vec::new();
    for node in 0..cluster.nodes.len() {
        usages.push(Usage::of(cluster, node).await?);
    }
    Ok(usages)
}

/// Waits until every node holds about what it did at the beginning; returns what is too much.
pub(crate) async fn returned(cluster: &Cluster, record: &Record, before: &[Usage]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (node, before) in before.iter().enumerate() {
        let returned = wait_until("what was held is let go", LET_GO, async || {
            let usage = Usage::of(cluster, node).await.map_err(said)?;
            usage.excess(before).map(|()| usage)
        });
        match returned.await {
            Ok(usage) => record.say(format!("node {node} holds {usage}; {before} at first")),
            Err(late) => wrong.push(format!("C14 resources: node {node}: {late}")),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_beyond_its_bound_is_too_much() {
        let before = Usage {
            resident: 40 * MIB,
            files: 50,
            waiting: 3.0,
        };
        let usage = |resident, files, waiting| Usage {
            resident: resident * MIB,
            files,
            waiting,
        };
        let is_right = |usage: Usage| usage.excess(&before).is_ok();
        assert!(is_right(usage(104, 82, 0.0)));
        assert!(is_right(usage(20, 10, 0.0)), "who restarted holds less");
        assert!(!is_right(usage(105, 50, 0.0)), "memory");
        assert!(!is_right(usage(40, 83, 0.0)), "files");
        assert!(!is_right(usage(40, 50, 1.0)), "queues");
    }
}
