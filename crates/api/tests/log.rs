//! `[meta]log`: what happened that no client could be told.

use std::time::Duration;

use headcount_api::Loss;
use headcount_model::{AppId, ChannelName, EdgeId, Refusal as ItemRefusal, RefusalReason};
use headcount_relay::RelayChannel;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};

use crate::node::Node;
use crate::realtime::Client;

const LOG: &str = "[meta]log";

/// What a node writes at once.
const BURST: usize = 50;

/// What it writes in a second, in the long run.
const PER_SECOND: usize = 10;

fn app() -> AppId {
    AppId::new("dev").unwrap()
}

/// Waits for the next message of the log: its name and its data.
async fn entry(client: &mut Client) -> (String, Value) {
    let (name, data) = client.message(LOG).await;
    (name, serde_json::from_str(&data).unwrap())
}

#[tokio::test]
async fn what_was_lost_is_told_once_for_all_of_its_kind() {
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach(LOG, json!({})).await;
    let channel = |name: &str| RelayChannel {
        app: app(),
        name: name.into(),
    };
    node.realtime.lost(&channel("a"), Loss::Crowded, 2);
    node.realtime.lost(&channel("b"), Loss::Crowded, 3);
    let (name, data) = entry(&mut client).await;
    assert_eq!(name, "channel.message");
    let expected = json!({ "code": 42910, "statusCode": 429 });
    assert_eq!(
        (&data["error"]["code"], &data["error"]["statusCode"]),
        (&expected["code"], &expected["statusCode"])
    );
    assert_eq!((&data["channel"], &data["lost"]), (&json!("a"), &json!(5)));
    assert!(
        data["region"].is_string() && data["node"].is_string(),
        "{data}"
    );

    // What is lost of the log itself is counted and not told, lest that is lost, too.
    node.realtime.lost(&channel(LOG), Loss::Unsent, 1);
    node.realtime.lost(&channel("c"), Loss::Members, 4);
    let (name, data) = entry(&mut client).await;
    assert_eq!(
        (&*name, &data["channel"]),
        ("channel.presence", &json!("c"))
    );
    assert_eq!(data["error"]["code"], 91003);
}

#[tokio::test]
async fn no_more_is_written_than_the_rate_and_the_rest_is_counted() {
    const REFUSED: usize = 300;
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach(LOG, json!({})).await;
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let channel = ChannelName::new("private:1").unwrap();
    let refusal = ItemRefusal {
        item: 0,
        reason: RefusalReason::NotPermitted(channel),
    };
    let edge = EdgeId::new("edge-1").unwrap();
    let start = std::time::Instant::now();
    metrics::with_local_recorder(&recorder, || {
        for _ in 0..REFUSED {
            let refusals = std::slice::from_ref(&refusal);
            node.realtime.edge_refused(&app(), &edge, refusals);
        }
    });
    // A slow machine may have earned some more meanwhile.
    let earned = start.elapsed().as_millis() as usize * PER_SECOND / 1_000 + 1;
    let counted = metrics.render();
    let unwritten = counted
        .lines()
        .find_map(|line| line.strip_prefix("api_rejected_total{reason=\"log_rate\"} "));
    let unwritten: usize = unwritten.expect("it is counted").parse().unwrap();
    let written = REFUSED - unwritten;
    assert!(
        (BURST..=BURST + earned).contains(&written),
        "{written} were written"
    );

    // All of these are told, and what is written once there is room again.
    for _ in 0..written {
        let (name, data) = entry(&mut client).await;
        assert_eq!(name, "channel.occupancy");
        assert_eq!(
            (&data["error"]["code"], &data["edge"]),
            (&json!(40160), &json!("edge-1"))
        );
    }
    let edge = EdgeId::new("edge-2").unwrap();
    let going_on = async {
        loop {
            let refusals = std::slice::from_ref(&refusal);
            node.realtime.edge_refused(&app(), &edge, refusals);
            // allow-sleep: the rate is of real time, and what is above it is not written later
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        (_, data) = entry(&mut client) => assert_eq!(data["edge"], "edge-2", "the log goes on"),
        () = going_on => {}
    }
}
