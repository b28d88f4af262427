//! What everybody in a world writes down: what was done, what was told, and how often what happened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headcount_checker::linear::{Call, Op};
use headcount_checker::sessions::Seen;
use headcount_checker::{Allowance, History, Ledger, Sample};
use headcount_model::Occupancy;
use headcount_node::admin::status::ClusterStatus;
use sha2::{Digest as _, Sha256};

use crate::time;

/// How far a world is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The cluster grows.
    #[default]
    Growing,
    /// Clients come, nothing is broken.
    Calm,
    /// Faults are made.
    Safety,
    /// Nothing is broken any more, and clients go on.
    Healing,
    /// Nothing changes any more.
    Quiet,
}

/// How often something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<String, u64>);

impl Coverage {
    /// Counts something.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// Counts something several times.
    pub fn add(&mut self, what: &str, times: u64) {
        match self.0.get_mut(what) {
            Some(count) => *count += times,
            None => drop(self.0.insert(what.to_owned(), times)),
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (what, times) in &self.0 {
            let separator = if std::mem::take(&mut first) { "" } else { " " };
            write!(f, "{separator}{what}={times}")?;
        }
        Ok(())
    }
}

/// Trace: everything worth comparing, line by line.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Sha256,
    /// The lines, if they are kept.
    pub lines: Option<Vec<String>>,
}

impl Trace {
    /// Adds a line.
    pub fn say(&mut self, what: &dyn fmt::Display) {
        let line = format!("{:>9.3} {what}", time::now().as_secs_f64());
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// Returns the hash of all lines so far, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// What became of a node's program.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Which life it is.
    pub number: u64,
    /// Whether it was ready in this life.
    pub ready: bool,
    /// Why it ended by itself, if it did.
    pub ended: Option<String>,
}

/// Everything that is written down.
#[derive(Debug)]
pub struct Record {
    /// How far the world is.
    pub phase: Phase,
    /// What was done.
    pub ledger: Ledger,
    /// What each watcher was told, by name.
    pub histories: BTreeMap<String, History>,
    /// When each event was told first.
    pub heard: BTreeMap<String, Duration>,
    /// What readers were told.
    pub samples: Vec<Sample>,
    /// Calls to channels that strong reads are made of.
    pub calls: BTreeMap<String, Vec<Call<Op>>>,
    /// How far sessions of readers saw.
    pub seen: Vec<Seen<u64>>,
    /// Reports that nobody acknowledged yet.
    pub unacknowledged: u64,
    /// Edges that have not come to rest.
    pub restless: u64,
    /// What operators are asked for and have not done yet.
    pub orders: u64,
    /// Troubles that are over since operators did what they were asked for.
    pub carried_out: Vec<usize>,
    /// By node.
    pub lives: Vec<Life>,
    /// What each node listed last, once nothing changes any more.
    pub listed: BTreeMap<usize, Result<BTreeMap<String, Occupancy>, String>>,
    /// The newest status that any node gave.
    pub status: Option<ClusterStatus>,
    /// What is wrong by itself.
    pub wrong: Vec<String>,
    /// How often what happened.
    pub coverage: Coverage,
    /// The trace.
    pub trace: Trace,
}

/// A handle to the record.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Record>>);

impl Shared {
    /// Makes an empty record for so many nodes.
    #[must_use]
    pub fn new(allowance: Allowance, nodes: usize) -> Self {
        Self(Arc::new(Mutex::new(Record {
            phase: Phase::default(),
            ledger: Ledger::new(allowance),
            histories: BTreeMap::new(),
            heard: BTreeMap::new(),
            samples: Vec::new(),
            calls: BTreeMap::new(),
            seen: Vec::new(),
            unacknowledged: 0,
            restless: 0,
            orders: 0,
            carried_out: Vec::new(),
            lives: vec![Life::default(); nodes],
            listed: BTreeMap::new(),
            status: None,
            wrong: Vec::new(),
            coverage: Coverage::default(),
            trace: Trace::default(),
        })))
    }

    /// Returns the record; never held over a wait.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how far the world is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Writes a line of the trace.
    pub fn say(&self, what: &dyn fmt::Display) {
        self.lock().trace.say(what);
    }
}
