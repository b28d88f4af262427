//! A node as far as edges can see it: the gateway in a task of its own, behind the service.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_gateway::{Effect, Gateway, Input, Stats, StreamId};
use headcount_model::{
    AppId, Hello, Incarnation, Monotonic, NodeId, Now, Occupancy, Refusal, ReportAck, ReportBatch,
    SessionError, Stage, Timestamp, Welcome,
};
use headcount_rpc::reporter::{self, Authorize, Denied, Grant, Session, Sessions};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// What the gateway's task is asked.
enum Call {
    Open {
        app: AppId,
        hello: Hello,
        reply: oneshot::Sender<Result<(Welcome, NodeSession), SessionError>>,
    },
    Batch {
        stream: StreamId,
        batch: ReportBatch,
        reply: oneshot::Sender<ReportAck>,
    },
    Tell(Input),
    Look(Box<dyn FnOnce(&Gateway) + Send>),
}

/// What the task keeps of a stream.
struct Open {
    reply: Option<oneshot::Sender<Result<(Welcome, NodeSession), SessionError>>>,
    session: Option<NodeSession>,
    closed: watch::Sender<Option<SessionError>>,
    acks: Option<oneshot::Sender<ReportAck>>,
}

struct Task {
    gateway: Gateway,
    start: Instant,
    calls: mpsc::UnboundedReceiver<Call>,
    calls_in: mpsc::UnboundedSender<Call>,
    streams: HashMap<StreamId, Open>,
    last_stream: u64,
    gate: Arc<Semaphore>,
}

impl Task {
    fn now(&self) -> Now {
        Now {
            monotonic: Monotonic(self.start.elapsed()),
            wall: Timestamp(0),
        }
    }

    async fn run(mut self) {
        loop {
            let due = self.gateway.next_deadline();
            let wait = due.map(|due| due.since(self.now().monotonic));
            // allow-sleep: the stage's own deadline, as any driver keeps it
            let timer = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(3_600)));
            let mut effects = Vec::new();
            tokio::select! {
                () = timer => self.gateway.on_deadline(self.now(), &mut effects),
                call = self.calls.recv() => match call {
                    None => return,
                    Some(call) => self.take(call, &mut effects),
                },
            }
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn take(&mut self, call: Call, effects: &mut Vec<Effect>) {
        let now = self.now();
        match call {
            Call::Open { app, hello, reply } => {
                self.last_stream += 1;
                let stream = StreamId(self.last_stream);
                let (closed, watched) = watch::channel(None);
                let session = NodeSession {
                    stream,
                    calls: self.calls_in.clone(),
                    closed: watched,
                    gate: Arc::clone(&self.gate),
                };
                let open = Open {
                    reply: Some(reply),
                    session: Some(session),
                    closed,
                    acks: None,
                };
                self.streams.insert(stream, open);
                let input = Input::Open { stream, app, hello };
                self.gateway.step(now, input, effects);
            }
            Call::Batch {
                stream,
                batch,
                reply,
            } => {
                if let Some(open) = self.streams.get_mut(&stream) {
                    open.acks = Some(reply);
                    let input = Input::Batch { stream, batch };
                    self.gateway.step(now, input, effects);
                }
            }
            Call::Tell(input) => {
                if let Input::Broken { stream } | Input::Goodbye { stream } = input {
                    self.streams.remove(&stream);
                }
                self.gateway.step(now, input, effects);
            }
            Call::Look(look) => look(&self.gateway),
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Welcome { stream, welcome } => {
                let open = self.streams.get_mut(&stream).unwrap();
                let (reply, session) = (open.reply.take().unwrap(), open.session.take().unwrap());
                let _stream_is_gone = reply.send(Ok((welcome, session)));
            }
            Effect::Ack { stream, ack } => {
                let reply = self
                    .streams
                    .get_mut(&stream)
                    .and_then(|open| open.acks.take());
                let _stream_is_gone = reply.map(|reply| reply.send(ack));
            }
            Effect::Close { stream, error } => {
                let Some(open) = self.streams.remove(&stream) else {
                    return;
                };
                let _nobody_watches = open.closed.send(Some(error.clone()));
                let _stream_is_gone = open.reply.map(|reply| reply.send(Err(error)));
            }
            Effect::ClientsAck { .. } | Effect::Settled { .. } | Effect::Send { .. } => {}
        }
    }
}

/// The node's side of a stream.
struct NodeSession {
    stream: StreamId,
    calls: mpsc::UnboundedSender<Call>,
    closed: watch::Receiver<Option<SessionError>>,
    gate: Arc<Semaphore>,
}

