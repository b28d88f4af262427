//! The listener as clients meet it, over loopback, on a node that lives in memory.
#![cfg(test)]

mod auth;
mod chat;
mod client;
mod events;
mod handover;
mod limits;
mod list;
mod log;
mod messages;
mod node;
mod peers;
mod presence;
mod rates;
mod realtime;
mod recorder;
mod revocations;
mod status;
mod unready;
mod wire;
