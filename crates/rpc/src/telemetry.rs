//! The metrics of this shell: every name, kind and help text, in one place.

use metrics::{counter, describe_counter, describe_histogram, histogram};

/// Tells the installed recorder what each metric means.
pub fn describe() {
    describe_counter!(
        "rpc_peer_refused_total",
        "Items for a peer that found no connection or no room"
    );
    // Rates of what was lost are asked for before anything is.
    for stream in ["raft", "gossip", "relay"] {
        counter!("rpc_peer_refused_total", "stream" => stream).increment(0);
    }
    describe_histogram!("rpc_peer_batch_items", "Items in one message to a peer");
}

/// Counts an item for a peer that could not be queued.
pub(crate) fn peer_refused(stream: &'static str) {
    counter!("rpc_peer_refused_total", "stream" => stream).increment(1);
}

/// Notes how many items share a message to a peer.
pub(crate) fn peer_batch(stream: &'static str, items: usize) {
    histogram!("rpc_peer_batch_items", "stream" => stream).record(items as f64);
}
