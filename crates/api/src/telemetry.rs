//! The metrics of this stage: every name, kind and help text, in one place.

use std::time::Duration;

use headcount_realtime::FrameError;

/// Declares metrics: `kind name: "help";`. The name told to recorders is the identifier after
/// `api_`.
macro_rules! metric {
    ($($kind:ident $name:ident: $help:literal;)*) => {
        $(
            #[expect(non_upper_case_globals, reason = "spelt as it is exported")]
            pub(crate) const $name: $kind = $kind(concat!("api_", stringify!($name)));
        )*

        /// Tells the installed recorder what each metric means.
        pub(crate) fn describe() {
            $($name.describe($help);)*
        }
    };
}

metric! {
    Counter requests_total: "Answered requests, by route and class of status (2xx, 4xx, …)";
    Histogram request_seconds: "Time from a request's headers to its answer's, by route";
    Counter rejected_total: "What a limit turned away or cut off, by reason";
    Gauge connections: "Open connections";
    Gauge event_streams: "Server-sent event streams being served";
    Counter event_streams_ended_total: "Server-sent event streams that ended, by reason";
    Counter events_total: "Events told on server-sent event streams, over all of them";
    Gauge realtime_connections: "Realtime connections, with those that wait to be resumed";
    Counter realtime_drops_total: "Times that a realtime connection lost its websocket";
    Counter realtime_resumes_total: "Times that a realtime connection was resumed";
    Gauge realtime_handovers:
        "Realtime clients that came from another node, which has not let them go yet";
    Counter realtime_handovers_total:
        "Realtime clients that came from another node, by what ended the wait for it: released, \
         unknown (there is no such connection), lease_ended, removed (there is no such node), \
         timed_out, full or draining";
    Counter realtime_releases_total:
        "Realtime connections ended here, as their clients went on at another node";
    Counter realtime_rolled_up_total: "Occupancy events that newer ones took the place of, for clients that are slow";
    Counter realtime_repeats_total: "Messages that were published again under an id that their channel remembers";
    Counter realtime_deliveries_total: "Messages, presence changes and events sent to realtime clients";
}

/// A metric that only rises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter(&'static str);

/// A metric that goes up and down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge(&'static str);

/// A metric of which the distribution matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Histogram(&'static str);

impl Counter {
    fn describe(self, help: &'static str) {
        metrics::describe_counter!(self.0, help);
    }

    pub(crate) fn count(self, by: u64) {
        metrics::counter!(self.0).increment(by);
    }
}

impl Gauge {
    fn describe(self, help: &'static str) {
        metrics::describe_gauge!(self.0, help);
    }

    /// Counts one more until what is returned is dropped.
    pub(crate) fn enter(self) -> Entered {
        metrics::gauge!(self.0).increment(1.0);
        Entered(self)
    }
}

impl Histogram {
    fn describe(self, help: &'static str) {
        metrics::describe_histogram!(self.0, help);
    }
}

/// Something that a [`Gauge`] counts.
#[derive(Debug)]
pub(crate) struct Entered(Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        metrics::gauge!(self.0.0).decrement(1.0);
    }
}

/// Counts an answer. `route` is the pattern of the path, so that no channel becomes a label.
pub(crate) fn answered(route: &str, status: u16, took: Duration) {
    let class = match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    let route = route.to_owned();
    metrics::counter!(requests_total.0, "route" => route.clone(), "status" => class).increment(1);
    metrics::histogram!(request_seconds.0, "route" => route).record(took.as_secs_f64());
}

/// Counts what a limit turned away.
pub(crate) fn rejected(reason: &'static str) {
    metrics::counter!(rejected_total.0, "reason" => reason).increment(1);
}

/// Counts a frame, or a body of messages, that was not taken.
pub(crate) fn frame_refused(error: &FrameError) {
    rejected(match error {
        FrameError::FrameTooLarge { .. } => "frame_too_large",
        FrameError::MessagesTooLarge { .. } => "message_too_large",
        FrameError::TooLong { .. } => "text_too_long",
        FrameError::Malformed { .. }
        | FrameError::TooDeep { .. }
        | FrameError::TooManyValues { .. }
        | FrameError::Missing { .. }
        | FrameError::WrongType { .. }
        | FrameError::TooMany { .. }
        | FrameError::UnknownNumber { .. }
        | FrameError::UnusableData { .. } => "malformed_frame",
    });
}

/// Counts an error of which the code alone says what was turned away.
pub(crate) fn told(code: u32) {
    if code == 40010 {
        rejected("channel_name");
    }
}

/// Counts what was lost for want of room or of somebody to take it.
pub(crate) fn lost(reason: &'static str, count: u64) {
    metrics::counter!(rejected_total.0, "reason" => reason).increment(count);
}

/// Counts the end of a wait for another node.
pub(crate) fn handed_over(outcome: &'static str) {
    metrics::counter!(realtime_handovers_total.0, "outcome" => outcome).increment(1);
}

/// Counts the end of an event stream.
pub(crate) fn event_stream_ended(reason: &'static str) {
    metrics::counter!(event_streams_ended_total.0, "reason" => reason).increment(1);
}
