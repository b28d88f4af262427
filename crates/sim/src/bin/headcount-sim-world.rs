//! Runs the world of one seed, in a process of its own: what libraries draw from the system comes
//! from the seed as well, and that can be said once in a process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Parser;
use headcount_sim::plan::Plan;
use headcount_sim::world::World;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Runs the world of one seed and judges it.
#[derive(Debug, Parser)]
struct Arguments {
    /// The seed.
    seed: u64,
    /// Where to write the trace.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// How long faults are made, in simulated seconds, instead of what the seed says.
    #[arg(long)]
    safety: Option<u64>,
    /// The bug to plant, see `headcount_model::mutants`; needs the feature `mutants`.
    #[arg(long)]
    mutant: Option<String>,
    /// What nodes are to log to standard error, as a filter such as `info` or `raft=debug`.
    #[arg(long)]
    log: Option<String>,
}

// A tenth of a world's time is the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much of what is wrong is told: one thing often makes many.
const TOLD_MAX: usize = 12;

/// What panicked.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The stack of a world: futures of whole nodes are large where nothing is optimised.
const STACK_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(filter) = &arguments.log {
        headcount_sim::log_to_stderr(filter);
    }
    if let Some(name) = &arguments.mutant
        && let Err(error) = headcount_sim::plant(name)
    {
        headcount_sim::print(&error);
        return ExitCode::from(64);
    }
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.to_string().replace('\n', " ");
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(what);
        }
    }));
    // From here on chance comes from the seed. A thread of its own, as what a thread draws first
    // must not depend on what went before, such as the set-up of logs.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(arguments.seed));
    let _clocks = mad_turmoil::time::SimClocksGuard::init();
    let world = thread::Builder::new().stack_size(STACK_BYTES);
    let world = world.spawn(move || run(&arguments));
    let is_right = world.map(|world| {
        world.join().unwrap_or_else(|_panic| {
            let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            for panic in &*panics {
                headcount_sim::print(&format!("WRONG a panic: {panic}"));
            }
            false
        })
    });
    match is_right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            headcount_sim::print(&format!("no thread: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the world; returns whether it is right.
fn run(arguments: &Arguments) -> bool {
    let mut plan = Plan::of(arguments.seed);
    if let Some(seconds) = arguments.safety {
        plan.safety = Duration::from_secs(seconds);
    }
    let mut world = World::new(plan, arguments.trace.is_some());
    let mut wrong = world.run();
    if let Ok(panics) = PANICS.lock() {
        wrong.extend(panics.iter().map(|panic| format!("a panic: {panic}")));
    }
    let told = world.report(&wrong);
    if let Some(path) = &arguments.trace
        && let Err(error) = std::fs::write(path, world.trace())
    {
        wrong.push(format!("--trace {}: {error}", path.display()));
    }
    headcount_sim::print(&told);
    for wrong in wrong.iter().take(TOLD_MAX) {
        headcount_sim::print(&format!("WRONG {wrong}"));
    }
    if wrong.len() > TOLD_MAX {
        headcount_sim::print(&format!("and {} more", wrong.len() - TOLD_MAX));
    }
    wrong.is_empty()
}
