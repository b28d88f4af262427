//! What a node stands on: disk, network and clock. In earnest the machine's; a simulation brings
//! its own.

use std::sync::Arc;
use std::time::SystemTime;

use headcount_consensus::store::disk::Disk;
use headcount_net::Dialer;

/// What a node stands on. The default is the machine.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the store is kept; its writer is a task of the node then, and files are read in place.
    /// `None` is the data directory, with a thread for the writer.
    pub disk: Option<Arc<dyn Disk>>,
    /// How connections to other nodes come about.
    pub dialer: Dialer,
    /// The wall clock.
    pub wall: fn() -> SystemTime,
    /// Whether the process's metrics are collected and shown. What collects them reads the
    /// processor's own clock.
    pub is_measured: bool,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            disk: None,
            dialer: Dialer::default(),
            wall: SystemTime::now,
            is_measured: true,
        }
    }
}
