//! The metrics of this stage: every name, kind and help text, in one place.
//!
//! Sums over the groups of a node; there are no labels by group.

/// Declares metrics: `kind name: "help";`. The name told to recorders is the identifier after
/// `consensus_`.
macro_rules! metric {
    ($($kind:ident $name:ident: $help:literal;)*) => {
        $(
            #[expect(non_upper_case_globals, reason = "spelt as it is exported")]
            pub(crate) const $name: $kind = $kind(concat!("consensus_", stringify!($name)));
        )*

        /// Tells the installed recorder what each metric means.
        pub(crate) fn describe() {
            $($name.describe($help);)*
        }
    };
}

metric! {
    Gauge groups: "Raft groups with a replica on this node";
    Gauge leading: "Raft groups that this node leads";
    Gauge apply_lag_entries: "Committed entries not applied yet, over all groups";
    Gauge apply_lag_entries_max: "Committed entries not applied yet, in the group with the most";
    Gauge log_entries: "Entries kept in the logs of all groups";
    Gauge proposals_in_flight: "Proposals waiting for their reply, over all groups";
    Gauge snapshot_sends_free: "Snapshot sends that may start before the limit is reached";
    Histogram commit_seconds: "Time from a proposal to its reply, on the leader";
    Counter proposals_overloaded_total: "Proposals refused because too many were in flight";
    Counter proposals_unknown_total: "Proposals whose outcome could not be told";
    Counter inbound_refused_total: "Requests from peers refused without being looked at";
    Counter replies_dropped_total: "Answers to peers that found no connection or a full queue";
    Counter snapshots_built_total: "Snapshots that groups took of themselves";
    Histogram snapshot_build_seconds: "Time to encode and store a snapshot";
    Counter snapshots_sent_total: "Snapshots sent to followers, failed ones included";
    Counter snapshot_sent_bytes_total: "Bytes of the snapshots sent to followers";
    Counter snapshots_installed_total: "Snapshots installed from a leader";
    Counter leader_changes_total: "Leadership changes seen, over all groups";
}

/// A metric that only rises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter(&'static str);

/// A metric that is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge(&'static str);

/// A metric of which the distribution matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Histogram(&'static str);

impl Counter {
    /// Makes it known, too: rates of what was lost are asked for before anything is.
    fn describe(self, help: &'static str) {
        metrics::describe_counter!(self.0, help);
        self.count(0);
    }

    pub(crate) fn count(self, by: u64) {
        metrics::counter!(self.0).increment(by);
    }
}

impl Gauge {
    fn describe(self, help: &'static str) {
        metrics::describe_gauge!(self.0, help);
    }

    /// Sets the gauge; beyond 2^53 the value loses precision, which no one can see.
    #[expect(clippy::cast_precision_loss, reason = "said above")]
    pub(crate) fn set(self, value: u64) {
        metrics::gauge!(self.0).set(value as f64);
    }
}

impl Histogram {
    fn describe(self, help: &'static str) {
        metrics::describe_histogram!(self.0, help);
    }

    pub(crate) fn record(self, span: std::time::Duration) {
        metrics::histogram!(self.0).record(span.as_secs_f64());
    }
}
