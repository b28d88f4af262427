//! openraft's network, as envelopes: every request is one envelope out and one envelope back.
//!
//! Appends are pipelined: [`Pipeline`] keeps many on their way to a follower and yields their
//! answers in order. A heartbeat is an append without entries through a pipeline of one, so it
//! costs one small envelope each way and opens no stream; openraft gives it a client of its own,
//! so that it never queues behind entries here.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1 as wire;
use headcount_wire::proto::consensus::v1::envelope::Body;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::calls::{Call, Calls};
use crate::codec::{self, Malformed};
use crate::log_store::LogStore;
use crate::ports::Peers;
use crate::state_machine::SnapshotChunks;
use crate::types::{LogId, Snapshot, Types, Vote};
use crate::{GroupId, Limits, Timing, telemetry};

type RpcError = RPCError<Types>;

/// What the clients of one group share.
pub(crate) struct Link {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    /// The replica's own log.
    pub(crate) log: LogStore,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    /// Held while a snapshot is being sent; shared by all groups of the host.
    pub(crate) snapshot_sends: Arc<Semaphore>,
}

/// Makes a [`Client`] for each replica that a leader speaks to.
pub(crate) struct Network(pub(crate) Arc<Link>);

impl openraft::RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &NodeId) -> Client {
        Client {
            link: Arc::clone(&self.0),
            target,
            node: *node,
        }
    }
}

/// Speaks to one replica. Holds no connection, so it costs nothing to make.
#[derive(Clone)]
pub(crate) struct Client {
    link: Arc<Link>,
    target: u64,
    node: NodeId,
}

impl Client {
    /// Sends a request and returns the call on which its answer will come.
    fn request(&self, body: Body) -> Result<Call, RpcError> {
        let call = self
            .link
            .calls
            .open(self.node)
            .ok_or_else(|| unreachable("the group is stopping"))?;
        let envelope = wire::Envelope {
            group: self.link.group.0,
            from: self.link.replica.0,
            to: self.target,
            call: call.number,
            body: Some(body),
        };
        self.link
            .peers
            .send(self.node, envelope)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        Ok(call)
    }

