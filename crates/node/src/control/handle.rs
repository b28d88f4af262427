//! The way to the control group's leader, wherever it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headcount_api::ports::ReadError;
use headcount_consensus::{Epoch, Group, ProposeError, ReadError as RaftReadError};
use headcount_model::NodeId;
use headcount_placement::{
    Control, ControlCommand, ControlReply, GroupId, ORDERS_VERSION, Outcome, Refusal,
};
use headcount_rpc::control::{CallError, ControlClient};
use headcount_wire::{decode_control_reply, encode_control_command};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a command may take in all, and the wait before it is tried again.
const TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(100);

/// How long a read waits where nobody leads: longer than it takes to hand leadership over, which
/// happens every day, and shorter than it takes to miss a leader that is lost.
const HAND_OVER: Duration = Duration::from_secs(1);

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

/// What tries to have a command applied have met so far.
#[derive(Default)]
struct Tries {
    /// Why the last one failed.
    reason: String,
    /// Whether one that failed may have been heard, or may yet be.
    in_doubt: bool,
}

impl Tries {
    fn fail(&mut self, reason: String, in_doubt: bool) {
        self.reason = reason;
        self.in_doubt |= in_doubt;
    }

    fn too_late(self) -> ControlError {
        let Self { reason, .. } = self;
        let reason = format!("no answer within {} s: {reason}", TIMEOUT.as_secs());
        ControlError::Unavailable { reason }
    }
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
        let mut tries = Tries::default();
        let trying = self.persist(&command, &mut tries);
        let reply = tokio::time::timeout(TIMEOUT, trying).await;
        Ok(reply.map_err(|_elapsed| tries.too_late())??)
    }

    /// Has an operator's command applied, at most once and before any that is given afterwards,
    /// whatever becomes of tries that were not answered.
    pub(crate) async fn order(&self, command: ControlCommand) -> Result<Outcome, ControlError> {
        let control = self.control.borrow().clone();
        if control.understood() < ORDERS_VERSION {
            return self.propose(command).await;
        }
        let id = rand::random();
        let mut after = control.parts().last_order.index;
        let mut tries = Tries::default();
        let trying = async {
            loop {
                let command = Box::new(command.clone());
                let order = ControlCommand::Order { after, id, command };
                match self.persist(&order, &mut tries).await {
                    // No try was heard, and none will be obeyed any more.
                    Err(Refusal::Overtaken { current }) if !tries.in_doubt => after = current,
                    Err(Refusal::Overtaken { .. }) => {
                        let reason = String::from("another order took effect meanwhile");
                        return Err(ControlError::Unavailable { reason });
                    }
                    reply => return Ok(reply?),
                }
            }
        };
        let reply = tokio::time::timeout(TIMEOUT, trying).await;
        reply.unwrap_or_else(|_elapsed| Err(tries.too_late()))
    }

    /// Tries until there is an answer.
    async fn persist(&self, command: &ControlCommand, tries: &mut Tries) -> ControlReply {
        loop {
            if let Some(reply) = self.try_once(command, tries).await {
                return reply;
            }
            tokio::time::sleep(RETRY).await;
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

    async fn try_once(&self, command: &ControlCommand, tries: &mut Tries) -> Option<ControlReply> {
        let leader = self.leader();
        if leader == Some(self.node) {
            let proposed = self.propose_here(command).await;
            let in_doubt = matches!(proposed, Err(ProposeError::Unknown { .. }));
            return proposed
                .map_err(|error| tries.fail(error.to_string(), in_doubt))
                .ok();
        }
        // A node that just joined may not have heard of a leader: anybody who has forwards.
        let members: Vec<NodeId> = self.control.borrow().nodes().keys().copied().collect();
        let others = leader
            .into_iter()
            .chain(members)
            .filter(|other| *other != self.node);
        tries.fail(String::from("no other node is known"), false);
        for to in others.take(4) {
            match self.client.propose(to, command).await {
                Ok(reply) => return Some(reply),
                Err(error) => {
                    let in_doubt = matches!(error, CallError::Unavailable { .. });
                    tries.fail(format!("node {to}: {error}"), in_doubt);
                }
            }
        }
        None
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
    /// acknowledged in the group before this call. Where nobody confirms that it leads, a read waits
    /// for somebody who does, as long as a hand-over takes; then there is no majority.
    pub(crate) async fn read_index(&self, id: GroupId, group: &Group) -> Result<u64, ReadError> {
        let mut leadership = group.watch();
        let deadline = Instant::now() + HAND_OVER;
        loop {
            leadership.borrow_and_update();
            match self.read_index_now(id, group).await {
                Err(ReadError::NoQuorum) => {}
                answered => return answered,
            }
            match tokio::time::timeout_at(deadline, leadership.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(stopped(id)),
                Err(_elapsed) => return Err(ReadError::NoQuorum),
            }
        }
    }

    /// Asks for a read index whoever is known to lead now.
    async fn read_index_now(&self, id: GroupId, group: &Group) -> Result<u64, ReadError> {
        match group.read_index().await {
            Ok(index) => return Ok(index),
            Err(RaftReadError::NotLeader { .. }) => {}
            Err(RaftReadError::NoQuorum) => return Err(ReadError::NoQuorum),
            Err(RaftReadError::Stopped) => return Err(stopped(id)),
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

fn stopped(id: GroupId) -> ReadError {
    let reason = format!("group {} has stopped here", id.number());
    ReadError::Unavailable { reason }
}
