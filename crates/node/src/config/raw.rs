//! Every setting: name, default, bounds and meaning. `deploy/config/node.toml` is made from this.

use std::time::Duration;

use headcount_model::control::{COPIES_MAX, OCCUPANCY_INTERVAL_MAX, OCCUPANCY_INTERVAL_MIN};
use headcount_model::{COUNT_MAX, SHARDS_MAX};

use super::fault::Fault;
use super::layers::Layers;
use super::table::{SectionDoc, describe, lines, outside, sections, take};
use super::value::{Bytes, Pins, SecretText, Value};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

const fn hours(count: u64) -> Duration {
    minutes(count * 60)
}

/// Whether secrets are shown or masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// As they are.
    Shown,
    /// As `***`.
    Masked,
}

impl Secrets {
    fn show<T: Value>(self, value: &T) -> toml::Value {
        if self == Self::Masked && value.is_secret() {
            MASK.into()
        } else {
            value.write()
        }
    }
}

/// What stands for a secret.
const MASK: &str = "***";

/// A tenant as it was written.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApp {
    /// Its name, which begins all names of its keys: 1 to 64 of `A-Z a-z 0-9 - _`.
    pub id: String,
    /// What it is told about its channels.
    #[serde(default)]
    pub lifecycle: RawLifecycle,
    /// What it may do, where that is not what `[limits]` says: keys of that section.
    #[serde(default)]
    pub limits: toml::Table,
    /// Its keys.
    #[serde(default)]
    pub key: Vec<RawKey>,
}

/// What a tenant is told about its channels, as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLifecycle {
    /// Whether `[meta]channel.lifecycle` carries `channel.occupancy` too.
    #[serde(default)]
    pub occupancy: bool,
}

/// A key as it was written.
#[derive(Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKey {
    /// Its name inside its app.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// What it may do: a table from channels to operations, or the same as JSON text.
    pub capability: toml::Value,
    /// False refuses it, with all that it ever signed.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

impl std::fmt::Debug for RawKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn enabled() -> bool {
    true
}

impl RawConfig {
    /// Returns all values in force as one TOML table, which [`super::load`] reads back if secrets
    /// are shown.
    #[must_use]
    pub fn to_table(&self, secrets: Secrets) -> toml::Table {
        let mut table = self.write_sections(secrets);
        if !self.app.is_empty() {
            let apps = self.app.iter().map(|app| app.write(secrets)).collect();
            table.insert("app".to_owned(), toml::Value::Array(apps));
        }
        table
    }
}

impl RawApp {
    fn write(&self, secrets: Secrets) -> toml::Value {
        let mut lifecycle = toml::Table::new();
        lifecycle.insert("occupancy".to_owned(), self.lifecycle.occupancy.into());
        let keys = self.key.iter().map(|key| {
            let secret = SecretText::new(&key.secret);
            let mut table = toml::Table::new();
            table.insert("id".to_owned(), key.id.clone().into());
            table.insert("secret".to_owned(), secrets.show(&secret));
            table.insert("capability".to_owned(), key.capability.clone());
            table.insert("enabled".to_owned(), key.enabled.into());
            toml::Value::Table(table)
        });
        let mut table = toml::Table::new();
        table.insert("id".to_owned(), self.id.clone().into());
        table.insert("lifecycle".to_owned(), lifecycle.into());
        if !self.limits.is_empty() {
            table.insert("limits".to_owned(), self.limits.clone().into());
        }
        table.insert("key".to_owned(), toml::Value::Array(keys.collect()));
        toml::Value::Table(table)
    }
}

