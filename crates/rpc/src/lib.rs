//! gRPC servers and clients: reporter API, peers, forwarding.

pub mod control;
pub mod peers;
pub mod reporter;
pub mod telemetry;
pub mod watch;
