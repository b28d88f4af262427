//! The service and its client over loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_model::{AppId, ConnectionId, Incarnation, NodeId};

use super::*;
use crate::call::testing::{asking, network};

const WITHIN: Duration = Duration::from_secs(10);

/// Has the connection of [`ask`], and another one that is not to be ended yet.
#[derive(Clone, Default)]
struct Holder {
    left: Arc<Mutex<Vec<(NodeId, Incarnation)>>>,
}

fn ask() -> ReleaseAsk {
    ReleaseAsk {
        app: AppId::new("dev").unwrap(),
        connection: ConnectionId::new("c1").unwrap(),
        secret: "s3cret".to_owned(),
        client: Client::Named("ann".to_owned()),
    }
}

impl HandOverPort for Holder {
    fn release(&self, asked: ReleaseAsk) -> BoxFuture<'_, Result<ReleaseReply, NotReleased>> {
        let reply = match asked.connection.as_str() {
            "held" => Err(NotReleased::Unavailable("not yet".to_owned())),
            "slow" => return std::future::pending().boxed(),
            _ if asked == ask() => Ok(ReleaseReply::Released),
            _ => Ok(ReleaseReply::Unknown),
        };
        async move { reply }.boxed()
    }

    fn left(&self, node: NodeId, incarnation: Incarnation) {
        self.left.lock().unwrap().push((node, incarnation));
    }
}

/// Serves a holder as node 2 and returns a client of a node of `cluster`.
async fn client_of(cluster: &str) -> HandOverClient {
    client_to(Holder::default(), cluster).await
}

async fn client_to(holder: Holder, cluster: &str) -> HandOverClient {
    let router = tonic::transport::Server::builder().add_service(service(&network("c"), holder));
    HandOverClient::new(asking(router, cluster, Duration::from_millis(5)).await)
}

fn connection(id: &str) -> ReleaseAsk {
    ReleaseAsk {
        connection: ConnectionId::new(id).unwrap(),
        ..ask()
    }
}

#[tokio::test]
async fn what_is_asked_comes_as_it_was_meant() {
    let client = client_of("c").await;
    let asked = client.release(NodeId(2), &ask(), WITHIN).await;
    assert_eq!(asked, Ok(ReleaseReply::Released));
    let others = [
        connection("c2"),
        ReleaseAsk {
            app: AppId::new("other").unwrap(),
            ..ask()
        },
        ReleaseAsk {
            secret: "guessed".to_owned(),
            ..ask()
        },
        ReleaseAsk {
            client: Client::Any,
            ..ask()
        },
        ReleaseAsk {
            client: Client::Anonymous,
            ..ask()
        },
    ];
    for other in others {
        let asked = client.release(NodeId(2), &other, WITHIN).await;
        assert_eq!(asked, Ok(ReleaseReply::Unknown), "{other:?}");
    }
}

#[tokio::test]
async fn who_has_no_answer_is_asked_again() {
    let client = client_of("c").await;
    let not_yet = client
        .release(NodeId(2), &connection("held"), WITHIN)
        .await
        .unwrap_err();
    assert!(matches!(not_yet, NotReleased::Unavailable(reason) if reason.contains("not yet")));
    let moment = Duration::from_millis(100);
    let slow = client.release(NodeId(2), &connection("slow"), moment).await;
    assert!(matches!(slow, Err(NotReleased::Unavailable(_))));
    let nobody = client.release(NodeId(3), &ask(), WITHIN).await;
    assert!(matches!(nobody, Err(NotReleased::Unavailable(_))));
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_by_its_field() {
    let client = client_of("c").await;
    let long = ReleaseAsk {
        secret: "x".repeat(65),
        ..ask()
    };
    let none = ReleaseAsk {
        secret: String::new(),
        ..ask()
    };
    let named = ReleaseAsk {
        client: Client::Named("x".repeat(257)),
        ..ask()
    };
    for (bad, field) in [(long, "secret"), (none, "secret"), (named, "client_id")] {
        let refused = client.release(NodeId(2), &bad, WITHIN).await.unwrap_err();
        assert!(
            matches!(&refused, NotReleased::Invalid(reason) if reason.contains(field)),
            "{refused:?}"
        );
    }
    let stranger = client_of("another").await;
    let refused = stranger.release(NodeId(2), &ask(), WITHIN).await;
    assert!(matches!(refused, Err(NotReleased::Invalid(reason)) if reason.contains("cluster")));
    assert!(!format!("{:?}", ask()).contains("s3cret"));
}

#[tokio::test]
async fn a_node_that_leaves_says_which_life_it_was() {
    let holder = Holder::default();
    let client = client_to(holder.clone(), "c").await;
    let left = client.leave(NodeId(2), Incarnation(7), WITHIN).await;
    assert_eq!(left, Ok(()));
    let none = client.leave(NodeId(2), Incarnation(0), WITHIN).await;
    assert!(matches!(none, Err(NotReleased::Invalid(reason)) if reason.contains("incarnation")));
    let stranger = client_to(holder.clone(), "another").await;
    let refused = stranger.leave(NodeId(2), Incarnation(8), WITHIN).await;
    assert!(matches!(refused, Err(NotReleased::Invalid(_))));
    assert_eq!(*holder.left.lock().unwrap(), [(NodeId(1), Incarnation(7))]);
}
