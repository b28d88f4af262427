//! Before the node can serve: everybody is told so at once, and the listener is handed on.

use std::sync::Arc;

use headcount_api::ports::Clock;
use headcount_api::{Config, serve_unready};
use headcount_model::Timestamp;
use headcount_net::Listener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::{Connection, ask};
use crate::node::{NOW_MS, root};

struct Now;

impl Clock for Now {
    fn wall(&self) -> Timestamp {
        Timestamp(NOW_MS)
    }
}

#[tokio::test]
async fn all_but_the_time_is_refused_until_the_node_is_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::from(listener);
    let address = listener.local_addr().unwrap();
    let ready = CancellationToken::new();
    let until = ready.clone().cancelled_owned();
    let served = tokio::spawn(async move {
        let reason = Arc::new(|| "not a member".to_owned());
        serve_unready(&Config::default(), &listener, Arc::new(Now), reason, until).await;
        listener
    });
    for target in ["/", "/channels", "/channels/a", "/events", "/nowhere"] {
        let answer = ask(address, "GET", target, &[&root()], b"").await;
        assert_eq!((answer.status, answer.code()), (503, 50305), "{target}");
        let message = answer.header("x-ably-errormessage").unwrap();
        assert!(message.contains("not a member"), "{message}");
    }
    let packed = ask(address, "GET", "/channels?format=msgpack", &[], b"").await;
    assert_eq!(packed.msgpack()["error"]["code"], 50305);
    let time = ask(address, "GET", "/time", &[], b"").await;
    assert_eq!((time.status, time.json()[0].as_u64()), (200, Some(NOW_MS)));

    // A connection that is kept ends; the next one finds the listener in other hands.
    let mut kept = Connection::open(address).await;
    assert_eq!(kept.ask("GET", "/time", &[], b"").await.status, 200);
    ready.cancel();
    kept.closed().await;
    let listener = served.await.unwrap();
    let _next = Connection::open(address).await;
    listener.accept().await.unwrap();
}
