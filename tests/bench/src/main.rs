//! Measures the core beside what people use today, and prints tables in Markdown; with `--write`
//! they replace the last ones in a page.
//!
//! Whatever is compared is measured in the same run and in changing order, since machines are noisy:
//! the ratios count. A ratio, a number of bytes or a share of a core that is off its bar by half
//! fails the run; a time never does.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a table is what it is for"
)]

mod delay;
mod edge;
mod growth;
mod http;
mod idle;
mod ingest;
mod memory;
mod node;
mod peer;
mod process;
mod reads;
mod report;
mod snapshot;
mod stages;
mod table;
mod takeover;
mod traffic;
mod wan;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};

use crate::memory::Held;
use crate::table::Table;

/// The node's, as what tables take depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a part may take: the longest takes a third of it.
const WITHIN: Duration = Duration::from_secs(30 * 60);

/// Measures the core beside what people use today.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/headcount")]
    binary: PathBuf,
    /// Less of everything: minutes, for the ratios only.
    #[arg(long)]
    quick: bool,
    /// Writes the figures into this page, too, in place of the last ones.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The first port of the nodes; they take 70 from there on.
    #[arg(long, default_value_t = 24_080)]
    port: u16,
    /// Numbers of channels at which growth is measured, ascending.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    sizes: Vec<u32>,
    /// Fills this table alone and prints what it takes: the tool starts itself with it.
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
    /// What an owner takes when all edges open new sessions.
    Takeover,
    /// Memory of a channel in each table that holds it, beside Redis.
    Memory,
    /// Enumeration, status reads, and the return of a node that was killed.
    Reads,
    /// Bytes of a changed count between regions.
    Wan,
    /// Delay of events over an emulated wide area, and one hot channel.
    Delay,
    /// What snapshots add to the delay of events.
    Snapshot,
    /// Processor and memory of nodes to which nobody is attached.
    Idle,
    /// How costs grow with channels.
    Growth,
    /// How costs grow with regions.
    Regions,
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
    let wanted = |part: &Part| arguments.only.is_empty() || arguments.only.contains(part);
    let mut failures = Vec::new();
    for part in Part::value_variants().iter().copied().filter(wanted) {
        if arguments.only.is_empty() && arguments.quick && !part.is_quick() {
            continue;
        }
        eprintln!("{}:", part.title());
        let mut table = Table::default();
        let measured = tokio::time::timeout(WITHIN, part.measure(&arguments, &mut table)).await;
        measured.with_context(|| format!("{} took longer than {WITHIN:?}", part.name()))??;
        let section = report::section(part, arguments.quick, &table);
        println!("{section}");
        if let Some(page) = &arguments.write {
            report::write(page, part, &section)?;
        }
        failures.extend(table.failures);
    }
    if !failures.is_empty() {
        bail!("far below the bar: {}", failures.join("; "));
    }
    Ok(())
}

impl Part {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ingest => "Attaches, beside Redis",
            Self::Stages => "What each stage takes of an attach",
            Self::Takeover => "Edges that open new sessions",
            Self::Memory => "Memory of a channel, beside Redis",
            Self::Reads => "Reads, and the return of a node that was killed",
            Self::Wan => "Bytes between regions",
            Self::Delay => "Delay over an emulated wide area, and one hot channel",
            Self::Snapshot => "Snapshots",
            Self::Idle => "Idling",
            Self::Growth => "Growth with channels",
            Self::Regions => "Growth with regions",
        }
    }

    /// Whether it is worth its minutes where only far regressions matter.
    fn is_quick(self) -> bool {
        !matches!(
            self,
            Self::Stages | Self::Snapshot | Self::Growth | Self::Regions
        )
    }

    async fn measure(self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let Arguments {
            binary,
            port,
            quick,
            sizes,
            ..
        } = arguments;
        let (port, quick) = (*port, *quick);
        let seconds = |full, fewer| Duration::from_secs(if quick { fewer } else { full });
        match self {
            Self::Ingest => {
                let load = ingest::Load {
                    channels: 10_000,
                    connections: 100_000,
                    each: 10,
                    rounds: if quick { 3 } else { 7 },
                };
                ingest::measure(binary, port, load, table).await
            }
            Self::Stages => stages::measure(10_000, 100_000, table),
            Self::Takeover => takeover::measure(if quick { 3 } else { 7 }, table),
            // With fewer, what is free and not given back would weigh more.
            Self::Memory => memory::measure(1_000_000, table).await,
            Self::Reads => {
                let load = reads::Load {
                    channels: if quick { 100_000 } else { 1_000_000 },
                    requests: if quick { 20_000 } else { 100_000 },
                    rounds: if quick { 3 } else { 7 },
                };
                reads::measure(binary, port, load, table).await
            }
            Self::Wan => wan::measure(table).await,
            Self::Delay => {
                let load = delay::Load {
                    channels: if quick { 50 } else { 300 },
                    hot: seconds(20, 5),
                };
                delay::measure(binary, port, load, table).await
            }
            Self::Snapshot => {
                let load = snapshot::Load {
                    channels: if quick { 100_000 } else { 1_000_000 },
                    opened: if quick { 1_000 } else { 2_000 },
                };
                snapshot::measure(binary, port, load, table).await
            }
            Self::Growth => growth::with_channels(binary, port, sizes, table).await,
            Self::Regions => growth::with_regions(binary, port, &[3, 5, 7], table).await,
            Self::Idle => {
                let load = idle::Load {
                    span: seconds(20, 10),
                    rounds: if quick { 1 } else { 3 },
                };
                idle::measure(binary, port, load, table).await
            }
        }
    }
}
