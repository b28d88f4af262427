//! What people see of real clusters.
#![cfg(test)]

mod alone;
mod bad_input;
mod cuts;
mod damage;
mod detours;
mod edges;
mod forwarding;
mod growth;
mod killing;
mod leases;
mod lifecycle;
mod limits;
mod many_shards;
mod moving;
mod owners;
mod past;
mod placement;
mod presence;
mod reads;
mod restarts;
mod resuming;
mod revoking;
mod support;
mod troubles;
