//! A realtime client: enters members of a channel, and sees who is present.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::{Cluster, ROOT, wait_until};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const ACK: u64 = 1;
const CONNECTED: u64 = 4;
const CLOSE: u64 = 7;
const ERROR: u64 = 9;
const ATTACH: u64 = 10;
const ATTACHED: u64 = 11;
const PRESENCE: u64 = 14;
const SYNC: u64 = 16;

/// The flag of an ATTACHED that is followed by the presence set.
const HAS_PRESENCE: u64 = 1;

/// What is done with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum PresenceChange {
    /// It comes.
    Enter = 2,
    /// It goes.
    Leave = 3,
    /// It says something else.
    Update = 4,
}

/// Who is present: client id to what it says.
pub type Present = BTreeMap<String, String>;

/// A realtime client of one node, attached to one channel.
#[derive(Debug)]
pub struct RealtimeClient {
    channel: String,
    to: SplitSink<Socket, Message>,
    seen: Arc<Mutex<Seen>>,
    reading: JoinHandle<()>,
    serial: u64,
}

/// What a client was told.
#[derive(Debug, Default)]
struct Seen {
    /// With which the connection can be resumed.
    key: String,
    attached: bool,
    /// Whether the set was told.
    synced: bool,
    acknowledged: u64,
    /// By connection and client id.
    members: BTreeMap<(String, String), String>,
    /// The pages of a set so far, until its last.
    pages: BTreeMap<(String, String), String>,
    /// Client ids that were told to have come and gone, in order.
    story: Vec<(PresenceChange, String)>,
    failed: Option<String>,
}

impl RealtimeClient {
    /// Connects to a node and attaches to a channel; returns once the client knows who is present.
    pub async fn attach(cluster: &Cluster, node: usize, channel: &str) -> Self {
        Self::connect(cluster, node, channel, "").await
    }

    /// Breaks the connection without a word, and resumes at another node, where it is attached to
    /// the same channel.
    pub async fn move_to(self, cluster: &Cluster, node: usize) -> Self {
        let (channel, key) = (self.channel.clone(), lock(&self.seen).key.clone());
        drop(self);
        Self::connect(cluster, node, &channel, &format!("&resume={key}")).await
    }

    /// Ends the connection in good order.
    pub async fn close(mut self) {
        self.send(json!({ "action": CLOSE })).await;
        let seen = Arc::clone(&self.seen);
        wait_until("the node closes the connection", async || {
            let over = lock(&seen).failed.is_some();
            over.then_some(()).ok_or_else(|| "it is open".to_owned())
        })
        .await;
    }

    async fn connect(cluster: &Cluster, node: usize, channel: &str, more: &str) -> Self {
        let address = cluster.ports(node).client;
        let url = format!("ws://{address}/?key={ROOT}&v=6&format=json{more}");
        let (socket, _) = tokio_tungstenite::connect_async(url)
            .await
            .expect("a node takes clients");
        let (to, from) = socket.split();
        let seen = Arc::default();
        let mut client = Self {
            channel: channel.to_owned(),
            to,
            reading: tokio::spawn(read(from, Arc::clone(&seen))),
            seen,
            serial: 0,
        };
        client
            .send(json!({ "action": ATTACH, "channel": channel }))
            .await;
        let seen = Arc::clone(&client.seen);
        wait_until("a client is attached", async || {
            let seen = lock(&seen);
            let known = seen.attached && seen.synced;
            known.then_some(()).ok_or_else(|| format!("{seen:?}"))
        })
        .await;
        client
    }

    async fn send(&mut self, frame: Value) {
        let sent = self.to.send(Message::text(frame.to_string())).await;
        sent.expect("the connection stays");
    }

    /// Changes a member; returns once the node has acknowledged that.
    pub async fn change(&mut self, change: PresenceChange, client_id: &str, data: &str) {
        let serial = self.serial;
        self.serial += 1;
        self.send(json!({
            "action": PRESENCE,
            "channel": self.channel,
            "msgSerial": serial,
            "presence": [{ "action": change as u64, "clientId": client_id, "data": data }],
        }))
        .await;
        let seen = Arc::clone(&self.seen);
        wait_until("a change is acknowledged", async || {
            let seen = lock(&seen);
            let known = seen.acknowledged > serial;
            known.then_some(()).ok_or_else(|| format!("{seen:?}"))
        })
        .await;
    }

    /// Returns who is present, as far as the client was told.
    #[must_use]
    pub fn present(&self) -> Present {
        let seen = lock(&self.seen);
        let members = seen.members.iter();
        members
            .map(|((_, client_id), data)| (client_id.clone(), data.clone()))
            .collect()
    }

    /// Returns who came, went and changed since the client attached.
    #[must_use]
    pub fn story(&self) -> Vec<(PresenceChange, String)> {
        lock(&self.seen).story.clone()
    }
}

impl Drop for RealtimeClient {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut from: SplitStream<Socket>, seen: Arc<Mutex<Seen>>) {
    while let Some(Ok(message)) = from.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).expect("a node's frame is JSON");
        lock(&seen).take(&frame);
    }
    lock(&seen).failed = Some("the connection is over".to_owned());
}

impl Seen {
    fn take(&mut self, frame: &Value) {
        match frame["action"].as_u64() {
            Some(ACK) => self.acknowledged = frame["msgSerial"].as_u64().unwrap_or_default() + 1,
            Some(CONNECTED) => {
                let key = &frame["connectionDetails"]["connectionKey"];
                key.as_str().unwrap_or_default().clone_into(&mut self.key);
            }
            Some(ATTACHED) => {
                self.attached = true;
                self.synced = frame["flags"].as_u64().unwrap_or_default() & HAS_PRESENCE == 0;
            }
            Some(SYNC) => {
                for item in items(frame) {
                    let (key, data) = member(frame, item);
                    self.pages.insert(key, data);
                }
                let cursor = frame["channelSerial"].as_str().unwrap_or_default();
                if cursor.ends_with(':') {
                    self.members = std::mem::take(&mut self.pages);
                    self.synced = true;
                }
            }
            Some(PRESENCE) => {
                for item in items(frame) {
                    let (key, data) = member(frame, item);
                    let change = match item["action"].as_u64() {
                        Some(3) => PresenceChange::Leave,
                        Some(4) => PresenceChange::Update,
                        _ => PresenceChange::Enter,
                    };
                    self.story.push((change, key.1.clone()));
                    match change {
                        PresenceChange::Leave => drop(self.members.remove(&key)),
                        PresenceChange::Enter | PresenceChange::Update => {
                            self.members.insert(key, data);
                        }
                    }
                }
            }
            Some(ERROR) => self.failed = Some(frame.to_string()),
            _ => {}
        }
    }
}

fn items(frame: &Value) -> &[Value] {
    frame["presence"].as_array().map_or(&[], Vec::as_slice)
}

fn member(frame: &Value, item: &Value) -> ((String, String), String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let connection = match &item["connectionId"] {
        Value::Null => &frame["connectionId"],
        own => own,
    };
    let key = (text(connection), text(&item["clientId"]));
    (key, text(&item["data"]))
}
