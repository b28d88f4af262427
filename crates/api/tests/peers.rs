//! Realtime peers that are slow, half-open or break the rules: each is ended, told why where it can
//! be, and leaves nothing behind.

use std::time::{Duration, Instant};

use headcount_api::{AppLimits, Config, RealtimeConfig};
use headcount_model::Rate;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::client::PATIENCE;
use crate::node::Node;
use crate::recorder::Metrics;

// First bytes of frames: the opcode, and whether it is the last piece.
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const UNKNOWN: u8 = 0x83;

/// How often a quiet connection shows that it lives, in these tests.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// The longest frame, in these tests.
const FRAME_BYTES_MAX: usize = 10_000;

/// A node that loses patience soon and has room for one connection, so that the next one shows that
/// nothing is left of the last.
async fn node() -> Node {
    let config = Config {
        write_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let realtime = RealtimeConfig {
        connections_max: 1,
        limits: AppLimits {
            connections_max: 1,
            ..AppLimits::default()
        },
        heartbeat_interval: HEARTBEAT,
        frame_bytes_max: FRAME_BYTES_MAX,
        frame_rate: Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        },
        grace: Duration::from_millis(50),
        resume_window: Duration::from_millis(100),
        ..RealtimeConfig::default()
    };
    Node::of(config, realtime).await
}

/// A client that knows websockets only as bytes.
struct Peer(TcpStream);

impl Peer {
    /// Connects, attaches a channel, and takes both answers.
    async fn attached(node: &Node) -> Self {
        let mut peer = Self(TcpStream::connect(node.address).await.unwrap());
        let request = "GET /?key=dev.root:root-secret&v=6&heartbeats=false HTTP/1.1\r\nhost: x\r\n\
            connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        peer.send(request.as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.0.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        assert_eq!(peer.protocol_frame().await["action"], 4);
        let attach = json!({ "action": 10, "channel": "room" }).to_string();
        peer.send(&frame(TEXT, attach.as_bytes())).await;
        assert_eq!(peer.protocol_frame().await["action"], 11);
        peer
    }

    /// Sends bytes as they are. The other side may have closed already.
    async fn send(&mut self, bytes: &[u8]) {
        let _sent = self.0.write_all(bytes).await;
    }

