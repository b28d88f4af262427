//! Bad input of every kind on every listener: a clear error, and everybody else is served.

use std::net::SocketAddr;

use headcount_cluster::{
    Cluster, Edge, GrpcEnd, ROOT, Reader, Watcher, agree_on_counts, authorization, grpc_call,
    grpc_encoded, grpc_message, send_bytes, story,
};
use headcount_wire::proto::feed::v1::WatchRequest;
use headcount_wire::proto::report::v1 as report;
use headcount_wire::proto::types::v1::Occupancy;
use tonic::Code;

const REPORT: &str = "/headcount.report.v1.Reporter/Report";
const WATCH: &str = "/headcount.feed.v1.Feed/Watch";

/// Short patience with clients that send nothing.
const IMPATIENT: [&str; 3] = [
    "api.header_timeout=300ms",
    "api.body_timeout=300ms",
    "reporter.hello_timeout=300ms",
];

async fn start() -> (Cluster, Edge) {
    let cluster = Cluster::start_with(&["us-east-1"], &IMPATIENT).await;
    let mut edge = Edge::start(&cluster, "good", &[0]);
    edge.attach("c1", "good").await;
    (cluster, edge)
}

/// Checks that the node goes on as if nothing had been.
async fn still_serves(cluster: &Cluster, edge: &mut Edge) {
    let watcher = Watcher::grpc(cluster, &[0], "still").await;
    edge.attach("c1", "still").await;
    agree_on_counts(cluster, &[edge]).await;
    watcher
        .wait_for("it is told", |history| history.is_open("still"))
        .await;
    watcher.wait_settled(&Reader::new(cluster, 0)).await;
    assert_eq!(cluster.admin(0, "/healthz").await.unwrap().0, 200);
    assert_eq!(cluster.admin(0, "/readyz").await.unwrap().0, 200);
}

