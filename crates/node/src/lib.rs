//! Wiring of one node: tasks, configuration, telemetry, admin port, drain.

pub mod admin;
pub mod config;
pub mod telemetry;
