//! The feed's promises: properties over random histories, and scenarios one rule each.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod properties;
mod scenarios;
mod world;