sections! {
    /// Who and where this node is. Differs from node to node.
    node: Node {
        /// The region's name, the same on all its nodes: 1 to 64 of `A-Z a-z 0-9 - _`. Must be set.
        /// A node cannot move to another region; let it join there anew.
        region: String = String::new();
        /// A failure domain inside the region, such as an availability zone, that voters are spread
        /// over. Empty if there is only one.
        zone: String = String::new();
        /// What people call the node, in logs only. Empty for what the machine is called.
        name: String = String::new();
        /// Directory of the log, the snapshots and the node's identity; must outlast the process,
        /// and no other process may use it.
        data_dir: String = "headcount-data".to_owned();
        /// The name or address by which all other nodes of all regions reach this one. Empty for
        /// the address listened on, or the machine's name where that is any (0.0.0.0).
        advertise_host: String = String::new();
        /// Peers to ask for membership, each `host:port` of a peer listener. Any living one is
        /// enough; the node's own is passed over. Looked at only while the data directory is empty.
        join: Vec<String> = Vec::new();
        /// Id of a dead node whose place this one takes when it joins: the other's membership ends
        /// and its replicas are placed anew, here as well, from the copies that others hold. Looked
        /// at only while the data directory is empty. 0 for none.
        replaces: u64 = 0;
    }

    /// Where the node listens, each `address:port`; port 0 takes any free one.
    listen: Listen {
        /// REST and server-sent events, for readers and watchers, behind your TLS terminator.
        client: String = "127.0.0.1:8080".to_owned();
        /// gRPC for edges and watchers of this region.
        reporter: String = "127.0.0.1:8081".to_owned();
        /// gRPC for the nodes of all regions, and for nobody else.
        peer: String = "127.0.0.1:8082".to_owned();
        /// Health, metrics and operators; never the public.
        admin: String = "127.0.0.1:8083".to_owned();
    }

    /// What is equal on all nodes: nodes that differ here refuse each other.
    cluster: Cluster {
        /// The cluster's name, 1 to 255 bytes.
        name: String = "headcount".to_owned();
        /// Into how many slices, each a raft group, channels are divided; fixed when the cluster is
        /// born. Too few: a busy shard's coordinator is one node's work. Too many: each costs about
        /// 1.5 MiB and 0.2 ms of CPU a second on each node.
        shards: u32 = 64, 1..=SHARDS_MAX;
        /// How patient raft is: `local` (one building), `regional` (round trips up to 100 ms) or
        /// `wan` (up to 250 ms). Too patient: a lost coordinator is noticed later. Too impatient:
        /// coordinators change for no reason.
        timing: String = "wan".to_owned();
    }

    /// What is attached to this node.
    gateway: Gateway {
        /// How long changes are gathered before they go to the regional owners. On a node that has
        /// thousands of channels to tell at once, counts that stay above zero wait up to ten times
        /// as long. Too low: an update per attach. Too high: everybody learns later by as much.
        flush_interval: Duration = ms(5), ms(0)..=secs(1);
        /// How long an edge's counts stay after its stream broke. Too low: a reconnecting edge makes
        /// its channels flap. Too high: an edge that is gone goes on counting.
        edge_grace: Duration = secs(5), ms(0)..=minutes(10);
        /// How long a client's counts stay after its connection broke; the contract's 15 s.
        client_grace: Duration = secs(15), ms(0)..=minutes(10);
        /// How long, at most, a broken session is kept while a newer one of its edge is telling its
        /// set. Too low: the counts of a large edge dip when it reconnects. At least `edge_grace`.
        takeover_timeout: Duration = secs(60), secs(1)..=hours(1);
        /// How long the highest session number of an edge without sessions is remembered, so that
        /// a late stream of an old one is refused.
        edge_memory: Duration = minutes(2), secs(1)..=hours(24);
        /// How long an owner may take to acknowledge an update before the whole set is told anew;
        /// doubles with each time in a row. Too low: needless work when an owner is slow.
        ack_timeout: Duration = secs(2), ms(100)..=minutes(1);
        /// Most items in an update to an owner. With the longest names, 1,000 are 2.5 MiB.
        update_items_max: usize = 1_000, 1..=10_000;
        /// Most updates of a shard that are on their way; further changes coalesce meanwhile.
        window_updates: u64 = 8, 1..=1_000;
        /// Most edges that are known at a time; further ones are refused.
        edges_max: usize = 10_000, 1..=1_000_000;
        /// Most attachments, presence members and counted channels of the node, about 100 bytes
        /// each; further ones are refused singly.
        entries_max: usize = COUNT_MAX as usize, 1..=COUNT_MAX as usize;
        /// Most channels of a shard whose activity (such as a publish) waits for the next update.
        activity_max: usize = 10_000, 1..=1_000_000;
    }

    /// How a region's own counts and activity are decided.
    region: Region {
        /// How long a channel stays active in the region after the last has left. Too low: a busy
        /// channel flaps. Too high: the end of a channel is told late.
        linger: Duration = secs(5), ms(0)..=minutes(10);
        /// Longest wait of a new owner for the gateways' full sets; after it, what is missing is
        /// believed to be gone. Must exceed both graces, else a restart makes channels flap.
        adoption_cap: Duration = secs(20), secs(1)..=hours(1);
    }

    /// How a region's facts travel to the coordinators.
    gossip: Gossip {
        /// Longest time that a count which crosses nothing waits for company; transitions and
        /// crossings go at once. Too low: a log entry per change. Too high: counts are late.
        interval: Duration = ms(50), ms(1)..=secs(10);
        /// Most facts in one batch. Transitions go first, save an eighth for counts that wait.
        batch_items_max: usize = 1_000, 1..=10_000;
        /// Most batches of a shard on their way; further changes coalesce meanwhile. 32 keep a path
        /// of 250 ms busy.
        window_batches: usize = 32, 1..=1_000;
        /// How long a batch may go unapplied before it is sent again. Should exceed a round trip and
        /// a commit, else everything is sent twice.
        resend_after: Duration = secs(1), ms(50)..=minutes(1);
        /// Most transitions of a shard that wait while the region is cut off; beyond it, pairs of
        /// one channel are dropped and counted.
        transitions_max: usize = 100_000, 1_000..=10_000_000;
    }

    /// What coordinators decide. Read by the node that founds the cluster; afterwards the cluster's
    /// own word counts.
    coordinator: Coordinator {
        /// Least time between two `channel.occupancy` of one channel that cross nothing. Too low:
        /// watchers of busy channels drown. Too high: the counts that they see are old.
        occupancy_interval: Duration = secs(5),
            OCCUPANCY_INTERVAL_MIN..=OCCUPANCY_INTERVAL_MAX;
    }

    /// How events reach watchers.
    feed: Feed {
        /// Events that a shard keeps in memory, about 300 bytes each; older ones are read from the
        /// journal. Too low: a short stall costs a watcher disk reads.
        ring_events_max: u64 = 4_096, 16..=1_000_000;
        /// A watcher further behind than this gets only the newest `channel.occupancy` of each
        /// channel until it has caught up. At or above `ring_events_max`: never.
        rollup_lag_events: u64 = 1_024, 1..=1_000_000;
        /// Most events that a watcher is given at once.
        batch_events_max: usize = 256, 1..=10_000;
        /// Most early transitions of a shard that wait for a lost predecessor; the log brings what
        /// does not fit.
        early_waiting_max: usize = 4_096, 1..=1_000_000;
        /// Most channels of a shard of which a transition was told and is not logged; only a region
        /// that is cut off gets here.
        early_channels_max: usize = 262_144, 1..=10_000_000;
        /// Early events of a shard that are kept for watchers that join.
        early_kept_max: usize = 16_384, 1..=1_000_000;
        /// Most watchers on the reporter listener, each about 10 kB with 64 shards; further ones are
        /// refused.
        watchers_max: usize = 1_024, 1..=1_000_000;
    }

    /// Who is believed to live, and how many copies there are.
    placement: Placement {
        /// How long a node is believed to live after it was last heard. Too low: a slow network
        /// looks like dead nodes. Too high: a dead node's counts stand for as long. Keep it equal on
        /// all nodes, since any of them may have to judge the others.
        lease: Duration = secs(5), ms(500)..=minutes(5);
        /// How long after it was last heard a node is shown as suspect.
        suspect_after: Duration = ms(2_500), ms(100)..=minutes(5);
        /// How long a dead node is waited for before its replicas are placed elsewhere. Too low:
        /// every restart copies data. Too high: shards have fewer replicas meanwhile.
        replace_after: Duration = secs(60), secs(1)..=hours(24);
        /// How many replicas of each shard a region with enough nodes holds. With 1, a region whose
        /// node dies counts for nothing until a fresh replica has caught up. Read by the node that
        /// founds the cluster.
        copies: u32 = 2, 1..=COPIES_MAX;
        /// Channels whose coordinators stay in one region while it lives: those whose names begin
        /// with `prefix`, in every app, are divided into `shards` of their own (4 if not said), led
        /// from the region `home`. Where several prefixes fit, the longest counts. Also written as
        /// `[[placement.pins]]`, or `[[placement]]` where nothing else of this section is in the
        /// file. Prefixes and shards are fixed when the cluster is born, and equal on all nodes;
        /// homes are read by the node that founds it, and changed by `headcount cluster home`.
        pins: Pins = Pins::default();
        /// Whether a shard's coordinator moves to the region that most changes of the shard's
        /// channels come from, where they wait least for it. False leaves it to the weights. Like
        /// the next three, to be kept equal on all nodes, since any of them may have to decide.
        follow_traffic: bool = true;
        /// How many times the traffic of each other region a region must have to attract a
        /// coordinator, or to take it from where it is. Too low: coordinators move for little. Too
        /// high: they stay where they are not best.
        traffic_factor: u32 = 2, 2..=100;
        /// How far back traffic is looked at, and how long it must then go on saying the same
        /// before a coordinator moves. Too low: coordinators run after each burst. Too high: they
        /// come late.
        traffic_steady: Duration = secs(60), secs(1)..=hours(1);
        /// How many times its share by weight a region may coordinate because of traffic. 1 leaves
        /// the weights as they are; more lets traffic outweigh them. A region of weight 0 attracts
        /// nothing.
        traffic_share_max: u32 = 3, 1..=1_000;
    }

    /// Raft: bounds of each group, and of what they share.
    consensus: Consensus {
        /// Most proposals of a group that wait for their answer; further ones are refused.
        proposals_in_flight_max: usize = 4_096, 1..=1_000_000;
        /// How long a proposal is waited for before its outcome is called unknown.
        propose_timeout: Duration = secs(10), secs(1)..=minutes(5);
        /// Entries after which a group takes a snapshot of itself. Too low: constant snapshots. Too
        /// high: a restart replays for long.
        snapshot_entries: u64 = 5_000, 100..=1_000_000;
        /// Bytes of commands that all groups of the node together may have to replay at a start. A
        /// group takes a snapshot of itself after its share of that, unless half of its last snapshot
        /// is more. Too low: constant snapshots. Too high: a restart replays for long.
        snapshot_bytes: Bytes = Bytes::mib(32), Bytes::kib(64)..=Bytes::gib(1);
        /// Entries that are kept although a snapshot covers them, so that a replica that was away
        /// for a moment needs no snapshot.
        snapshot_entries_kept: u64 = 1_000, 0..=1_000_000;
        /// Snapshots that the node sends at a time; further ones wait.
        snapshot_sends_max: usize = 3, 1..=1_000;
        /// How long one snapshot may take to travel.
        snapshot_timeout: Duration = secs(60), secs(1)..=hours(1);
    }

    /// What is on disk.
    store: Store {
        /// Size at which a log segment is ended. Too low: many files. Too high: space comes back
        /// late.
        segment_bytes: Bytes = Bytes::mib(64), Bytes::mib(1)..=Bytes::gib(4);
        /// Most bytes that wait for the disk; beyond it, whoever writes waits.
        queue_bytes: Bytes = Bytes::mib(64), Bytes::mib(1)..=Bytes::gib(4);
        /// Most bytes that one sync covers. Higher: more throughput, and a longer wait for each.
        batch_bytes: Bytes = Bytes::mib(4), Bytes::kib(64)..=Bytes::gib(1);
        /// How long the record of what was synced may lag. Too high: more is checked at a start.
        floor_interval: Duration = secs(1), ms(10)..=minutes(1);
        /// How long events are kept for watchers that were away.
        journal_retention: Duration = hours(24), minutes(1)..=hours(24 * 366);
        /// Most bytes of all shards' kept events together; the oldest go first, and watchers that
        /// would need them are told of a gap.
        journal_bytes: Bytes = Bytes::gib(1), Bytes::mib(1)..=Bytes::gib(1 << 12);
        /// Size of a part of a shard's kept events: what is removed at once.
        journal_segment_bytes: Bytes = Bytes::mib(4), Bytes::kib(64)..=Bytes::gib(1);
        /// How much of a shard's events is gathered before it is written; after a crash it is
        /// derived anew from the log.
        journal_block_bytes: Bytes = Bytes::kib(32), Bytes::kib(1)..=Bytes::mib(16);
    }

    /// Connections to other nodes.
    network: Network {
        /// Most raft messages that wait for one peer; further ones are refused, and sent again.
        envelopes_max: usize = 4_096, 16..=1_000_000;
        /// Most parcels of counts that wait for one peer; further ones are dropped, and told again.
        parcels_max: usize = 8_192, 16..=1_000_000;
        /// Most relayed messages that wait for one peer; further ones are refused, and what they
        /// held is told anew or lost.
        relay_max: usize = 8_192, 16..=1_000_000;
        /// Most bytes of relayed messages that wait for one peer; further ones are refused, too.
        /// Too low: large presence sets are never told in full. Too high costs memory while a peer
        /// is slow.
        relay_bytes_max: Bytes = Bytes::mib(128), Bytes::mib(16)..=Bytes::gib(16);
        /// Most items in one message.
        batch_items_max: usize = 512, 1..=10_000;
        /// Most connections of other nodes, which need one each, and of whoever strays here; further
        /// ones are closed at once. One that does not begin within six times `connect_timeout` is
        /// cut off.
        connections_max: usize = 4_096, 16..=1_000_000;
        /// How long a connection may take to come about before the next one is tried: a few round
        /// trips to the farthest region. Too low: nodes far apart never meet. Too high: for as long
        /// after a cut is healed nothing passes, and a node that was without power is not reached,
        /// so that others lose their leases where it leads the control group.
        connect_timeout: Duration = ms(500), ms(100)..=minutes(1);
        /// How often an idle connection is probed.
        keep_alive_interval: Duration = secs(1), ms(100)..=minutes(1);
        /// How long a probe may go unanswered: with the interval, how long a dead way goes
        /// unnoticed.
        keep_alive_timeout: Duration = secs(2), ms(100)..=minutes(1);
    }

    /// The listener for edges.
    reporter: Reporter {
        /// Most batches of a stream that are not acknowledged. 16 cover a round trip of 250 ms at
        /// 250,000 items a second.
        window_batches: u32 = 16, 1..=1_000;
        /// Most items in a batch.
        batch_items_max: u32 = 4_096, 1..=100_000;
        /// Most bytes of a batch.
        batch_bytes_max: Bytes = Bytes::mib(4), Bytes::kib(64)..=Bytes::mib(64);
        /// Most connections at once, some kB each; further ones are closed at once. An edge or
        /// watcher needs one for all its streams.
        connections_max: usize = 20_000, 1..=1_000_000;
        /// How long an edge may take to say hello, and a connection to begin.
        hello_timeout: Duration = secs(10), ms(100)..=minutes(10);
        /// How long an edge may leave its acknowledgements unread before it is disconnected.
        stall_timeout: Duration = secs(30), secs(1)..=minutes(10);
        /// Most streams at a time, a few KiB each; further ones are refused.
        streams_max: usize = 20_000, 1..=1_000_000;
        /// How often an idle connection is probed.
        keep_alive_interval: Duration = secs(10), secs(1)..=minutes(10);
        /// How long a probe may go unanswered before the connection counts as broken.
        keep_alive_timeout: Duration = secs(5), secs(1)..=minutes(10);
    }

    /// The listener for readers and watchers.
    api: Api {
        /// Whether keys are taken on this listener, which speaks no TLS itself. False leaves
        /// tokens; right wherever the network between your TLS terminator and the node is not
        /// trusted.
        basic_over_plain_http: bool = true;
        /// Most connections at once, about 10 kB each; further ones are answered with 503. Must stay
        /// below the process's limit of open files.
        connections_max: usize = 20_000, 1..=1_000_000;
        /// Longest time for a request's headers, and of an idle HTTP/1.1 connection. Too low cuts
        /// off distant clients, too high lets silent ones hold connections.
        header_timeout: Duration = secs(8), ms(100)..=minutes(10);
        /// Longest time for a request's body.
        body_timeout: Duration = secs(10), ms(100)..=minutes(10);
        /// How long a client may leave its connection unread before it is closed.
        write_timeout: Duration = secs(30), secs(1)..=minutes(10);
        /// How long an HTTP/2 connection may stay without a request.
        idle_timeout: Duration = secs(60), secs(1)..=hours(1);
        /// Most bytes of a request's headers; must hold the longest token and cursor.
        header_bytes_max: Bytes = Bytes::kib(80), Bytes::kib(8)..=Bytes::mib(1);
        /// Most bytes of a request's path and query; must hold an encoded channel and a cursor.
        target_bytes_max: Bytes = Bytes::kib(16), Bytes::kib(1)..=Bytes::mib(1);
        /// Most bytes of a request's body.
        body_bytes_max: Bytes = Bytes::kib(64), Bytes::kib(1)..=Bytes::mib(16);
        /// Longest time for a read; after it, 503.
        read_timeout: Duration = secs(3), ms(100)..=minutes(1);
        /// Most signed token requests that are remembered against replay, about 100 bytes each: as
        /// many as are granted in two minutes.
        nonces_max: usize = 100_000, 100..=10_000_000;
        /// Most event streams at once; further ones are answered with 429.
        event_streams_max: usize = 10_000, 1..=1_000_000;
        /// How often a quiet event stream carries a sign of life.
        heartbeat_interval: Duration = secs(15), secs(1)..=minutes(10);
        /// How long requests under way may take to end once the node drains.
        drain_timeout: Duration = secs(10), ms(0)..=minutes(10);
    }

    /// Realtime clients: connections over websockets, on the same listener. How long one that was
    /// dropped goes on counting is `gateway.client_grace`.
    realtime: Realtime {
        /// Most connections, about 10 kB each; further ones are told to go elsewhere (40111). Those
        /// with a websocket are among `api.connections_max` only until it is open.
        connections_max: usize = 20_000, 1..=1_000_000;
        /// New connections of all apps in a second in the long run, twice as many at once (80021).
        /// Keeps a storm from starving those who are connected.
        connects_per_second: u32 = 2_500, 1..=1_000_000;
        /// Frames of any kind that a connection may send in a second in the long run, twice as many
        /// at once; after that it is ended (42924).
        frames_per_second: u32 = 2_000, 1..=1_000_000;
        /// Longest frame of a client (40009).
        frame_bytes_max: Bytes = Bytes::kib(512), Bytes::kib(64)..=Bytes::mib(16);
        /// How long after a drop a client may take its connection up again on the same node.
        resume_window: Duration = secs(120), secs(1)..=hours(1);
        /// Most clients at a time that came from another node and of which that node has not said yet
        /// that their old connection has ended, about 1 kB each. Within a region they count only
        /// then, or when its lease has ended; further ones count at once, for a while twice.
        handovers_max: usize = 20_000, 0..=1_000_000;
        /// How often a quiet connection carries a sign of life. A client of which nothing comes for
        /// twice as long is taken for gone.
        heartbeat_interval: Duration = secs(15), secs(1)..=minutes(10);
        /// How long channels remember their messages, for rewinding and resuming.
        memory: Duration = secs(120), secs(1)..=hours(1);
        /// Most messages that a channel remembers.
        memory_messages_max: usize = 1_000, 1..=1_000_000;
        /// Most bytes that a channel remembers.
        memory_bytes_max: Bytes = Bytes::mib(4), Bytes::kib(1)..=Bytes::mib(256);
        /// Most bytes that all channels of the node remember together. Above it a channel that takes
        /// a message forgets those before.
        memory_total_max: Bytes = Bytes::mib(256), Bytes::mib(1)..=Bytes::mib(65536);
        /// Most deliveries that may wait for a connection. One that is slower loses the channel
        /// (80020), and may attach it again where it was.
        outbound_max: usize = 1_024, 16..=100_000;
        /// Most bytes that may wait for a connection.
        outbound_bytes_max: Bytes = Bytes::mib(4), Bytes::kib(64)..=Bytes::mib(256);
    }

    /// What each app may do, unless its own `limits` say otherwise. Each node judges for itself what
    /// its clients do, so that an app with clients on several nodes may do as much on each of them;
    /// only a channel's rates count what other nodes relay, too. In parentheses is the code that
    /// clients are told; what is refused costs nothing of any limit, and is counted by
    /// `api_rejected_total`.
    limits: Limits {
        /// Most connections of the app, those that wait to be resumed included (40111).
        app_connections_max: usize = 20_000, 1..=1_000_000;
        /// New connections of the app in a second in the long run, twice as many at once (80021).
        /// The node's own rate, `realtime.connects_per_second`, holds besides.
        app_connects_per_second: u32 = 2_500, 1..=1_000_000;
        /// Channels of the app that come into use on the node in a second in the long run, twice as
        /// many at once (90021); clients try again by themselves. Keeps names that are made up on
        /// the way from filling the node.
        app_channels_per_second: u32 = 10_000, 1..=1_000_000;
        /// Messages and presence changes of the app's clients, over websockets and HTTP, in a second
        /// in the long run, twice as many at once (42917).
        app_messages_per_second: u32 = 100_000, 1..=10_000_000;
        /// Requests of the app over HTTP in a second in the long run, twice as many at once (42918).
        /// Those with a bad credential are nobody's.
        app_requests_per_second: u32 = 10_000, 1..=1_000_000;
        /// Most channels that a connection may be attached to (90010).
        connection_channels_max: usize = 200, 1..=100_000;
        /// Messages and presence changes that a connection may send in a second in the long run,
        /// four times as many at once (42911).
        connection_messages_per_second: u32 = 50, 1..=100_000;
        /// Messages on a channel in a second in the long run, four times as many at once (42913).
        /// Metachannels have no such limit, and presence changes are not counted. Too low: lively
        /// channels stutter. Too high: one channel's fan-out takes the node from all others.
        channel_messages_per_second: u32 = 50, 1..=100_000;
        /// Bytes of those messages in a second in the long run, four times as many at once (42914).
        channel_bytes_per_second: Bytes = Bytes::mib(1), Bytes::kib(1)..=Bytes::mib(1024);
        /// Most members of a channel's presence set (91003).
        channel_members_max: usize = 20_000, 1..=1_000_000;
        /// Most bytes of the messages in a frame or request (40009).
        message_bytes_max: Bytes = Bytes::kib(256), Bytes::kib(1)..=Bytes::mib(8);
    }

    /// The listener for operators. Health and metrics are open; the rest needs the token.
    admin: Admin {
        /// What `headcount cluster` and its like must bring; at least 16 characters. Empty: nobody
        /// may, save for `open_on_loopback`.
        token: SecretText = SecretText::default();
        /// Whether callers on this machine need no token, if none is set; as in `headcount dev`.
        open_on_loopback: bool = false;
        /// Most connections at once; further ones are closed at once. Too low: whoever leaves many
        /// open keeps the operator out.
        connections_max: usize = 256, 4..=100_000;
    }

    /// What the node writes about itself.
    telemetry: Telemetry {
        /// Which log lines are written: a level, or levels by stage such as `info,gossip=debug`.
        log: String = "info".to_owned();
        /// How log lines look: `text` for people, `json` for collectors.
        log_format: String = "text".to_owned();
    }
}
