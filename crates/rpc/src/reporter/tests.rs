//! The service against a scripted node, over real streams on loopback.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_model::{
    AppId, Hello, Incarnation, Refusal, RefusalReason, ReportAck, ReportBatch, ReportLimits,
    SessionError, Welcome,
};
use headcount_wire::proto::report::v1 as pb;
use headcount_wire::proto::report::v1::report_request::Body;
use headcount_wire::proto::report::v1::report_response::Body as Answer;
use headcount_wire::proto::report::v1::reporter_client::ReporterClient;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Status, Streaming};

use super::{Authorize, Config, Denied, Grant, SEEN_SESSION, Session, Sessions, server, service};

/// What a session was told.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Opened(AppId, Hello),
    Batch(ReportBatch),
    Goodbye,
    Broken,
}

/// A node that counts nothing, refuses the first item of each batch, and tells what it heard.
struct Node {
    heard: mpsc::UnboundedSender<Heard>,
    closing: watch::Receiver<Option<SessionError>>,
}

struct NodeSession {
    heard: mpsc::UnboundedSender<Heard>,
    closing: watch::Receiver<Option<SessionError>>,
    over: bool,
}

impl Sessions for Node {
    type Session = NodeSession;

    async fn open(&self, app: AppId, hello: Hello) -> Result<(Welcome, NodeSession), SessionError> {
        if hello.session == 1 {
            return Err(SessionError::Stale {
                asked_incarnation: hello.incarnation,
                asked_session: 1,
                seen_incarnation: Incarnation(3),
                seen_session: 8,
            });
        }
        let welcome = Welcome {
            session: hello.session,
            resumed: false,
            last_sequence: 0,
        };
        self.heard.send(Heard::Opened(app, hello)).unwrap();
        let session = NodeSession {
            heard: self.heard.clone(),
            closing: self.closing.clone(),
            over: false,
        };
        Ok((welcome, session))
    }
}

impl Session for NodeSession {
    async fn apply(&mut self, batch: ReportBatch) -> Result<ReportAck, SessionError> {
        let sequence = batch.sequence;
        let first = batch.items.iter().next().map(|item| Refusal {
            item: 0,
            reason: RefusalReason::ToldByCounts(item.channel().unwrap().parse().unwrap()),
        });
        self.heard.send(Heard::Batch(batch)).unwrap();
        let refusals = first.into_iter().collect();
        Ok(ReportAck { sequence, refusals })
    }

    fn refused(&self, _refusals: &[Refusal]) {}

    async fn closed(&mut self) -> SessionError {
        let closing = self.closing.wait_for(Option::is_some).await;
        closing.unwrap().clone().unwrap()
    }

    async fn goodbye(mut self) {
        self.over = true;
        self.heard.send(Heard::Goodbye).unwrap();
    }
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        if !self.over {
            let _nobody_left = self.heard.send(Heard::Broken);
        }
    }
}

struct Keys;

struct KeyGrant(AppId, Option<Duration>);

impl Authorize for Keys {
    type Grant = KeyGrant;

    fn authorize(&self, authorization: Option<&str>) -> Result<KeyGrant, Denied> {
        let app = AppId::new("dev").unwrap();
        match authorization {
            Some("Basic good") => Ok(KeyGrant(app, None)),
            Some("Basic short") => Ok(KeyGrant(app, Some(Duration::from_millis(50)))),
            Some("Basic weak") => Err(Denied::PermissionDenied("no operation left".into())),
            Some(_) => Err(Denied::Unauthenticated("no such key".into())),
            None => Err(Denied::Unauthenticated("authorization: missing".into())),
        }
    }
}

impl Grant for KeyGrant {
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
        let after = self.1;
        async move {
            match after {
                // allow-sleep: a grant that ends after a span
                Some(span) => tokio::time::sleep(span).await,
                None => std::future::pending().await,
            }
            "it was revoked".to_owned()
        }
        .boxed()
    }
}

/// A running service and what its node heard.
struct World {
    client: ReporterClient<tonic::transport::Channel>,
    heard: mpsc::UnboundedReceiver<Heard>,
    closing: watch::Sender<Option<SessionError>>,
}

/// An edge's stream.
struct Edge {
    requests: mpsc::Sender<pb::ReportRequest>,
    answers: Streaming<pb::ReportResponse>,
}

