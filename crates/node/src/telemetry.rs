//! What a node tells about itself: the log's format, the recorder of metrics, and every metric of
//! the node's own with its name, kind and help text in one place.
//!
//! Metrics are the process's: where several nodes share one, as in `headcount dev`, counters add
//! up by themselves and gauges by [`Share`]s. There are no labels by channel.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use headcount_consensus::store::StoreStats;
use headcount_model::control::Standing;
use headcount_model::{EventKind, RegionName};
use headcount_placement::MoveReason;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Declares metrics: `kind name: "help";`. The identifier is the name told to recorders; it begins
/// with its stage.
macro_rules! metric {
    ($($kind:ident $name:ident: $help:literal;)*) => {
        $(
            #[expect(non_upper_case_globals, reason = "spelt as it is exported")]
            const $name: $kind = $kind(stringify!($name));
        )*

        /// Tells the installed recorder what each of the node's own metrics means.
        fn describe_own() {
            $($name.describe($help);)*
            // Rates of what was lost are asked for before anything is.
            for counter in LOSSES {
                counter.count(0);
            }
        }

        #[cfg(test)]
        const NAMES: &[(&str, &str)] = &[$((stringify!($name), $help)),*];
    };
}

metric! {
    Counter gateway_items_total: "Items of edges that the gateway took";
    Gauge gateway_registers_dirty: "Registers changed and not acknowledged by a regional owner";
    Gauge gateway_sessions: "Sessions of edges that the gateway holds, broken ones included";
    Gauge gateway_attachments: "Attachments that the gateway counts";
    Histogram gateway_update_items: "Items in one update to a regional owner";
    Counter region_adoptions_capped_total: "Adoptions that ended without some gateway's set";
    Gauge region_shards_owned: "Shards that this node owns for its region";
    Histogram gossip_batch_items: "Transitions and registers in one batch to a coordinator";
    Counter gossip_transitions_total: "Transitions put into batches";
    Counter gossip_registers_total: "Registers put into batches";
    Gauge gossip_batches_in_flight: "Batches sent and not seen applied";
    Counter gossip_batches_resent_total: "Batches that were sent again";
    Counter gossip_transitions_dropped_total: "Transitions dropped in pairs while cut off (R7)";
    Histogram gossip_lag_seconds: "Time from a batch's first sending to its application here";
    Histogram coordinator_apply_lag_seconds: "Time from an entry's stamp to its application here";
    Counter coordinator_events_total: "Events that the log decided, by kind, once per replica";
    Gauge coordinator_leaders: "Shards led from the region, by region; sum it over all nodes";
    Counter coordinator_items_total:
        "Items of batches applied, at the shards' coordinators, by origin (local or remote region)";
    Counter coordinator_commands_dropped_total: "Commands dropped by a full queue, to be resent";
    Histogram feed_event_delay_seconds:
        "Time from an event's cause to its telling here, by kind and path (early or log)";
    Gauge feed_watchers: "Watchers that are being served, on all surfaces";
    Counter feed_watchers_ended_total: "Watchers that the node ended, by reason";
    Gauge feed_shards_followed: "Shards whose events other nodes tell this one for its watchers";
    Counter feed_followers_dropped_total: "Nodes that followed a shard here and were too slow";
    Counter node_reads_forwarded_total: "Reads that a holder of the shard was asked for";
    Counter node_histories_refused_total: "Reads of the past refused, as too many were under way";
    Counter feed_events_rolled_up_total:
        "Occupancy events that slow watchers were spared, as newer ones of their channels followed";
    Gauge node_peer_queue_items: "Items that wait for other nodes, by stream";
    Gauge node_store_queued_bytes: "Bytes that wait for the disk or are being written";
    Gauge node_store_queued_operations: "Operations that wait for the disk";
    Gauge node_store_log_bytes: "Bytes of the log on disk";
    Gauge node_store_snapshot_bytes: "Bytes of all snapshots on disk";
    Gauge node_store_journal_bytes: "Bytes of the kept events of all shards";
    Counter node_store_syncs_total: "Syncs of the log";
    Counter node_store_operations_total: "Operations that those syncs made durable";
    Histogram node_store_sync_seconds: "Time to write and sync a batch, of one batch a second";
    Gauge node_mailbox_letters: "Letters waiting for the drivers of shards";
    Counter node_letters_dropped_total: "Letters dropped by a full mailbox, to be resent";
    Gauge node_connections: "Open connections of gRPC and operators, by listener";
    Counter node_connections_rejected_total:
        "Connections turned away or cut off, by listener and reason";
    Gauge placement_nodes:
        "Members by standing (live, suspect or dead), at the control group's leader";
    Counter placement_renewals_taken_on_total:
        "Renewals of leases taken on to the control group's leader for nodes that do not reach it";
    Counter placement_leader_moves_total:
        "Shards and groups given another leader, by reason, at the control group's leader";
    Counter node_tasks_failed_total: "Tasks that ended unexpectedly, by task";
}

