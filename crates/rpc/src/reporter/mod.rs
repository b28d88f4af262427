//! The reporter API: edges tell this node who is attached to what.
//!
//! One task per stream: it judges the credential, waits for the hello, then takes one batch after
//! the other. An item that cannot be read or is not permitted is refused here and the rest of its
//! batch goes on; what remains is counted behind [`Sessions`], and its refusals join those made
//! here. While a batch is being counted the next one is not read, so HTTP/2's flow control holds
//! an edge back that sends faster than its node counts.
//!
//! Bounds: one batch per stream in memory, [`Config::streams_max`] streams, as many
//! acknowledgements per stream as the window has batches; an edge that does not read them is
//! disconnected after [`Config::stall_timeout`].

mod ports;
mod server;
mod service;
mod status;
mod telemetry;

#[cfg(test)]
mod tests;

use std::time::Duration;

use headcount_model::ReportLimits;
use tonic::transport::Server;

pub use ports::{Authorize, Denied, Grant, Session, Sessions};
pub use server::ReporterServer;
pub use service::Service;
pub use status::{SEEN_INCARNATION, SEEN_SESSION};
pub use telemetry::describe;

/// Settings of the reporter service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What edges are told and held to. Its grace is the gateway's, and its window at most as many
    /// batches as the gateway keeps refusals of.
    pub limits: ReportLimits,
    /// How long an edge may take to say hello. Default 10 s.
    pub hello_timeout: Duration,
    /// How long an edge may leave its acknowledgements unread once the window is full of them.
    /// Default 30 s.
    pub stall_timeout: Duration,
    /// Most streams at a time; each costs a task and a few KiB. Default 20,000.
    pub streams_max: usize,
    /// How often an idle connection is probed, so that one whose peer vanished is noticed. Default
    /// 10 s.
    pub keep_alive_interval: Duration,
    /// How long a probe may go unanswered before the connection counts as broken. Default 5 s.
    pub keep_alive_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: ReportLimits::default(),
            hello_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            streams_max: 20_000,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// Makes the gRPC service, to be added to a server that [`server()`] made.
pub fn service<A: Authorize, S: Sessions>(
    config: Config,
    authorize: A,
    sessions: S,
) -> ReporterServer<A, S> {
    let bytes_max = config.limits.batch_bytes_max as usize;
    let service = Service::new(config, authorize, sessions);
    ReporterServer::new(service, bytes_max)
}

/// Makes a server whose connections are probed as the settings say.
#[must_use]
pub fn server(config: &Config) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(config.keep_alive_interval))
        .http2_keepalive_timeout(Some(config.keep_alive_timeout))
        .tcp_nodelay(true)
}
