//! The WebSocket cases of Autobahn's test suite, run on our sockets by kosoku.
//!
//! The protocol is no echo, which the cases want, so this one is, over the same upgrade and the same
//! [`Socket`].

use std::collections::BTreeMap;
use std::process::Command;

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade, close_code};
use axum::routing::any;
use headcount_realtime::Format;
use serde_json::Value;
use tokio::net::TcpListener;

use super::web_socket::{Ended, Socket, configured};

/// The longest frames that a node can be told to take; the longest cases are as long.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Verdicts on one case that are no failure: what it allows beside what it recommends, and what it
/// only reports.
const PASSED: [&str; 3] = ["OK", "NON-STRICT", "INFORMATIONAL"];

/// Fewest cases that are a run: as many as there are without compression, which is not offered.
const CASES_MIN: usize = 301;

/// Returns what it is sent, until the client closes.
async fn echo(mut socket: Socket) {
    loop {
        let (format, payload) = match socket.receive().await {
            Ok(Message::Text(text)) => (Format::Json, text.into()),
            Ok(Message::Binary(bytes)) => (Format::MessagePack, bytes),
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(_)) | Err(Ended::Gone) => return,
            Err(Ended::TooLarge) => return socket.close(Some(close_code::SIZE)).await,
        };
        let sent = async {
            socket.feed(format, payload).await?;
            socket.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants kosoku from PyPI: tests/clients/websocket installs it and runs this"]
async fn autobahns_cases_pass() {
    let kosoku = std::env::var("KOSOKU").expect("KOSOKU is the path of the runner");
    let router = Router::new().route(
        "/",
        any(async |upgrade: WebSocketUpgrade| {
            configured(upgrade, FRAME_BYTES_MAX).on_upgrade(|socket| echo(Socket::new(socket)))
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });

    let reports = std::env::temp_dir().join(format!("headcount-autobahn-{}", address.port()));
    let (out, target) = (reports.clone(), format!("{address}/"));
    let run = move || {
        Command::new(kosoku)
            .args(["-m", "fuzzingclient", "-p", "4"])
            // Compression, which is not offered.
            .args(["-x", "12.*", "-x", "13.*"])
            .arg("-o")
            .args([out.as_os_str(), target.as_ref()])
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let index = std::fs::read(reports.join("index.json"));
    let said = String::from_utf8_lossy(&output.stderr);
    let index = index.unwrap_or_else(|error| panic!("no report: {error}: {said}"));
    std::fs::remove_dir_all(&reports).unwrap();

    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_slice(&index).unwrap();
    let cases: Vec<(&String, &Value)> = index.values().flatten().collect();
    let (mut verdicts, mut failed) = (BTreeMap::new(), Vec::new());
    for (case, report) in &cases {
        for kind in ["behavior", "behaviorClose"] {
            let verdict = report[kind].as_str().unwrap();
            *verdicts.entry((kind, verdict)).or_insert(0) += 1;
            if !PASSED.contains(&verdict) {
                failed.push(format!("{case}: {kind} {verdict}"));
            }
        }
    }
    eprintln!("websocket: {} cases of Autobahn: {verdicts:?}", cases.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        cases.len() >= CASES_MIN,
        "{} cases only: {said}",
        cases.len()
    );
}
