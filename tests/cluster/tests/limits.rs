//! Limits of an app as its settings have them, on nodes that run.

use headcount_cluster::{Cluster, ROOT, story};

/// The usual app, which may do little, and one of which nothing is said.
const APPS: &str = r#"app=[
    { id = "dev",
      limits = { app_requests_per_second = 5, channel_messages_per_second = 1 },
      key = [{ id = "root", secret = "root-secret", capability = { "[*]*" = ["*"] } }] },
    { id = "other",
      key = [{ id = "root", secret = "other-secret", capability = { "[*]*" = ["*"] } }] },
]"#;

/// Publishes once, and returns the status and the code of what is refused.
async fn publish(cluster: &Cluster, node: usize, key: &str) -> (u16, Option<String>) {
    let address = cluster.ports(node).client;
    let url = format!("http://{address}/channels/room/messages");
    let (name, secret) = key.split_once(':').expect("a key");
    let request = cluster.http().post(url).basic_auth(name, Some(secret));
    let request = request
        .header("content-type", "application/json")
        .body(r#"{"name":"x"}"#);
    let answer = request.send().await.expect("the node answers");
    let code = answer.headers().get("x-ably-errorcode");
    let code = code.map(|code| code.to_str().expect("a number").to_owned());
    (answer.status().as_u16(), code)
}

/// Publishes until it is refused by a code.
async fn refused(cluster: &Cluster, node: usize, key: &str, code: &str) {
    for _ in 0..1_000 {
        let (status, told) = publish(cluster, node, key).await;
        if told.as_deref() == Some(code) {
            assert_eq!(status, 429);
            return;
        }
    }
    panic!("nothing is refused with {code}");
}

#[test]
fn an_apps_own_limits_hold_for_it_alone_and_its_rates_on_each_node() {
    story(async |_| {
        let cluster = Cluster::start_with(&["us-east-1", "eu-west-1"], &[APPS]).await;
        refused(&cluster, 0, ROOT, "42913").await;
        refused(&cluster, 0, ROOT, "42918").await;
        for _ in 0..20 {
            let (status, _) = publish(&cluster, 0, "other.root:other-secret").await;
            assert_eq!(status, 201);
        }
        // Another node counts for itself.
        assert_eq!(publish(&cluster, 1, ROOT).await.0, 201);
        let (_, metrics) = cluster.admin(0, "/metrics").await.unwrap();
        for reason in ["channel_message_rate", "app_request_rate"] {
            let counted = format!("api_rejected_total{{reason=\"{reason}\"}}");
            assert!(metrics.contains(&counted), "{counted}:\n{metrics}");
        }
        cluster.end().await;
    });
}
