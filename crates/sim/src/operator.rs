//! An operator: drains nodes and takes them back, and changes the regions' shares, through whichever
//! node carries it out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headcount_node::admin::status::ClusterStatus;
use http::Method;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::http::send;
use crate::network::SimDialer;
use crate::plan::{Plan, REGIONS};
use crate::record::Shared;

/// How long an answer may take, and how long it waits before it asks another node.
const ANSWER: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// What somebody wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// That a node gives away what it holds.
    Drain(usize),
    /// That it is taken back, which ends a trouble.
    Undrain(usize, usize),
    /// That the regions have these shares of coordinators.
    Weights([u32; 3]),
}

/// Returns a node's id, as a status tells it: that of the last one that took its place.
pub(crate) fn id_of(plan: &Plan, status: &ClusterStatus, node: usize) -> Option<u64> {
    let here = status.nodes.iter().filter(|row| row.state != "removed");
    let here = here.filter(|row| plan.node_of_peer(&row.addresses.peer) == Some(node));
    here.map(|row| row.id).max()
}

/// Carries out orders one after the other, each until a node says that it is done, or that the
/// cluster refuses it. Nodes are taken back for sure.
pub(crate) async fn run(
    mut orders: mpsc::UnboundedReceiver<Order>,
    plan: Arc<Plan>,
    nodes: Vec<SocketAddr>,
    dialer: SimDialer,
    shared: Shared,
) {
    let mut nodes = nodes.iter().cycle();
    while let Some(order) = orders.recv().await {
        loop {
            let node = nodes.next().expect("a world has nodes");
            match carry_out(&order, &plan, *node, &dialer, &shared).await {
                Said::Done => break,
                Said::Refused if !matches!(order, Order::Undrain(..)) => break,
                Said::Refused | Said::Nothing => {}
            }
            sleep(PAUSE).await;
        }
        let mut record = shared.lock();
        record.orders -= 1;
        record.trace.say(&format_args!("operators did {order:?}"));
        match order {
            Order::Drain(_) => record.coverage.count("nodes-drained"),
            Order::Undrain(_, trouble) => record.carried_out.push(trouble),
            Order::Weights(_) => {}
        }
    }
}

/// What a node says to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Refused,
    /// Nobody leads, or whoever does is not reached, or the node has not joined.
    Nothing,
}

async fn carry_out(
    order: &Order,
    plan: &Plan,
    through: SocketAddr,
    dialer: &SimDialer,
    shared: &Shared,
) -> Said {
    let row_of = |node: usize| {
        let record = shared.lock();
        let status = record.status.as_ref()?;
        let id = id_of(plan, status, node)?;
        status.nodes.iter().find(|row| row.id == id).cloned()
    };
    let (method, path, body) = match order {
        Order::Drain(node) | Order::Undrain(node, _) => {
            let Some(row) = row_of(*node) else {
                return Said::Nothing;
            };
            let what = match order {
                Order::Drain(_) => "drain",
                _ => "undrain",
            };
            let path = format!("/v1/nodes/{}/{what}", row.id);
            (Method::POST, path, String::new())
        }
        Order::Weights(of) => {
            let shares = REGIONS
                .iter()
                .zip(of)
                .map(|(region, share)| format!("\"{region}\":{share}"));
            let body = format!("{{{}}}", shares.collect::<Vec<_>>().join(","));
            (Method::PUT, "/v1/weights".to_owned(), body)
        }
    };
    let bearer = "Bearer simulated-operator";
    let answer = send(dialer, through, (method, &path), body, bearer, ANSWER).await;
    let Ok(answer) = answer else {
        return Said::Nothing;
    };
    match answer.status {
        200..300 => Said::Done,
        500.. => Said::Nothing,
        _ => {
            let mut record = shared.lock();
            record.coverage.count("orders-refused");
            record
                .trace
                .say(&format_args!("{order:?} is refused: {answer:?}"));
            Said::Refused
        }
    }
}
