//! The service over a real connection on loopback, with feeds in memory.

use std::sync::Mutex;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_model::{AppId, CursorError, EventKind, Position, ShardId, WatchEnd, WatchFilter};
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::{put_watch_request, take_watch_item};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Code, Streaming};

use super::*;

type Started = (WatchFilter, Option<String>, mpsc::Sender<WatchItem>);

/// Hands the other end of each watch to the test.
struct FakeWatches(Mutex<mpsc::Sender<Started>>);

impl Watches for FakeWatches {
    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>> {
        let started = self.0.lock().unwrap().clone();
        async move {
            match cursor.as_deref() {
                Some("damaged") => return Err(CursorError::Damaged.into()),
                Some("down") => return Err(WatchError::Unavailable("no replica".into())),
                _ => {}
            }
            let (sender, items) = mpsc::channel(1);
            started.send((filter, cursor, sender)).await.unwrap();
            Ok(ReceiverStream::new(items).boxed())
        }
        .boxed()
    }
}

struct FakeAdmission;

impl Admission for FakeAdmission {
    fn admit_watcher<'a>(
        &'a self,
        authorization: &'a str,
    ) -> BoxFuture<'a, Result<Admitted, Denied>> {
        let app = AppId::new("dev").unwrap();
        let admitted = match authorization {
            "Basic good" => Ok(Admitted {
                app,
                ended: std::future::pending().boxed(),
            }),
            "Bearer ended" => Ok(Admitted {
                app,
                ended: std::future::ready("it was revoked".to_owned()).boxed(),
            }),
            "Basic narrow" => Err(Denied::PermissionDenied("no subscribe".into())),
            _ => Err(Denied::Unauthenticated("no such key".into())),
        };
        async { admitted }.boxed()
    }
}

struct Port {
    client: FeedClient<Channel>,
    watches: mpsc::Receiver<Started>,
}

impl Port {
    async fn open(watchers_max: usize) -> Self {
        let (sender, watches) = mpsc::channel(8);
        let fake = Arc::new(FakeWatches(Mutex::new(sender)));
        let service = WatchService::new(Config { watchers_max }, fake, Arc::new(FakeAdmission));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(service.into_server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = FeedClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        Self { client, watches }
    }

    async fn watch(
        &mut self,
        authorization: &'static str,
        request: pb::WatchRequest,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        let mut request = Request::new(request);
        if !authorization.is_empty() {
            request
                .metadata_mut()
                .insert("authorization", authorization.parse().unwrap());
        }
        self.client.watch(request).await.map(Response::into_inner)
    }
}

fn item(n: u64) -> WatchItem {
    WatchItem::Gap {
        shard: ShardId(0),
        region: None,
        from: Position {
            index: n,
            ordinal: 0,
        },
        cursor: "c".into(),
    }
}

#[tokio::test]
async fn a_watch_goes_from_request_to_end() {
    let mut port = Port::open(1).await;
    let filter = WatchFilter {
        app: None,
        prefix: "room:".into(),
        kinds: [EventKind::Opened].into_iter().collect(),
    };
    let request = put_watch_request(&filter, Some("place".into()));
    let mut stream = port.watch("Basic good", request).await.unwrap();
    let (asked, cursor, items) = port.watches.recv().await.unwrap();
    assert_eq!(
        asked,
        WatchFilter {
            app: AppId::new("dev").ok(),
            ..filter
        }
    );
    assert_eq!(cursor.as_deref(), Some("place"));

    let end = WatchItem::End {
        reason: WatchEnd::TooSlow,
        cursor: "c".into(),
    };
    for sent in [item(1), WatchItem::Position { cursor: "c".into() }, end] {
        items.send(sent.clone()).await.unwrap();
        let response = stream.message().await.unwrap().expect("the watch goes on");
        assert_eq!(take_watch_item(response), Ok(sent));
    }
    assert!(
        stream.message().await.unwrap().is_none(),
        "nothing follows the end"
    );
    items.closed().await;
}

#[tokio::test]
async fn a_watch_ends_with_its_credential_and_makes_room() {
    let mut port = Port::open(1).await;
    let request = pb::WatchRequest::default;
    let mut stream = port.watch("Bearer ended", request()).await.unwrap();
    let (_, _, items) = port.watches.recv().await.unwrap();
    let end = stream.message().await.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);
    assert_eq!(
        end.message(),
        "it was revoked; resume with a new credential"
    );
    items.closed().await;
}

#[tokio::test]
async fn refusals_say_why() {
    let mut port = Port::open(1).await;
    let plain = pb::WatchRequest::default;
    let with_cursor = |cursor: &str| pb::WatchRequest {
        cursor: Some(cursor.into()),
        ..plain()
    };
    let unknown_kind = pb::WatchRequest {
        kinds: vec![0],
        ..plain()
    };
    let cases = [
        ("", plain(), Code::Unauthenticated),
        ("Basic bad", plain(), Code::Unauthenticated),
        ("Basic narrow", plain(), Code::PermissionDenied),
        ("Basic good", unknown_kind, Code::InvalidArgument),
        ("Basic good", with_cursor("damaged"), Code::InvalidArgument),
        ("Basic good", with_cursor("down"), Code::Unavailable),
    ];
    for (authorization, request, code) in cases {
        let status = port.watch(authorization, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{authorization:?}: {status}");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn a_watcher_that_leaves_makes_room() {
    let mut port = Port::open(1).await;
    let first = port
        .watch("Basic good", pb::WatchRequest::default())
        .await
        .unwrap();
    let (_, _, items) = port.watches.recv().await.unwrap();
    let refused = port
        .watch("Basic good", pb::WatchRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(first);
    items.closed().await;
    // The place is given back right after the stream, in the same drop.
    loop {
        match port.watch("Basic good", pb::WatchRequest::default()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_back_its_own_stream_only() {
    let mut port = Port::open(2).await;
    let stalled = port
        .watch("Basic good", pb::WatchRequest::default())
        .await
        .unwrap();
    let (_, _, stalled_items) = port.watches.recv().await.unwrap();
    let big = WatchItem::Position {
        cursor: "c".repeat(1 << 16),
    };
    let mut taken = 0_u64;
    // Fills the stream's flow-control window, then the node's end is no longer taken from.
    let patience = std::time::Duration::from_millis(300);
    while tokio::time::timeout(patience, stalled_items.send(big.clone()))
        .await
        .is_ok()
    {
        taken += 1;
        assert!(
            taken < 1_000,
            "65 MB are queued for a watcher that reads nothing"
        );
    }
    let mut reading = port
        .watch("Basic good", pb::WatchRequest::default())
        .await
        .unwrap();
    let (_, _, items) = port.watches.recv().await.unwrap();
    items.send(item(9)).await.unwrap();
    let response = reading.message().await.unwrap().unwrap();
    assert_eq!(take_watch_item(response), Ok(item(9)));
    drop(stalled);
}