    /// Sends a request and waits for its answer, at most for `ttl`.
    async fn call(&self, action: RPCTypes, body: Body, ttl: Duration) -> Result<Body, RpcError> {
        let mut call = self.request(body)?;
        match tokio::time::timeout(ttl, &mut call.answer).await {
            Ok(answer) => unwrap_answer(answer.ok()),
            Err(_elapsed) => Err(self.timeout(action, ttl)),
        }
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        let (id, target) = (self.link.replica.0, self.target);
        RPCError::Timeout(Timeout {
            action,
            id,
            target,
            timeout,
        })
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, RpcError> {
        let chunks = snapshot.snapshot.chunks;
        let header = wire::SnapshotHeader {
            group: self.link.group.0,
            from: self.link.replica.0,
            to: self.target,
            vote: Some(codec::vote_to_proto(&vote)),
            meta: Some(codec::snapshot_meta_to_proto(&snapshot.meta)),
            chunks: chunks.len() as u64,
            bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        };
        let bytes = header.bytes;
        let _permit = self
            .link
            .snapshot_sends
            .acquire()
            .await
            .expect("the semaphore is never closed");
        telemetry::snapshots_sent_total.count(1);
        telemetry::snapshot_sent_bytes_total.count(bytes);
        let timeout = self.link.limits.snapshot_timeout;
        let sending = self.link.peers.send_snapshot(self.node, header, chunks);
        let reply = tokio::time::timeout(timeout, sending)
            .await
            .map_err(|_elapsed| self.timeout(RPCTypes::InstallSnapshot, timeout))?
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        match reply.result {
            Some(wire::snapshot_reply::Result::Vote(vote)) => {
                codec::vote_from_proto(&vote).map_err(malformed)
            }
            Some(wire::snapshot_reply::Result::Refusal(refusal)) => Err(refused(&refusal)),
            None => Err(malformed(Malformed::Missing {
                field: "snapshot reply result",
            })),
        }
    }
}

impl openraft::RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotChunks;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let body = Body::Append(codec::append_to_proto(&request));
        let answer = self
            .call(RPCTypes::AppendEntries, body, option.hard_ttl())
            .await?;
        match answer {
            Body::AppendReply(reply) => codec::append_reply_from_proto(&reply).map_err(malformed),
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // Never fails before it polled `input`: openraft sleeps its back-off in there, and
        // failing at once would spin against a dead peer.
        let pipeline = Pipeline::new(self.clone(), input);
        async move { Ok(pipeline.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let body = Body::Vote(codec::vote_request_to_proto(&request));
        let answer = self.call(RPCTypes::Vote, body, option.hard_ttl()).await?;
        vote_reply(&answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let body = Body::PreVote(codec::vote_request_to_proto(&request));
        let answer = self.call(RPCTypes::Vote, body, option.hard_ttl()).await?;
        vote_reply(&answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let body = Body::Transfer(codec::transfer_to_proto(&request));
        match self
            .call(RPCTypes::TransferLeader, body, option.hard_ttl())
            .await?
        {
            Body::TransferReply(reply) => {
                codec::transfer_reply_from_proto(&reply, &request).map_err(malformed)
            }
            _ => Err(unexpected()),
        }
    }
}

/// Appends on their way to a follower, and the stream of their answers in order.
///
/// Ends after the first failure, refusal or conflict; openraft then begins anew. An answer that
/// never comes fails the stream after [`Timing::append_deadline`], as nothing else would notice
/// it while the connection lives.
///
/// A new leader knows of no follower how far its log is the leader's own. openraft finds out by
/// halves, a round trip each: ten of them in a log of thousands of entries, during which the group
/// commits nothing. So the first append of a stream asks for the follower's last entry. If that is in
/// the leader's log, then so is all before it (raft's log matching), and is acknowledged with the
/// append. openraft takes that, although it asserts in debug builds of its own that nobody
/// acknowledges more of a probe than it sent; the profiles of the workspace switch those off. Nothing
/// may be on its way behind that append, or it would count as acknowledged, too, and what it was sent
/// at as when the follower was heard.
struct Pipeline<S> {
    client: Client,
    input: S,
    input_ended: bool,
    /// Whether something was sent.
    begun: bool,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    bytes_in_flight: usize,
    /// Why the last request could not be sent; told when all answers before it are in.
    failed: Option<RpcError>,
    ended: bool,
    /// Fires no later than the oldest request's deadline.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request without an answer yet.
struct InFlight {
    call: Call,
    bytes: usize,
    deadline: Instant,
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    fn new(client: Client, input: S) -> Self {
        Self {
            client,
            input,
            input_ended: false,
            begun: false,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            failed: None,
            ended: false,
            timer: None,
        }
    }

    /// Takes requests from the input and sends them, while there is room.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let limits = self.client.link.limits;
        while !self.input_ended
            && self.failed.is_none()
            && self.in_flight.len() < limits.appends_in_flight
            && self.bytes_in_flight < limits.append_bytes_in_flight
        {
            match self.input.poll_next_unpin(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.input_ended = true,
                Poll::Ready(Some(request)) => self.send(&request),
            }
        }
    }

    fn send(&mut self, request: &AppendEntriesRequest<Types>) {
        let mut message = codec::append_to_proto(request);
        // A heartbeat asks nothing, and costs nothing.
        message.asks_last = !self.begun && !request.entries.is_empty();
        self.begun = true;
        let bytes = message.encoded_len();
        match self.client.request(Body::Append(message)) {
            Err(error) => self.failed = Some(error),
            Ok(call) => {
                self.bytes_in_flight += bytes;
                self.in_flight.push_back(InFlight {
                    call,
                    bytes,
                    deadline: Instant::now() + self.client.link.timing.append_deadline(),
                    previous: request.prev_log_id,
                    last: request
                        .entries
                        .last()
                        .map(|entry| entry.log_id)
                        .or(request.prev_log_id),
                });
            }
        }
    }

    /// Returns the last entry that a follower has acknowledged by accepting an append: the last that
    /// was sent to it, or one that it had before.
    fn acknowledged(&self, accepted: &InFlight, reply: &wire::AppendReply) -> Option<LogId> {
        let has = reply.last.as_ref().map(codec::log_id_from_proto);
        let is_more = |has: &LogId| accepted.last.is_none_or(|last| last.index < has.index);
        let is_alone = self.input_ended && self.in_flight.is_empty();
        has.filter(|has| is_alone && is_more(has) && self.client.link.log.holds(has))
            .or(accepted.last)
    }

    /// Waits for the answer to the oldest request.
    fn poll_oldest(&mut self, cx: &mut Context<'_>) -> Poll<Result<Body, RpcError>> {
        let oldest = self
            .in_flight
            .front_mut()
            .expect("called with a request in flight");
        if let Poll::Ready(answer) = oldest.call.answer.poll_unpin(cx) {
            return Poll::Ready(unwrap_answer(answer.ok()));
        }
        let deadline = oldest.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                let timeout = self.client.link.timing.append_deadline();
                return Poll::Ready(Err(self.client.timeout(RPCTypes::AppendEntries, timeout)));
            }
            // It was set for a request answered since.
            timer.as_mut().reset(deadline);
        }
    }
}

impl<S> Stream for Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    type Item = Result<StreamAppendResult<Types>, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.fill(cx);
        if self.in_flight.is_empty() {
            if let Some(error) = self.failed.take() {
                self.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            return if self.input_ended {
                Poll::Ready(None)
            } else {
                Poll::Pending
            };
        }
        let answer = ready!(self.poll_oldest(cx));
        let oldest = self
            .in_flight
            .pop_front()
            .expect("its answer was just polled");
        self.bytes_in_flight -= oldest.bytes;
        let result = answer.and_then(|body| {
            let Body::AppendReply(reply) = body else {
                return Err(unexpected());
            };
            let response = codec::append_reply_from_proto(&reply).map_err(malformed)?;
            if response.is_conflict() && oldest.previous.is_none() {
                // openraft would panic: nothing conflicts with the beginning of a log.
                return Err(network("conflict with the beginning of the log"));
            }
            let acknowledged = self.acknowledged(&oldest, &reply);
            Ok(response.into_stream_result(oldest.previous, acknowledged))
        });
        self.ended = !matches!(result, Ok(Ok(_)));
        Poll::Ready(Some(result))
    }
}

fn unwrap_answer(answer: Option<Body>) -> Result<Body, RpcError> {
    match answer {
        None => Err(unreachable(
            "the connection broke, or the group is stopping",
        )),
        Some(Body::Refusal(refusal)) => Err(refused(&refusal)),
        Some(body) => Ok(body),
    }
}

fn vote_reply(body: &Body) -> Result<VoteResponse<Types>, RpcError> {
    match body {
        Body::VoteReply(reply) => codec::vote_reply_from_proto(reply).map_err(malformed),
        _ => Err(unexpected()),
    }
}

/// A failure after which openraft backs off.
fn unreachable(reason: &str) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// A failure after which openraft tries again soon.
fn network(reason: &str) -> RpcError {
    RPCError::Network(NetworkError::from_string(reason))
}

fn refused(refusal: &wire::Refusal) -> RpcError {
    unreachable(&format!("refused: {}", refusal.reason().as_str_name()))
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn malformed(error: Malformed) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn unexpected() -> RpcError {
    unreachable("an answer of another kind")
}
