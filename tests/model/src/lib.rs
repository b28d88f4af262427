//! The protocol as models that stateright exhausts.
//!
//! `design.md` §9 gives the rules; the models hold R1–R6, R8–R13 and R17. Each [`rules::Rule`] is a
//! switch. With all of them, every world ([`check::Subject`]) is searched to its end and no promise
//! breaks; with one left out, a world shows a trace that breaks one. The README beside this crate
//! says what the models abstract and what they do not cover.
//!
//! * [`protocol`]: gateways ─ reports ▶ OWNER ─ claim, batches ▶ COMMITTED LOG ─ events ▶
//!   SUBSCRIBERS, who also hear the owner's transitions early.
//! * [`uplink`] and [`sessions`]: how an owner hears of what is attached, and what of it counts.
//! * [`relay`] and [`newness`]: presence between regions, and between nodes.
//! * [`leases`]: who lives, by the control group's word.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod check;
pub mod leases;
pub mod newness;
pub mod owner;
pub mod protocol;
pub mod relay;
pub mod rules;
pub mod sessions;
pub mod shard;
pub mod subscriber;
pub mod uplink;
pub mod words;
pub mod world;
