//! Tests of the admin listener against an operator in memory, over real sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_model::NodeId;
use headcount_model::control::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::status::{ClusterRow, ClusterStatus};
use super::*;

#[derive(Default)]
struct Recorded {
    broken: Vec<String>,
    missing: Vec<String>,
    answers: Vec<Result<(), OperatorError>>,
    asked: Vec<Option<OperatorCommand>>,
}

/// An operator that answers as it was told to, and remembers what it was asked.
#[derive(Clone, Default)]
struct InMemory(Arc<Mutex<Recorded>>);

impl InMemory {
    fn answer(&self, asked: Option<OperatorCommand>) -> BoxFuture<'_, Result<(), OperatorError>> {
        let mut recorded = self.0.lock().unwrap();
        recorded.asked.push(asked);
        let answer = recorded.answers.pop().unwrap_or(Ok(()));
        futures::future::ready(answer).boxed()
    }
}

impl Operator for InMemory {
    fn health(&self) -> Health {
        Health {
            broken: self.0.lock().unwrap().broken.clone(),
        }
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            missing: self.0.lock().unwrap().missing.clone(),
        }
    }

    fn status(&self) -> BoxFuture<'_, ClusterStatus> {
        let cluster = ClusterRow {
            name: "test".to_owned(),
            ..ClusterRow::default()
        };
        futures::future::ready(ClusterStatus {
            cluster: Some(cluster),
            ..ClusterStatus::default()
        })
        .boxed()
    }

    fn init(&self) -> BoxFuture<'_, Result<(), OperatorError>> {
        self.answer(None)
    }

    fn command(&self, command: OperatorCommand) -> BoxFuture<'_, Result<(), OperatorError>> {
        self.answer(Some(command))
    }
}

/// A listener under test; it ends when this is dropped.
struct Served {
    address: SocketAddr,
    operator: InMemory,
    _end: oneshot::Sender<()>,
}

impl Served {
    async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let operator = InMemory::default();
        let (end, ended) = oneshot::channel::<()>();
        let served = serve(
            config,
            listener.into(),
            Arc::new(operator.clone()),
            true,
            ended.map(drop),
        );
        tokio::spawn(served);
        Self {
            address,
            operator,
            _end: end,
        }
    }

    async fn open() -> Self {
        Self::start(Config {
            token: None,
            open_on_loopback: true,
            ..Config::default()
        })
        .await
    }

    /// Sends a request with some headers; returns status and body.
    async fn ask(&self, line: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path}"), "", "").await
    }
}

#[tokio::test]
async fn health_and_readiness_say_why_not() {
    let served = Served::open().await;
    assert_eq!(
        served.get("/healthz").await,
        (200, r#"{"broken":[],"healthy":true}"#.into())
    );
    assert_eq!(served.get("/readyz").await.0, 200);
    served.operator.0.lock().unwrap().missing = vec!["2 replicas have not caught up".to_owned()];
    served.operator.0.lock().unwrap().broken = vec!["the disk is full".to_owned()];
    let (status, body) = served.get("/readyz").await;
    assert!(
        status == 503 && body.contains("2 replicas have not caught up"),
        "{body}"
    );
    let (status, body) = served.get("/healthz").await;
    assert!(status == 503 && body.contains("the disk is full"), "{body}");
}

#[tokio::test]
async fn metrics_are_shown_to_everybody() {
    let token = Some(SecretText::new("0123456789abcdef"));
    let served = Served::start(Config {
        token,
        open_on_loopback: false,
        ..Config::default()
    })
    .await;
    // The listener installs it too, at its own time.
    drop(crate::telemetry::recorder());
    crate::telemetry::mail_dropped();
    let (status, body) = served.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("# TYPE node_letters_dropped_total counter"),
        "{body}"
    );
}

