//! The service, and the task of each of its streams.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use headcount_model::{
    ChannelName, Refusal, RefusalReason, ReportAck, ReportBatch, ReportChange, ReportItems, Welcome,
};
use headcount_wire::proto::report::v1 as pb;
use headcount_wire::proto::report::v1::report_response::Body as Answer;
use headcount_wire::{ReceivedBatch, ReportReceived, put_refusal, put_welcome, take_hello};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Config;
use super::ports::{Authorize, Grant, Session, Sessions};
use super::status::{of_denied, of_hello, of_receive, of_session};
use super::telemetry;

/// The reporter service of a node.
pub struct Service<A, S> {
    config: Config,
    authorize: A,
    sessions: Arc<S>,
    room: Arc<Semaphore>,
}

impl<A, S> fmt::Debug for Service<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<A: Authorize, S: Sessions> Service<A, S> {
    pub(super) fn new(config: Config, authorize: A, sessions: S) -> Self {
        let room = Arc::new(Semaphore::new(
            config.streams_max.min(Semaphore::MAX_PERMITS),
        ));
        Self {
            config,
            authorize,
            sessions: Arc::new(sessions),
            room,
        }
    }

    /// Lets a stream in, if its credential is good and there is room.
    fn admit(
        &self,
        request: &Request<Streaming<ReportReceived>>,
    ) -> Result<(A::Grant, OwnedSemaphorePermit), Status> {
        let header = request.metadata().get("authorization");
        let header = header
            .map(tonic::metadata::MetadataValue::to_str)
            .transpose();
        let header =
            header.map_err(|_| Status::unauthenticated("authorization: not ASCII text"))?;
        let grant = self.authorize.authorize(header).map_err(of_denied)?;
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "the node has {} streams of edges, as many as it may; try another node",
                self.config.streams_max
            ))
        })?;
        Ok((grant, permit))
    }
}

