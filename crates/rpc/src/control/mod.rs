//! Between nodes: membership, leases, commands of the control group and read indexes.
//!
//! [`ControlClient`] asks, [`service`] answers over a [`ControlPort`]. A [`join`] is the one call
//! that a node makes before it belongs to the cluster, so it carries no identity.

mod client;
mod ports;
mod server;
mod words;

pub use client::{CallError, ControlClient, join};
pub use ports::{
    ControlPort, JoinAsk, JoinReply, MemberAt, PortError, RenewReply, Renewal, ShardsTraffic,
    Standings,
};
pub use server::{ControlService, service};
