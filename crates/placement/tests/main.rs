//! The control group's promises, driven through whole clusters with an ideal raft.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod apply;
mod growth;
mod leases;
mod random;
mod traffic;
mod world;
