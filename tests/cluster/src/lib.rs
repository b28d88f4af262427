//! A harness of real nodes: clusters over loopback, edges, readers and watchers, as verbs.
//!
//! ```text
//! story(async |logs| {
//!     let cluster = Cluster::start(&REGIONS).await;
//!     let watcher = Watcher::grpc(&cluster, &[2], "").await;
//!     let mut edge = Edge::start(&cluster, "edge", &[0]);
//!     edge.attach("c1", "room").await;
//!     watcher.wait_for("it is told", |history| history.is_open("room")).await;
//!     cluster.end().await;
//! });
//! ```
//!
//! A [`Cluster`] runs its nodes in this process, or as processes of the `headcount` binary that can
//! be killed. An [`Edge`] reports through the edge client and keeps the books of what is really
//! attached, a [`RealtimeClient`] enters members, a [`Reader`] asks over HTTP, a [`Watcher`] collects
//! events over gRPC or server-sent events, and the [checker](headcount_checker) judges what was
//! told, as a [`History`].
//!
//! [`story`] runs a test with logs of its own; lines of level `ERROR` and panics of tasks fail it.
//! Nothing sleeps and hopes: [`wait_until`] waits for a condition and tells what was missing.

mod churn;
mod cluster;
mod edge;
mod logs;
mod member;
mod ports;
mod process;
mod proxy;
mod raw;
mod reader;
mod wait;
mod watcher;

pub use churn::Churn;
pub use cluster::{Cluster, REGIONS};
pub use edge::{Edge, agree_on_counts};
pub use headcount_checker::{ChannelState, History, Step, Told, agree, agree_on_the_log};
pub use logs::{Logs, story};
pub use member::{PresenceChange, Present, RealtimeClient};
pub use ports::Ports;
pub use process::binary;
pub use proxy::Proxy;
pub use raw::{GrpcEnd, grpc_call, grpc_encoded, grpc_message, send_bytes};
pub use reader::{Answer, Freshness, Listed, Reader, Status};
pub use wait::{PATIENCE, wait_until};
pub use watcher::Watcher;

/// What the tests' key is, as `authorization` carries it.
#[must_use]
pub fn authorization(key: &str) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(key);
    format!("Basic {encoded}")
}

/// The key that may do everything.
pub const ROOT: &str = "dev.root:root-secret";