#[tokio::test]
async fn operators_must_bring_the_token() {
    let token = Some(SecretText::new("0123456789abcdef"));
    let served = Served::start(Config {
        token,
        open_on_loopback: true,
        ..Config::default()
    })
    .await;
    let ask = async |header: &str| served.ask("GET /v1/status", header, "").await.0;
    assert_eq!(
        ask("").await,
        401,
        "a token that is set counts on loopback too"
    );
    assert_eq!(ask("Authorization: Bearer 0123456789abcdeX\r\n").await, 401);
    assert_eq!(ask("Authorization: Bearer 0123456789abcde\r\n").await, 401);
    assert_eq!(ask("Authorization: Basic 0123456789abcdef\r\n").await, 401);
    assert_eq!(ask("Authorization: bearer 0123456789abcdef\r\n").await, 200);
    assert_eq!(served.ask("POST /v1/init", "", "").await.0, 401);
    assert!(served.operator.0.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn without_a_token_nobody_operates_unless_loopback_is_open() {
    let closed = Served::start(Config::default()).await;
    let (status, body) = closed.get("/v1/status").await;
    assert!(status == 403 && body.contains("set admin.token"), "{body}");
    let open = Served::open().await;
    assert_eq!(open.get("/v1/status").await.0, 200);
    let (status, _) = open
        .ask("POST /v1/init", "Origin: http://evil.example\r\n", "")
        .await;
    assert_eq!(status, 403, "a page in somebody's browser is no operator");
}

#[tokio::test]
async fn commands_reach_the_node() {
    let served = Served::open().await;
    for (line, body) in [
        ("POST /v1/init", ""),
        ("POST /v1/nodes/7/drain", ""),
        ("POST /v1/nodes/7/undrain", ""),
        ("POST /v1/nodes/7/remove", ""),
        ("PUT /v1/weights", r#"{"eu-west-1": 300}"#),
        ("PUT /v1/homes", r#"{"eu:": "eu-west-1"}"#),
        (
            "PUT /v1/settings",
            r#"{"occupancy_interval_ms": 1000, "copies": 1}"#,
        ),
    ] {
        assert_eq!(
            served.ask(line, "", body).await,
            (200, r#"{"done":true}"#.into()),
            "{line}"
        );
    }
    let node = NodeId(7);
    let weights = [("eu-west-1".parse().unwrap(), 300)].into();
    let homes = [("eu:".to_owned(), "eu-west-1".parse().unwrap())].into();
    assert_eq!(
        served.operator.0.lock().unwrap().asked,
        [
            None,
            Some(OperatorCommand::Drain(node)),
            Some(OperatorCommand::Undrain(node)),
            Some(OperatorCommand::Remove(node)),
            Some(OperatorCommand::SetWeights(weights)),
            Some(OperatorCommand::SetHomes(homes)),
            Some(OperatorCommand::SetOccupancyInterval(
                std::time::Duration::from_secs(1)
            )),
            Some(OperatorCommand::SetCopies(1)),
        ]
    );
}

#[tokio::test]
async fn what_is_malformed_is_refused_here() {
    let served = Served::open().await;
    let large = " ".repeat(100_000);
    for (line, body, expected) in [
        ("PUT /v1/weights", large.as_str(), 413),
        ("PUT /v1/settings", large.as_str(), 413),
        ("PUT /v1/settings", r#"{"copies": 0}"#, 400),
        ("PUT /v1/settings", r#"{"occupancy_interval_ms": 0}"#, 400),
        (
            "PUT /v1/settings",
            r#"{"occupancy_interval_ms": 600000}"#,
            400,
        ),
        ("POST /v1/nodes/seven/drain", "", 400),
        ("POST /v1/nodes/7/eject", "", 404),
        ("PUT /v1/homes", "{}", 400),
        ("PUT /v1/homes", r#"{"eu:": "eu west"}"#, 400),
        ("PUT /v1/weights", "", 400),
        ("PUT /v1/weights", "{}", 400),
        ("PUT /v1/weights", r#"{"eu west": 1}"#, 400),
        ("PUT /v1/weights", r#"{"eu-west-1": 5000}"#, 400),
        ("PUT /v1/settings", r#"{"copy": 1}"#, 400),
        ("GET /v1/nothing", "", 404),
        ("GET /v1/init", "", 405),
    ] {
        let (status, answer) = served.ask(line, "", body).await;
        assert_eq!(status, expected, "{line}: {answer}");
        let told: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(told["error"].is_string(), "{line}: {answer}");
    }
    assert!(served.operator.0.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn refusals_are_told_with_their_reason() {
    let served = Served::open().await;
    for (error, expected) in [
        (
            OperatorError::Refused(Refusal::NotDrained { node: NodeId(7) }),
            409,
        ),
        (OperatorError::NoCluster, 503),
        (OperatorError::HasCluster, 409),
        (OperatorError::Unavailable("no quorum".to_owned()), 503),
        (OperatorError::Unknown("timed out".to_owned()), 504),
    ] {
        let reason = error.to_string();
        served.operator.0.lock().unwrap().answers = vec![Err(error)];
        let (status, body) = served.ask("POST /v1/nodes/7/remove", "", "").await;
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, told["error"].as_str()),
            (expected, Some(reason.as_str()))
        );
    }
}
