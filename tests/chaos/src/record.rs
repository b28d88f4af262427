//! The record of a run: everything that was done and told, by one clock.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use headcount_checker::linear::{Call, Op};
use headcount_checker::sessions::Seen;
use headcount_checker::{Allowance, At, History, Ledger, Sample};

/// What all actors write to.
#[derive(Debug)]
pub(crate) struct Record {
    start: Instant,
    inner: Mutex<Inner>,
}

/// What is written.
#[derive(Debug)]
pub(crate) struct Inner {
    /// What is attached.
    pub(crate) ledger: Ledger,
    /// What each watcher was told, by its name.
    pub(crate) histories: BTreeMap<String, History>,
    /// When each event was told first to anybody.
    pub(crate) heard: BTreeMap<String, At>,
    /// What readers were told.
    pub(crate) samples: Vec<Sample>,
    /// Strong reads and writes of the channels that are searched for an order.
    pub(crate) calls: BTreeMap<String, Vec<Call<Op>>>,
    /// What only grows, as readers of one replica saw it.
    pub(crate) seen: Vec<Seen<u32>>,
    /// What happened, for people.
    pub(crate) log: Vec<(At, String)>,
    /// How often things happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What is wrong already.
    pub(crate) wrong: Vec<String>,
}

impl Record {
    /// Begins a record; its clock starts.
    pub(crate) fn new(allowance: Allowance) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            inner: Mutex::new(Inner {
                ledger: Ledger::new(allowance),
                histories: BTreeMap::new(),
                heard: BTreeMap::new(),
                samples: Vec::new(),
                calls: BTreeMap::new(),
                seen: Vec::new(),
                log: Vec::new(),
                counts: BTreeMap::new(),
                wrong: Vec::new(),
            }),
        })
    }

    /// Returns the present moment.
    pub(crate) fn now(&self) -> At {
        self.start.elapsed()
    }

    /// Returns what is written, to write more.
    pub(crate) fn write(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened, for people.
    pub(crate) fn say(&self, what: impl Into<String>) {
        let (now, what) = (self.now(), what.into());
        eprintln!("{:>8.3} {what}", now.as_secs_f64());
        self.write().log.push((now, what));
    }

    /// Writes what each watcher was told to files in `home`, for whoever looks for a fault's cause.
    pub(crate) fn keep_histories(&self, home: &Path) -> io::Result<()> {
        for (name, history) in &self.write().histories {
            let steps = history.steps.iter().map(|step| format!("{step}\n"));
            let steps: String = steps.collect();
            std::fs::write(home.join(format!("told {name}.log")), steps)?;
        }
        Ok(())
    }

    /// Counts that something happened.
    pub(crate) fn count(&self, what: &'static str) {
        *self.write().counts.entry(what).or_default() += 1;
    }
}
