//! The region–coordinator protocol as a model that stateright exhausts.
//!
//! `design.md` §9 gives the rules; the model holds R1–R6 and R9–R12. Each [`rules::Rule`] is a
//! switch. With all of them, every [`world::World`] is searched to its end and no promise breaks;
//! with one left out, a world shows a trace that breaks one. The README beside this crate says
//! what the model abstracts and what it does not cover.
//!
//! gateways ─ reports ▶ OWNER ─ claim, batches ▶ COMMITTED LOG ─ events ▶ SUBSCRIBERS, who also hear
//! the owner's transitions early.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod check;
pub mod owner;
pub mod protocol;
pub mod rules;
pub mod shard;
pub mod subscriber;
pub mod words;
pub mod world;
