//! What the control service needs of its node, and the words of its calls.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use headcount_model::control::{
    ClusterId, ControlCommand, ControlReply, GroupId, Handshake, NewNode, Standing,
};
use headcount_model::{Incarnation, NodeId, RegionName, ReplicaId, ShardId};

/// A node that wants to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAsk {
    /// What it understands and how it is configured.
    pub handshake: Handshake,
    /// Who and where it is.
    pub node: NewNode,
    /// The dead node whose place it takes, if any.
    pub replaces: Option<NodeId>,
}

/// What a joined node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its replica of the control group.
    pub replica: ReplicaId,
    /// The last incarnation that it registered, 0 if none.
    pub incarnation: Incarnation,
    /// All members, so that it can ask and be asked before it knows better.
    pub members: Vec<MemberAt>,
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAt {
    /// The node.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
    /// Its peer listener, `host:port`.
    pub peer: String,
}

/// A node asks for its lease to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What was applied in the shards that it coordinates since it last told.
    pub traffic: ShardsTraffic,
    /// Whether somebody who does not lead the control group takes it on to the node that does.
    pub take_on: bool,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewReply {
    /// The lease runs on.
    Renewed {
        /// For so long, from when the node asked.
        lease: Duration,
    },
    /// It has ended: the node registers its next life.
    Ended {
        /// The last incarnation that it registered.
        current: Incarnation,
    },
}

/// Traffic of shards: items that were applied in each, by the region of their batch.
pub type ShardsTraffic = BTreeMap<ShardId, BTreeMap<RegionName, u64>>;

/// What the control group's leader knows and no log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// What is to be said about each member's life, and how long ago it was heard.
    pub nodes: BTreeMap<NodeId, (Standing, Duration)>,
    /// What came lately.
    pub traffic: ShardsTraffic,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not now, or not here: try again, or elsewhere.
    #[error("{0}")]
    Unavailable(String),
    /// As `Unavailable`, and for sure nothing was done.
    #[error("{0}")]
    Undone(String),
    /// Never, unless something is changed.
    #[error("{0}")]
    Refused(String),
}

/// The node behind the service.
pub trait ControlPort: Send + Sync + 'static {
    /// Makes a node a member.
    fn join(&self, ask: JoinAsk) -> BoxFuture<'_, Result<JoinReply, PortError>>;

    /// Proposes a command as the control group's leader.
    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<ControlReply, PortError>>;

    /// Renews a lease as the control group's leader, and takes note of the traffic of the shards
    /// that the node coordinates. If it does not lead, the leader is asked, provided that the
    /// renewal may be taken on.
    fn renew(&self, renewal: Renewal) -> BoxFuture<'_, Result<RenewReply, PortError>>;

    /// Returns what it knows as the control group's leader.
    ///
    /// # Errors
    /// [`PortError::Unavailable`] if it does not lead.
    fn standings(&self) -> Result<Standings, PortError>;

    /// Returns the read index of a raft group as its leader.
    fn read_index(&self, group: GroupId) -> BoxFuture<'_, Result<u64, PortError>>;
}
