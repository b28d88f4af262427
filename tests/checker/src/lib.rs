//! The checker: what was really done, what was told of it, and whether the two agree.
//!
//! ```text
//! edges ──reports, acknowledgements, deaths──▶ Ledger ─┐
//! faults ──when, where, what they excuse─────▶         ├──▶ faults by invariant
//! watchers ──events, resumptions─────────────▶ History ┤
//! readers ──answers──────────────────────────▶ Sample, Call, … ┘
//! ```
//!
//! * A [`History`] is what one watcher was told. It is judged alone ([`History::faults`]), against
//!   others ([`agree`]), against the log ([`Log`]), and against what was done ([`Ledger::justify`]).
//! * A [`Log`] is the events of the shards' logs by position, dumped or put together from what
//!   watchers were told.
//! * The [`Ledger`] keeps for each session and channel what may have counted, and when. From it
//!   follow, for any moment, what must be there, what may be, and what must not; every judgement is
//!   against these, so that a race never raises a false alarm.
//! * [`linear`] searches for an order of strong reads and writes that explains all answers, and
//!   [`sessions`] finds readers that were taken back in time.
//!
//! Users are the system tests, the simulator and the chaos runs. There is no clock, no randomness
//! and no I/O in here: times are durations since the run began, by the one clock of who drives it.
//! Whatever a [`Fault`] says names its invariant, a [`Rule`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod history;
mod ledger;
pub mod linear;
mod log;
mod rule;
pub mod sessions;
mod spans;

pub use history::{ChannelState, History, Step, Told, agree, agree_on_the_log};
pub use ledger::{Allowance, Ledger, Presence, Sample, Source, Ticket};
pub use log::Log;
pub use rule::{Fault, Rule};
pub use spans::{At, Spans};
