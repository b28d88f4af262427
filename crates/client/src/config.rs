//! The client's settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headcount_model::{EdgeId, Incarnation};
use headcount_net::Dialer;

/// Settings of an edge's client.
#[derive(Clone)]
pub struct Config {
    /// Reporter addresses of the nodes to report to, such as `http://127.0.0.1:8081`, nearest
    /// first. After a break the same node is tried once more, then the next, and so on.
    pub nodes: Vec<String>,
    /// Says what to send as `authorization` with the next stream: `Basic` and the key in base64,
    /// or `Bearer` and a token. Asked for each stream, so that it can bring a new token.
    pub authorization: Arc<dyn Fn() -> String + Send + Sync>,
    /// The edge's name, unique in its app.
    pub edge: EdgeId,
    /// Which life of the edge process this is: grows with each restart, such as the time of its
    /// start in milliseconds.
    pub incarnation: Incarnation,
    /// Most changes that wait to be sent; beyond, [`Client::report`](crate::Client::report) waits.
    /// Default 65,536, the items of a full window.
    pub queue_max: usize,
    /// Most notices that wait to be read; further ones are counted and dropped. Default 1,024.
    pub notices_max: usize,
    /// How long connecting, and then the welcome, may take. Default 2 s, so that another node is
    /// reached within the default grace of a session, 5 s.
    pub connect_timeout: Duration,
    /// How long a batch may go unacknowledged before the stream counts as broken. Default 10 s.
    pub ack_timeout: Duration,
    /// Pause before the second attempt to connect; doubles with each that fails. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest pause between attempts. Default 2 s: less than half the default grace of a session.
    pub backoff_max: Duration,
    /// How long to wait before items are told again that a node had no room for. Default 1 s.
    pub retry_interval: Duration,
    /// Seeds the jitter of the pauses, which are between half and the whole of their length.
    /// Different for each edge, or a node that comes back meets all of them at once. Default: made
    /// from the incarnation.
    pub seed: Option<u64>,
    /// How connections come about. Default: by TCP.
    pub dialer: Dialer,
}

impl Config {
    /// Makes settings with the defaults, for `edge` in the life `incarnation`.
    #[must_use]
    pub fn new(
        nodes: Vec<String>,
        authorization: String,
        edge: EdgeId,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            nodes,
            authorization: Arc::new(move || authorization.clone()),
            edge,
            incarnation,
            queue_max: 65_536,
            notices_max: 1_024,
            connect_timeout: Duration::from_secs(2),
            ack_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            retry_interval: Duration::from_secs(1),
            seed: None,
            dialer: Dialer::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("nodes", &self.nodes)
            .field("edge", &self.edge)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}
