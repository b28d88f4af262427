//! The settings of a host: raft's clockwork and every bound.

use std::time::Duration;

use headcount_model::NodeId;

/// The settings of a [`crate::Host`].
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The node that the host runs on.
    pub node: NodeId,
    /// Raft's clockwork, equal on all nodes of a cluster.
    pub timing: Timing,
    /// A number that differs from one life of the process to the next, such as its start in
    /// nanoseconds. Calls to peers are numbered from it, so that an answer to a call of an earlier
    /// life is not taken for one to a later call.
    pub boot: u64,
    /// The bounds.
    pub limits: Limits,
}

impl HostConfig {
    /// Returns the settings for `node` with the default limits.
    #[must_use]
    pub fn new(node: NodeId, timing: Timing, boot: u64) -> Self {
        Self {
            node,
            timing,
            boot,
            limits: Limits::default(),
        }
    }
}

/// Raft's clockwork. A constant of the cluster: leases are only safe if `election_max` is the same
/// on every replica, so the handshake between nodes compares it.
///
/// `heartbeat` bounds a heartbeat's round trip too, so it must exceed twice the longest round trip
/// between voters or idle groups lose their leases. `election_min` bounds a vote's round trip and
/// must exceed the longest round trip plus a sync. `election_max` is the length of a leader's
/// lease; a leader's loss is noticed after `election_max` to twice that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives. Too low costs CPU (a message each way for
    /// each follower), too high delays failover.
    pub heartbeat: Duration,
    /// The shortest random part of the wait before a replica campaigns.
    pub election_min: Duration,
    /// The longest random part of that wait, and a leader's lease.
    pub election_max: Duration,
}

impl Timing {
    /// All nodes on one machine or in one building.
    pub const LOCAL: Self = Self::of(150, 300, 600);
    /// Round trips up to 100 ms.
    pub const REGIONAL: Self = Self::of(300, 600, 1000);
    /// Round trips up to 250 ms.
    pub const WAN: Self = Self::of(500, 1000, 1500);

    const fn of(heartbeat_ms: u64, election_min_ms: u64, election_max_ms: u64) -> Self {
        Self {
            heartbeat: Duration::from_millis(heartbeat_ms),
            election_min: Duration::from_millis(election_min_ms),
            election_max: Duration::from_millis(election_max_ms),
        }
    }

    /// How long a leader waits for the answer to an append before it takes the append for lost
    /// and starts the stream anew. Long enough for a disk's stall; an answer that was eaten stalls
    /// replication to one follower for this long.
    #[must_use]
    pub fn append_deadline(&self) -> Duration {
        self.election_max * 2
    }

    /// How often a leader that has no lease yet looks whether it has.
    #[must_use]
    pub(crate) fn lease_pause(&self) -> Duration {
        self.heartbeat / 16
    }

    /// How much earlier than openraft a leader stops to believe in its own lease; see
    /// [`crate::GroupStatus::leading_until`].
    #[must_use]
    pub fn lease_margin(&self) -> Duration {
        self.election_max / 10
    }
}

/// Every bound of a host, with what happens when it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Proposals of one group waiting for their reply; more are refused as overloaded. 4096.
    pub proposals_in_flight: usize,
    /// The size of a command in bytes; a larger one is refused. 1 MiB, which with its frame must
    /// fit into a message to a peer.
    pub command_bytes: usize,
    /// How long a proposal, a membership step or a transfer is waited for before its outcome is
    /// called unknown. 10 s.
    pub propose_timeout: Duration,
    /// Requests from peers that one group has not answered; more are refused as overloaded. 512.
    pub inbound_per_group: usize,
    /// Appends on their way to one follower of one group; the next waits for an answer. 64.
    pub appends_in_flight: usize,
    /// Bytes of entries on their way to one follower of one group; the next append waits. 4 MiB.
    pub append_bytes_in_flight: usize,
    /// Entries in one append. 128.
    pub append_entries: u64,
    /// Bytes of entries in one append, save for a single larger entry. 1 MiB.
    pub append_bytes: usize,
    /// Entries after which a group takes a snapshot of itself. 5000.
    pub snapshot_entries: u64,
    /// Bytes of commands that all groups of a host together may have to replay at a start. A group
    /// takes a snapshot of itself after its share of that, unless half of its last snapshot is more.
    /// 32 MiB.
    pub snapshot_bytes: u64,
    /// Entries covered by the snapshot that are kept all the same, so that a follower that was
    /// away shortly needs no snapshot. 1000.
    pub snapshot_entries_kept: u64,
    /// Snapshots that this node sends at a time, over all groups; further ones wait. 3.
    pub snapshot_sends: usize,
    /// How long one snapshot may take to send and install. 60 s.
    pub snapshot_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            proposals_in_flight: 4096,
            command_bytes: 1 << 20,
            propose_timeout: Duration::from_secs(10),
            inbound_per_group: 512,
            appends_in_flight: 64,
            append_bytes_in_flight: 4 << 20,
            append_entries: 128,
            append_bytes: 1 << 20,
            snapshot_entries: 5000,
            snapshot_bytes: 32 << 20,
            snapshot_entries_kept: 1000,
            snapshot_sends: 3,
            snapshot_timeout: Duration::from_secs(60),
        }
    }
}

impl HostConfig {
    /// Translates the settings into openraft's, or says what is wrong with them.
    pub(crate) fn to_openraft(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let Timing {
            heartbeat,
            election_min,
            election_max,
        } = self.timing;
        openraft::Config {
            cluster_name: "headcount".to_owned(),
            heartbeat_interval: millis(heartbeat),
            election_timeout_min: millis(election_min),
            election_timeout_max: millis(election_max),
            enable_pre_vote: Some(true),
            // A restarted leader campaigns like anyone: its lease did not outlive the process.
            enable_leader_restore: Some(false),
            // Lets a leader that reaches everyone, while some others do not, step aside
            // (openraft#2080).
            quorum_loss_probe_interval: Some(millis(election_max * 2)),
            max_payload_entries: self.limits.append_entries,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.limits.snapshot_entries),
            max_in_snapshot_log_to_keep: self.limits.snapshot_entries_kept,
            purge_batch_size: (self.limits.snapshot_entries_kept / 4).max(1),
            install_snapshot_timeout: millis(self.limits.snapshot_timeout),
            backoff: "50ms 100ms 200ms ..1s".to_owned(),
            ..openraft::Config::default()
        }
        .validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_one_that_openraft_takes() {
        for timing in [Timing::LOCAL, Timing::REGIONAL, Timing::WAN] {
            let config = HostConfig::new(NodeId(1), timing, 1).to_openraft().unwrap();
            assert!(config.heartbeat_interval * 2 <= config.election_timeout_min);
        }
    }

    #[test]
    fn a_heartbeat_longer_than_an_election_is_refused() {
        let timing = Timing {
            heartbeat: Duration::from_secs(2),
            ..Timing::WAN
        };
        assert!(HostConfig::new(NodeId(1), timing, 1).to_openraft().is_err());
    }
}