impl World {
    async fn start(config: Config) -> Self {
        let (heard_in, heard) = mpsc::unbounded_channel();
        let (closing, watched) = watch::channel(None);
        let node = Node {
            heard: heard_in,
            closing: watched,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = server(&config).add_service(service(config, Keys, node));
        tokio::spawn(running.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = ReporterClient::connect(format!("http://{address}"));
        Self {
            client: client.await.unwrap(),
            heard,
            closing,
        }
    }

    async fn stream(&mut self, key: Option<&str>) -> Result<Edge, Status> {
        let (requests, sent) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(sent));
        if let Some(key) = key {
            let value = key.parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let answers = self.client.report(request).await?.into_inner();
        Ok(Edge { requests, answers })
    }

    async fn open(&mut self) -> Edge {
        let mut edge = self.stream(Some("Basic good")).await.unwrap();
        edge.say(Body::Hello(hello(2))).await;
        let welcome = edge.hear().await.unwrap();
        assert!(matches!(welcome, Answer::Welcome(welcome) if welcome.session == 2));
        assert!(matches!(self.hear().await, Heard::Opened(..)));
        edge
    }

    async fn hear(&mut self) -> Heard {
        let patience = Duration::from_secs(10);
        let heard = tokio::time::timeout(patience, self.heard.recv()).await;
        heard.expect("the node hears something").unwrap()
    }
}

impl Edge {
    async fn say(&self, body: Body) {
        let request = pb::ReportRequest { body: Some(body) };
        self.requests.send(request).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Answer, Status> {
        let patience = Duration::from_secs(10);
        let answer = tokio::time::timeout(patience, self.answers.message()).await;
        let answer = answer.expect("the service answers")?;
        Ok(answer.and_then(|answer| answer.body).expect("an answer"))
    }

    async fn refused(&mut self) -> Status {
        self.hear().await.expect_err("the stream is refused")
    }
}

fn hello(session: u64) -> pb::Hello {
    pb::Hello {
        protocol_min: 1,
        protocol_max: 1,
        edge: "e".into(),
        incarnation: 3,
        session,
        resume_session: None,
    }
}

fn attach(channel: &str, modes: u32) -> pb::Item {
    let attach = pb::Attach {
        connection: "a".into(),
        channel: channel.into(),
        modes,
    };
    pb::Item {
        change: Some(pb::item::Change::Attach(attach)),
    }
}

fn batch(sequence: u64, items: Vec<pb::Item>) -> Body {
    Body::Batch(pb::Batch {
        sequence,
        items,
        set_complete: false,
    })
}

#[tokio::test]
async fn bad_credentials_are_refused_before_the_hello() {
    let mut world = World::start(Config::default()).await;
    for (key, code) in [
        (None, Code::Unauthenticated),
        (Some("Basic bad"), Code::Unauthenticated),
        (Some("Basic weak"), Code::PermissionDenied),
    ] {
        let status = world.stream(key).await.err().unwrap();
        assert_eq!(status.code(), code, "{key:?}");
    }
}

#[tokio::test]
async fn refused_items_leave_the_others() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.open().await;
    let items = vec![
        attach("private:x", 15),
        attach("told-by-counts", 15),
        attach("room", 99),
        pb::Item { change: None },
        attach("room", 3),
    ];
    edge.say(batch(1, items)).await;
    let Answer::Ack(ack) = edge.hear().await.unwrap() else {
        panic!("want an acknowledgement");
    };
    let refused: Vec<_> = ack.refusals.iter().map(|r| (r.item, r.code())).collect();
    assert_eq!(
        refused,
        [
            (0, pb::RefusalCode::NotPermitted),
            (1, pb::RefusalCode::Mixed),
            (2, pb::RefusalCode::InvalidModes),
            (3, pb::RefusalCode::UnknownItem),
        ]
    );
    assert_eq!(
        ack.refusals[0].message,
        "channel: the credential lacks `occupancy-report` on \"private:x\""
    );
    let Heard::Batch(heard) = world.hear().await else {
        panic!("want a batch");
    };
    let channels: Vec<_> = heard
        .items
        .iter()
        .map(|item| item.channel().unwrap())
        .collect();
    assert_eq!(
        (heard.sequence, channels),
        (1, vec!["told-by-counts", "room"])
    );
}

#[tokio::test]
async fn the_hello_comes_first_and_once() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.stream(Some("Basic good")).await.unwrap();
    edge.say(batch(1, Vec::new())).await;
    let status = edge.refused().await;
    assert_eq!(
        (status.code(), &status.message()[..6]),
        (Code::InvalidArgument, "hello:")
    );

    let mut edge = world.open().await;
    edge.say(Body::Hello(hello(3))).await;
    assert_eq!(edge.refused().await.code(), Code::InvalidArgument);
    assert_eq!(world.hear().await, Heard::Broken);

    let mut edge = world.stream(Some("Basic good")).await.unwrap();
    edge.requests
        .send(pb::ReportRequest { body: None })
        .await
        .unwrap();
    assert_eq!(&edge.refused().await.message()[..5], "body:");
}

#[tokio::test]
async fn bad_hellos_name_the_field() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.stream(Some("Basic good")).await.unwrap();
    edge.say(Body::Hello(pb::Hello {
        edge: "e\n".into(),
        ..hello(2)
    }))
    .await;
    let status = edge.refused().await;
    assert_eq!(
        status.message(),
        "hello.edge: edge id has '\\n' at byte 1, which is not allowed there"
    );
}

