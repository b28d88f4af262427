//! The metrics of the feed service: every name, kind and help text, in one place.

use headcount_model::WatchItem;
use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Tells the installed recorder what each metric means.
pub fn describe() {
    describe_gauge!("rpc_watchers", "Watchers on the reporter port");
    describe_counter!(
        "rpc_watch_refused_total",
        "Watches that did not start, by reason"
    );
    describe_counter!(
        "rpc_watch_events_total",
        "Events sent to watchers on the reporter port"
    );
    describe_counter!(
        "rpc_watch_gaps_total",
        "Gaps told to watchers on the reporter port"
    );
    counter!("rpc_watch_gaps_total").increment(0);
    describe_counter!(
        "rpc_watch_ended_total",
        "Watches that the node ended, by reason"
    );
}

/// Counts a watch that did not start.
pub(super) fn refused(reason: &'static str) {
    counter!("rpc_watch_refused_total", "reason" => reason).increment(1);
}

/// Counts what is sent.
pub(super) fn sent(item: &WatchItem) {
    match item {
        WatchItem::Events { events, .. } => {
            counter!("rpc_watch_events_total").increment(events.len() as u64);
        }
        WatchItem::Gap { .. } => counter!("rpc_watch_gaps_total").increment(1),
        WatchItem::Position { .. } => {}
        WatchItem::End { reason, .. } => {
            counter!("rpc_watch_ended_total", "reason" => reason.as_str()).increment(1);
        }
    }
}

/// Counts a watch that ended with its credential.
pub(super) fn credential_ended() {
    counter!("rpc_watch_ended_total", "reason" => "unauthenticated").increment(1);
}

/// A watcher, for as long as it is held.
#[derive(Debug)]
pub(super) struct Watching(());

impl Watching {
    pub(super) fn begin() -> Self {
        gauge!("rpc_watchers").increment(1);
        Self(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        gauge!("rpc_watchers").decrement(1);
    }
}
