//! A node of a world: its disk, its program, and what becomes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headcount_consensus::store::memory::MemoryDisk;
use headcount_net::Listener;
use headcount_node::config::{self, Config, RawConfig, Sources};
use headcount_node::{Founding, Listeners, Node, Options, Surroundings};
use tokio::sync::watch;

use crate::edge::dialer;
use crate::network::SimNetwork;
use crate::plan::{Plan, REGIONS};
use crate::record::Shared;
use crate::time;

/// Returns the configuration of a node, which may take the place of one that lost its disk.
///
/// # Panics
/// If the plan's settings are wrong.
#[must_use]
pub(crate) fn config_of(plan: &Plan, node: usize, replaces: Option<u64>) -> Config {
    let dir = format!("/simulated/node-{node}");
    let mut base = RawConfig::dev(0, Path::new(&dir));
    REGIONS[plan.nodes[node]].clone_into(&mut base.node.region);
    base.node.replaces = replaces.unwrap_or(0);
    let others = (0..plan.nodes.len()).filter(|other| *other != node);
    base.node.join = others
        .map(|other| plan.listener(other, 2).to_string())
        .collect();
    base.listen.client = plan.listener(node, 0).to_string();
    base.listen.reporter = plan.listener(node, 1).to_string();
    base.listen.peer = plan.listener(node, 2).to_string();
    base.listen.admin = plan.listener(node, 3).to_string();
    let loaded = config::load(Sources {
        base,
        file: None,
        environment: None,
        flags: &plan.settings,
    });
    let loaded = loaded.unwrap_or_else(|error| panic!("a plan's settings are wrong: {error}"));
    loaded.config
}

/// Runs a node until it must stop or is asked to, and writes down what becomes of it.
pub(crate) async fn run(
    plan: Arc<Plan>,
    node: usize,
    replaces: Option<u64>,
    disk: MemoryDisk,
    network: SimNetwork,
    mut asked: watch::Receiver<bool>,
    shared: Shared,
) {
    let listen =
        |listener| Listener::Other(Box::new(network.listen(plan.listener(node, listener))));
    let listeners = Listeners {
        client: listen(0),
        reporter: listen(1),
        peer: listen(2),
        admin: listen(3),
    };
    let options = Options {
        founding: if node == 0 && replaces.is_none() {
            Founding::Init
        } else {
            Founding::Join
        },
        surroundings: Surroundings {
            disk: Some(Arc::new(disk)),
            dialer: dialer(network.dialer(plan.node(node))),
            wall: time::wall,
            is_measured: false,
        },
        ..Options::default()
    };
    let ended = match Box::pin(Node::start(
        config_of(&plan, node, replaces),
        listeners,
        options,
    ))
    .await
    {
        Err(error) => error.to_string(),
        Ok(running) => {
            let ready = async {
                let waited = running.wait_ready(Duration::from_secs(3_600)).await;
                if waited.is_ok() {
                    let mut record = shared.lock();
                    record.lives[node].ready = true;
                    record.trace.say(&format_args!("node {node} is ready"));
                }
                std::future::pending::<()>().await;
            };
            let asked = async {
                // Nobody asks any more once the world has ended.
                let _asked = asked.wait_for(|asked| *asked).await.is_ok();
            };
            let reason = tokio::select! {
                biased;
                reason = running.stopped() => Some(reason),
                () = asked => None,
                () = ready => unreachable!("it waits for ever"),
            };
            if let Some(reason) = reason {
                reason.to_string()
            } else {
                Box::pin(running.drain()).await;
                "asked to".to_owned()
            }
        }
    };
    let mut record = shared.lock();
    record.trace.say(&format_args!("node {node} ends: {ended}"));
    record.lives[node].ended = Some(ended);
}
