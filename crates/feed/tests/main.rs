//! The feed's promises: properties over random histories, and scenarios one rule each.

mod properties;
mod scenarios;
mod world;
