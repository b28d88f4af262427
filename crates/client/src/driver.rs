//! The task that keeps an edge's session going, whatever happens to streams and nodes.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use headcount_model::{Hello, Incarnation, ReportItem, ReportLimits, Welcome};
use headcount_wire::proto::report::v1 as pb;
use headcount_wire::proto::report::v1::report_request::Body;
use headcount_wire::proto::report::v1::report_response::Body as Answer;
use headcount_wire::proto::report::v1::reporter_client::ReporterClient;
use headcount_wire::{put_hello, put_item, take_refusal_code, take_welcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::notice::{Notice, Notices, Stopped};
use crate::outbox::{Batch, Outbox};

/// Metadata by which a node says which incarnation of the edge it has seen, where ours is stale.
const SEEN_INCARNATION: &str = "headcount-seen-incarnation";
/// The highest session that it has seen in that incarnation.
const SEEN_SESSION: &str = "headcount-seen-session";

/// How often the connection is probed, and how long a probe may go unanswered.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// What the handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Report(Vec<ReportItem>),
    /// Answered when everything reported before is acknowledged.
    Flush(oneshot::Sender<()>),
    /// Answered when the session has ended.
    Goodbye(oneshot::Sender<()>),
}

/// Who waits for what the outbox tells.
type Waiter = oneshot::Sender<()>;

/// A stream that carries a session.
struct Stream {
    requests: mpsc::Sender<pb::ReportRequest>,
    answers: Streaming<pb::ReportResponse>,
    limits: ReportLimits,
}

/// Why a stream is over.
enum End {
    /// It broke, or could not be opened; another may do.
    Broken(String),
    /// As `Broken`, since the node does not accept the credential.
    Unauthenticated(String),
    /// The node does not want the session; the next is to be a new one.
    Refused(String),
    /// As `Refused`, and sessions up to this one were seen.
    Stale(u64),
    /// No stream will do any more.
    Stopped(Stopped),
    /// The handles asked for it.
    Goodbye(oneshot::Sender<()>),
    /// There is no handle left.
    Abandoned,
}

pub(crate) struct Driver {
    config: Arc<Config>,
    commands: mpsc::Receiver<Command>,
    outbox: Outbox<Waiter>,
    notices: Notices,
    backoff: Backoff,
    /// Index of the node to try next.
    node: usize,
    /// The highest session number offered.
    offered: u64,
    /// The session that may be resumed.
    session: Option<u64>,
    /// Whoever said goodbye while there was no stream to say it on.
    parting: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(crate) fn new(config: Config, commands: mpsc::Receiver<Command>, notices: Notices) -> Self {
        let seed = config.seed.unwrap_or(config.incarnation.0);
        Self {
            backoff: Backoff::new(config.backoff_min, config.backoff_max, seed),
            config: Arc::new(config),
            commands,
            outbox: Outbox::new(),
            notices,
            node: 0,
            offered: 0,
            session: None,
            parting: None,
        }
    }

    /// Runs until the handles say goodbye or are gone, or a node refuses the edge for good.
    pub(crate) async fn run(mut self) {
        loop {
            let end = self.attempt().await;
            let unauthenticated = matches!(end, End::Unauthenticated(_));
            let reason = match end {
                End::Broken(reason) | End::Unauthenticated(reason) => reason,
                End::Refused(reason) => {
                    self.session = None;
                    reason
                }
                End::Stale(seen) => {
                    self.session = None;
                    self.offered = self.offered.max(seen);
                    format!("session {seen} was seen before")
                }
                End::Stopped(stopped) => {
                    self.notices.stop(stopped);
                    return;
                }
                End::Goodbye(done) => {
                    let _gone = done.send(());
                    return;
                }
                End::Abandoned => return,
            };
            if let Some(done) = self.parting.take() {
                // Nobody was there to be told: the grace ends the session.
                let _gone = done.send(());
                return;
            }
            tracing::debug!(target: "client", %reason, "a stream to a node is over");
            self.notices.push(Notice::Disconnected {
                reason,
                unauthenticated,
            });
        }
    }

    /// Waits as long as failures demand, opens a stream and serves it to its end.
    async fn attempt(&mut self) -> End {
        let pause = self.backoff.next_pause();
        if !pause.is_zero()
            && let Err(end) = self.wait(pause).await
        {
            return end;
        }
        let node = self.config.nodes[self.node].clone();
        let (welcome, mut stream) = match self.open(&node).await {
            Ok(opened) => opened,
            Err(end) => {
                if matches!(end, End::Broken(_) | End::Unauthenticated(_)) {
                    self.node = (self.node + 1) % self.config.nodes.len();
                }
                return end;
            }
        };
        self.notices.push(Notice::Connected {
            node,
            session: welcome.session,
            resumed: welcome.resumed,
        });
        self.session = Some(welcome.session);
        if !welcome.resumed {
            self.outbox.start_session();
        }
        if let Some(done) = self.parting.take() {
            return self.part(&mut stream, done).await;
        }
        let start = Instant::now();
        let Err(end) = self.serve(&mut stream).await;
        if start.elapsed() > self.config.backoff_max {
            self.backoff.reset();
        }
        end
    }

