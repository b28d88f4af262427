//! Chaos: real nodes as processes in network namespaces, joined by an emulated WAN, broken in all
//! ways that a machine allows, and judged by the [checker](headcount_checker).
//!
//! ```text
//! edges ─▶ ┌ namespace n0 ┐          ┌ namespace n2 ┐ ─▶ watchers, readers
//!          │ headcount    │──TUN──┐  │ headcount    │
//!          └──────────────┘    FABRIC└──────────────┘     (delays, losses, cuts by direction)
//! nemesis: kill, stop, cut, lose, step clocks, fail disks, bound memory
//! record ─▶ checker ─▶ verdict, with the seed that repeats the run
//! ```
//!
//! A run has two phases. In the first everything breaks, one to three things at a time, while
//! edges, watchers and readers go on; in the second all is put right, and everything must be right
//! within a deadline. A run that did not go through what it planned fails, too.
//!
//! The run happens in namespaces of its own for network, mounts and processes, so that nothing of
//! it is left on the machine, however it ends. It needs root.

mod cage;
mod cluster;
mod composed;
mod edges;
mod fabric;
mod laggards;
mod nemesis;
mod plan;
mod readers;
mod record;
mod scenarios;
mod service;
mod usage;
mod wan;
mod watchers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::{Cluster, Plan};

/// Breaks a cluster of real processes and judges what it tells.
#[derive(Debug, Parser)]
struct Arguments {
    /// The `headcount` binary.
    #[arg(long)]
    binary: PathBuf,
    /// How long things are broken.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// From what chance is drawn; without it, another each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes each of the three regions has; if not said 2, and 3 in `rolling`.
    #[arg(long)]
    nodes: Option<usize>,
    /// Measure one thing instead; `list` names them.
    #[arg(long)]
    scenario: Option<String>,
    /// How many times as long as is promised things may take, on a machine that is slower than the
    /// promise supposes.
    #[arg(long, default_value_t = 1.0, value_parser = slack)]
    slack: f64,
    /// Where logs are kept of a run that fails.
    #[arg(long, default_value = "target/chaos")]
    keep: PathBuf,
}

/// Reads how much slack there is: a promise is never made stricter.
fn slack(text: &str) -> Result<f64, String> {
    let slack: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    let is_slack = slack.is_finite() && slack >= 1.0;
    is_slack
        .then_some(slack)
        .ok_or_else(|| "must be 1 or more".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.scenario.as_deref() == Some("list") {
        for (name, what) in scenarios::ALL {
            eprintln!("{name:<18} {what}");
        }
        return ExitCode::SUCCESS;
    }
    let Some(group) = cage::inside() else {
        return outside();
    };
    match inside(arguments, group) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Looks whether a run is possible here, and enters the cage for it.
fn outside() -> ExitCode {
    if let Some(why) = cage::missing() {
        eprintln!("chaos: skipped: {why}");
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        return if in_ci {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    match cage::enter() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn inside(arguments: Arguments, group: String) -> Result<bool> {
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let Arguments {
        binary,
        seconds,
        nodes,
        scenario,
        slack,
        keep,
        ..
    } = arguments;
    let nodes = nodes.unwrap_or_else(|| scenario.as_deref().map_or(2, scenarios::nodes));
    let binary = binary
        .canonicalize()
        .with_context(|| format!("no binary {}", binary.display()))?;
    ensure!((1..=3).contains(&nodes), "--nodes is from 1 to 3");
    let what = match &scenario {
        Some(scenario) => format!("--scenario {scenario}"),
        None => format!("--seconds {seconds}"),
    };
    // Nothing is said of the usual.
    let allowed = if slack > 1.0 {
        format!(" --slack {slack}")
    } else {
        String::new()
    };
    let repeat = format!(
        "headcount-chaos --binary {} {what} --nodes {nodes} --seed {seed}{allowed}",
        binary.display()
    );
    eprintln!("chaos: {repeat}");
    let home = keep.join(format!("{seed}"));
    drop(std::fs::remove_dir_all(&home));
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let home = home.canonicalize()?;
    let regions = ["us-east-1", "eu-west-1", "ap-southeast-1"];
    let settings = composed::QUICK.iter().chain(&["cluster.timing = \"wan\""]);
    let plan = Plan {
        binary,
        home: home.clone(),
        group,
        regions: regions.map(|region| (region.to_owned(), nodes)).to_vec(),
        settings: settings.map(|setting| (*setting).to_owned()).collect(),
        disk_mib: 256,
        round_trips_ms: [80, 220, 240],
        seed,
        tricks: true,
    };
    let plan = match &scenario {
        Some(scenario) => scenarios::plan(scenario, plan)?,
        None => plan,
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let wrong = runtime.block_on(async {
        let cluster = Arc::new(Cluster::make(plan)?);
        let run = async {
            let Some(scenario) = &scenario else {
                let length = Duration::from_secs(seconds);
                return composed::run(cluster.clone(), length, slack).await;
            };
            let (found, mut wrong) = scenarios::play(scenario, cluster.clone()).await?;
            let (table, late) = found.table(slack);
            eprintln!("| {scenario} | times | median | most | promised |\n{table}");
            wrong.extend(late);
            Ok(wrong)
        };
        let mut asked = signal(SignalKind::terminate())?;
        let ended = tokio::select! {
            ended = run => ended,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
            _ = asked.recv() => Err(anyhow!("asked to end")),
        };
        cluster.end();
        ended
    });
    runtime.shutdown_background();
    let wrong = wrong.unwrap_or_else(|error| vec![format!("{error:#}")]);
    for what in &wrong {
        eprintln!("WRONG {what}");
    }
    if wrong.is_empty() {
        eprintln!("chaos: everything was right{allowed}");
        return Ok(true);
    }
    eprintln!(
        "chaos: {} things were wrong{allowed}; repeat with\n  {repeat}",
        wrong.len()
    );
    eprintln!(
        "the nodes' logs and what watchers were told are in {}",
        home.display()
    );
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_makes_no_promise_stricter() {
        assert_eq!(slack("1"), Ok(1.0));
        assert_eq!(slack("2.5"), Ok(2.5));
        for wrong in ["0.9", "-2", "inf", "NaN", "much"] {
            assert!(slack(wrong).is_err(), "{wrong}");
        }
    }
}
