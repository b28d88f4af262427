//! The command line's grammar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use headcount_model::EventKind;

use crate::failure::Failure;
use crate::output::Output;

/// Who is on this channel? Everywhere, at once.
#[derive(Debug, Parser)]
#[command(
    name = "headcount",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Print JSON: one document, or one line for each thing that happens.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) connect: Connect,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach a cluster as a reader or an edge.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    /// Address of a node's client listener.
    #[arg(
        long,
        global = true,
        env = "HEADCOUNT_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) server: String,

    /// API key, `app.key:secret`.
    #[arg(
        long,
        global = true,
        env = "HEADCOUNT_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) key: Option<String>,
}

impl Connect {
    /// Returns the key.
    pub(crate) fn key(&self) -> Result<&str, Failure> {
        let key = self.key.as_deref().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| {
            Failure::usage(
                "--key is missing: give app.key:secret, or set HEADCOUNT_KEY (for `headcount dev` \
                 dev.root:root-secret)",
            )
        })?;
        if key
            .split_once(':')
            .is_none_or(|(name, secret)| !name.contains('.') || secret.is_empty())
        {
            return Err(Failure::usage(
                "--key is malformed: expected app.key:secret",
            ));
        }
        Ok(key)
    }
}

/// How to reach a node as its operator.
#[derive(Args, Clone, Debug)]
pub(crate) struct Operate {
    /// Address of a node's admin listener.
    #[arg(long, global = true, env = "HEADCOUNT_ADMIN", value_name = "URL")]
    pub(crate) admin: Option<String>,

    /// Operator token, the node's `admin.token`.
    #[arg(
        long,
        global = true,
        env = "HEADCOUNT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,

    /// The node's own configuration file: where neither of the above is given, its admin listener
    /// and token are taken from it, as when run beside the node.
    #[arg(long, global = true, env = "HEADCOUNT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node.
    Serve(Serve),
    /// Run a cluster of three regions in this process, on loopback.
    Dev(Dev),
    /// Run `dev`, play a short story on it, explain it, and leave it running.
    Demo(Demo),
    /// Found a cluster: tells a running node that waits for one to be its first.
    Init(Operate),
    /// Run a node that joins a cluster through these peers.
    Join(Join),
    /// Look at a cluster and change it.
    Cluster {
        #[command(flatten)]
        operate: Operate,
        #[command(subcommand)]
        command: Cluster,
    },
    /// Ask who is on channels.
    Channels {
        #[command(subcommand)]
        command: Channels,
    },
    /// Follow what happens to channels.
    Events {
        #[command(subcommand)]
        command: Events,
    },
    /// Report realistic traffic as an edge, and say how it went.
    Load(Box<Load>),
    /// Check and explain settings.
    Config {
        #[command(subcommand)]
        command: Config,
    },
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// Where a node's settings come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Configuration file.
    #[arg(long, env = "HEADCOUNT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// One setting, over file and environment; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: Settings,

