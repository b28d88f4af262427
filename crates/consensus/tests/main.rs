//! Raft hosts in one process, over a network in memory that encodes and decodes for real.
#![cfg(test)]

mod failover;
mod idle;
mod members;
mod proposals;
mod restart;
mod snapshots;
mod world;
