//! The way to the control group's leader, wherever it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headcount_api::ports::ReadError;
use headcount_consensus::{Epoch, Group, ProposeError, ReadError as RaftReadError};
use headcount_model::NodeId;
use headcount_placement::{Control, ControlCommand, ControlReply, GroupId, Outcome, Refusal};
use headcount_rpc::control::{CallError, ControlClient};
use headcount_wire::{decode_control_reply, encode_control_command};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a command may take in all, and the wait before it is tried again.
const TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(100);

/// How long a majority may take to confirm itself to somebody who only wants to know.
const CONFIRM: Duration = Duration::from_secs(2);

/// When the control group's leader was last heard here. A cheap handle, written by what comes in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub(crate) fn hear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn age(&self) -> Option<Duration> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }
}

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
    heard: Heard,
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
        heard: Heard,
    ) -> Self {
        Self {
            node,
            group,
            control,
            client,
            heard,
        }
    }

    /// Returns the node of the control group's leader, as far as is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.group.leader().map(|leader| leader.node)
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

    /// Proposes here, once, and only under this leadership.
    pub(crate) async fn propose_under(
        &self,
        epoch: Epoch,
        command: &ControlCommand,
    ) -> Result<ControlReply, ProposeError> {
        let command = encode_control_command(command);
        let proposed = self.group.propose_under(epoch, command).await?;
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

    /// Returns whether a majority of the control group confirms now that it goes on, and how long
    /// ago it was last heard of, if ever: by its leader, or through it.
    pub(crate) async fn majority(&self) -> (bool, Option<Duration>) {
        let confirming = self.read_index(GroupId::Control, &self.group);
        let confirmed = tokio::time::timeout(CONFIRM, confirming).await;
        if matches!(confirmed, Ok(Ok(_))) {
            return (true, Some(Duration::ZERO));
        }
        let age = self.group.status().quorum_acknowledged_age;
        (false, age.or_else(|| self.heard.age()))
    }

    /// Returns an index such that a replica which has applied it knows everything that was
    /// acknowledged in the group before this call.
    pub(crate) async fn read_index(&self, id: GroupId, group: &Group) -> Result<u64, ReadError> {
        match group.read_index().await {
            Ok(index) => return Ok(index),
            Err(RaftReadError::NotLeader { .. }) => {}
            Err(RaftReadError::NoQuorum) => return Err(ReadError::NoQuorum),
            Err(RaftReadError::Stopped) => {
                let reason = format!("group {} has stopped here", id.number());
                return Err(ReadError::Unavailable { reason });
            }
        }
        let leader = group.leader().ok_or(ReadError::NoQuorum)?;
        match self.client.read_index(leader.node, id).await {
            Ok(index) => Ok(index),
            Err(CallError::Refused { .. }) => Err(ReadError::NoQuorum),
            // Whoever leads now, it is not known here.
            Err(error) => {
                tracing::debug!(target: "api", group = id.number(), %error, "no leader confirms");
                Err(ReadError::NoQuorum)
            }
        }
    }

    pub(crate) fn client(&self) -> &ControlClient {
        &self.client
    }
}
