//! Presence sets when nodes do not reach each other, and when regional owners move.

use std::collections::BTreeMap;

use headcount_cluster::PresenceChange::{Enter, Leave, Update};
use headcount_cluster::{Cluster, Present, REGIONS, Reader, RealtimeClient, story, wait_until};
use headcount_model::Category;
use serde_json::Value;

const ROOM: &str = "room";

/// What REST says of the presence set, and how many members are counted.
async fn asked(reader: &Reader) -> Result<(Present, u64), String> {
    let answer = reader.get(&format!("/channels/{ROOM}/presence")).await?;
    if answer.status != 200 {
        return Err(format!("{answer:?}"));
    }
    let items: Vec<Value> =
        serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let present: Present = items
        .iter()
        .map(|item| (text(&item["clientId"]), text(&item["data"])))
        .collect();
    if present.len() != items.len() {
        return Err(format!("somebody is there twice: {items:?}"));
    }
    let status = reader.status(ROOM).await?;
    Ok((
        present,
        u64::from(status.occupancy.get(Category::PresenceMembers)),
    ))
}

/// Waits until nodes say by REST who is present, and count as many.
async fn present(cluster: &Cluster, nodes: &[usize], expected: &Present) {
    for node in nodes {
        let reader = Reader::new(cluster, *node);
        wait_until(&format!("node {node} says who is present"), async || {
            let (present, counted) = asked(&reader).await?;
            if present == *expected && counted == expected.len() as u64 {
                Ok(())
            } else {
                Err(format!("{present:?}, {counted} counted, not {expected:?}"))
            }
        })
        .await;
    }
}

/// Waits until clients have been told who is present.
async fn told(clients: &[&RealtimeClient], expected: &Present) {
    for client in clients {
        wait_until("a client is told who is present", async || {
            let present = client.present();
            let same = present == *expected;
            same.then_some(())
                .ok_or_else(|| format!("{present:?}, not {expected:?}"))
        })
        .await;
    }
}

/// Waits until everybody agrees on who is present: nodes by REST and by the SYNC of a new client,
/// and those who were attached all the time.
async fn agreed(cluster: &Cluster, clients: &[&RealtimeClient], expected: &Present) {
    let nodes = cluster.running();
    present(cluster, &nodes, expected).await;
    told(clients, expected).await;
    for node in nodes {
        let fresh = RealtimeClient::attach(cluster, node, ROOM).await;
        told(&[&fresh], expected).await;
    }
}

fn set(members: &[(&str, &str)]) -> Present {
    let members = members.iter();
    members
        .map(|(client_id, data)| ((*client_id).to_owned(), (*data).to_owned()))
        .collect::<BTreeMap<_, _>>()
}

#[test]
fn sets_that_changed_on_both_sides_of_a_cut_are_one_again() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        cluster.wait_grown().await;
        let mut clients = Vec::new();
        for node in 0..3 {
            clients.push(RealtimeClient::attach(&cluster, node, ROOM).await);
        }
        for (node, client_id) in [(0, "ann"), (1, "bob"), (2, "dora"), (2, "eve")] {
            clients[node].change(Enter, client_id, "before").await;
        }
        let before = [
            ("ann", "before"),
            ("bob", "before"),
            ("dora", "before"),
            ("eve", "before"),
        ];
        agreed(&cluster, &clients.iter().collect::<Vec<_>>(), &set(&before)).await;

        // Somebody comes, goes and changes on both sides of a cut.
        cluster.isolate(2);
        clients[0].change(Update, "ann", "changed").await;
        clients[1].change(Leave, "bob", "").await;
        clients[1].change(Enter, "carl", "late").await;
        clients[2].change(Update, "dora", "changed").await;
        clients[2].change(Leave, "eve", "").await;
        clients[2].change(Enter, "finn", "late").await;

        // Each side knows its own at once. The others are unknown to the one that is alone, which
        // shows them as they were; the majority takes them for gone with the region's lease.
        let alone = set(&[
            ("ann", "before"),
            ("bob", "before"),
            ("dora", "changed"),
            ("finn", "late"),
        ]);
        told(&[&clients[2]], &alone).await;
        let most = set(&[("ann", "changed"), ("carl", "late")]);
        told(&[&clients[0], &clients[1]], &most).await;
        present(&cluster, &[0, 1], &most).await;

        cluster.cut(2, None);
        let after = set(&[
            ("ann", "changed"),
            ("carl", "late"),
            ("dora", "changed"),
            ("finn", "late"),
        ]);
        agreed(&cluster, &clients.iter().collect::<Vec<_>>(), &after).await;

        // And what happens next is told everywhere.
        clients[2].change(Leave, "dora", "").await;
        clients[0].change(Enter, "gus", "new").await;
        let last = set(&[
            ("ann", "changed"),
            ("carl", "late"),
            ("finn", "late"),
            ("gus", "new"),
        ]);
        agreed(&cluster, &clients.iter().collect::<Vec<_>>(), &last).await;
        drop(clients);
        cluster.end().await;
    });
}

#[test]
fn nobody_seems_to_leave_when_a_regional_owner_moves() {
    story(async |_| {
        // Two nodes in the region whose owner moves.
        let mut cluster = Cluster::start(&["us-east-1", "us-east-1", "eu-west-1"]).await;
        cluster.wait_grown().await;
        let owner = cluster.owner_of("us-east-1", ROOM).await;
        let next = 1 - owner;
        let mut near = RealtimeClient::attach(&cluster, next, ROOM).await;
        let mut far = RealtimeClient::attach(&cluster, 2, ROOM).await;
        let mut lost = RealtimeClient::attach(&cluster, owner, ROOM).await;
        near.change(Enter, "near", "here").await;
        far.change(Enter, "far", "here").await;
        lost.change(Enter, "lost", "here").await;
        let before = set(&[("far", "here"), ("lost", "here"), ("near", "here")]);
        agreed(&cluster, &[&near, &far], &before).await;

        // Its node dies, and with its lease the member that it had. Members change meanwhile.
        cluster.kill(owner).await;
        near.change(Update, "near", "changed").await;
        far.change(Enter, "late", "here").await;
        let after = set(&[("far", "here"), ("late", "here"), ("near", "changed")]);
        agreed(&cluster, &[&near, &far], &after).await;
        for client in [&near, &far] {
            let left: Vec<_> = client
                .story()
                .into_iter()
                .filter_map(|(change, client_id)| (change == Leave).then_some(client_id))
                .collect();
            assert_eq!(left, ["lost"], "nobody else seemed to leave");
        }

        // And back again, if the control group so decides.
        cluster.restart(owner).await;
        cluster.wait_grown().await;
        near.change(Leave, "near", "").await;
        let last = set(&[("far", "here"), ("late", "here")]);
        agreed(&cluster, &[&near, &far], &last).await;
        drop((near, far, lost));
        cluster.end().await;
    });
}