    /// Reads the next websocket frame: its first byte and its payload. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let reading = async {
            let first = self.0.read_u8().await.ok()?;
            let length = match self.0.read_u8().await.ok()? {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((first, payload))
        };
        timeout(PATIENCE, reading).await.expect("it comes in time")
    }

    /// Reads the next frame of the protocol.
    async fn protocol_frame(&mut self) -> Value {
        loop {
            let (first, payload) = self.frame().await.expect("the websocket is open");
            if first != PING {
                assert_eq!(first, TEXT, "{payload:?}");
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    /// Waits until the node closes; returns the code that it gives as its reason, if any.
    async fn closed(&mut self) -> Option<u16> {
        loop {
            match self.frame().await {
                Some((CLOSE, payload)) => {
                    return Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
                Some((PING, _)) => {}
                Some(other) => panic!("{other:?}"),
                None => return None,
            }
        }
    }
}

/// The header of a masked frame; the mask is nothing, so that payloads are sent as they are.
fn header(first: u8, length: u64) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut bytes = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => bytes.push(MASKED | short),
        (_, Ok(medium)) => {
            bytes.push(MASKED | 126);
            bytes.extend(medium.to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64), payload.to_vec()].concat()
}

/// Checks that nothing is left of a peer, and that the node has room for the next.
async fn nothing_is_left(node: &Node, metrics: &Metrics) {
    all_gone(node, metrics).await;
    drop(Peer::attached(node).await);
    all_gone(node, metrics).await;
}

async fn all_gone(node: &Node, metrics: &Metrics) {
    let left = || {
        let gauges = ["api_connections", "api_realtime_connections"].map(|name| metrics.of(name));
        let attached = node.world.books.lock().unwrap().attached("room").len();
        (gauges, attached)
    };
    let gone = timeout(PATIENCE, async {
        while left() != ([0.0; 2], 0) {
            // allow-sleep: the condition has a deadline around it
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(gone.await.is_ok(), "left: {:?}", left());
}

#[tokio::test]
async fn whoever_is_silent_is_taken_for_gone_after_two_heartbeats() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node().await;
    // Neither does half a frame help, nor one of which the end never comes.
    for (nth, sent) in [vec![], vec![TEXT], header(TEXT, 100)].iter().enumerate() {
        let started = Instant::now();
        let mut peer = Peer::attached(&node).await;
        peer.send(sent).await;
        assert_eq!(peer.closed().await, None);
        assert!(started.elapsed() >= 2 * HEARTBEAT);
        drop(peer);
        nothing_is_left(&node, &metrics).await;
        assert_eq!(metrics.of("api_rejected_total silent"), nth as f64 + 1.0);
    }
}

#[tokio::test]
async fn breaking_the_rules_of_websockets_is_told_by_a_code() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node().await;
    let unmasked = vec![TEXT, 2, b'{', b'}'];
    let cases = [
        (1002, unmasked),
        (1002, frame(TEXT | RESERVED, b"{}")),
        (1002, frame(UNKNOWN, b"{}")),
        (1002, frame(PING, &[0; 126])),
        (1002, frame(CONTINUATION | FINAL, b"{}")),
        (1007, frame(TEXT, b"\xff\xff")),
    ];
    for (code, sent) in &cases {
        let mut peer = Peer::attached(&node).await;
        peer.send(sent).await;
        assert_eq!(peer.closed().await, Some(*code), "{sent:?}");
        drop(peer);
        nothing_is_left(&node, &metrics).await;
    }
    let counted = metrics.of("api_rejected_total websocket_violation");
    assert_eq!(counted, cases.len() as f64);
}

#[tokio::test]
async fn too_large_a_frame_ends_the_connection_with_its_error() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node().await;
    let piece = vec![b' '; FRAME_BYTES_MAX];
    let pieces = [CONTINUATION | 1, CONTINUATION, CONTINUATION].map(|first| frame(first, &piece));
    let cases = [
        // A little too large, so that it is read.
        frame(TEXT, &[&piece[..], b" "].concat()),
        // So large that it is not, at once and in pieces.
        frame(BINARY, &vec![0; 1 << 20]),
        pieces.concat(),
        // As large as there is no memory, if the header is to be believed.
        header(BINARY, (1 << 63) - 1),
        header(BINARY, 1 << 63),
        header(BINARY, u64::MAX),
    ];
    for sent in cases {
        let (mut reading, mut writing) = Peer::attached(&node).await.0.into_split();
        // Whoever sends so much must not wait until all of it is taken.
        let sending = tokio::spawn(async move {
            let _cut = writing.write_all(&sent).await;
            writing
        });
        let mut taken = Vec::new();
        let read = timeout(PATIENCE, reading.read_to_end(&mut taken)).await;
        let _reset = read.expect("the node closes in time");
        let text = String::from_utf8_lossy(&taken);
        assert!(text.contains(r#""code":40009"#), "{text}");
        assert!(taken.ends_with(&[CLOSE, 2, 0x03, 0xe8]), "{taken:?}");
        drop((reading, sending.await.unwrap()));
        nothing_is_left(&node, &metrics).await;
    }
    let unread = metrics.of("api_rejected_total websocket_frame_too_large");
    assert_eq!(unread, 5.0);
}

#[tokio::test]
async fn whoever_stops_reading_is_ended_when_its_buffers_are_full() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node().await;
    let mut peer = Peer::attached(&node).await;
    // Asks and takes no answer, until the node takes no more questions either.
    let question = frame(TEXT, br#"{"action":0,"id":"0123456789"}"#).repeat(1000);
    let asking = async { while peer.0.write_all(&question).await.is_ok() {} };
    timeout(PATIENCE, asking).await.expect("it is cut off");
    assert_eq!(metrics.of("api_realtime_drops_total"), 1.0);
    nothing_is_left(&node, &metrics).await;
}

#[tokio::test]
async fn half_open_connections_leave_too() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node().await;
    // Sends nothing any more, but still listens.
    let mut peer = Peer::attached(&node).await;
    peer.0.shutdown().await.unwrap();
    assert_eq!(peer.closed().await, None);
    nothing_is_left(&node, &metrics).await;
}