    /// Found a cluster if the data directory is empty. On exactly one node, once.
    #[arg(long)]
    pub(crate) init: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Join {
    /// Peer listeners of members; any living one is enough. More than `node.join` names.
    #[arg(required = true, value_name = "HOST:PORT")]
    pub(crate) peers: Vec<String>,

    /// Take the place of this dead node, by its id: its membership ends, and what it held is copied
    /// from the others. For a machine or a disk that was lost; as `node.replaces`.
    #[arg(long, value_name = "NODE")]
    pub(crate) replace: Option<u64>,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Dev {
    /// Emulate the latencies between the regions: round trips of 80 ms (us-east-1 to eu-west-1),
    /// 220 ms (us-east-1 to ap-southeast-1) and 240 ms (eu-west-1 to ap-southeast-1).
    #[arg(long)]
    pub(crate) wan: bool,

    /// Keep state in this directory; otherwise it is forgotten at the end. Ports and shards stay
    /// what they were at the first start.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Into how many shards channels are divided; only for new data.
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u32>,

    /// First port: region i listens on the four from PORT + 10 i. 0 takes any that are free.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,

    /// One setting, for all three nodes; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,

    /// Also write the nodes' log lines at this level (default: warnings).
    #[arg(long, value_name = "LEVELS")]
    pub(crate) log: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) dev: Dev,

    /// End when the story is over.
    #[arg(long)]
    pub(crate) exit_after_story: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show members, replicas, leaders and lag; fails if no majority confirms them.
    Status {
        /// Show every shard, too.
        #[arg(long)]
        shards: bool,
    },
    /// Move everything off nodes; they go on serving until they are empty.
    Drain {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Take a drain back.
    Undrain {
        #[command(flatten)]
        nodes: Nodes,
    },
    /// End memberships for ever; the nodes must be dead, or drained and empty.
    Remove {
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Say in which region the coordinators of pinned channels shall be.
    Home {
        /// Such as `eu:=eu-west-1`, for a prefix that the cluster was founded with.
        #[arg(required = true, value_name = "PREFIX=REGION", value_parser = home)]
        homes: Vec<(String, String)>,
    },
    /// Set regions' shares of coordinators.
    Weights {
        /// Such as `eu-west-1=300`.
        #[arg(required = true, value_name = "REGION=WEIGHT", value_parser = weight)]
        weights: Vec<(String, u32)>,
    },
    /// Change the settings that the cluster itself keeps.
    Set {
        /// Least time between two paced occupancy events of a channel, from 10ms to 15s.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        occupancy_interval: Option<Duration>,
        /// Replicas of each shard in a region that has the nodes, from 1 to 5.
        #[arg(long, value_name = "N")]
        copies: Option<u32>,
    },
}

/// Which nodes.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Nodes {
    /// Ids of nodes.
    #[arg(value_name = "NODE")]
    pub(crate) nodes: Vec<u64>,

    /// All nodes of this region.
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
}

/// Whether to wait for what was begun.
#[derive(Args, Clone, Debug)]
pub(crate) struct Waiting {
    /// Show how far it is until it is done.
    #[arg(long)]
    pub(crate) wait: bool,

    /// Fail if it is not done by then; what was begun goes on.
    #[arg(
        long,
        requires = "wait",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = humantime::parse_duration
    )]
    pub(crate) timeout: Duration,
}

