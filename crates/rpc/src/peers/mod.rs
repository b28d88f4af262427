//! Between nodes: envelopes of raft groups, parcels of counts, relayed parcels, snapshots.
//!
//! A [`Network`] holds one [`Channel`](tonic::transport::Channel) and three streams per other node:
//! one for raft, one for counts, one for the relay, so that none queues behind another. Streams are
//! one way; each node opens its own towards every other. What cannot be sent at once is refused or
//! dropped, never queued without bound. Raft is told of [`Breaks`] and sends again; gossip and the
//! relay send again, or start over, when [`Ways`] says that a way was opened anew.
//!
//! [`services`] makes the receiving side, which hands everything to an [`Inbound`].

mod handshake;
mod link;
mod network;
mod ports;
mod relayed;
mod server;
mod ways;

#[cfg(test)]
mod tests;

pub use handshake::{Identity, PROTOCOL_MAX, PROTOCOL_MIN};
pub use network::{Network, NetworkConfig, Peer, SendError};
pub use ports::Inbound;
pub use relayed::{RelayMessage, RelayParcel};
pub use server::{MESSAGE_BYTES_MAX, services};
pub use ways::{Breaks, Ways};
