//! A shard's replica on this node, and everything that is done with it: applying, owning, proposing,
//! telling.
//!
//! [`Replica`] is what readers share; [`Machine`] is how consensus changes it;
//! a driver task per shard does the rest.

mod driver;
mod followers;
mod hearing;
mod knowledge;
mod machine;
mod owning;
mod proposer;
mod replica;
mod taken_on;
mod told;

pub(crate) use driver::{
    Driver, DriverConfig, DriverStats, Mail, Mailbox, mailbox, note_early, note_told,
};
pub(crate) use followers::{FOLLOW_ITEMS_MAX, Follow};
pub(crate) use hearing::Hearing;
pub(crate) use knowledge::Knowledge;
pub(crate) use machine::Machine;
pub(crate) use owning::early_event;
pub(crate) use replica::Replica;
