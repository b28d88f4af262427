//! `headcount serve` and `headcount join`: one node, from its settings to its end.

use std::time::Duration;

use headcount_node::config::{Config, Loaded};
use headcount_node::{Founding, Listeners, Node, Options, telemetry};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::cli::{Join, Serve};
use crate::config::loaded;
use crate::failure::Failure;
use crate::files;
use crate::output::{Output, complain};

pub(crate) async fn serve(arguments: Serve, output: Output) -> Result<(), Failure> {
    let founding = if arguments.init {
        Founding::Init
    } else {
        Founding::Resume
    };
    run(loaded(&arguments.settings)?, founding, output).await
}

pub(crate) async fn join(arguments: Join, output: Output) -> Result<(), Failure> {
    let Join {
        peers,
        replace,
        mut settings,
    } = arguments;
    let peers = serde_json::to_string(&peers).map_err(Failure::failed)?;
    // A list of texts is written in TOML as it is in JSON.
    settings.set.push(format!("node.join={peers}"));
    if let Some(node) = replace {
        settings.set.push(format!("node.replaces={node}"));
    }
    run(loaded(&settings)?, Founding::Join, output).await
}

async fn run(loaded: Loaded, founding: Founding, output: Output) -> Result<(), Failure> {
    let Loaded { config, .. } = loaded;
    let Config { telemetry: log, .. } = &config;
    telemetry::log_lines(&log.log, log.log_format).map_err(Failure::failed)?;
    for warning in config.warnings().into_iter().chain(files::warning(&config)) {
        tracing::warn!(target: "node", "{warning}");
    }
    let mut signals = Signals::listen()?;
    let region = config.node.region.clone();
    let listeners = Listeners::bind(&config).await.map_err(Failure::failed)?;
    let options = Options {
        founding,
        ..Options::default()
    };
    let node = Node::start(config, listeners, options)
        .await
        .map_err(Failure::failed)?;
    let addresses = node.addresses().clone();
    output.show(
        &json!({
            "event": "started", "region": region.as_str(), "client": addresses.client,
            "reporter": addresses.reporter, "peer": addresses.peer, "admin": addresses.admin,
        }),
        |_| {
            format!(
                "a node of {region}: clients {}, edges {}, peers {}, operators {}\n",
                addresses.client, addresses.reporter, addresses.peer, addresses.admin
            )
        },
    )?;
    tokio::select! {
        reason = node.stopped() => {
            node.shutdown().await;
            Err(Failure::Failed(anyhow::anyhow!("the node had to stop: {reason}")))
        }
        () = signals.next() => {
            complain("draining; once more to end at once");
            tokio::select! {
                () = Box::pin(node.drain()) => complain("drained"),
                () = signals.again() => complain("ended without draining"),
            }
            Ok(())
        }
    }
}

/// How long after a signal another one is taken for the same.
const TWICE: Duration = Duration::from_secs(1);

/// The signals that ask a process to end.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes them over; from here on they end nothing by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::failed)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::failed)?,
        })
    }

    /// Waits for one that was meant to come a second time: what stops a process may send its
    /// signal twice at once, to the process and to its group.
    async fn again(&mut self) {
        let first = Instant::now();
        while first.elapsed() < TWICE {
            self.next().await;
        }
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
