//! Connections of realtime clients that come here from other nodes, or go there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_access::ClientIdRule;
use headcount_api::Realtime;
use headcount_api::ports::{HandingOver, NotReleased, OldConnection, Released, Whereabouts};
use headcount_model::{Incarnation, NodeId, RegionName};
use headcount_placement::{Control, NodeState};
use headcount_rpc::handover::{
    Client, HandOverClient, HandOverPort, NotReleased as NoAnswer, ReleaseAsk, ReleaseReply,
};
use headcount_rpc::peers::Network;
use tokio::sync::{Semaphore, watch};

/// How long a node may take for an answer: above the second for which it waits for its owners, and
/// the way there and back.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls to one node that are under way at a time; further ones wait, as the way there is not theirs
/// alone. What a node's end brings at once.
const CALLS_MAX: usize = 64;

/// How long other nodes may take to hear that this one has no clients any more.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The last life of each node that said that it has no clients any more. As many as there ever were
/// nodes.
pub(crate) type Left = BTreeMap<NodeId, Incarnation>;

/// Asks other nodes to end connections.
pub(crate) struct NodeHandingOver {
    pub(crate) region: RegionName,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) network: Network,
    /// How long owners may take to hear that a lease has ended, after this node has.
    pub(crate) hearing: Duration,
    /// Lives of other nodes that have no clients any more.
    pub(crate) left: watch::Receiver<Left>,
    /// Room for calls, by node.
    pub(crate) calls: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
}

impl NodeHandingOver {
    async fn call(&self, node: NodeId, old: OldConnection) -> Result<Released, NotReleased> {
        let not_released = |reason: String| NotReleased { reason };
        if !self.network.is_connected(node) {
            return Err(not_released(format!("there is no way to node {node}")));
        }
        let calls = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let of_node = calls.entry(node);
            Arc::clone(of_node.or_insert_with(|| Arc::new(Semaphore::new(CALLS_MAX))))
        };
        let _turn = calls.acquire().await;
        let ask = ReleaseAsk {
            app: old.app,
            connection: old.connection,
            secret: old.secret,
            client: put_client(old.identity),
        };
        let client = HandOverClient::new(self.network.clone());
        match client.release(node, &ask, CALL_TIMEOUT).await {
            Ok(ReleaseReply::Released) => Ok(Released::Ended),
            Ok(ReleaseReply::Unknown) => Ok(Released::Unknown),
            Err(error) => Err(not_released(error.to_string())),
        }
    }
}

impl HandingOver for NodeHandingOver {
    fn whereabouts(&self, node: NodeId) -> Whereabouts {
        let control = self.control.borrow();
        match control.node(node) {
            Some(other) if other.state == NodeState::Removed => Whereabouts::Nowhere,
            Some(other) if other.region == self.region => Whereabouts::Here,
            Some(_) => Whereabouts::Elsewhere,
            None => Whereabouts::Nowhere,
        }
    }

    fn release(
        &self,
        node: NodeId,
        old: OldConnection,
    ) -> BoxFuture<'_, Result<Released, NotReleased>> {
        self.call(node, old).boxed()
    }

    fn lease_ended(&self, node: NodeId) -> BoxFuture<'static, ()> {
        let (mut control, hearing) = (self.control.clone(), self.hearing);
        let known = control.borrow().node(node).map(|node| node.incarnation);
        let mut left = self.left.clone();
        async move {
            if let Some(incarnation) = known {
                let ended = |control: &Arc<Control>| !control.is_current(node, incarnation);
                let has_left = |left: &Left| left.get(&node).is_some_and(|it| *it >= incarnation);
                // Their senders go with this node itself.
                tokio::select! {
                    _ = control.wait_for(ended) => {}
                    _ = left.wait_for(has_left) => return,
                }
            }
            tokio::time::sleep(hearing).await;
        }
        .boxed()
    }
}

/// Ends connections of this node for others, once it takes clients.
pub(crate) struct NodeReleases {
    /// Written when the node has registered this life of it, not before: until then the owners may
    /// count what an earlier one counted.
    pub(crate) realtime: Arc<OnceLock<Realtime>>,
    /// Written when other nodes say so, read by who waits for them.
    pub(crate) left: watch::Sender<Left>,
}

/// Tells the other nodes of the region that this one has no clients any more, once that is so.
pub(crate) async fn leave(
    realtime: &OnceLock<Realtime>,
    incarnation: Incarnation,
    network: &Network,
    others: Vec<NodeId>,
) {
    let Some(realtime) = realtime.get() else {
        return;
    };
    realtime.left().await;
    let client = HandOverClient::new(network.clone());
    let telling = others.into_iter().map(|other| {
        let client = &client;
        async move {
            if let Err(error) = client.leave(other, incarnation, LEAVE_TIMEOUT).await {
                tracing::debug!(target: "node", %other, %error, "not told of the end");
            }
        }
    });
    futures::future::join_all(telling).await;
}

impl HandOverPort for NodeReleases {
    fn release(&self, ask: ReleaseAsk) -> BoxFuture<'_, Result<ReleaseReply, NoAnswer>> {
        async move {
            let unavailable = |reason: String| NoAnswer::Unavailable(reason);
            let realtime = self.realtime.get();
            let realtime =
                realtime.ok_or_else(|| unavailable("the node is only starting".to_owned()))?;
            let old = OldConnection {
                app: ask.app,
                connection: ask.connection,
                secret: ask.secret,
                identity: take_client(ask.client),
            };
            match realtime.release(old).await {
                Ok(Released::Ended) => Ok(ReleaseReply::Released),
                Ok(Released::Unknown) => Ok(ReleaseReply::Unknown),
                Err(error) => Err(unavailable(error.to_string())),
            }
        }
        .boxed()
    }

    fn left(&self, node: NodeId, incarnation: Incarnation) {
        self.left.send_modify(|left| {
            let last = left.entry(node).or_default();
            *last = incarnation.max(*last);
        });
    }
}

fn put_client(identity: ClientIdRule) -> Client {
    match identity {
        ClientIdRule::Any => Client::Any,
        ClientIdRule::Fixed(id) => Client::Named(id),
        ClientIdRule::Anonymous => Client::Anonymous,
    }
}

fn take_client(client: Client) -> ClientIdRule {
    match client {
        Client::Any => ClientIdRule::Any,
        Client::Named(id) => ClientIdRule::Fixed(id),
        Client::Anonymous => ClientIdRule::Anonymous,
    }
}
