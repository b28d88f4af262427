//! Requests from peers: one task per group takes them in order, hands them to raft, and sends the
//! answers as they come.
//!
//! Appends are handed over in the order in which they arrived and waited for together, so that a
//! leader's pipeline stays one. Should some be lost or overtaken all the same, the next one
//! conflicts, and the leader begins anew.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1 as wire;
use headcount_wire::proto::consensus::v1::envelope::Body;
use headcount_wire::proto::consensus::v1::refusal::Reason;
use openraft::raft::AppendEntriesResponse;
use tokio::sync::mpsc;

use crate::beat::Silence;
use crate::codec::{self, Malformed};
use crate::log_store::LogStore;
use crate::ports::Peers;
use crate::telemetry;
use crate::types::Raft;

/// A request and the node that it came from.
pub(crate) type Inbound = (NodeId, wire::Envelope);

/// Answers requests until the sender of `requests` is gone. At most `open_max` are open.
pub(crate) async fn serve(
    raft: Raft,
    log: LogStore,
    silence: Arc<Silence>,
    peers: Arc<dyn Peers>,
    mut requests: mpsc::Receiver<Inbound>,
    open_max: usize,
) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some((to, reply)) = open.next(), if !open.is_empty() => {
                send_reply(peers.as_ref(), to, reply);
            }
            request = requests.recv(), if open.len() < open_max => match request {
                Some((from, envelope)) => open.push(answer(&raft, &log, &silence, from, envelope)),
                None => return,
            },
        }
    }
}

/// Sends an answer on its way; when that fails its caller runs into its deadline.
pub(crate) fn send_reply(peers: &dyn Peers, to: NodeId, reply: wire::Envelope) {
    if let Err(error) = peers.send(to, reply) {
        telemetry::replies_dropped_total.count(1);
        tracing::debug!(target: "consensus", node = %to, %error, "an answer was dropped");
    }
}

/// Returns the envelope that refuses `request`.
pub(crate) fn refuse(request: &wire::Envelope, reason: Reason) -> wire::Envelope {
    telemetry::inbound_refused_total.count(1);
    let refusal = wire::Refusal {
        reason: reason.into(),
    };
    wire::Envelope {
        group: request.group,
        from: request.to,
        to: request.from,
        call: request.call,
        body: Some(Body::Refusal(refusal)),
    }
}

/// Whether `body` asks for something, rather than answering.
pub(crate) fn is_request(body: &Body) -> bool {
    match body {
        Body::Append(_) | Body::Vote(_) | Body::PreVote(_) | Body::Transfer(_) => true,
        Body::AppendReply(_) | Body::VoteReply(_) | Body::TransferReply(_) | Body::Refusal(_) => {
            false
        }
    }
}

async fn answer(
    raft: &Raft,
    log: &LogStore,
    silence: &Silence,
    from: NodeId,
    mut request: wire::Envelope,
) -> (NodeId, wire::Envelope) {
    let body = request.body.take();
    let reply = match ask(raft, log, silence, body).await {
        Ok(reply) => wire::Envelope {
            group: request.group,
            from: request.to,
            to: request.from,
            call: request.call,
            body: Some(reply),
        },
        Err(reason) => refuse(&request, reason),
    };
    (from, reply)
}

/// Hands one request to raft and waits for what it says.
async fn ask(
    raft: &Raft,
    log: &LogStore,
    silence: &Silence,
    body: Option<Body>,
) -> Result<Body, Reason> {
    match body {
        Some(Body::Append(request)) => {
            // Raft answers when all is durable that it had taken before, so what the log holds now is
            // then. What it takes meanwhile may not be.
            let asked = request.asks_last.then(|| log.end());
            let end = asked.transpose().map_err(stopped)?;
            let request = codec::append_from_proto(request).map_err(malformed)?;
            let response = raft.append_entries(request).await.map_err(stopped)?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                silence.broken();
            }
            let mut reply = codec::append_reply_to_proto(&response);
            if let (Some(end), AppendEntriesResponse::Success) = (end, response) {
                reply.last = log.kept(&end).as_ref().map(codec::log_id_to_proto);
            }
            Ok(Body::AppendReply(reply))
        }
        Some(Body::Vote(request)) => {
            let request = codec::vote_request_from_proto(&request).map_err(malformed)?;
            let response = raft.vote(request).await.map_err(stopped)?;
            Ok(Body::VoteReply(codec::vote_reply_to_proto(&response)))
        }
        Some(Body::PreVote(request)) => {
            let request = codec::vote_request_from_proto(&request).map_err(malformed)?;
            let response = raft.pre_vote(request).await.map_err(stopped)?;
            Ok(Body::VoteReply(codec::vote_reply_to_proto(&response)))
        }
        Some(Body::Transfer(request)) => {
            let request = codec::transfer_from_proto(&request).map_err(malformed)?;
            let response = raft
                .handle_transfer_leader(request)
                .await
                .map_err(stopped)?;
            Ok(Body::TransferReply(codec::transfer_reply_to_proto(
                &response,
            )))
        }
        Some(
            Body::AppendReply(_) | Body::VoteReply(_) | Body::TransferReply(_) | Body::Refusal(_),
        )
        | None => Err(Reason::Malformed),
    }
}

/// Checks that a message names the replica that is here.
pub(crate) fn check_addressee(to: u64, here: ReplicaId) -> Result<(), Reason> {
    if to == here.0 {
        Ok(())
    } else {
        Err(Reason::UnknownReplica)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(crate) fn malformed(error: Malformed) -> Reason {
    tracing::warn!(target: "consensus", %error, "a peer sent what cannot be understood");
    Reason::Malformed
}

/// Takes any failure of raft's own for what it is: the group stopped. Why is told elsewhere.
pub(crate) fn stopped<E>(_error: E) -> Reason {
    Reason::Stopped
}