impl<A: Authorize, S: Sessions> Service<A, S> {
    /// Begins a stream.
    pub(super) fn report(
        &self,
        request: Request<Streaming<ReportReceived>>,
    ) -> Result<Response<ReceiverStream<Result<pb::ReportResponse, Status>>>, Status> {
        let (grant, permit) = self
            .admit(&request)
            .inspect_err(|_| telemetry::stream_refused())?;
        let (answers, responses) = mpsc::channel(self.config.limits.window_batches as usize);
        let stream = Stream {
            config: self.config.clone(),
            grant,
            requests: request.into_inner(),
            answers,
        };
        let sessions = Arc::clone(&self.sessions);
        tokio::spawn(async move {
            let _permit = permit;
            let _open = telemetry::OpenStream::new();
            stream.run(&*sessions).await;
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Why a stream ends.
enum End {
    /// The edge is gone, or will not hear.
    Silent,
    /// Everything was said.
    Done,
    /// The edge is told why.
    Refused(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// One stream of an edge.
struct Stream<G> {
    config: Config,
    grant: G,
    requests: Streaming<ReportReceived>,
    answers: mpsc::Sender<Result<pb::ReportResponse, Status>>,
}

impl<G: Grant> Stream<G> {
    async fn run<S: Sessions>(mut self, sessions: &S) {
        match self.serve(sessions).await {
            End::Silent | End::Done => {}
            End::Refused(status) => {
                telemetry::stream_ended(status.code());
                tracing::info!(
                    target: "reporter",
                    app = %self.grant.app(),
                    code = ?status.code(),
                    reason = status.message(),
                    "closed a stream of an edge"
                );
                let last = self.answers.send(Err(status));
                // An edge that does not read its acknowledgements does not read this either.
                let _unread = tokio::time::timeout(self.config.stall_timeout, last).await;
            }
        }
    }

    async fn serve<S: Sessions>(&mut self, sessions: &S) -> End {
        let (welcome, mut session) = match self.greet(sessions).await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        let answer = Answer::Welcome(put_welcome(&welcome, &self.config.limits));
        if let Err(end) = self.answer(answer, &mut session).await {
            return end;
        }
        let mut credential_ended = self.grant.ended();
        loop {
            let request = tokio::select! {
                biased;
                error = session.closed() => return End::Refused(of_session(&error)),
                reason = &mut credential_ended => {
                    let what = format!("{reason}; open a stream with a new credential");
                    return End::Refused(Status::unauthenticated(what));
                }
                () = self.answers.closed() => return End::Silent,
                request = self.requests.message() => request,
            };
            let batch = match self.understand(request) {
                Ok(Some(ReportReceived::Batch(batch))) => batch,
                Ok(Some(ReportReceived::Goodbye)) => {
                    session.goodbye().await;
                    return End::Done;
                }
                Ok(Some(ReportReceived::Hello(_))) => {
                    let what = "hello: only the first message of a stream may be one";
                    return End::Refused(Status::invalid_argument(what));
                }
                Ok(Some(ReportReceived::Nothing)) => return End::Refused(of_nothing()),
                Ok(None) => return End::Silent,
                Err(end) => return end,
            };
            let ack = match self.count(batch, &mut session).await {
                Ok(ack) => ack,
                Err(end) => return end,
            };
            if let Err(end) = self.answer(Answer::Ack(ack), &mut session).await {
                return end;
            }
        }
    }

    /// Waits for the hello and opens the session that it asks for.
    async fn greet<S: Sessions>(&mut self, sessions: &S) -> Result<(Welcome, S::Session), End> {
        let patience = self.config.hello_timeout;
        let first = tokio::time::timeout(patience, self.requests.message());
        let first = first.await.map_err(|_| {
            Status::deadline_exceeded(format!("hello: none came within {patience:?}"))
        })?;
        let hello = match self.understand(first)? {
            Some(ReportReceived::Hello(hello)) => {
                take_hello(&hello).map_err(|error| of_hello(&error))?
            }
            Some(ReportReceived::Nothing) => return Err(of_nothing().into()),
            Some(ReportReceived::Batch(_) | ReportReceived::Goodbye) => {
                let what = "hello: must be the first message of a stream";
                return Err(Status::invalid_argument(what).into());
            }
            None => return Err(End::Silent),
        };
        let edge = hello.edge.clone();
        let opened = sessions.open(self.grant.app().clone(), hello).await;
        let (welcome, session) = opened.map_err(|error| of_session(&error))?;
        tracing::info!(
            target: "reporter",
            app = %self.grant.app(),
            %edge,
            session = welcome.session,
            resumed = welcome.resumed,
            "opened a session of an edge"
        );
        Ok((welcome, session))
    }

    /// Returns what a request says; nothing if the edge has ended its half of the stream.
    fn understand(
        &self,
        request: Result<Option<ReportReceived>, Status>,
    ) -> Result<Option<ReportReceived>, End> {
        request.map_err(|error| {
            let bytes_max = self.config.limits.batch_bytes_max;
            of_receive(&error, bytes_max).map_or(End::Silent, End::Refused)
        })
    }

    /// Has a batch counted, save the items that cannot be read or are not permitted.
    async fn count<S: Session>(
        &self,
        received: ReceivedBatch,
        session: &mut S,
    ) -> Result<pb::Ack, End> {
        let start = Instant::now();
        let total = received.total;
        let items_max = self.config.limits.batch_items_max;
        if total > items_max as usize {
            return Err(Status::invalid_argument(format!(
                "batch.items: {total} items are above limits.batch_items_max of {items_max}"
            ))
            .into());
        }
        let (batch, refused) = self.permit(received);
        let ack = session.apply(batch).await;
        let ReportAck { sequence, refusals } = ack.map_err(|error| of_session(&error))?;
        let refusals = merge(refused, refusals);
        if !refusals.is_empty() {
            session.refused(&refusals);
        }
        telemetry::batch(
            total,
            refusals.len().min(total),
            start.elapsed().as_secs_f64(),
        );
        Ok(pb::Ack {
            sequence,
            refusals: refusals.iter().map(put_refusal).collect(),
        })
    }

    /// Takes the items out that are not permitted; returns all that are refused by now, by index
    /// among those that were received.
    fn permit(&self, received: ReceivedBatch) -> (ReportBatch, Vec<Refusal>) {
        let ReceivedBatch {
            mut batch, refused, ..
        } = received;
        let may = |change: ReportChange<'_>| {
            let channel = change.channel();
            channel.is_none_or(|channel| self.grant.may_report(channel))
        };
        if self.grant.may_report_all() || batch.items.iter().all(may) {
            return (batch, refused);
        }
        let mut permitted = ReportItems::with_capacity(batch.items.len(), 0);
        let mut not_permitted = Vec::new();
        for (item, change) in (0..).zip(batch.items.iter()) {
            if let (false, Some(channel)) = (may(change), change.channel()) {
                let channel = ChannelName::new(channel).expect("the names of items are good");
                let reason = RefusalReason::NotPermitted(channel);
                not_permitted.push(Refusal { item, reason });
            } else {
                permitted.push(change).expect("the names of items are good");
            }
        }
        batch.items = permitted;
        (batch, merge(refused, not_permitted))
    }

    /// Sends an answer, unless the stream is to be closed or the edge does not read.
    async fn answer<S: Session>(&self, answer: Answer, session: &mut S) -> Result<(), End> {
        let answer = pb::ReportResponse { body: Some(answer) };
        let patience = self.config.stall_timeout;
        tokio::select! {
            sent = self.answers.send(Ok(answer)) => sent.map_err(|_| End::Silent),
            error = session.closed() => Err(of_session(&error).into()),
            () = tokio::time::sleep(patience) => Err(Status::resource_exhausted(format!(
                "acknowledgements were not read for {patience:?}"
            ))
            .into()),
        }
    }
}

fn of_nothing() -> Status {
    Status::invalid_argument("body: one of hello, batch and goodbye must be set")
}

/// Puts the refusals of a batch together: `before` by index in the batch, `after` by index among
/// the items that `before` left.
fn merge(before: Vec<Refusal>, after: Vec<Refusal>) -> Vec<Refusal> {
    if before.is_empty() {
        return after;
    }
    let mut merged = Vec::with_capacity(before.len() + after.len());
    let mut before = before.into_iter().peekable();
    let mut left_out = 0;
    for Refusal { item, reason } in after {
        while let Some(refusal) = before.next_if(|refusal| refusal.item <= item + left_out) {
            left_out += 1;
            merged.push(refusal);
        }
        merged.push(Refusal {
            item: item + left_out,
            reason,
        });
    }
    merged.extend(before);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_the_indices_of_the_batch() {
        let refusal = |item| Refusal {
            item,
            reason: RefusalReason::UnknownItem,
        };
        let items = |refusals: Vec<Refusal>| refusals.iter().map(|r| r.item).collect::<Vec<_>>();
        // Of six items 0, 2 and 3 were left out, so that 1, 4 and 5 became 0, 1 and 2.
        let before = || vec![refusal(0), refusal(2), refusal(3)];
        let merged = |after: &[u32]| {
            let after = after.iter().copied().map(refusal).collect();
            items(merge(before(), after))
        };
        assert_eq!(merged(&[]), [0, 2, 3]);
        assert_eq!(merged(&[0]), [0, 1, 2, 3]);
        assert_eq!(merged(&[1, 2]), [0, 2, 3, 4, 5]);
        assert_eq!(items(merge(Vec::new(), vec![refusal(4)])), [4]);
    }
}
