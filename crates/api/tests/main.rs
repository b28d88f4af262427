//! The listener as clients meet it, over loopback, on a node that lives in memory.
#![cfg(test)]

mod auth;
mod client;
mod events;
mod limits;
mod list;
mod node;
mod realtime;
mod status;
mod wire;
