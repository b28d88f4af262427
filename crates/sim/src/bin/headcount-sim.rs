//! Runs the worlds of a range of seeds, each in a process of its own, and adds up what they say.

use std::process::ExitCode;

use clap::Parser;
use headcount_sim::batch::{self, Batch};

/// Runs the worlds of a range of seeds and judges them.
#[derive(Debug, Parser)]
struct Arguments {
    /// The seeds, `FIRST..LAST` with both, or one.
    seeds: String,
    /// How many worlds run at once; as many as there are cores if 0.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Starts no further world after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs each seed twice and compares the traces, line by line.
    #[arg(long)]
    twice: bool,
    /// Plants a bug in every node; needs the feature `mutants`.
    #[arg(long)]
    mutant: Option<String>,
    /// Plants each bug in turn, and ends with a failure unless every one is caught by some seed.
    #[arg(long)]
    mutants: bool,
    /// Ends at the first seed that is wrong.
    #[arg(long)]
    first: bool,
    /// Accepts a batch in which something never happened that a batch is for.
    #[arg(long)]
    any_coverage: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match batch::parse_seeds(&arguments.seeds) {
        Ok(seeds) => seeds,
        Err(error) => {
            headcount_sim::print(&error);
            return ExitCode::from(64);
        }
    };
    let batch = Batch {
        seeds,
        jobs: arguments.jobs,
        seconds: arguments.seconds,
        twice: arguments.twice,
        mutant: arguments.mutant,
        first: arguments.first,
        any_coverage: arguments.any_coverage,
    };
    if arguments.mutants {
        return match batch.run_mutants() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                headcount_sim::print(&error);
                ExitCode::FAILURE
            }
        };
    }
    match batch.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            headcount_sim::print(&error);
            ExitCode::FAILURE
        }
    }
}