/// Counters without labels that should stay 0.
const LOSSES: [Counter; 9] = [
    placement_renewals_taken_on_total,
    region_adoptions_capped_total,
    gossip_batches_resent_total,
    gossip_transitions_dropped_total,
    coordinator_commands_dropped_total,
    feed_events_rolled_up_total,
    feed_followers_dropped_total,
    node_histories_refused_total,
    node_letters_dropped_total,
];

/// A metric that only rises.
#[derive(Clone, Copy, Debug)]
struct Counter(&'static str);

/// A metric that goes up and down.
#[derive(Clone, Copy, Debug)]
struct Gauge(&'static str);

/// A metric of which the distribution matters.
#[derive(Clone, Copy, Debug)]
struct Histogram(&'static str);

impl Counter {
    fn describe(self, help: &'static str) {
        metrics::describe_counter!(self.0, help);
    }

    fn count(self, by: usize) {
        metrics::counter!(self.0).increment(by as u64);
    }
}

impl Gauge {
    fn describe(self, help: &'static str) {
        metrics::describe_gauge!(self.0, help);
    }

    fn share(self) -> Share {
        Share {
            gauge: metrics::gauge!(self.0),
            value: 0,
        }
    }
}

impl Histogram {
    fn describe(self, help: &'static str) {
        metrics::describe_histogram!(self.0, help);
    }

    #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody sees it")]
    fn record(self, items: usize) {
        metrics::histogram!(self.0).record(items as f64);
    }

    fn time(self, span: Duration) {
        metrics::histogram!(self.0).record(span.as_secs_f64());
    }
}

/// One holder's part of a gauge: the gauge shows the sum of all parts. Dropping a part takes it
/// away.
#[must_use = "dropping it takes its part away"]
pub struct Share {
    gauge: metrics::Gauge,
    value: usize,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

impl Share {
    /// Sets this part.
    #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody sees it")]
    pub fn set(&mut self, value: usize) {
        if value > self.value {
            self.gauge.increment((value - self.value) as f64);
        } else if value < self.value {
            self.gauge.decrement((self.value - value) as f64);
        }
        self.value = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts items of edges that the gateway took.
pub fn items_taken(items: usize) {
    gateway_items_total.count(items);
}

/// Part of the registers that changed and are not acknowledged.
pub fn registers_dirty() -> Share {
    gateway_registers_dirty.share()
}

/// Part of the sessions of edges.
pub fn sessions() -> Share {
    gateway_sessions.share()
}

/// Part of the attachments that gateways count.
pub fn attachments() -> Share {
    gateway_attachments.share()
}

/// Notes an update that went to a regional owner.
pub fn update_sent(items: usize) {
    gateway_update_items.record(items);
}

/// Counts an adoption that did not wait for every gateway.
pub fn adoption_capped() {
    region_adoptions_capped_total.count(1);
}

/// Part of the shards that nodes own for their regions.
pub fn shards_owned() -> Share {
    region_shards_owned.share()
}

/// Notes a batch that went towards a coordinator for the first time.
pub fn batch_sent(transitions: usize, registers: usize) {
    gossip_batch_items.record(transitions + registers);
    gossip_transitions_total.count(transitions);
    gossip_registers_total.count(registers);
}

/// Part of the batches that are on their way.
pub fn batches_in_flight() -> Share {
    gossip_batches_in_flight.share()
}

/// Counts batches that were sent again.
pub fn batches_resent(batches: usize) {
    gossip_batches_resent_total.count(batches);
}

/// Counts transitions that were dropped in pairs (R7).
pub fn transitions_dropped(transitions: usize) {
    gossip_transitions_dropped_total.count(transitions);
}

/// Notes how long a batch took from its first sending to its application on the owner's replica.
pub fn batch_applied(lag: Duration) {
    gossip_lag_seconds.time(lag);
}

/// Notes how old an entry was when it was applied here.
pub fn entry_applied(lag: Duration) {
    coordinator_apply_lag_seconds.time(lag);
}

/// Counts an event that the log decided.
pub fn event_applied(kind: EventKind) {
    metrics::counter!(coordinator_events_total.0, "kind" => kind.as_str()).increment(1);
}

/// Part of the shards that are led from a region.
pub fn leaders(region: &RegionName) -> Share {
    let gauge = metrics::gauge!(coordinator_leaders.0, "region" => region.as_str().to_owned());
    Share { gauge, value: 0 }
}

/// Counts items that a coordinator's log took, from its own region or another.
pub fn items_coordinated(local: bool, items: u64) {
    let origin = if local { "local" } else { "remote" };
    metrics::counter!(coordinator_items_total.0, "origin" => origin).increment(items);
}

/// The members of a cluster by standing, as its control group's leader tells them.
#[derive(Debug)]
pub struct Lives([Share; 3]);

impl Default for Lives {
    fn default() -> Self {
        Self(["live", "suspect", "dead"].map(|standing| {
            let gauge = metrics::gauge!(placement_nodes.0, "standing" => standing);
            Share { gauge, value: 0 }
        }))
    }
}

impl Lives {
    /// Sets how many there are.
    pub fn set(&mut self, standings: impl Iterator<Item = Standing>) {
        let mut counts = [0; 3];
        for standing in standings {
            counts[match standing {
                Standing::Live => 0,
                Standing::Suspect => 1,
                Standing::Dead => 2,
            }] += 1;
        }
        for (share, count) in self.0.iter_mut().zip(counts) {
            share.set(count);
        }
    }
}

/// Counts a group that is to have another leader.
pub fn leader_moved(reason: MoveReason) {
    metrics::counter!(placement_leader_moves_total.0, "reason" => reason.as_str()).increment(1);
}

/// Counts a renewal of another node's lease that is taken on to the leader.
pub fn renewal_taken_on() {
    placement_renewals_taken_on_total.count(1);
}

/// Counts a command that a coordinator could not queue.
pub fn commands_dropped() {
    coordinator_commands_dropped_total.count(1);
}

/// Notes an event told ahead of the log, and how long after its cause.
pub fn event_early(kind: EventKind, delay: Duration) {
    event_delay(kind, "early", delay);
}

/// Notes an event told by the log, and how long after its cause.
pub fn event_told(kind: EventKind, delay: Duration) {
    event_delay(kind, "log", delay);
}

fn event_delay(kind: EventKind, path: &'static str, delay: Duration) {
    metrics::histogram!(feed_event_delay_seconds.0, "kind" => kind.as_str(), "path" => path)
        .record(delay.as_secs_f64());
}

/// Part of the watchers that are being served.
pub fn watchers() -> Share {
    feed_watchers.share()
}

/// Part of the shards that are followed.
pub fn shards_followed() -> Share {
    feed_shards_followed.share()
}

/// Counts a node that followed a shard here and was too slow.
pub fn follower_dropped() {
    feed_followers_dropped_total.count(1);
}

/// Counts a read that a holder was asked for.
pub fn read_forwarded() {
    node_reads_forwarded_total.count(1);
}

/// Counts a read of the past that was refused.
pub fn history_refused() {
    node_histories_refused_total.count(1);
}

/// Counts a watcher that the node ended.
pub fn watcher_ended(reason: &'static str) {
    metrics::counter!(feed_watchers_ended_total.0, "reason" => reason).increment(1);
}

/// Counts occupancy events that a slow watcher was spared.
pub fn rolled_up(events: u64) {
    metrics::counter!(feed_events_rolled_up_total.0).increment(events);
}

/// Part of the items that wait for other nodes on a kind of stream.
pub fn peer_queue(stream: &'static str) -> Share {
    let gauge = metrics::gauge!(node_peer_queue_items.0, "stream" => stream);
    Share { gauge, value: 0 }
}

/// One node's parts of what is told of stores.
#[derive(Debug)]
pub struct StoreShares {
    queued_bytes: Share,
    queued_operations: Share,
    log_bytes: Share,
    snapshot_bytes: Share,
    journal_bytes: Share,
    syncs: u64,
    operations: u64,
}

impl Default for StoreShares {
    fn default() -> Self {
        Self {
            queued_bytes: node_store_queued_bytes.share(),
            queued_operations: node_store_queued_operations.share(),
            log_bytes: node_store_log_bytes.share(),
            snapshot_bytes: node_store_snapshot_bytes.share(),
            journal_bytes: node_store_journal_bytes.share(),
            syncs: 0,
            operations: 0,
        }
    }
}

impl StoreShares {
    /// Sets the gauges and counts what was done since the last time.
    pub fn set(&mut self, stats: &StoreStats) {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.queued_bytes.set(size(stats.queued_bytes));
        self.queued_operations.set(size(stats.queued_operations));
        self.log_bytes.set(size(stats.log_bytes));
        self.snapshot_bytes.set(size(stats.snapshot_bytes));
        self.journal_bytes.set(size(stats.journal_bytes));
        if stats.syncs > self.syncs {
            node_store_sync_seconds.time(Duration::from_micros(stats.last_sync_micros));
        }
        node_store_syncs_total.count(size(stats.syncs.saturating_sub(self.syncs)));
        let operations = stats.operations.saturating_sub(self.operations);
        node_store_operations_total.count(size(operations));
        (self.syncs, self.operations) = (stats.syncs, stats.operations);
    }
}

/// Part of the letters that wait for drivers.
pub fn mail_waiting() -> Share {
    node_mailbox_letters.share()
}

/// Counts a letter that a full mailbox dropped.
pub fn mail_dropped() {
    node_letters_dropped_total.count(1);
}

/// Counts a connection of a listener until what is returned is dropped.
pub fn connection(listener: &'static str) -> Entered {
    let gauge = metrics::gauge!(node_connections.0, "listener" => listener);
    gauge.increment(1.0);
    Entered(gauge)
}

/// Counts a connection that was turned away or cut off.
pub fn connection_rejected(listener: &'static str, reason: &'static str) {
    let name = node_connections_rejected_total.0;
    metrics::counter!(name, "listener" => listener, "reason" => reason).increment(1);
}

/// Something that a gauge counts, for as long as it is held.
#[must_use = "dropping it takes it away"]
pub struct Entered(metrics::Gauge);

impl std::fmt::Debug for Entered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entered").finish_non_exhaustive()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counts a task that ended although nobody asked it to.
pub fn task_failed(task: &'static str) {
    metrics::counter!(node_tasks_failed_total.0, "task" => task).increment(1);
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why log lines cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("telemetry.log: {0}; write levels by target, such as \"info,gossip=debug\"")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else is writing them.
    #[error("log lines are being written already")]
    Installed(#[from] TryInitError),
}

/// Makes the filter of log lines that `text` asks for, in the syntax of [`EnvFilter`]: targets are
/// the names of stages. Raft's engine is heard only if `openraft` is named: it tells as an error
/// what is none, such as a proposal to a replica that does not lead, and what is fatal for a node
/// the node says itself.
///
/// # Errors
/// What is malformed.
pub fn log_filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("openraft=off,{text}"))
}

/// Begins to write log lines to the standard error output; once per process. `filter` is as
/// [`log_filter`] takes it.
///
/// # Errors
/// [`LogError`] if the filter is malformed, or somebody has begun already.
pub fn log_lines(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = log_filter(filter)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// Buckets of times, in seconds: from what a local event takes to what nobody should wait for.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Buckets of everything else, which is counted in items.
const ITEMS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
];

/// Returns the process's recorder of metrics, installed by the first call. Where the process has
/// another one already, the handle shows nothing.
pub fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = builder()
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!(target: "node", "metrics are recorded elsewhere; /metrics stays empty");
        }
        describe();
        handle
    });
    handle.clone()
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(ITEMS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
}

fn describe() {
    describe_own();
    headcount_rpc::telemetry::describe();
    headcount_rpc::reporter::describe();
    headcount_rpc::watch::describe();
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [&str; 7] = [
        "gateway",
        "region",
        "gossip",
        "coordinator",
        "feed",
        "placement",
        "node",
    ];

    fn rendered(record: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe_own();
            record();
        });
        recorder.handle().render()
    }

    #[test]
    fn names_begin_with_their_stage_and_say_their_unit() {
        for (name, help) in NAMES {
            let stage = name.split('_').next().unwrap();
            assert!(STAGES.contains(&stage), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn counters_say_that_they_are_and_losses_are_there_from_the_start() {
        let text = rendered(|| {});
        for counter in LOSSES {
            assert!(text.contains(&format!("\n{} 0\n", counter.0)), "{text}");
        }
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, describe);
        let text = recorder.handle().render();
        assert!(
            text.contains("rpc_peer_refused_total{stream=\"raft\"} 0"),
            "{text}"
        );
        let counters = text
            .lines()
            .filter_map(|line| line.strip_suffix(" counter"));
        for counter in counters {
            assert!(counter.ends_with("_total"), "{counter}");
        }
    }

    #[test]
    fn a_store_is_told_as_it_is_and_what_it_did_is_counted_once() {
        let text = rendered(|| {
            let mut shares = StoreShares::default();
            for (syncs, journal_bytes) in [(3, 10), (3, 30), (4, 20)] {
                shares.set(&StoreStats {
                    syncs,
                    journal_bytes,
                    last_sync_micros: 4_000,
                    ..StoreStats::default()
                });
            }
            std::mem::forget(shares);
        });
        for line in [
            "node_store_syncs_total 4",
            "node_store_journal_bytes 20",
            "node_store_sync_seconds_count 2",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn shares_of_a_gauge_add_up_and_leave_with_their_holder() {
        let text = rendered(|| {
            let mut one = watchers();
            let mut other = watchers();
            one.set(5);
            other.set(7);
            one.set(2);
            drop(other);
            std::mem::forget(one);
        });
        assert!(text.contains("\nfeed_watchers 2\n"), "{text}");
    }

    #[test]
    fn times_and_items_have_buckets_that_fit() {
        let text = rendered(|| {
            event_early(EventKind::Opened, Duration::from_millis(3));
            update_sent(40);
        });
        let early = "feed_event_delay_seconds_bucket{kind=\"channel.opened\",path=\"early\",le=\"0.005\"} 1";
        assert!(text.contains(early), "{text}");
        assert!(
            text.contains("gateway_update_items_bucket{le=\"50\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# HELP gateway_update_items Items in one update"),
            "{text}"
        );
    }

    #[test]
    fn a_malformed_filter_is_told_with_its_key() {
        let error = log_lines("gossip=loud", LogFormat::Text).unwrap_err();
        assert!(error.to_string().starts_with("telemetry.log: "), "{error}");
    }
}
