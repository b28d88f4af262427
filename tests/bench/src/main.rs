//! Measures the core beside what people use today, and prints a table in Markdown.
//!
//! Everything is compared in the same run and in changing order, since machines are noisy: the
//! ratios count. A ratio below half of its bar fails the run; an absolute time never does.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a table is what it is for"
)]

mod delay;
mod edge;
mod http;
mod idle;
mod ingest;
mod memory;
mod node;
mod peer;
mod process;
mod reads;
mod stages;
mod table;
mod traffic;
mod wan;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};

use crate::memory::Held;
use crate::table::Table;

/// Measures the core beside what people use today.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/headcount")]
    binary: PathBuf,
    /// Less of everything: minutes, for the ratios only.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The first port of the nodes; they take 24 from there on.
    #[arg(long, default_value_t = 24_080)]
    port: u16,
    /// Fills this table alone and prints how many bytes it has resident: `make bench` starts itself
    /// with it.
    #[arg(long, hide = true)]
    hold: Option<Held>,
    /// Regions in which the channels are active.
    #[arg(long, hide = true, default_value_t = 1)]
    regions: u16,
    /// How many channels there are.
    #[arg(long, hide = true, default_value_t = 1_000_000)]
    channels: u32,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Attaches of an edge into one node, beside Redis.
    Ingest,
    /// What each pure stage takes for its part of an attach.
    Stages,
    /// Enumeration, status reads, and the return of a node that was killed.
    Reads,
    /// Bytes of a changed count between regions.
    Wan,
    /// Delay of events over an emulated wide area, and one hot channel.
    Delay,
    /// Processor and memory of nodes to which nobody is attached.
    Idle,
    /// Memory of a channel in each table that holds it, beside Redis.
    Memory,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(held) = arguments.hold {
        println!(
            "{}",
            memory::hold(held, arguments.regions, arguments.channels)?
        );
        return Ok(());
    }
    let mut table = Table::default();
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let (binary, port) = (&arguments.binary, arguments.port);
    if wanted(Part::Ingest) {
        let load = ingest::Load {
            channels: 10_000,
            connections: 100_000,
            each: 10,
            rounds: if arguments.quick { 2 } else { 5 },
        };
        ingest::measure(binary, port, load, &mut table).await?;
    }
    if wanted(Part::Stages) {
        stages::measure(10_000, 100_000, &mut table)?;
    }
    if wanted(Part::Reads) {
        let load = reads::Load {
            channels: if arguments.quick { 100_000 } else { 1_000_000 },
            requests: if arguments.quick { 20_000 } else { 100_000 },
            rounds: if arguments.quick { 2 } else { 5 },
        };
        reads::measure(binary, port, load, &mut table).await?;
    }
    if wanted(Part::Wan) {
        wan::measure(&mut table).await?;
    }
    if wanted(Part::Delay) {
        let load = delay::Load {
            channels: if arguments.quick { 50 } else { 300 },
            hot: Duration::from_secs(if arguments.quick { 5 } else { 20 }),
        };
        delay::measure(binary, port, load, &mut table).await?;
    }
    if wanted(Part::Idle) {
        let load = idle::Load {
            span: Duration::from_secs(if arguments.quick { 10 } else { 20 }),
            rounds: if arguments.quick { 1 } else { 3 },
        };
        idle::measure(binary, port, load, &mut table).await?;
    }
    if wanted(Part::Memory) {
        let load = memory::Load {
            channels: if arguments.quick { 100_000 } else { 1_000_000 },
            rounds: 1,
        };
        memory::measure(load, &mut table).await?;
    }
    print!("{}", table.markdown());
    if !table.failures.is_empty() {
        bail!("far below the bar: {}", table.failures.join("; "));
    }
    Ok(())
}
