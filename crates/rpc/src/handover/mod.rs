//! Between nodes: connections whose realtime clients have gone on elsewhere (R8).
//!
//! [`HandOverClient`] asks the node where a client was to end its connection, [`service`] answers
//! over a [`HandOverPort`]. Whoever asks again is told that there is no such connection, which is as
//! good.

mod client;
mod ports;
mod server;

#[cfg(test)]
mod tests;

pub use client::HandOverClient;
pub use ports::{Client, HandOverPort, NotReleased, ReleaseAsk, ReleaseReply};
pub use server::{HandOverService, service};
