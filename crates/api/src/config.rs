//! The settings of the listener: every bound with its reason.

use std::time::Duration;

/// The settings of [`crate::serve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether an API key may be used without TLS, as it is on this listener. False refuses keys
    /// with 40103 and leaves tokens; right wherever the network between clients and the node is
    /// not trusted.
    pub basic_over_plain_http: bool,
    /// Most connections at once; above it, a connection is answered with 503 and closed. Bounds
    /// memory, as each has a read buffer of at least 8 KiB, and must stay below the process's limit
    /// of open files.
    pub connections_max: usize,
    /// Longest time for a request's headers, from the connection's start or the end of the
    /// previous request; an idle HTTP/1.1 connection is closed after it too. Too low cuts off
    /// distant clients, too high lets silent ones hold connections; who drips headers is to be
    /// gone within 10 s.
    pub header_timeout: Duration,
    /// Longest time for a request's body.
    pub body_timeout: Duration,
    /// How long a client may leave its connection's buffers full before it is closed. Ends slow
    /// readers of event streams, who can resume.
    pub write_timeout: Duration,
    /// How long an HTTP/2 connection may stay without a request.
    pub idle_timeout: Duration,
    /// Most bytes of a request's line and headers together, at least 8192. Must leave room for the
    /// longest token ([`headcount_access::TOKEN_BYTES_MAX`]) and the longest cursor.
    pub header_bytes_max: usize,
    /// Most bytes of a request's path and query; above it, 414. Holds a channel name of 2048
    /// bytes, each percent-encoded, and a cursor.
    pub target_bytes_max: usize,
    /// Most bytes of a request's body; above it, 413. A publish may be as large as a client's frame.
    pub body_bytes_max: usize,
    /// Longest time for the node to answer a read; after it, 503 with 50003.
    pub read_timeout: Duration,
    /// Most nonces of token requests that are remembered, about 100 bytes each: the number of
    /// signed requests that the node grants in two minutes.
    pub nonces_max: usize,
    /// Most event streams at once; above it, 429. The node bounds its watchers on its own.
    pub event_streams_max: usize,
    /// How often a quiet event stream carries a comment, by which both sides notice a dead
    /// connection and the stream's credential is checked again.
    pub heartbeat_interval: Duration,
    /// How long requests under way may take to end after the shutdown began.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            basic_over_plain_http: true,
            connections_max: 20_000,
            header_timeout: Duration::from_secs(8),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            header_bytes_max: 80 * 1024,
            target_bytes_max: 16 * 1024,
            body_bytes_max: 64 * 1024,
            read_timeout: Duration::from_secs(3),
            nonces_max: 100_000,
            event_streams_max: 10_000,
            heartbeat_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
