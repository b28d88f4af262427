//! What the admin listener needs of the node that it belongs to.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use headcount_model::control::{
    COPIES_MAX, OCCUPANCY_INTERVAL_MAX, OCCUPANCY_INTERVAL_MIN, Refusal, WEIGHT_MAX,
};
use headcount_model::{NodeId, RegionName};

use super::status::ClusterStatus;

/// The node, as its operators see it. Every call may be made at any time, before the node has a
/// cluster too.
pub trait Operator: Send + Sync + 'static {
    /// Returns whether the process can do its work. Asked every few seconds; must not block.
    fn health(&self) -> Health;

    /// Returns whether the node serves. Asked every few seconds; must not block.
    fn readiness(&self) -> Readiness;

    /// Returns what this node knows of the cluster.
    fn status(&self) -> BoxFuture<'_, ClusterStatus>;

    /// Founds a cluster with this node as its first; resolves once the cluster exists.
    fn init(&self) -> BoxFuture<'_, Result<(), OperatorError>>;

    /// Carries out a command through the control group; resolves once it is in its log.
    fn command(&self, command: OperatorCommand) -> BoxFuture<'_, Result<(), OperatorError>>;
}

/// Whether the process can do its work: it turns bad for what only a restart can mend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is broken; empty if nothing is.
    pub broken: Vec<String>,
}

/// Whether the node serves: it has joined, its replicas have caught up, it does not drain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is missing; empty if nothing is.
    pub missing: Vec<String>,
}

/// What operators can have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Moves everything off a node, which goes on serving until it is empty.
    Drain(NodeId),
    /// Takes a drain back.
    Undrain(NodeId),
    /// Ends a membership for ever.
    Remove(NodeId),
    /// Sets the regions' shares of coordinators, each 0 to [`WEIGHT_MAX`]; regions that are not
    /// named keep theirs.
    SetWeights(BTreeMap<RegionName, u32>),
    /// Sets the regions where pins' coordinators are, by the pins' prefixes; others keep theirs.
    SetHomes(BTreeMap<String, RegionName>),
    /// Sets how often paced occupancy events are told.
    SetOccupancyInterval(Duration),
    /// Sets how many replicas of each shard a region holds.
    SetCopies(u32),
}

/// Why something that an operator asked for was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The cluster's rules refuse it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The node is a member of a cluster, so it founds none.
    #[error("this node belongs to a cluster already")]
    HasCluster,
    /// The node has no cluster to command, which its cluster's other nodes have.
    #[error("this node has no cluster yet: `headcount init` founds one, node.join joins one")]
    NoCluster,
    /// A value is out of bounds.
    #[error("{0}")]
    Invalid(String),
    /// No leader of the control group could be reached; nothing was done.
    #[error("the control group has no leader in reach: {0}")]
    Unavailable(String),
    /// It was asked for and nobody can say whether it was done.
    #[error("the outcome is unknown ({0}): look at the status before trying again")]
    Unknown(String),
}

impl OperatorCommand {
    /// Checks what needs no look at the cluster.
    ///
    /// # Errors
    /// [`OperatorError::Invalid`] with the bound.
    pub fn check(&self) -> Result<(), OperatorError> {
        match self {
            Self::SetWeights(weights) if weights.is_empty() => {
                Err(OperatorError::Invalid("no weight is given".to_owned()))
            }
            Self::SetWeights(weights) => match weights.iter().find(|(_, of)| **of > WEIGHT_MAX) {
                Some((region, weight)) => Err(OperatorError::Invalid(format!(
                    "the weight of {region} is {weight}, at most {WEIGHT_MAX} is allowed"
                ))),
                None => Ok(()),
            },
            Self::SetHomes(homes) if homes.is_empty() => {
                Err(OperatorError::Invalid("no pin is given".to_owned()))
            }
            Self::SetCopies(copies) if !(1..=COPIES_MAX).contains(copies) => {
                Err(OperatorError::Invalid(format!(
                    "copies must be from 1 to {COPIES_MAX}, not {copies}"
                )))
            }
            Self::SetOccupancyInterval(interval)
                if !(OCCUPANCY_INTERVAL_MIN..=OCCUPANCY_INTERVAL_MAX).contains(interval) =>
            {
                Err(OperatorError::Invalid(format!(
                    "the occupancy interval must be from {OCCUPANCY_INTERVAL_MIN:?} to \
                     {OCCUPANCY_INTERVAL_MAX:?}, not {interval:?}"
                )))
            }
            Self::Drain(_)
            | Self::Undrain(_)
            | Self::Remove(_)
            | Self::SetHomes(_)
            | Self::SetCopies(_)
            | Self::SetOccupancyInterval(_) => Ok(()),
        }
    }
}
