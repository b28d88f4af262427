//! The way to the control group's leader, wherever it is.

use std::sync::Arc;
use std::time::Duration;

use headcount_api::ports::ReadError;
use headcount_consensus::{Group, ProposeError, ReadError as RaftReadError};
use headcount_model::{NodeId, ShardId};
use headcount_placement::{Control, ControlCommand, ControlReply, GroupId, Outcome, Refusal};
use headcount_rpc::control::{CallError, ControlClient};
use headcount_wire::{decode_control_reply, encode_control_command};
use tokio::sync::watch;

/// How long a command may take in all, and the wait before it is tried again.
const TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(100);

/// Why a command has no answer, or was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ControlError {
    /// The control group says no; the state is as it was.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No leader took it in time. Nobody can say whether it was or will be applied.
    #[error("the control group did not answer: {reason}")]
    Unavailable {
        /// What the last try met.
        reason: String,
    },
}

/// Takes commands and questions to the leaders of groups. A cheap handle.
#[derive(Clone)]
pub(crate) struct ControlHandle {
    node: NodeId,
    group: Group,
    control: watch::Receiver<Arc<Control>>,
    client: ControlClient,
}

/// Whether a try is worth repeating.
enum Tried<T> {
    Done(T),
    Again(String),
}

impl ControlHandle {
    pub(crate) fn new(
        node: NodeId,
        group: Group,
        control: watch::Receiver<Arc<Control>>,
        client: ControlClient,
    ) -> Self {
        Self {
            node,
            group,
            control,
            client,
        }
    }

    /// Returns the node of the control group's leader, as far as is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.group.leadership().leader.map(|leader| leader.node)
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Has a command applied, through whichever node leads. Tried again while there is no leader;
    /// commands are idempotent or refused the second time.
    pub(crate) async fn propose(&self, command: ControlCommand) -> Result<Outcome, ControlError> {
        let trying = async {
            let mut last = String::from("no leader is known");
            loop {
                match self.try_once(&command).await {
                    Tried::Done(reply) => return (Some(reply), last),
                    Tried::Again(reason) => last = reason,
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        match tokio::time::timeout(TIMEOUT, trying).await {
            Ok((Some(reply), _)) => Ok(reply?),
            Ok((None, reason)) => Err(ControlError::Unavailable { reason }),
            Err(_) => {
                let reason = format!("no answer within {} s", TIMEOUT.as_secs());
                Err(ControlError::Unavailable { reason })
            }
        }
    }

    /// Proposes here; for what another node forwarded, which must not go round in circles.
    pub(crate) async fn propose_here(
        &self,
        command: &ControlCommand,
    ) -> Result<ControlReply, ProposeError> {
        let proposed = self.group.propose(encode_control_command(command)).await?;
        Ok(decode_control_reply(&proposed.reply).expect("this process encoded the reply"))
    }

    async fn try_once(&self, command: &ControlCommand) -> Tried<ControlReply> {
        let leader = self.leader();
        if leader == Some(self.node) {
            return match self.propose_here(command).await {
                Ok(reply) => Tried::Done(reply),
                Err(error) => Tried::Again(error.to_string()),
            };
        }
        // A node that just joined may not have heard of a leader: anybody who has forwards.
        let members: Vec<NodeId> = self.control.borrow().nodes().keys().copied().collect();
        let others = leader
            .into_iter()
            .chain(members)
            .filter(|other| *other != self.node);
        let mut last = String::from("no other node is known");
        for to in others.take(4) {
            match self.client.propose(to, command).await {
                Ok(reply) => return Tried::Done(reply),
                Err(error) => last = format!("node {to}: {error}"),
            }
        }
        Tried::Again(last)
    }

    /// Returns an index such that a replica which has applied it knows everything that was
    /// acknowledged in the shard before this call.
    pub(crate) async fn read_index(&self, shard: ShardId, group: &Group) -> Result<u64, ReadError> {
        match group.read_index().await {
            Ok(index) => return Ok(index),
            Err(RaftReadError::NotLeader { .. }) => {}
            Err(RaftReadError::NoQuorum) => return Err(ReadError::NoQuorum),
            Err(RaftReadError::Stopped) => {
                let reason = format!("shard {shard} has stopped here");
                return Err(ReadError::Unavailable { reason });
            }
        }
        let leader = group.leadership().leader.ok_or(ReadError::NoQuorum)?;
        match self
            .client
            .read_index(leader.node, GroupId::Shard(shard))
            .await
        {
            Ok(index) => Ok(index),
            Err(CallError::Refused { .. }) => Err(ReadError::NoQuorum),
            // Whoever leads now, it is not known here.
            Err(error) => {
                tracing::debug!(target: "api", %shard, %error, "no coordinator confirms");
                Err(ReadError::NoQuorum)
            }
        }
    }

    pub(crate) fn client(&self) -> &ControlClient {
        &self.client
    }
}
