//! The ports of the shells, implemented over the node's parts. Nobody else implements them.

mod access;
mod control;
mod counting;
mod directory;
mod handing;
mod operator;
mod peers;
mod reads;
mod sessions;
mod watches;

pub(crate) use access::{Keys, SystemEntropy, WallClock};
pub(crate) use control::NodeControl;
pub(crate) use counting::NodeCounting;
pub(crate) use directory::NodeDirectory;
pub(crate) use handing::{Left, NodeHandingOver, NodeReleases, leave};
pub(crate) use operator::NodeOperator;
pub(crate) use peers::{NodeInbound, RaftPeers};
pub(crate) use reads::NodeReads;
pub(crate) use sessions::NodeSessions;
pub(crate) use watches::NodeWatches;
