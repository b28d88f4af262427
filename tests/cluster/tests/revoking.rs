//! Tokens that end before their time, everywhere.

use futures::StreamExt;
use headcount_cluster::{Cluster, Edge, PATIENCE, REGIONS, Reader, story, wait_until};
use headcount_model::WatchItem;
use headcount_wire::proto::feed::v1::WatchRequest;
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::proto::report::v1::report_request::Body;
use headcount_wire::proto::report::v1::reporter_client::ReporterClient;
use headcount_wire::proto::report::v1::{Hello, ReportRequest};
use headcount_wire::take_watch_item;
use serde_json::{Value, json};
use tonic::{Code, Request, Streaming};

async fn token(cluster: &Cluster, node: usize, client_id: &str) -> String {
    token_of(cluster, node, &json!({ "clientId": client_id })).await
}

async fn token_of(cluster: &Cluster, node: usize, request: &Value) -> String {
    let reader = Reader::new(cluster, node);
    let answer = reader
        .post("/keys/dev.root/requestToken", request)
        .await
        .unwrap();
    let details: Value = serde_json::from_str(&answer.body).unwrap();
    details["token"].as_str().unwrap().to_owned()
}

/// Waits until a node refuses a token.
async fn refused(cluster: &Cluster, node: usize, token: &str) {
    let reader = Reader::new(cluster, node).with_key(token);
    wait_until("the token is refused", async || {
        let answer = reader.get("/channels/room").await?;
        if answer.status == 401 && answer.error_code() == 40141 {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
}

#[test]
fn a_revoked_token_is_refused_everywhere_and_after_restarts() {
    story(async |_| {
        let mut cluster = Cluster::start(&REGIONS).await;
        let (bob, ann) = (
            token(&cluster, 0, "bob").await,
            token(&cluster, 0, "ann").await,
        );
        for node in cluster.running() {
            let answer = Reader::new(&cluster, node)
                .with_key(&bob)
                .get("/channels/room")
                .await;
            assert_eq!(answer.unwrap().status, 200);
        }
        let revoke = json!({ "targets": ["clientId:bob"] });
        let revoker = Reader::new(&cluster, 1);
        let answer = revoker
            .post("/keys/dev.root/revokeTokens", &revoke)
            .await
            .unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        // At once where it was revoked, and soon anywhere else.
        let at_once = Reader::new(&cluster, 1)
            .with_key(&bob)
            .get("/channels/room")
            .await;
        assert_eq!(at_once.unwrap().error_code(), 40141);
        for node in cluster.running() {
            refused(&cluster, node, &bob).await;
        }
        let others = Reader::new(&cluster, 2)
            .with_key(&ann)
            .get("/channels/room")
            .await;
        assert_eq!(others.unwrap().status, 200);

        cluster.kill(2).await;
        cluster.restart(2).await;
        cluster.wait_grown().await;
        refused(&cluster, 2, &bob).await;
        let fresh = token(&cluster, 2, "bob").await;
        let answer = Reader::new(&cluster, 0)
            .with_key(&fresh)
            .get("/channels/room")
            .await;
        assert_eq!(
            answer.unwrap().status,
            200,
            "tokens issued afterwards are good"
        );
        cluster.end().await;
    });
}

/// Streams of every kind that a token has opened at a node.
struct Open {
    watch: Streaming<headcount_wire::proto::feed::v1::WatchResponse>,
    report: Streaming<headcount_wire::proto::report::v1::ReportResponse>,
    /// `/events` and `/sse`.
    texts: [reqwest::Response; 2],
}

impl Open {
    async fn at(cluster: &Cluster, node: usize, who: &str, token: &str) -> Self {
        let bearer = format!("Bearer {token}");
        let reporter = format!("http://{}", cluster.ports(node).reporter);

        let mut request = Request::new(WatchRequest::default());
        let metadata = request.metadata_mut();
        metadata.insert("authorization", bearer.parse().unwrap());
        let mut feed = FeedClient::connect(reporter.clone()).await.unwrap();
        let mut watch = feed.watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap().expect("a watch begins");

        let hello = ReportRequest {
            body: Some(Body::Hello(Hello {
                protocol_min: 1,
                protocol_max: 1,
                edge: format!("{who}-{node}"),
                incarnation: 1,
                session: 1,
                ..Hello::default()
            })),
        };
        let mut request =
            Request::new(futures::stream::iter([hello]).chain(futures::stream::pending()));
        let metadata = request.metadata_mut();
        metadata.insert("authorization", bearer.parse().unwrap());
        let mut edge = ReporterClient::connect(reporter).await.unwrap();
        let mut report = edge.report(request).await.unwrap().into_inner();
        report.message().await.unwrap().expect("an edge is welcome");

        let get = async |path: &str| {
            let url = format!("http://{}{path}", cluster.ports(node).client);
            let request = cluster.http().get(url).header("authorization", &bearer);
            request.send().await.unwrap().error_for_status().unwrap()
        };
        let texts = [get("/events").await, get("/sse?channels=room").await];
        Self {
            watch,
            report,
            texts,
        }
    }

    /// Waits until all of them end, because of an error.
    async fn end_with(self, code: u64) {
        let Self {
            mut watch,
            mut report,
            texts,
        } = self;
        let why = format!("({code})");
        let watched = async {
            loop {
                if let Err(status) = watch.message().await {
                    return status;
                }
            }
        };
        let reported = async { report.message().await.expect_err("nothing is acknowledged") };
        let told = async {
            let [events, sse] = texts.map(reqwest::Response::text);
            (events.await.unwrap(), sse.await.unwrap())
        };
        let ends = async { tokio::join!(watched, reported, told) };
        let (watched, reported, (events, sse)) = tokio::time::timeout(PATIENCE, ends)
            .await
            .expect("all streams end");
        for status in [watched, reported] {
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert!(status.message().contains(&why), "{status}");
        }
        let end = events.rsplit("event: ").next().unwrap();
        assert!(end.starts_with("end\n") && end.contains(&why), "{end}");
        let end = sse.rsplit("event: ").next().unwrap();
        let expected = format!("\"code\":{code}");
        assert!(
            end.starts_with("error\n") && end.contains(&expected),
            "{end}"
        );
    }
}

#[test]
fn what_a_revoked_token_has_opened_ends_everywhere() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let (bob, ann) = (
            token(&cluster, 0, "bob").await,
            token(&cluster, 0, "ann").await,
        );
        let mut open = Vec::new();
        for node in cluster.running() {
            open.push(Open::at(&cluster, node, "bob", &bob).await);
        }
        let mut others = Open::at(&cluster, 2, "ann", &ann).await;
        let revoke = json!({ "targets": ["clientId:bob"] });
        let revoked = Reader::new(&cluster, 1)
            .post("/keys/dev.root/revokeTokens", &revoke)
            .await;
        assert_eq!(revoked.unwrap().status, 201);
        for open in open {
            open.end_with(40141).await;
        }
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        edge.attach("c", "later").await;
        let told = async {
            loop {
                let item = take_watch_item(others.watch.message().await.unwrap().unwrap());
                if let WatchItem::Events { events, .. } = item.unwrap()
                    && events
                        .iter()
                        .any(|told| told.event.channel.name.as_str() == "later")
                {
                    break;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.expect("what another token opened goes on");
        cluster.end().await;
    });
}

#[test]
fn no_stream_outlives_its_token() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS[..1]).await;
        let brief = token_of(&cluster, 0, &json!({ "clientId": "bob", "ttl": 4_000 })).await;
        let open = Open::at(&cluster, 0, "bob", &brief).await;
        open.end_with(40142).await;
        cluster.end().await;
    });
}