fn home(text: &str) -> Result<(String, String), String> {
    let parsed = text
        .rsplit_once('=')
        .filter(|(prefix, region)| !prefix.is_empty() && !region.is_empty());
    let parsed = parsed.map(|(prefix, region)| (prefix.to_owned(), region.to_owned()));
    parsed.ok_or_else(|| "expected PREFIX=REGION such as eu:=eu-west-1".to_owned())
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let parsed = text.split_once('=').and_then(|(region, weight)| {
        let weight = weight.parse().ok()?;
        (!region.is_empty()).then(|| (region.to_owned(), weight))
    });
    parsed.ok_or_else(|| "expected REGION=WEIGHT such as eu-west-1=300".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Channels {
    /// List active channels, sorted by name.
    List {
        /// Only names that begin with this.
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most so many; all if not given.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// With their counts.
        #[arg(long)]
        counts: bool,
    },
    /// Show one channel's state and counts, everywhere together.
    Get {
        /// The channel's name.
        channel: String,
        /// Ask the channel's coordinator, so that everything acknowledged before is in it.
        #[arg(long)]
        strong: bool,
    },
    /// Show one channel's state, then what happens to it.
    Watch {
        /// The channel's name.
        channel: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// Print events as they happen, for ever; picks up where it was when a node goes away.
    Tail {
        /// Only channels whose names begin with this.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only these kinds.
        #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
        kinds: Vec<EventKind>,
        /// Resume after this point, from any region.
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        /// Print the resume point after each event (with --json always).
        #[arg(long)]
        cursors: bool,
        /// End after so many events.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

fn kind(text: &str) -> Result<EventKind, String> {
    let known = || EventKind::ALL.map(EventKind::as_str).join(", ");
    let full = if text.starts_with("channel.") {
        text.to_owned()
    } else {
        format!("channel.{text}")
    };
    EventKind::from_name(&full).ok_or_else(|| format!("expected one of {}", known()))
}

/// How an edge tells who is on its channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    /// Each connection's attachments and presence.
    #[default]
    Attachments,
    /// Absolute counts, as edges do that count themselves.
    Counts,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Reporter listeners to report to; edges are spread over them.
    #[arg(
        long,
        env = "HEADCOUNT_REPORTER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8081"
    )]
    pub(crate) reporter: Vec<String>,

    /// How many edges report.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) edges: usize,

    /// How many channels there are.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) channels: usize,

    /// How unequal channels are: 0 makes all alike, 1 is what real ones look like.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub(crate) zipf: f64,

    /// How many connections there are in all.
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    pub(crate) connections: usize,

    /// Attaches and detaches a second, over all edges, once the connections are there.
    #[arg(long, value_name = "N", default_value_t = 300.0)]
    pub(crate) rate: f64,

    /// The share of attachments that enter presence.
    #[arg(long, value_name = "0..1", default_value_t = 0.2)]
    pub(crate) presence: f64,

    /// The share of attachments that only subscribe.
    #[arg(long, value_name = "0..1", default_value_t = 0.5)]
    pub(crate) readers: f64,

    /// Seconds from one burst to the next, when many rush to one channel; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub(crate) burst_every: f64,

    /// How many rush in a burst.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) burst_size: usize,

    /// How long; forever if not given, until interrupted.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// Whether the edges tell connections or counts.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) style: Style,

    /// The names of the channels begin with this.
    #[arg(long, value_name = "TEXT", default_value = "load:")]
    pub(crate) prefix: String,

    /// Which of the possible traffics; the same one brings the same.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say what is wrong with the settings, all at once.
    Check(Settings),
    /// Print the settings in force, secrets masked.
    Print(Settings),
    /// Print every setting with its default and what it means, as a file.
    Docs,
}

/// Prints completions for a shell.
pub(crate) fn completions(shell: Shell, output: Output) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "headcount", &mut text);
    output.line(String::from_utf8_lossy(&text).trim_end())
}

/// Returns the address to dial for a listener: loopback where it listens on any address.
pub(crate) fn dialled(listener: SocketAddr) -> String {
    let ip = match listener {
        SocketAddr::V4(_) if listener.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(_) if listener.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    format!("http://{ip}:{}", listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_lines_of_the_deployment_are_understood() {
        for line in [
            "headcount serve --config /etc/headcount/node.toml --init",
            "headcount serve --config /x --set node.join=[\"us-east-1:8082\"]",
            "headcount init --json",
            "headcount config check --config /etc/headcount/node.toml",
            "headcount cluster status --admin http://127.0.0.1:8083",
            "headcount cluster --json drain 3",
            "headcount channels list --prefix room: --server http://x:1 --key a.b:c",
            "headcount events tail --kind opened --kind channel.closed --cursor abc",
            "headcount load --duration 10s --reporter http://a:1,http://b:2",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn a_key_must_be_one() {
        let connect = |key: &str| Connect {
            server: String::new(),
            key: Some(key.to_owned()),
        };
        assert!(connect("dev.root:root-secret").key().is_ok());
        for bad in ["", "root", "dev.root", "root:secret", "dev.root:"] {
            assert!(
                matches!(connect(bad).key(), Err(Failure::Usage(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn listeners_on_any_address_are_dialled_on_loopback() {
        assert_eq!(
            dialled("0.0.0.0:8083".parse().unwrap()),
            "http://127.0.0.1:8083"
        );
        assert_eq!(dialled("[::]:8083".parse().unwrap()), "http://[::1]:8083");
        assert_eq!(dialled("10.0.0.7:1".parse().unwrap()), "http://10.0.0.7:1");
    }
}
