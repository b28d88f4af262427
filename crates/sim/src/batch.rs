//! Many worlds, each in a process of its own, and the sum of what they say.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use headcount_model::mutants::Mutant;

use crate::print;
use crate::record::Coverage;

/// From this many seeds on a batch must have met everything in [`REQUIRED`].
const COVERING_SEEDS: u64 = 50;

/// What a batch is for: each of these must have happened.
const REQUIRED: &[&str] = &[
    "disks-lost",
    "edge-deaths",
    "edge-goodbyes",
    "edge-resumes",
    "edge-sessions",
    "events-logged",
    "fault-clock",
    "fault-cut-bridge",
    "fault-cut-clients",
    "fault-cut-flapping",
    "fault-cut-inside",
    "fault-cut-node",
    "fault-cut-one-way",
    "fault-cut-region",
    "fault-disk-eio-sync",
    "fault-disk-eio-write",
    "fault-disk-full",
    "fault-disk-read-only",
    "fault-disk-slow",
    "fault-drain",
    "fault-drift",
    "fault-kill-all",
    "fault-kill-one",
    "fault-kill-region",
    "fault-pause",
    "fault-power-all",
    "fault-power-one",
    "fault-power-region",
    "fault-resets",
    "fault-slow-ways",
    "fault-stop",
    "fault-thin-ways",
    "fault-weights",
    "nodes-declared-dead",
    "nodes-drained",
    "nodes-stopped-by-disks",
    "pieces-held",
    "reads",
    "snapshots",
    "strong-reads",
    "terms",
    "watch-resumes",
    "worlds-plain",
    "worlds-crowded",
];

/// What a batch must not miss too much of: parts, of what, and how many percent at least. About half
/// of what batches have, so that a fault of the judges is found and chance is not.
const FLOORS: &[(&str, &str, u64)] = &[
    // Answers with but one right value, which is not zero.
    ("reads-sharp", "reads", 8),
    ("reads", "reads-asked", 80),
    ("strong-reads", "strong-reads-asked", 75),
    // Those of which an order was found in time, or is none.
    ("registers-decided", "registers", 60),
    // Those that the logs on disks, which snapshots shorten, told again.
    ("events-on-disks", "events-logged", 20),
];

/// After so many worlds each a batch says how far it is.
const TELLING_SEEDS: u64 = 100;

/// Batch: which worlds to run, and how.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The seeds.
    pub seeds: RangeInclusive<u64>,
    /// How many at once; as many as there are cores if 0.
    pub jobs: usize,
    /// When to start no further one, in seconds.
    pub seconds: Option<u64>,
    /// Whether each seed is run twice and the traces compared.
    pub twice: bool,
    /// The planted bug.
    pub mutant: Option<String>,
    /// Whether to end at the first that is wrong.
    pub first: bool,
    /// Whether coverage does not matter.
    pub any_coverage: bool,
}

/// What the worlds said so far.
#[derive(Debug, Default)]
struct Sum {
    coverage: Coverage,
    run: u64,
    wrong: Vec<u64>,
    slowest_ms: u64,
}

/// Reads `FIRST..LAST` or one number.
///
/// # Errors
/// What is wrong with it, and what is right.
pub fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let wrong = || format!("seeds: {text:?} is not FIRST..LAST nor one number, such as 1..200");
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (first, last) = match text.split_once("..") {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(wrong());
    }
    Ok(first..=last)
}