    /// Pauses, unless somebody says goodbye: that is not to wait for the grace of a session that
    /// can be ended.
    async fn wait(&mut self, pause: Duration) -> Result<(), End> {
        let mut until = pin!(sleep(pause));
        while self.parting.is_none() {
            tokio::select! {
                () = &mut until => break,
                taken = self.take_ahead() => taken?,
            }
        }
        Ok(())
    }

    /// Opens a stream to a node. What the handles ask for meanwhile is taken, so that changes gather
    /// and nobody's session is opened when nobody is left.
    async fn open(&mut self, node: &str) -> Result<(Welcome, Stream), End> {
        self.offered += 1;
        let hello = Hello {
            edge: self.config.edge.clone(),
            incarnation: self.config.incarnation,
            session: self.offered,
            resume: self.session,
        };
        let patience = self.config.connect_timeout;
        let config = Arc::clone(&self.config);
        let mut opening = pin!(timeout(patience, open(&config, node, &hello)));
        loop {
            tokio::select! {
                opened = &mut opening => return opened.unwrap_or_else(|_| {
                    Err(End::Broken(format!("{node}: no welcome within {patience:?}")))
                }),
                taken = self.take_ahead() => taken?,
            }
        }
    }

    /// Takes what the handles ask for next, as far as there is room, without a stream.
    async fn take_ahead(&mut self) -> Result<(), End> {
        let has_room = self.outbox.pending() < self.config.queue_max;
        if !has_room || self.parting.is_some() {
            return std::future::pending().await;
        }
        let command = self.commands.recv().await;
        match self.take(command) {
            Err(End::Goodbye(done)) if self.session.is_some() => {
                self.parting = Some(done);
                Ok(())
            }
            taken => taken,
        }
    }

    /// Reports on a stream until it ends.
    async fn serve(&mut self, stream: &mut Stream) -> Result<Infallible, End> {
        for batch in self.outbox.unacknowledged_batches() {
            send(&stream.requests, put_batch(batch))?;
        }
        let mut ack_due = Instant::now() + self.config.ack_timeout;
        let mut retry_at = None;
        loop {
            self.send_batches(stream)?;
            let is_waiting = self.outbox.unacknowledged() > 0;
            if !is_waiting {
                ack_due = Instant::now() + self.config.ack_timeout;
            }
            if retry_at.is_none() && self.outbox.has_overloaded() {
                retry_at = Some(Instant::now() + self.config.retry_interval);
            }
            let has_room = self.outbox.pending() < self.config.queue_max;
            tokio::select! {
                answer = stream.answers.message() => {
                    let answer = answer.map_err(|status| end_of(self.config.incarnation, &status))?;
                    self.hear(answer)?;
                    self.backoff.reset();
                    ack_due = Instant::now() + self.config.ack_timeout;
                }
                command = self.commands.recv(), if has_room => {
                    match self.take(command) {
                        Err(End::Goodbye(done)) => return Err(self.part(stream, done).await),
                        taken => taken?,
                    }
                    // What else is there shares the next batch.
                    while self.outbox.pending() < self.config.queue_max
                        && let Ok(command) = self.commands.try_recv()
                    {
                        match self.take(Some(command)) {
                            Err(End::Goodbye(done)) => return Err(self.part(stream, done).await),
                            taken => taken?,
                        }
                    }
                }
                () = sleep_until(ack_due), if is_waiting => {
                    let patience = self.config.ack_timeout;
                    return Err(End::Broken(format!("no acknowledgement for {patience:?}")));
                }
                () = sleep_until(retry_at.unwrap_or(ack_due)), if retry_at.is_some() => {
                    retry_at = None;
                    self.outbox.retry();
                }
            }
        }
    }

    /// Sends what there is: at once when nothing is on its way, else when it fills a batch, so that
    /// changes gather while an acknowledgement is awaited.
    fn send_batches(&mut self, stream: &Stream) -> Result<(), End> {
        let limits = stream.limits;
        while self.outbox.unacknowledged() < limits.window_batches as usize {
            let is_quiet = self.outbox.unacknowledged() == 0;
            if !is_quiet && self.outbox.pending() < limits.batch_items_max as usize {
                break;
            }
            let Some(batch) = self.outbox.next_batch(&limits) else {
                break;
            };
            send(&stream.requests, put_batch(batch))?;
        }
        Ok(())
    }

    /// Takes what the handles ask for.
    fn take(&mut self, command: Option<Command>) -> Result<(), End> {
        match command {
            Some(Command::Report(items)) => {
                for item in items {
                    self.outbox.change(item);
                }
            }
            Some(Command::Flush(waiter)) => {
                if let Some(waiter) = self.outbox.flush(waiter) {
                    let _gone = waiter.send(());
                }
            }
            Some(Command::Goodbye(done)) => return Err(End::Goodbye(done)),
            None => return Err(End::Abandoned),
        }
        Ok(())
    }

