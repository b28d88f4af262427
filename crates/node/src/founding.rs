//! How a node comes to be a member: by what its data directory says, by founding a cluster, or by
//! joining one.

use std::time::Duration;

use bytes::Bytes;
use headcount_consensus::store::Store;
use headcount_model::mutants::Mutant;
use headcount_model::{Era, Incarnation, NodeId, RegionName, ReplicaId};
use headcount_net::Dialer;
use headcount_placement::{
    Addresses, ClusterId, FOUNDING_NODE, FOUNDING_REPLICA, Handshake, NewNode, NodeKey, Protocols,
};
use headcount_rpc::control::{CallError, JoinReply, join};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::node::{Founding, StartError};

/// Where the store keeps the node's membership.
const MEMBER: &str = "node/member";
/// Where it keeps the key that the node is recognised by.
const KEY: &str = "node/key";

/// How long to wait before addresses that nobody answered at are tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long an address may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Membership: what makes a process this node.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Its replica of the control group.
    pub(crate) replica: ReplicaId,
    pub(crate) key: NodeKey,
    /// Whom it can ask before its own replica knows; empty after a restart.
    pub(crate) members: Vec<Member>,
    /// Whether it is the one to found the cluster.
    pub(crate) founds: bool,
    /// Whether it became a member just now.
    pub(crate) fresh: bool,
}

/// Another node, as a join names it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) peer: String,
}

/// What the store keeps.
#[derive(Serialize, Deserialize)]
struct Stored {
    cluster: String,
    node: u64,
    replica: u64,
    /// Not written by the first versions.
    #[serde(default)]
    region: Option<String>,
}

impl Stored {
    fn read(stored: &Bytes) -> Result<Self, StartError> {
        serde_json::from_slice(stored)
            .map_err(|error| StartError::Data(format!("the membership is not readable: {error}")))
    }
}

/// Refuses a configured region that is not the one the data directory's node was admitted to: its
/// counts would go to owners that nobody asks.
pub(crate) fn check_region(store: &Store, configured: &RegionName) -> Result<(), StartError> {
    let Some(stored) = store.meta(MEMBER) else {
        return Ok(());
    };
    match Stored::read(&stored)?.region {
        Some(member_of) if member_of != configured.as_str() => Err(StartError::OtherRegion {
            configured: configured.clone(),
            member_of,
        }),
        _ => Ok(()),
    }
}

/// Returns the node's membership, making it first if the data directory has none.
pub(crate) async fn membership(
    config: &Config,
    store: &Store,
    addresses: &Addresses,
    founding: Founding,
    asked_to_found: &mut watch::Receiver<bool>,
    dialer: &Dialer,
) -> Result<Membership, StartError> {
    let key = node_key(store).await?;
    if let Some(stored) = store.meta(MEMBER) {
        return resume(&stored, key);
    }
    let others: Vec<&String> = config
        .node
        .join
        .iter()
        .filter(|address| **address != addresses.peer)
        .collect();
    match (founding, others.is_empty()) {
        (Founding::Init, _) => found(config, store, key).await,
        (Founding::Join, true) => Err(StartError::NobodyToJoin),
        (Founding::Resume, true) => {
            tracing::info!(target: "node", "waiting for `headcount init`: node.join is empty");
            until_asked(asked_to_found).await;
            found(config, store, key).await
        }
        (Founding::Join | Founding::Resume, false) => tokio::select! {
            reply = ask_all(config, dialer, addresses, key, &others) => {
                joined(config, store, key, reply?).await
            }
            () = until_asked(asked_to_found) => found(config, store, key).await,
        },
    }
}

/// Asks all addresses, each again and again by itself, until one answers: one that says nothing,
/// such as a node that waits for a cluster, too, holds up no other. Nodes are recognised by their
/// keys, so that to be let in by two at once is to be let in once.
async fn ask_all(
    config: &Config,
    dialer: &Dialer,
    addresses: &Addresses,
    key: NodeKey,
    others: &[&String],
) -> Result<JoinReply, StartError> {
    let asking = others.iter().map(|address| {
        Box::pin(async move {
            loop {
                if let Some(reply) = ask(config, dialer, addresses, key, address).await? {
                    return Ok(reply);
                }
                tokio::time::sleep(RETRY).await;
            }
        })
    });
    futures::future::select_all(asking).await.0
}

