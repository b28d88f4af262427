//! Fuzzes all targets, or one, for some time; says what was done, or how a failure is repeated.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use headcount_fuzz::{Plan, fuzz, hush, judge, targets};

/// Fuzzes every decoder that reads what strangers or other nodes send.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long in all, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What all inputs follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this one.
    #[arg(long)]
    target: Option<String>,
    /// Only this input, of the one target.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Where inputs that fail are left.
    #[arg(long, default_value = "target/fuzz")]
    failures: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut targets = targets();
    targets.retain(|target| {
        arguments
            .target
            .as_deref()
            .is_none_or(|name| name == target.name)
    });
    if targets.is_empty() {
        eprintln!("no such target");
        return ExitCode::from(64);
    }
    if let Some(path) = &arguments.input {
        let input = std::fs::read(path).expect("the input can be read");
        // With its own message, so that the place of a panic is told.
        return match judge(&targets[0], &input) {
            Ok(run) => {
                println!("{run:?}");
                ExitCode::SUCCESS
            }
            Err(what) => {
                eprintln!("{what}");
                ExitCode::FAILURE
            }
        };
    }
    let seed = arguments.seed;
    let plan = Plan {
        seed,
        time: Duration::from_secs(arguments.seconds) / u32::try_from(targets.len()).unwrap_or(1),
        inputs_max: u64::MAX,
    };
    println!(
        "seed {seed}, {:.1?} for each of {} targets",
        plan.time,
        targets.len()
    );
    println!(
        "{:<22} {:>10} {:>8} {:>12} {:>10}",
        "target", "inputs", "shapes", "heap kB", "longest"
    );
    // Each failure is told once, when it is small.
    hush();
    let mut failed = false;
    for target in &targets {
        match fuzz(target, &plan) {
            Ok(told) => println!(
                "{:<22} {:>10} {:>8} {:>12} {:>10.1?}",
                target.name,
                told.inputs,
                told.shapes,
                told.heap_bytes / 1000,
                told.longest
            ),
            Err(failure) => {
                failed = true;
                let name = failure.target;
                let path = arguments.failures.join(format!("{name}-{seed}"));
                let kept = std::fs::create_dir_all(&arguments.failures)
                    .and_then(|()| std::fs::write(&path, &failure.input));
                eprintln!("{name}: {:.2000}", failure.what);
                let (input, bytes) = (failure.input.escape_ascii(), failure.input.len());
                eprintln!("  input, {bytes} bytes: \"{:.400}\"", input.to_string());
                eprintln!("  came after {} others of seed {seed}", failure.after);
                let how = match kept {
                    Ok(()) => format!("INPUT={}", path.display()),
                    Err(error) => format!("SEED={seed}, as the input was not kept: {error}"),
                };
                eprintln!("  repeat: make fuzz TARGET={name} {how}");
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
