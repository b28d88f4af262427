//! gRPC servers and clients: the reporter API, event watches, and what nodes say to each other.
//!
//! ```text
//! edge ─▶ RPC ─▶ gateway ─▶ region ─▶ gossip ─▶ RPC ─▶ coordinator ─▶ feed ─▶ RPC ─▶ watcher
//! ```
//!
//! * [`reporter`] takes edges' sessions, [`watch`] serves events to watchers; both on the reporter
//!   port.
//! * [`peers`] carries raft's envelopes, counts, relayed messages and snapshots between nodes;
//!   [`control`] asks other nodes about membership, leases and leaderships; [`read`] asks those
//!   that hold a shard for channels and events; [`handover`] asks the node that a realtime client
//!   came from to end its connection.
//!
//! A shell without decisions: each module declares what it needs of its node as traits, checks what
//! comes over the wire, and answers with statuses that say what to do. The driver binds listeners,
//! implements the traits, and adds the services to a server.

mod call;
pub mod control;
pub mod handover;
pub mod peers;
pub mod read;
pub mod reporter;
pub mod telemetry;
pub mod watch;