/// Waits until an operator asks for a cluster.
async fn until_asked(asked_to_found: &mut watch::Receiver<bool>) {
    if asked_to_found.wait_for(|asked| *asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn resume(stored: &Bytes, key: NodeKey) -> Result<Membership, StartError> {
    let stored = Stored::read(stored)?;
    let cluster = u128::from_str_radix(&stored.cluster, 16)
        .map_err(|error| StartError::Data(format!("the cluster's id is not readable: {error}")))?;
    let node = NodeId(stored.node);
    Ok(Membership {
        cluster: ClusterId(cluster),
        node,
        replica: ReplicaId(stored.replica),
        key,
        members: Vec::new(),
        // Repeated after each start: a founder may have stopped half-way, and to found twice is
        // harmless.
        founds: node == FOUNDING_NODE,
        fresh: false,
    })
}

async fn found(config: &Config, store: &Store, key: NodeKey) -> Result<Membership, StartError> {
    let membership = Membership {
        cluster: ClusterId(rand::random()),
        node: FOUNDING_NODE,
        replica: FOUNDING_REPLICA,
        key,
        members: Vec::new(),
        founds: true,
        fresh: true,
    };
    remember(store, &membership, &config.node.region).await?;
    Ok(membership)
}

async fn joined(
    config: &Config,
    store: &Store,
    key: NodeKey,
    reply: JoinReply,
) -> Result<Membership, StartError> {
    let members = reply.members.into_iter().map(|member| Member {
        node: member.node,
        region: member.region,
        peer: member.peer,
    });
    let membership = Membership {
        cluster: reply.cluster,
        node: reply.node,
        replica: reply.replica,
        key,
        members: members.collect(),
        founds: false,
        fresh: true,
    };
    remember(store, &membership, &config.node.region).await?;
    Ok(membership)
}

async fn remember(
    store: &Store,
    membership: &Membership,
    region: &RegionName,
) -> Result<(), StartError> {
    let stored = Stored {
        cluster: membership.cluster.to_string(),
        node: membership.node.0,
        replica: membership.replica.0,
        region: Some(region.to_string()),
    };
    let stored = serde_json::to_vec(&stored).expect("plain values can be written");
    let written = store.put_meta(MEMBER, stored.into()).await;
    written.map_err(|error| StartError::Data(error.to_string()))
}

/// Returns the key that the data directory was given when it was made.
async fn node_key(store: &Store) -> Result<NodeKey, StartError> {
    if let Some(key) = store.meta(KEY) {
        let key = key.as_ref().try_into().map(u128::from_be_bytes);
        let key = key.map_err(|_| StartError::Data("the node's key is not readable".to_owned()))?;
        return Ok(NodeKey(key));
    }
    let key: u128 = rand::random();
    let written = store
        .put_meta(KEY, Bytes::copy_from_slice(&key.to_be_bytes()))
        .await;
    written.map_err(|error| StartError::Data(error.to_string()))?;
    Ok(NodeKey(key))
}

/// Asks one address; `None` if nobody there can answer now.
async fn ask(
    config: &Config,
    dialer: &Dialer,
    addresses: &Addresses,
    key: NodeKey,
    address: &str,
) -> Result<Option<JoinReply>, StartError> {
    let handshake = Handshake {
        protocols: Protocols::OURS,
        cluster: None,
        era: Era(0),
        fingerprint: config.cluster.fingerprint(),
        timing: config.cluster.timing,
        node: None,
        incarnation: Incarnation(0),
    };
    let new = new_node(config, key, addresses);
    let asking = join(dialer, address, handshake, new, config.node.replaces);
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(reply)) => Ok(Some(reply)),
        Ok(Err(CallError::Refused { reason })) => Err(StartError::Refused(reason)),
        Ok(Err(error)) => {
            tracing::info!(target: "node", address, %error, "cannot join there yet");
            Ok(None)
        }
        Err(_) => {
            tracing::info!(target: "node", address, "no answer to the join");
            Ok(None)
        }
    }
}

/// Returns what the node says about itself when it joins.
pub(crate) fn new_node(config: &Config, key: NodeKey, addresses: &Addresses) -> NewNode {
    NewNode {
        key,
        region: config.node.region.clone(),
        zone: config.node.zone.clone(),
        addresses: addresses.clone(),
    }
}

/// Returns a number that differs from one life of the process to the next.
pub(crate) fn process_number() -> u64 {
    if Mutant::KeepIncarnation.is_planted() {
        return 1;
    }
    rand::random::<u64>() >> 1
}

#[cfg(test)]
mod tests {
    use headcount_consensus::store::StoreConfig;

    use super::*;

    #[tokio::test]
    async fn a_member_of_one_region_does_not_start_in_another() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let region = |name| RegionName::new(name).unwrap();
        assert!(check_region(&store, &region("anywhere")).is_ok());

        let config = Config::dev(0, dir.path());
        let founded = found(&config, &store, NodeKey(1)).await.unwrap();
        assert!(check_region(&store, &config.node.region).is_ok());
        let refused = check_region(&store, &region("elsewhere")).unwrap_err();
        let reason = refused.to_string();
        assert!(
            reason.contains("elsewhere") && reason.contains("us-east-1"),
            "{reason}"
        );

        let stored = store.meta(MEMBER).unwrap();
        assert_eq!(resume(&stored, NodeKey(1)).unwrap().node, founded.node);
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::dev(0, dir.path());
        let bind = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent, other) = (bind().await, bind().await);
        let [first, second] = [&silent, &other].map(|of| of.local_addr().unwrap().to_string());
        let addresses = Addresses::default();
        let others = [&first, &second];
        let dialer = Dialer::default();
        let asking = ask_all(&config, &dialer, &addresses, NodeKey(1), &others);
        // Far less than a silent address may take.
        let asked = tokio::time::timeout(ANSWER / 4, other.accept());
        tokio::select! {
            _ = asking => panic!("nobody answers"),
            asked = asked => assert!(asked.is_ok(), "the second is not asked"),
        }
    }
}