impl Session for NodeSession {
    async fn apply(&mut self, batch: ReportBatch) -> Result<ReportAck, SessionError> {
        let gate = Arc::clone(&self.gate);
        let _open = gate.acquire().await;
        let (reply, answered) = oneshot::channel();
        let _stopped = self.calls.send(Call::Batch {
            stream: self.stream,
            batch,
            reply,
        });
        match answered.await {
            Ok(ack) => Ok(ack),
            Err(_) => Err(self.closed().await),
        }
    }

    fn refused(&self, _refusals: &[Refusal]) {}

    async fn closed(&mut self) -> SessionError {
        let closed = self.closed.wait_for(Option::is_some).await;
        let closed = closed.ok().and_then(|error| error.clone());
        closed.unwrap_or(SessionError::Stopped)
    }

    async fn goodbye(self) {
        let stream = self.stream;
        let _stopped = self.calls.send(Call::Tell(Input::Goodbye { stream }));
    }
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        // After a goodbye or a close the gateway does not know the stream any more.
        let stream = self.stream;
        let _stopped = self.calls.send(Call::Tell(Input::Broken { stream }));
    }
}

struct Calls(mpsc::UnboundedSender<Call>);

impl Sessions for Calls {
    type Session = NodeSession;

    async fn open(&self, app: AppId, hello: Hello) -> Result<(Welcome, NodeSession), SessionError> {
        let (reply, answered) = oneshot::channel();
        let _stopped = self.0.send(Call::Open { app, hello, reply });
        answered.await.unwrap_or(Err(SessionError::Stopped))
    }
}

/// Lets everybody report everything but `private:…`.
struct Anyone(AppId);

impl Authorize for Anyone {
    type Grant = Self;

    fn authorize(&self, authorization: Option<&str>) -> Result<Self, Denied> {
        match authorization {
            Some("Bearer any") => Ok(Self(self.0.clone())),
            _ => Err(Denied::Unauthenticated(
                "authorization: want Bearer any".into(),
            )),
        }
    }
}

impl Grant for Anyone {
    fn app(&self) -> &AppId {
        &self.0
    }

    fn may_report_all(&self) -> bool {
        false
    }

    fn may_report(&self, channel: &str) -> bool {
        !channel.starts_with("private:")
    }

    fn ended(&self) -> BoxFuture<'static, String> {
        std::future::pending().boxed()
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    calls: mpsc::UnboundedSender<Call>,
    /// Closed to stop the counting of batches.
    pub(crate) gate: Arc<Semaphore>,
    tasks: [JoinHandle<()>; 2],
}

impl Node {
    pub(crate) async fn start(config: headcount_gateway::Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls_in, calls) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(1));
        let service = reporter::Config::default();
        let task = Task {
            gateway: Gateway::new(config, NodeId(1), Incarnation(1), Monotonic::default()),
            start: Instant::now(),
            calls,
            calls_in: calls_in.clone(),
            streams: HashMap::new(),
            last_stream: 0,
            gate: Arc::clone(&gate),
        };
        let app = Anyone(AppId::new("dev").unwrap());
        let sessions = Calls(calls_in.clone());
        let running = reporter::server(&service)
            .add_service(reporter::service(service.clone(), app, sessions))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let tasks = [
            tokio::spawn(task.run()),
            tokio::spawn(async move { running.await.unwrap() }),
        ];
        Self {
            address,
            calls: calls_in,
            gate,
            tasks,
        }
    }

    /// Loses everything that the node knew.
    pub(crate) fn kill(self) {
        for task in self.tasks {
            task.abort();
        }
    }

    pub(crate) fn drain(&self) {
        self.calls.send(Call::Tell(Input::Drain)).ok().unwrap();
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Gateway) -> T + Send + 'static,
    ) -> T {
        let (reply, seen) = oneshot::channel();
        let look = Box::new(move |gateway: &Gateway| {
            let _nobody_looks = reply.send(look(gateway));
        });
        self.calls.send(Call::Look(look)).ok().unwrap();
        seen.await.unwrap()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.look(Gateway::stats).await
    }

    /// Returns what all sources together count, by channel.
    pub(crate) async fn counts(&self) -> BTreeMap<String, Occupancy> {
        self.look(|gateway| {
            let mut counts = BTreeMap::<String, Occupancy>::new();
            for (_, channel, occupancy) in gateway.registers() {
                let total = counts.entry(channel.name.as_str().to_owned()).or_default();
                *total = total.plus(occupancy);
            }
            counts
        })
        .await
    }
}
