//! Between nodes: envelopes of raft groups, parcels of counts, snapshots.
//!
//! A [`Network`] holds one [`Channel`](tonic::transport::Channel) and two streams per other node:
//! one for raft, one for counts, so that neither queues behind the other. Streams are one way; each
//! node opens its own towards every other. What cannot be sent at once is refused or dropped, never
//! queued without bound: raft and gossip send again by themselves.
//!
//! [`services`] makes the receiving side, which hands everything to an [`Inbound`].

mod handshake;
mod link;
mod network;
mod ports;
mod server;

pub use handshake::{Identity, PROTOCOL_MAX, PROTOCOL_MIN};
pub use network::{Network, NetworkConfig, SendError};
pub use ports::Inbound;
pub use server::{MESSAGE_BYTES_MAX, services};