impl Batch {
    /// Runs the worlds; returns whether all of them were right.
    ///
    /// # Errors
    /// Why they cannot be run.
    pub fn run(&self) -> Result<bool, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let world = own.with_file_name("headcount-sim-world");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let jobs = if self.jobs == 0 { cores } else { self.jobs };
        let began = Instant::now();
        let next = AtomicU64::new(*self.seeds.start());
        let over = AtomicBool::new(false);
        let sum = Mutex::new(Sum::default());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let late = self
                            .seconds
                            .is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds));
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if late || seed > *self.seeds.end() {
                            break;
                        }
                        let right = self.one(&world, seed, &sum);
                        if !right && self.first {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let sum = sum.into_inner().map_err(|error| error.to_string())?;
        Ok(self.sum_up(&sum, began.elapsed()))
    }

    /// Plants each bug in turn and runs worlds until it is caught; tells a table, and returns whether
    /// every one was caught.
    ///
    /// # Errors
    /// Why the worlds cannot be run.
    pub fn run_mutants(&self) -> Result<bool, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let world = own.with_file_name("headcount-sim-world");
        print("| mutant | caught by seed | after | what is said first |");
        print("|---|---|---|---|");
        let mut all = true;
        for (_, name) in Mutant::NAMED {
            let batch = Self {
                mutant: Some(name.to_owned()),
                ..self.clone()
            };
            let caught = batch.catch(&world);
            all &= caught.is_some();
            print(&match caught {
                Some((seed, worlds, what)) => {
                    format!("| `{name}` | {seed} | {worlds} worlds | {what} |")
                }
                None => format!("| `{name}` | **not caught** | | |"),
            });
        }
        Ok(all)
    }

    /// Runs worlds with a bug in them until one is wrong; returns its seed, after how many worlds,
    /// and what is said of it.
    fn catch(&self, world: &PathBuf) -> Option<(u64, u64, String)> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let jobs = if self.jobs == 0 { cores } else { self.jobs };
        let next = AtomicU64::new(*self.seeds.start());
        let caught = Mutex::new(None);
        let is_caught = || caught.lock().is_ok_and(|caught| caught.is_some());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while !is_caught() {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > *self.seeds.end() {
                            break;
                        }
                        let told = self.world(world, seed, None);
                        if told.failed
                            && let Ok(mut caught) = caught.lock()
                            && caught.as_ref().is_none_or(|(other, _)| seed < *other)
                        {
                            let first = told.text.lines().find(|line| line.starts_with("WRONG"));
                            let first = first.unwrap_or(&told.text);
                            let first: String = first.chars().take(100).collect();
                            *caught = Some((seed, first.replace('|', "/")));
                        }
                    }
                });
            }
        });
        let (seed, what) = caught.into_inner().ok()??;
        Some((seed, seed - self.seeds.start() + 1, what))
    }

    /// Runs a seed, or runs it twice; returns whether it was right.
    fn one(&self, world: &PathBuf, seed: u64, sum: &Mutex<Sum>) -> bool {
        let told = self.world(world, seed, None);
        let mut failed = told.failed;
        if self.twice {
            failed |= !self.is_repeated(world, seed);
        }
        let Ok(mut sum) = sum.lock() else {
            return false;
        };
        sum.run += 1;
        for (what, times) in told.coverage {
            if what == "converged-after-ms" {
                sum.slowest_ms = sum.slowest_ms.max(times);
            } else {
                sum.coverage.add(&what, times);
            }
        }
        if failed {
            sum.wrong.push(seed);
            print(&told.text);
            print(&format!("to repeat it: {}", self.command(seed)));
        }
        if sum.run.is_multiple_of(TELLING_SEEDS) {
            print(&format!("{} worlds, {} wrong", sum.run, sum.wrong.len()));
        }
        !failed
    }

    fn command(&self, seed: u64) -> String {
        let mutant = self.mutant.as_ref();
        let mutant = mutant.map_or_else(String::new, |mutant| format!(" MUTANT={mutant}"));
        format!("make sim SEEDS={seed}{mutant}")
    }

    fn world(&self, world: &PathBuf, seed: u64, trace: Option<&PathBuf>) -> Told {
        let mut command = Command::new(world);
        command.arg(seed.to_string());
        if let Some(trace) = trace {
            command.arg("--trace").arg(trace);
        }
        if let Some(mutant) = &self.mutant {
            command.arg("--mutant").arg(mutant);
        }
        match command.output() {
            Err(error) => Told {
                failed: true,
                text: format!("{}: {error}", world.display()),
                coverage: BTreeMap::new(),
            },
            Ok(output) => {
                let out = String::from_utf8_lossy(&output.stdout);
                let err = String::from_utf8_lossy(&output.stderr);
                Told {
                    failed: !output.status.success(),
                    coverage: coverage_of(&out),
                    text: format!("{out}{err}").trim_end().to_owned(),
                }
            }
        }
    }

    /// Runs a seed twice more and compares what was traced.
    fn is_repeated(&self, world: &PathBuf, seed: u64) -> bool {
        let home = std::env::temp_dir();
        let own = std::process::id();
        let traces = ["one", "two"].map(|which| {
            let path = home.join(format!("headcount-sim-{own}-{seed}-{which}"));
            self.world(world, seed, Some(&path));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            drop(std::fs::remove_file(&path));
            text
        });
        let [one, two] = &traces;
        if one == two && !one.is_empty() {
            return true;
        }
        let mut lines = one.lines().zip(two.lines()).enumerate();
        let first = lines.find(|(_, (one, two))| one != two);
        print(&match first {
            Some((at, (one, two))) => {
                format!(
                    "seed {seed} is not repeated, from line {}:\n{one}\n{two}",
                    at + 1
                )
            }
            None => format!("seed {seed} is not repeated: one trace is longer"),
        });
        false
    }

    fn sum_up(&self, sum: &Sum, took: Duration) -> bool {
        let times = |what: &str| sum.coverage.0.get(what).copied().unwrap_or(0);
        let simulated = Duration::from_millis(times("simulated-ms"));
        for (what, times) in &sum.coverage.0 {
            print(&format!("{times:>14} {what}"));
        }
        print(&format!(
            "{} worlds, {} wrong {:?}; {:.0} simulated seconds in {:.0}, {:.1} a second; \
             the slowest was right {:.1} s after the healing",
            sum.run,
            sum.wrong.len(),
            sum.wrong,
            simulated.as_secs_f64(),
            took.as_secs_f64(),
            simulated.as_secs_f64() / took.as_secs_f64().max(0.001),
            Duration::from_millis(sum.slowest_ms).as_secs_f64(),
        ));
        let lacking: Vec<_> = REQUIRED.iter().filter(|what| times(what) == 0).collect();
        let low = FLOORS.iter().filter(|(part, whole, percent)| {
            times(part).saturating_mul(100) < times(whole).saturating_mul(*percent)
        });
        let low: Vec<_> = low.collect();
        let covers = lacking.is_empty() && low.is_empty();
        let covers = self.any_coverage || sum.run < COVERING_SEEDS || covers;
        if !covers {
            print(&format!(
                "never met in this batch: {lacking:?}; too seldom: {low:?}"
            ));
        }
        sum.wrong.is_empty() && covers && sum.run > 0
    }
}

/// What a world said.
#[derive(Debug)]
struct Told {
    failed: bool,
    text: String,
    coverage: BTreeMap<String, u64>,
}

fn coverage_of(out: &str) -> BTreeMap<String, u64> {
    let line = out.lines().find(|line| line.starts_with("seed "));
    let words = line.unwrap_or_default().split_whitespace();
    let counts = words.filter_map(|word| {
        let (what, times) = word.split_once('=')?;
        Some((what.to_owned(), times.parse().ok()?))
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_or_one() {
        assert_eq!(parse_seeds("7"), Ok(7..=7));
        assert_eq!(parse_seeds("1..200"), Ok(1..=200));
        for wrong in ["", "a", "3..1", "1..", "1...5"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_world_counts_is_read() {
        let counts = coverage_of("noise\nseed 3 right 00ff reads=4 voids=1\n");
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("reads".to_owned(), 4), ("voids".to_owned(), 1)]
        );
    }
}
