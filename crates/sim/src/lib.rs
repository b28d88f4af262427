//! Whole clusters under one seed: simulated time, network, disks, clocks and faults, judged.
//!
//! ```text
//! seed ─▶ Plan ─▶ World ─▶ machines ─▶ nodes (the product, as it is), edges, watchers, readers
//!                   │          └ SimNetwork, MemoryDisk, wall clock
//!                   ├ nemesis: what is broken, and when
//!                   └ Record ─▶ judge: ledger, histories, log, calls (`tests/checker`)
//! ```
//!
//! What runs is the product: [`headcount_node::Node`] with its stages, openraft, the gRPC stack and
//! the store, and the edge client. A machine is a tokio runtime of its own whose clock the world
//! moves, so that a crash ends whatever was begun in whatever library, and a pause is one. One
//! thread runs one machine at a time, a millisecond each. What libraries draw from the system comes
//! from the seed too, which the binary `headcount-sim-world` sees to; hence one world a process.
//!
//! A world grows a cluster, lets clients come, breaks things (the *safety* phase), heals everything
//! and demands that all be right by a deadline (the *liveness* phase). README.md says how to run it,
//! what was found, which planted bugs it catches, and what it cannot show.

pub mod batch;
mod edge;
mod http;
mod judge;
mod logs;
pub mod machine;
pub mod nemesis;
pub mod network;
mod node;
mod operator;
pub mod plan;
mod reader;
pub mod record;
pub mod time;
mod watcher;
pub mod world;

use std::fmt;
use std::io::Write as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Writes a line to standard output.
pub fn print(line: &str) {
    // Whoever closed it does not want to know.
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Plants the bug of that name in this process.
///
/// # Errors
/// If there is none of that name, or none can be planted.
#[cfg(feature = "mutants")]
pub fn plant(name: &str) -> Result<(), String> {
    use headcount_model::mutants::{Mutant, plant};
    let mutant = Mutant::from_name(name).ok_or_else(|| {
        let names = Mutant::NAMED.map(|(_, name)| name).join(", ");
        format!("--mutant {name}: there are {names}")
    })?;
    plant(mutant);
    Ok(())
}

/// Refuses to plant a bug.
///
/// # Errors
/// Always: this build has none.
#[cfg(not(feature = "mutants"))]
pub fn plant(name: &str) -> Result<(), String> {
    Err(format!(
        "--mutant {name}: build with `--features mutants`, as `make sim-mutants` does"
    ))
}

/// The world's time, for logs.
struct WorldTime;

impl FormatTime for WorldTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:>9.3}", time::now().as_secs_f64())
    }
}

/// Has nodes log to standard error what a filter lets through.
pub fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(WorldTime)
        .with_writer(std::io::stderr)
        .init();
}