    /// Takes what the node says.
    fn hear(&mut self, answer: Option<pb::ReportResponse>) -> Result<(), End> {
        let Some(answer) = answer else {
            return Err(End::Broken("the node ended the stream".into()));
        };
        let Some(Answer::Ack(ack)) = answer.body else {
            return Err(End::Broken(
                "the node sent something else than an ack".into(),
            ));
        };
        let refusals = ack.refusals.into_iter().map(|refusal| {
            let code = take_refusal_code(refusal.code).ok();
            (refusal.item, code, refusal.message)
        });
        let (refused, done) = self.outbox.acknowledge(ack.sequence, refusals.collect());
        for refused in refused {
            self.notices.push(Notice::Refused(refused));
        }
        for waiter in done {
            let _gone = waiter.send(());
        }
        Ok(())
    }

    /// Says goodbye and waits for the stream's end.
    async fn part(&mut self, stream: &mut Stream, done: oneshot::Sender<()>) -> End {
        if send(&stream.requests, Body::Goodbye(pb::Goodbye {})).is_ok() {
            let end = async { while let Ok(Some(_)) = stream.answers.message().await {} };
            // If it does not end in time, the grace ends the session.
            let _late = timeout(self.config.connect_timeout, end).await;
        }
        End::Goodbye(done)
    }
}

/// Connects to a node and opens or resumes a session there.
async fn open(config: &Config, node: &str, hello: &Hello) -> Result<(Welcome, Stream), End> {
    let broken = |what: &dyn std::fmt::Display| End::Broken(format!("{node}: {what}"));
    let endpoint = Endpoint::from_shared(node.to_owned()).map_err(|error| broken(&error))?;
    let endpoint = endpoint
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    let channel = match config.dialer.connector() {
        None => endpoint.connect().await,
        Some(connector) => endpoint.connect_with_connector(connector).await,
    };
    let channel = channel.map_err(|error| broken(&chain(&error)))?;
    let authorization = (config.authorization)().parse();
    let authorization = authorization.map_err(|_| broken(&"authorization: not a header"))?;
    // Hello and goodbye, and a batch more than any window, so that sending never waits.
    let (requests, sent) = mpsc::channel(REQUESTS_MAX);
    let mut request = Request::new(ReceiverStream::new(sent));
    request
        .metadata_mut()
        .insert("authorization", authorization);
    send(&requests, Body::Hello(put_hello(hello)))?;
    let refused = |status: Status| end_of(config.incarnation, &status);
    let opened = ReporterClient::new(channel).report(request).await;
    let mut answers = opened.map_err(refused)?.into_inner();
    let first = answers.message().await.map_err(refused)?;
    let Some(Answer::Welcome(welcome)) = first.and_then(|answer| answer.body) else {
        return Err(broken(&"the node did not answer hello by welcome"));
    };
    let (welcome, limits) = take_welcome(&welcome).map_err(|error| broken(&error))?;
    let window_batches = limits.window_batches.min(WINDOW_MAX);
    let stream = Stream {
        requests,
        answers,
        limits: ReportLimits {
            window_batches,
            ..limits
        },
    };
    Ok((welcome, stream))
}

/// Says what a status means for the session of an edge in the life `incarnation`.
fn end_of(incarnation: Incarnation, status: &Status) -> End {
    let reason = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::FailedPrecondition => {
            let seen = |name| {
                status
                    .metadata()
                    .get(name)?
                    .to_str()
                    .ok()?
                    .parse::<u64>()
                    .ok()
            };
            match (seen(SEEN_INCARNATION), seen(SEEN_SESSION)) {
                (Some(seen), _) if seen > incarnation.0 => {
                    End::Stopped(Stopped::StaleIncarnation { seen })
                }
                (Some(_), Some(session)) => End::Stale(session),
                (..) => End::Refused(reason),
            }
        }
        Code::Aborted => End::Stopped(Stopped::Superseded),
        Code::InvalidArgument | Code::OutOfRange => End::Refused(reason),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => End::Broken(reason),
        Code::Unauthenticated => End::Unauthenticated(reason),
    }
}

/// Most batches that are sent ahead, whatever window a node offers.
const WINDOW_MAX: u32 = 1_024;

/// Most requests that wait in a stream.
const REQUESTS_MAX: usize = WINDOW_MAX as usize + 2;

fn send(requests: &mpsc::Sender<pb::ReportRequest>, body: Body) -> Result<(), End> {
    let request = pb::ReportRequest { body: Some(body) };
    let sent = requests.try_send(request);
    sent.map_err(|_| End::Broken("the stream does not take any more".into()))
}

fn put_batch(batch: &Batch) -> Body {
    Body::Batch(pb::Batch {
        sequence: batch.sequence,
        items: batch.items.iter().map(put_item).collect(),
        set_complete: batch.set_complete,
    })
}

/// Returns an error with its causes, which tonic leaves out of the message.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
