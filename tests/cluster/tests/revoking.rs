//! Tokens that end before their time, everywhere.

use headcount_cluster::{Cluster, REGIONS, Reader, story, wait_until};
use serde_json::{Value, json};

async fn token(cluster: &Cluster, node: usize, client_id: &str) -> String {
    let request = json!({ "clientId": client_id });
    let reader = Reader::new(cluster, node);
    let answer = reader
        .post("/keys/dev.root/requestToken", &request)
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