fn listeners(cluster: &Cluster) -> [(&'static str, SocketAddr); 4] {
    let ports = cluster.ports(0);
    [
        ("client", ports.client),
        ("reporter", ports.reporter),
        ("peer", ports.peer),
        ("admin", ports.admin),
    ]
}

#[test]
fn bytes_that_are_no_request_end_the_connection() {
    story(async |_| {
        let (cluster, mut edge) = start().await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let after_preface = |bytes: &[u8]| [preface.as_slice(), bytes].concat();
        let noise: Vec<u8> = (0..4_096_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let kinds: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", Vec::new()),
            ("noise", noise.clone()),
            ("zeros", vec![0; 10_000]),
            (
                "TLS",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            ),
            ("half a request", b"GET /time HTT".to_vec()),
            (
                "no such method",
                b"BREW /pot HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
            ),
            ("no such version", b"GET / HTTP/9.9\r\n\r\n".to_vec()),
            (
                "a header without end",
                [
                    b"GET /time HTTP/1.1\r\nx: ".as_slice(),
                    &vec![b'a'; 300_000],
                ]
                .concat(),
            ),
            (
                "many headers",
                [
                    b"GET /time HTTP/1.1\r\n".to_vec(),
                    b"a: b\r\n".repeat(50_000),
                    b"\r\n".to_vec(),
                ]
                .concat(),
            ),
            (
                "a path without end",
                [b"GET /".as_slice(), &vec![b'a'; 300_000]].concat(),
            ),
            (
                "smuggling",
                b"POST /keys/a/requestToken HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\
                  transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
                    .to_vec(),
            ),
            (
                "a bad chunk",
                b"POST /keys/a.b/requestToken HTTP/1.1\r\nhost: x\r\n\
                  transfer-encoding: chunked\r\n\r\nzz\r\n"
                    .to_vec(),
            ),
            (
                "a negative length",
                b"POST /keys/a.b/requestToken HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"
                    .to_vec(),
            ),
            (
                "a frame beyond all bounds",
                after_preface(&[0xff, 0xff, 0xff, 0x00, 0x00, 0, 0, 0, 1]),
            ),
            ("noise after the preface", after_preface(&noise)),
            (
                "data on stream 0",
                after_preface(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 1]),
            ),
            (
                "a bad header block",
                after_preface(&[
                    0, 0, 4, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff,
                ]),
            ),
        ];
        for (listener, address) in listeners(&cluster) {
            for (kind, bytes) in &kinds {
                eprintln!("{kind} on {listener}");
                let answer = send_bytes(address, bytes).await;
                let text = String::from_utf8_lossy(&answer);
                assert!(
                    !text.starts_with("HTTP/1.1 2"),
                    "{kind} on {listener}: {text}"
                );
                assert!(
                    !text.starts_with("HTTP/1.1 500"),
                    "{kind} on {listener}: {text}"
                );
            }
        }
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}

#[test]
fn bad_requests_of_readers_are_told_what_is_wrong() {
    story(async |_| {
        let (cluster, mut edge) = start().await;
        let reader = Reader::new(&cluster, 0);
        let long = "a".repeat(2_049);
        let too_long_target = format!("/channels?prefix={}", "a".repeat(20_000));
        let long_channel = format!("/channels/{long}");
        let cases: Vec<(&str, u16, u64)> = vec![
            ("/", 404, 40400),
            ("/nothing/here", 404, 40400),
            ("/channels/good/messages?limit=0", 400, 40003),
            ("/channels/good/presence?limit=many", 400, 40003),
            ("/channels/good/history?cursor=%00", 400, 40011),
            ("/channels/", 400, 40010),
            ("/channels/%ff", 400, 40010),
            ("/channels/%", 400, 40010),
            ("/channels/a%0ab", 400, 40010),
            ("/channels/:a", 400, 40010),
            ("/channels/%5Bnonsense", 400, 40010),
            (&long_channel, 400, 40010),
            ("/channels/good?consistency=perhaps", 400, 40003),
            ("/channels/good?x=%f", 400, 40000),
            ("/channels?limit=0", 400, 40003),
            ("/channels?limit=-1", 400, 40003),
            ("/channels?limit=1001", 400, 40003),
            ("/channels?limit=99999999999999999999999", 400, 40003),
            ("/channels?limit=NaN", 400, 40003),
            ("/channels?by=chance", 400, 40003),
            ("/channels?cursor=nonsense", 400, 40011),
            ("/events?kinds=channel.exploded", 400, 40003),
            ("/events?cursor=nonsense", 400, 40011),
            (&too_long_target, 414, 41400),
        ];
        for (path, status, code) in cases {
            let answer = reader.get(path).await.unwrap();
            let short: String = path.chars().take(60).collect();
            assert_eq!(
                (answer.status, answer.error_code()),
                (status, code),
                "{short}: {answer:?}"
            );
        }
        let credentials = [
            ("dev.root:wrong", 401, 40101),
            ("dev.nobody:root-secret", 401, 40101),
            ("other.root:root-secret", 401, 40101),
            ("nonsense:", 400, 40005),
            ("dev.meta:meta-secret", 401, 40160),
        ];
        for (key, status, code) in credentials {
            let answer = reader.with_key(key).get("/channels/good").await.unwrap();
            assert_eq!(
                (answer.status, answer.error_code()),
                (status, code),
                "{key}: {answer:?}"
            );
        }

        // Headers, methods and bodies.
        let url = |path: &str| format!("http://{}{path}", cluster.ports(0).client);
        let http = cluster.http();
        let root = authorization(ROOT);
        let requests = [
            (
                http.delete(url("/channels/good"))
                    .header("authorization", &root),
                405,
            ),
            (http.post(url("/time")), 405),
            (http.get(url("/channels/good")), 401),
            (
                http.get(url("/channels/good"))
                    .header("authorization", "Digest x"),
                401,
            ),
            (
                http.get(url("/channels/good"))
                    .header("authorization", "Basic !!!"),
                400,
            ),
            (
                http.get(url("/channels/good"))
                    .header("authorization", "Bearer a.b.c"),
                401,
            ),
            (http.get(url("/time")).header("x-ably-version", "soon"), 400),
            (http.post(url("/keys/dev.root/requestToken")).body("{"), 400),
            (
                http.post(url("/keys/dev.root/requestToken")).body("[]"),
                400,
            ),
            (
                http.post(url("/keys/dev.root/requestToken"))
                    .body(vec![0xc1; 100]),
                400,
            ),
            (
                http.post(url("/keys/dev.root/requestToken"))
                    .body("a".repeat(100_000)),
                413,
            ),
            (http.get(url("/time")).header("x", "a".repeat(100_000)), 431),
        ];
        for (request, status) in requests {
            let request = request.build().unwrap();
            let what = format!("{} {}", request.method(), request.url());
            let answer = http.execute(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{what}: {answer:?}");
        }
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}

fn hello() -> report::Hello {
    report::Hello {
        protocol_min: 1,
        protocol_max: 1,
        edge: "raw".to_owned(),
        incarnation: 1,
        session: 1,
        resume_session: None,
    }
}

fn says(body: report::report_request::Body) -> Vec<u8> {
    grpc_encoded(&report::ReportRequest { body: Some(body) })
}

fn hello_says(change: impl FnOnce(&mut report::Hello)) -> Vec<u8> {
    let mut hello = hello();
    change(&mut hello);
    says(report::report_request::Body::Hello(hello))
}

fn batch_says(batch: report::Batch) -> Vec<u8> {
    says(report::report_request::Body::Batch(batch))
}

async fn reports(cluster: &Cluster, body: Vec<u8>) -> GrpcEnd {
    let root = authorization(ROOT);
    let headers = [("authorization", root.as_str())];
    let ended = grpc_call(cluster.ports(0).reporter, REPORT, &headers, body).await;
    ended.expect("the stream ends with a status")
}

#[test]
fn bad_streams_of_edges_end_with_a_reason() {
    story(async |_| {
        let (cluster, mut edge) = start().await;
        let address = cluster.ports(0).reporter;
        let good_hello = hello_says(|_| {});
        let after_hello = |bytes: &[u8]| [good_hello.as_slice(), bytes].concat();
        let batch = |sequence| report::Batch {
            sequence,
            items: Vec::new(),
            set_complete: false,
        };
        let item = report::Item { change: None };
        let many = report::Batch {
            items: vec![item; 5_000],
            ..batch(1)
        };
        let large = vec![0xff; 5 << 20];
        let cases: Vec<(&str, Vec<u8>, Code)> = vec![
            ("silence", Vec::new(), Code::Ok),
            ("no body", grpc_message(&[]), Code::InvalidArgument),
            (
                "no protobuf",
                grpc_message(&[0xff; 64]),
                Code::InvalidArgument,
            ),
            ("a batch first", batch_says(batch(1)), Code::InvalidArgument),
            (
                "no such protocol",
                hello_says(|hello| (hello.protocol_min, hello.protocol_max) = (9, 9)),
                Code::InvalidArgument,
            ),
            (
                "no protocol",
                hello_says(|hello| hello.protocol_max = 0),
                Code::InvalidArgument,
            ),
            (
                "no edge",
                hello_says(|hello| hello.edge.clear()),
                Code::InvalidArgument,
            ),
            (
                "a long edge",
                hello_says(|hello| hello.edge = "e".repeat(129)),
                Code::InvalidArgument,
            ),
            (
                "a control character",
                hello_says(|hello| hello.edge = "a\u{7}".into()),
                Code::InvalidArgument,
            ),
            (
                "no incarnation",
                hello_says(|hello| hello.incarnation = 0),
                Code::InvalidArgument,
            ),
            (
                "no session",
                hello_says(|hello| hello.session = 0),
                Code::InvalidArgument,
            ),
            (
                "a later session",
                hello_says(|hello| hello.resume_session = Some(7)),
                Code::InvalidArgument,
            ),
            (
                "hello twice",
                after_hello(&hello_says(|hello| hello.session = 2)),
                Code::InvalidArgument,
            ),
            (
                "sequence 0",
                after_hello(&batch_says(batch(0))),
                Code::FailedPrecondition,
            ),
            (
                "a hole",
                after_hello(&batch_says(batch(5))),
                Code::FailedPrecondition,
            ),
            (
                "too many items",
                after_hello(&batch_says(many)),
                Code::InvalidArgument,
            ),
            (
                "too many bytes",
                after_hello(&grpc_message(&large)),
                Code::InvalidArgument,
            ),
            (
                "garbage",
                after_hello(&grpc_message(&[0xff; 64])),
                Code::InvalidArgument,
            ),
        ];
        for (number, (kind, body, code)) in cases.into_iter().enumerate() {
            // Each has an edge of its own, lest one is refused for what another did.
            let body = rename(body, number);
            let ended = reports(&cluster, body).await;
            assert_eq!(ended.code, Some(code), "{kind}: {ended:?}");
            assert_eq!(
                ended.message.is_empty(),
                code == Code::Ok,
                "{kind}: {ended:?}"
            );
        }

        // The frame lies about its length, or says that it is compressed.
        for frame in [
            [0, 0xff, 0xff, 0xff, 0xff],
            [1, 0, 0, 0, 1],
            [9, 0, 0, 0, 0],
        ] {
            let ended = reports(&cluster, after_hello(&frame)).await;
            assert!(
                ended.code.is_some_and(|code| code != Code::Ok),
                "{frame:?}: {ended:?}"
            );
        }

        // Credentials, content types, paths.
        let root = authorization(ROOT);
        let wrong = authorization("dev.root:wrong");
        let meta = authorization("dev.meta:meta-secret");
        let call = async |path, headers: &[(&str, &str)]| {
            grpc_call(address, path, headers, good_hello.clone())
                .await
                .expect("a status")
        };
        for headers in [
            vec![],
            vec![("authorization", wrong.as_str())],
            vec![("authorization", "Basic !")],
        ] {
            let ended = call(REPORT, &headers).await;
            assert_eq!(
                ended.code,
                Some(Code::Unauthenticated),
                "{headers:?}: {ended:?}"
            );
            let ended = grpc_call(address, WATCH, &headers, grpc_message(&[]))
                .await
                .unwrap();
            assert_eq!(
                ended.code,
                Some(Code::Unauthenticated),
                "{headers:?}: {ended:?}"
            );
        }
        let ended = call(
            "/headcount.report.v1.Reporter/Nothing",
            &[("authorization", &root)],
        )
        .await;
        assert_eq!(ended.code, Some(Code::Unimplemented), "{ended:?}");
        let ended = call(
            REPORT,
            &[("authorization", &root), ("content-type", "text/plain")],
        )
        .await;
        assert!(
            ended.http == 415 || ended.code.is_some_and(|code| code != Code::Ok),
            "{ended:?}"
        );

        // Watchers.
        let watch = async |key: &str, request: &WatchRequest| {
            let headers = [("authorization", key)];
            let body = grpc_encoded(request);
            grpc_call(address, WATCH, &headers, body)
                .await
                .expect("a status")
        };
        let bad = [
            WatchRequest {
                channel_prefix: "a".repeat(2_049),
                ..WatchRequest::default()
            },
            WatchRequest {
                kinds: vec![0],
                ..WatchRequest::default()
            },
            WatchRequest {
                kinds: vec![99],
                ..WatchRequest::default()
            },
            WatchRequest {
                kinds: vec![-1],
                ..WatchRequest::default()
            },
            WatchRequest {
                cursor: Some(String::new()),
                ..WatchRequest::default()
            },
            WatchRequest {
                cursor: Some("nonsense".into()),
                ..WatchRequest::default()
            },
            WatchRequest {
                cursor: Some("A".repeat(100_000)),
                ..WatchRequest::default()
            },
        ];
        for request in &bad {
            let ended = watch(&root, request).await;
            assert_eq!(
                ended.code,
                Some(Code::InvalidArgument),
                "{request:?}: {ended:?}"
            );
            assert!(!ended.message.is_empty(), "{ended:?}");
        }
        let nometa = authorization("dev.nometa:nometa-secret");
        let ended = watch(&nometa, &WatchRequest::default()).await;
        assert_eq!(ended.code, Some(Code::PermissionDenied), "{ended:?}");
        assert!(meta != nometa);
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}

/// Gives a good hello inside `body` a name of its own of the same length.
fn rename(body: Vec<u8>, number: usize) -> Vec<u8> {
    let name = format!("{number:03}");
    let at = body.windows(5).position(|window| window == b"\x1a\x03raw");
    let mut body = body;
    if let Some(at) = at {
        body[at + 2..at + 5].copy_from_slice(name.as_bytes());
    }
    body
}

#[test]
fn bad_items_are_refused_singly_and_the_rest_counts() {
    story(async |_| {
        use headcount_wire::proto::report::v1::item::Change;
        let (cluster, mut edge) = start().await;
        let attach = |connection: &str, channel: &str, modes| {
            Change::Attach(report::Attach {
                connection: connection.into(),
                channel: channel.into(),
                modes,
            })
        };
        let counts = |channel: &str, connections| {
            let occupancy = Occupancy {
                connections,
                ..Occupancy::default()
            };
            Change::Counts(report::Counts {
                channel: channel.into(),
                occupancy: Some(occupancy),
            })
        };
        let enter = |connection: &str, channel: &str, member: &str| {
            Change::PresenceEnter(report::PresenceEnter {
                connection: connection.into(),
                channel: channel.into(),
                member: member.into(),
            })
        };
        let bad: Vec<(Option<Change>, report::RefusalCode)> = vec![
            (None, report::RefusalCode::UnknownItem),
            (Some(attach("c", "", 15)), report::RefusalCode::InvalidName),
            (Some(attach("", "a", 15)), report::RefusalCode::InvalidName),
            (
                Some(attach("c", "a\nb", 15)),
                report::RefusalCode::InvalidName,
            ),
            (
                Some(attach("c", "[meta]x", 15)),
                report::RefusalCode::InvalidName,
            ),
            (
                Some(attach("c", &"a".repeat(2_049), 15)),
                report::RefusalCode::InvalidName,
            ),
            (
                Some(attach(&"c".repeat(257), "a", 15)),
                report::RefusalCode::InvalidName,
            ),
            (
                Some(attach("c", "a", 64)),
                report::RefusalCode::InvalidModes,
            ),
            (
                Some(attach("c", "a", u32::MAX)),
                report::RefusalCode::InvalidModes,
            ),
            (
                Some(counts("b", 10_000_001)),
                report::RefusalCode::InvalidCount,
            ),
            (
                Some(counts("b", u32::MAX)),
                report::RefusalCode::InvalidCount,
            ),
            (Some(counts("attached", 1)), report::RefusalCode::Mixed),
            (
                Some(enter("c", "nowhere", "ann")),
                report::RefusalCode::NotAttached,
            ),
            (
                Some(enter("mute", "attached", "ann")),
                report::RefusalCode::NoPresenceMode,
            ),
            (
                Some(enter("c", "attached", "")),
                report::RefusalCode::InvalidName,
            ),
        ];
        let first = [attach("c", "attached", 15), attach("mute", "attached", 2)].map(Some);
        let last = [attach("d", "attached", 15)].map(Some);
        let changes = first
            .into_iter()
            .chain(bad.iter().map(|(change, _)| change.clone()))
            .chain(last);
        let items: Vec<_> = changes.map(|change| report::Item { change }).collect();

        // Over the generated client, to read the acknowledgement.
        let address = format!("http://{}", cluster.ports(0).reporter);
        let channel = tonic::transport::Endpoint::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = report::reporter_client::ReporterClient::new(channel);
        let say = |body| report::ReportRequest { body: Some(body) };
        let (requests, sent) = tokio::sync::mpsc::channel(4);
        requests
            .send(say(report::report_request::Body::Hello(hello())))
            .await
            .unwrap();
        let batch = report::Batch {
            sequence: 1,
            items,
            set_complete: true,
        };
        requests
            .send(say(report::report_request::Body::Batch(batch)))
            .await
            .unwrap();
        let requests_kept = requests;
        let stream =
            futures::stream::unfold(sent, |mut sent| async { Some((sent.recv().await?, sent)) });
        let mut request = tonic::Request::new(stream);
        request
            .metadata_mut()
            .insert("authorization", authorization(ROOT).parse().unwrap());
        let mut answers = client.report(request).await.unwrap().into_inner();
        let ack = loop {
            let answer = answers
                .message()
                .await
                .unwrap()
                .expect("an acknowledgement");
            if let Some(report::report_response::Body::Ack(ack)) = answer.body {
                break ack;
            }
        };
        assert_eq!(ack.sequence, 1);
        let refused: Vec<_> = ack
            .refusals
            .iter()
            .map(|refusal| (refusal.item, refusal.code()))
            .collect();
        let expected: Vec<_> = bad
            .iter()
            .zip(2..)
            .map(|((_, code), item)| (item, *code))
            .collect();
        assert_eq!(refused, expected, "{ack:?}");
        assert!(
            ack.refusals
                .iter()
                .all(|refusal| !refusal.message.is_empty()),
            "{ack:?}"
        );

        let reader = Reader::new(&cluster, 0);
        headcount_cluster::wait_until("the rest counts", async || {
            let status = reader.status("attached").await?;
            let counts = status.occupancy.counts();
            (counts == [3, 2, 3, 2, 0, 2, 0, 0])
                .then_some(())
                .ok_or_else(|| format!("{counts:?}"))
        })
        .await;
        assert_eq!(
            reader.list("").await.unwrap().len(),
            2,
            "nothing that was refused is there"
        );
        let log = reader.history("[meta]log", "forwards", 10).await.unwrap();
        let [entry] = &log[..] else {
            panic!("one batch was refused in part: {log:?}");
        };
        assert_eq!(entry["name"], "channel.occupancy");
        let data: serde_json::Value =
            serde_json::from_str(entry["data"].as_str().unwrap()).unwrap();
        assert_eq!(data["error"]["code"], 40000, "{data}");
        assert_eq!(data["refused"], bad.len(), "{data}");
        assert_eq!(data["region"], cluster.region(0), "{data}");
        requests_kept
            .send(say(report::report_request::Body::Goodbye(
                report::Goodbye {},
            )))
            .await
            .unwrap();
        assert!(answers.message().await.unwrap().is_none());
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}

#[test]
fn strangers_on_the_peer_listener_are_refused() {
    story(async |_| {
        let (cluster, mut edge) = start().await;
        let address = cluster.ports(0).peer;
        let exchange = "/headcount.consensus.v1.Consensus/Exchange";
        let tell = "/headcount.gossip.v1.Gossip/Tell";
        let noise: Vec<u8> = (0..2_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        for path in [
            exchange,
            tell,
            "/headcount.consensus.v1.Consensus/InstallSnapshot",
        ] {
            let ended = grpc_call(address, path, &[], grpc_message(&noise))
                .await
                .unwrap();
            assert_eq!(ended.code, Some(Code::Unauthenticated), "{path}: {ended:?}");
            let foreign = [
                ("headcount-node", "7"),
                ("headcount-incarnation", "1"),
                ("headcount-cluster", "0123456789abcdef0123456789abcdef"),
                ("headcount-fingerprint", "0"),
                ("headcount-protocol", "1-1"),
            ];
            let ended = grpc_call(address, path, &foreign, grpc_message(&noise))
                .await
                .unwrap();
            assert_eq!(
                ended.code,
                Some(Code::FailedPrecondition),
                "{path}: {ended:?}"
            );
            assert!(ended.message.contains("cluster"), "{path}: {ended:?}");
            // A member that sends nonsense harms nobody but its own stream.
            let status = cluster.status(0).await.unwrap();
            let id = status.cluster.unwrap().id;
            let fingerprint = cluster.fingerprint(0);
            let member = [
                ("headcount-node", "1"),
                ("headcount-incarnation", "1"),
                ("headcount-cluster", id.as_str()),
                ("headcount-fingerprint", fingerprint.as_str()),
                ("headcount-protocol", "1-1"),
            ];
            let ended = grpc_call(address, path, &member, grpc_message(&noise))
                .await
                .unwrap();
            assert!(
                ended.code.is_some_and(|code| code != Code::Ok),
                "{path}: {ended:?}"
            );
        }
        for method in ["Join", "Propose", "Renew", "ReadIndex"] {
            let path = format!("/headcount.control.v1.Control/{method}");
            for body in [Vec::new(), grpc_message(&[]), grpc_message(&noise)] {
                let ended = grpc_call(address, &path, &[], body).await.unwrap();
                assert!(
                    ended.code.is_some_and(|code| code != Code::Ok),
                    "{path}: {ended:?}"
                );
            }
        }
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}

#[test]
fn bad_requests_of_operators_are_told_what_is_wrong() {
    story(async |_| {
        let (cluster, mut edge) = start().await;
        let url = |path: &str| format!("http://{}{path}", cluster.ports(0).admin);
        let http = cluster.http();
        let requests = [
            (http.get(url("/nothing")), 404),
            (http.delete(url("/v1/status")), 405),
            (http.post(url("/v1/init")), 409),
            (http.post(url("/v1/nodes/abc/drain")), 400),
            (http.post(url("/v1/nodes/-1/drain")), 400),
            (
                http.post(url("/v1/nodes/99999999999999999999999/drain")),
                400,
            ),
            (http.post(url("/v1/nodes/77/drain")), 409),
            (http.post(url("/v1/nodes/1/explode")), 404),
            (http.put(url("/v1/weights")).body("{"), 400),
            (http.put(url("/v1/weights")).body("{}"), 400),
            (
                http.put(url("/v1/weights")).body("{\"us-east-1\": -1}"),
                400,
            ),
            (
                http.put(url("/v1/weights"))
                    .body("{\"us-east-1\": 99999999}"),
                400,
            ),
            (http.put(url("/v1/weights")).body("{\"nowhere\": 1}"), 409),
            (http.put(url("/v1/weights")).body("x".repeat(1 << 20)), 413),
            (http.put(url("/v1/settings")).body("{\"copies\": 0}"), 400),
            (http.put(url("/v1/settings")).body("{\"copies\": 99}"), 400),
            (
                http.put(url("/v1/settings"))
                    .body("{\"occupancy_interval_ms\": 999999999}"),
                400,
            ),
            (
                http.put(url("/v1/settings"))
                    .body("{\"occupancy_interval_ms\": 1e300}"),
                400,
            ),
            (http.put(url("/v1/settings")).body("{\"nonsense\": 1}"), 400),
        ];
        for (request, status) in requests {
            let request = request.build().unwrap();
            let body = request
                .body()
                .and_then(|body| body.as_bytes())
                .map(<[u8]>::to_vec);
            let body =
                body.map(|body| String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned());
            let what = format!("{} {} {body:?}", request.method(), request.url());
            let answer = http.execute(request).await.unwrap();
            let is = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            assert_eq!(is, status, "{what}: {text}");
            let told: serde_json::Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
            assert!(told["error"].is_string(), "{what}: {text}");
        }
        still_serves(&cluster, &mut edge).await;
        cluster.end().await;
    });
}
