//! What people see of real clusters.
#![cfg(test)]

mod edges;
mod lifecycle;
mod restarts;
mod resuming;
mod support;
