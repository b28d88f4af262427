//! The metrics of the reporter service: every name, kind and help text, in one place.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tonic::Code;

/// Tells the installed recorder what each metric means.
pub fn describe() {
    describe_gauge!("reporter_streams", "Streams of edges that are open");
    describe_counter!(
        "reporter_streams_refused_total",
        "Streams of edges that were refused"
    );
    describe_counter!(
        "reporter_streams_ended_total",
        "Streams of edges that the node ended, by gRPC code"
    );
    describe_counter!("reporter_items_total", "Items of edges that were counted");
    describe_counter!(
        "reporter_items_refused_total",
        "Items of edges that were refused"
    );
    for lost in [
        "reporter_streams_refused_total",
        "reporter_items_refused_total",
    ] {
        counter!(lost).increment(0);
    }
    describe_histogram!("reporter_batch_items", "Items in a batch of an edge");
    describe_histogram!(
        "reporter_batch_seconds",
        Unit::Seconds,
        "Time from a batch's arrival to its acknowledgement"
    );
}

/// Counts a stream as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenStream(());

impl OpenStream {
    pub(super) fn new() -> Self {
        gauge!("reporter_streams").increment(1.0);
        Self(())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        gauge!("reporter_streams").decrement(1.0);
    }
}

pub(super) fn stream_refused() {
    counter!("reporter_streams_refused_total").increment(1);
}

/// Counts a stream that the node ended, unlike one that its edge left.
pub(super) fn stream_ended(code: Code) {
    counter!("reporter_streams_ended_total", "code" => format!("{code:?}")).increment(1);
}

/// Notes a batch that was counted.
pub(super) fn batch(items: usize, refused: usize, seconds: f64) {
    counter!("reporter_items_total").increment((items - refused) as u64);
    counter!("reporter_items_refused_total").increment(refused as u64);
    histogram!("reporter_batch_items").record(items as f64);
    histogram!("reporter_batch_seconds").record(seconds);
}
