//! One node of Headcount: every stage and shell, wired.
//!
//! ```text
//! edge ─▶ gateway ─▶ region ─▶ gossip ─▶ coordinator ─▶ feed ─▶ people
//!            └──────────────── NODE ────────────────────────┘
//! ```
//!
//! [`Node::start`] takes a checked [`config::Config`] and bound [`Listeners`] and brings the node to
//! its cluster; `node.rs` reads as the story of that. Each shard that the node hosts has a driver
//! task (`shard`), the gateway has one (`gateway`), and the control group's work is in `control`.
//! What shells need from outside is implemented in `adapters`, and nowhere else.
//!
//! What it does not do: decide. Every decision is a stage's.

mod adapters;
pub mod admin;
mod clock;
pub mod config;
mod control;
mod following;
mod founding;
mod gateway;
mod listening;
mod node;
mod paths;
mod reading;
mod relay;
mod reporter;
mod revoked;
mod sampling;
mod shard;
mod shards;
mod surroundings;
mod tasks;
pub mod telemetry;

pub use headcount_net::{Dialer, Listener};
pub use node::{Founding, Listeners, Node, NotReady, Options, StartError, StopReason};
pub use surroundings::Surroundings;