#[tokio::test]
async fn stale_sessions_learn_what_was_seen() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.stream(Some("Basic good")).await.unwrap();
    edge.say(Body::Hello(hello(1))).await;
    let status = edge.refused().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get(SEEN_SESSION).unwrap(), "8");
}

#[tokio::test]
async fn an_edge_that_says_nothing_is_told_so() {
    let mut world = World::start(Config {
        hello_timeout: Duration::from_millis(20),
        ..Config::default()
    })
    .await;
    let mut edge = world.stream(Some("Basic good")).await.unwrap();
    assert_eq!(edge.refused().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_expired_credential_ends_the_stream() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.stream(Some("Basic short")).await.unwrap();
    edge.say(Body::Hello(hello(2))).await;
    assert!(matches!(edge.hear().await, Ok(Answer::Welcome(_))));
    assert_eq!(edge.refused().await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn goodbye_and_a_broken_stream_are_told_apart() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.open().await;
    edge.say(Body::Goodbye(pb::Goodbye {})).await;
    assert_eq!(world.hear().await, Heard::Goodbye);
    assert!(
        edge.answers.message().await.unwrap().is_none(),
        "ends with OK"
    );

    let edge = world.open().await;
    drop(edge);
    assert_eq!(world.hear().await, Heard::Broken);
}

#[tokio::test]
async fn the_node_can_close_a_stream() {
    let mut world = World::start(Config::default()).await;
    let mut edge = world.open().await;
    world
        .closing
        .send(Some(SessionError::Superseded { by: 9 }))
        .unwrap();
    let status = edge.refused().await;
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Aborted,
            "a newer stream of the edge took over, as session 9"
        )
    );
}

#[tokio::test]
async fn batches_above_the_limits_are_refused() {
    let config = Config {
        limits: ReportLimits {
            batch_items_max: 2,
            batch_bytes_max: 1_000,
            ..ReportLimits::default()
        },
        ..Config::default()
    };
    let mut world = World::start(config).await;
    let mut edge = world.open().await;
    edge.say(batch(1, vec![attach("room", 3); 3])).await;
    let status = edge.refused().await;
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "batch.items: 3 items are above limits.batch_items_max of 2"
        )
    );
    assert_eq!(world.hear().await, Heard::Broken);

    let mut edge = world.open().await;
    edge.say(batch(1, vec![attach(&"x".repeat(1_000), 3)]))
        .await;
    let status = edge.refused().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("batch_bytes_max of 1000"),
        "{status}"
    );
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let mut world = World::start(Config {
        streams_max: 1,
        ..Config::default()
    })
    .await;
    let edge = world.open().await;
    let status = world.stream(Some("Basic good")).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(edge);
    assert_eq!(world.hear().await, Heard::Broken);
}

#[tokio::test]
async fn an_edge_that_reads_nothing_is_held_back_and_then_disconnected() {
    let config = Config {
        limits: ReportLimits {
            window_batches: 1,
            ..ReportLimits::default()
        },
        stall_timeout: Duration::from_millis(50),
        ..Config::default()
    };
    let mut world = World::start(config).await;
    let edge = world.open().await;
    // Refusals fill the connection's window until the service cannot send any more of them.
    let big = attach(&"x".repeat(2_000), 99);
    let sending = async {
        for sequence in 1.. {
            let body = batch(sequence, vec![big.clone(); 1_000]);
            let request = pb::ReportRequest { body: Some(body) };
            if edge.requests.send(request).await.is_err() {
                break;
            }
        }
    };
    let heard = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let listening = async {
        while world.hear().await != Heard::Broken {
            heard.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = sending => {}
        () = listening => {}
    }
    let heard = heard.load(std::sync::atomic::Ordering::Relaxed);
    assert!(heard < 64, "took {heard} batches that nobody heard of");
}
