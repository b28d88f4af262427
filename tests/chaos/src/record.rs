//! The record of a run: everything that was done and told, by one clock.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use headcount_checker::linear::{Call, Op};
use headcount_checker::sessions::Seen;
use headcount_checker::{Allowance, At, History, Ledger, Sample};
use headcount_model::EventKind;

use crate::service::{Missed, Outage};

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
    /// When each watcher was told each event first, by its name and the event's id.
    pub(crate) heard: BTreeMap<String, BTreeMap<String, At>>,
    /// What readers were told.
    pub(crate) samples: Vec<Sample>,
    /// Strong reads and writes of the channels that are searched for an order.
    pub(crate) calls: BTreeMap<String, Vec<Call<Op>>>,
    /// What only grows, as readers of one replica saw it.
    pub(crate) seen: Vec<Seen<u32>>,
    /// Which processes were struck when.
    pub(crate) outages: Vec<Outage>,
    /// Requests that were not answered in time.
    pub(crate) missed: Vec<Missed>,
    /// What happened, for people.
    pub(crate) log: Vec<(At, String)>,
    /// How often things happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What is wrong already.
    pub(crate) wrong: Vec<String>,
}

impl Inner {
    /// Returns when each event was told first to anybody.
    pub(crate) fn heard_first(&self) -> BTreeMap<String, At> {
        let mut first = BTreeMap::new();
        for (id, at) in self.heard.values().flatten() {
            let known = first.entry(id.clone()).or_insert(*at);
            *known = (*at).min(*known);
        }
        first
    }

    /// Returns when a watcher was told first of each channel that it opened.
    pub(crate) fn opened(&self, watcher: &str) -> BTreeMap<&str, At> {
        let mut opened = BTreeMap::new();
        let told = self.histories.get(watcher).map(History::events);
        for told in told.unwrap_or_default() {
            let heard = self.heard.get(watcher).and_then(|of| of.get(&told.id));
            if let (EventKind::Opened, Some(at)) = (told.kind, heard) {
                opened.entry(told.channel.as_str()).or_insert(*at);
            }
        }
        opened
    }
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
                outages: Vec::new(),
                missed: Vec::new(),
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

    /// Returns a moment as the run's clock tells it.
    pub(crate) fn at(&self, moment: tokio::time::Instant) -> At {
        moment.into_std().saturating_duration_since(self.start)
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

    /// Notes that a region was asked for something and did not answer in time.
    pub(crate) fn missed(&self, what: String, region: usize, from: At) {
        let to = self.now();
        self.write().missed.push(Missed {
            what,
            region,
            from,
            to,
        });
    }

    /// Counts that something happened.
    pub(crate) fn count(&self, what: &'static str) {
        *self.write().counts.entry(what).or_default() += 1;
    }
}
