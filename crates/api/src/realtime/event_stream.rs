//! `GET /sse`: channels as server-sent events, for curl and for browsers without a library.
//!
//! Under it is a connection as any other, of which this is the transport: it attaches by itself,
//! counts, and is resumed by its last event id, which holds its key and the channels' serials.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream;
use headcount_realtime::{
    Broadcast, ConnectQuery, Content, Envelope, Format, Message, PresenceMessage, ProtocolError,
    ServerFrame,
};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::channels::CHANNELS_TOO_FAST;
use super::transport::{Broken, Carrier, Incoming, Transport};
use super::upgrade::enter;
use crate::credentials;
use crate::events::LAST_EVENT_ID;
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::routes::Shared;

/// Flushes that may wait for the client's connection to take them; after that the connection waits,
/// and its channels shed it.
const WAITING_MAX: usize = 8;

/// Where a stream is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    /// The connection's key.
    #[serde(rename = "k")]
    key: String,
    /// The serial of each channel.
    #[serde(rename = "c")]
    serials: BTreeMap<String, String>,
}

impl Place {
    fn token(&self) -> String {
        let text = serde_json::to_vec(self).expect("a map of text can be written");
        URL_SAFE_NO_PAD.encode(text)
    }

    fn parse(token: &str) -> Option<Self> {
        let text = URL_SAFE_NO_PAD.decode(token).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// A stream of server-sent events.
pub(crate) struct EventStream {
    out: mpsc::Sender<Bytes>,
    blocks: String,
    place: Place,
    /// Whether events carry whole messages, or their data alone.
    enveloped: bool,
    /// Frames that the client would send if it could.
    says: VecDeque<Bytes>,
}

/// `GET /sse` or `/event-stream`: `channels` are attached to, separated by commas; `rewind` and
/// `occupancy` are as on an attachment, `enveloped=false` leaves nothing but data, and the header
/// `Last-Event-ID` or `lastEvent` resumes.
pub(crate) async fn event_stream(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = &exchange.query;
    let credential = credentials::authenticate(&shared, &headers, query)?;
    let channels = query.given("channels").ok_or(Problem::Parameter {
        name: "channels",
        reason: "it names the channels to follow, separated by commas",
    })?;
    let header = headers
        .get(LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok());
    let last = header.filter(|text| !text.is_empty());
    let place = match last.or_else(|| query.given("lastEvent")) {
        None => None,
        Some(token) => Some(Place::parse(token).ok_or(Problem::Parameter {
            name: "lastEvent",
            reason: "it is not the id of an event of such a stream",
        })?),
    };
    let (out, blocks) = mpsc::channel(WAITING_MAX);
    let resume = place.as_ref().map(|place| place.key.clone());
    let place = place.unwrap_or_default();
    let params: BTreeMap<&str, &str> = ["rewind", "occupancy"]
        .into_iter()
        .filter_map(|name| Some((name, query.given(name)?)))
        .collect();
    let says = channels.split(',').map(|channel| {
        let mut attach = json!({
            "action": 10,
            "channel": channel,
            "params": params,
            "flags": SUBSCRIBE,
        });
        if let Some(serial) = place.serials.get(channel) {
            attach["channelSerial"] = serial.as_str().into();
        }
        Bytes::from(attach.to_string())
    });
    let stream = EventStream {
        out,
        blocks: String::new(),
        says: says.collect(),
        place,
        enveloped: query.get("enveloped") != Some("false"),
    };
    let connect = ConnectQuery {
        version: None,
        format: Format::Json,
        heartbeats: true,
        echo: true,
        resume,
        recover: None,
        client_id: query.given("clientId").map(str::to_owned),
        heartbeat_interval_ms: None,
        remain_present_for_ms: None,
    };
    let transport = Transport::new(Carrier::EventStream(stream), connect, credential);
    tokio::spawn(enter(Arc::clone(&shared.realtime), Box::new(transport)));
    let blocks = stream::unfold(blocks, |mut blocks| async {
        let block = blocks.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(block), blocks))
    });
    let event_stream = HeaderValue::from_static("text/event-stream");
    let body = Body::from_stream(blocks);
    Ok(([(header::CONTENT_TYPE, event_stream)], body).into_response())
}

/// The mode of an ATTACH that only listens.
const SUBSCRIBE: u64 = 1 << 18;

impl EventStream {
    pub(super) async fn next(&mut self) -> Incoming {
        match self.says.pop_front() {
            Some(frame) => Incoming::Payload(frame),
            None => {
                self.out.closed().await;
                Incoming::Gone
            }
        }
    }

    pub(super) async fn feed(&mut self, frame: &ServerFrame) -> Result<(), Broken> {
        match frame {
            ServerFrame::Heartbeat { .. } => self.blocks.push_str(":\n\n"),
            ServerFrame::Connected { details, .. } => {
                self.place.key.clone_from(&details.connection_key);
                // The first words, so that the client knows that it is heard.
                self.blocks.push_str(":\n\n");
            }
            ServerFrame::Attached {
                channel,
                channel_serial: Some(serial),
                ..
            } => {
                self.place.serials.insert(channel.clone(), serial.clone());
            }
            ServerFrame::Message {
                channel,
                channel_serial,
                envelope,
                messages,
            } => self.messages(channel, channel_serial.as_deref(), envelope, messages),
            ServerFrame::Error { channel, error } => self.error(channel.as_deref(), error),
            ServerFrame::Disconnected { error } => self.error(None, error),
            // To try again at once would help nobody.
            ServerFrame::Detached {
                channel,
                error: Some(error),
            } if error.code == CHANNELS_TOO_FAST => self.error(Some(channel), error),
            ServerFrame::Detached {
                channel,
                error: Some(_),
            } => {
                // A client with a library would attach again, where it was.
                let serial = self.place.serials.get(channel);
                let attach = json!({
                    "action": 10,
                    "channel": channel,
                    "flags": SUBSCRIBE,
                    "channelSerial": serial,
                });
                self.says.push_back(attach.to_string().into());
            }
            ServerFrame::Attached { .. }
            | ServerFrame::Detached { .. }
            | ServerFrame::Ack { .. }
            | ServerFrame::Nack { .. }
            | ServerFrame::Closed
            | ServerFrame::Presence { .. }
            | ServerFrame::Sync { .. }
            | ServerFrame::Auth => {}
        }
        Ok(())
    }

    pub(super) async fn feed_broadcast(
        &mut self,
        broadcast: &Broadcast,
        channel: &str,
        serial: Option<&str>,
    ) -> Result<(), Broken> {
        match broadcast.content() {
            Content::Messages(messages) => {
                self.messages(channel, serial, broadcast.envelope(), messages);
            }
            Content::Presence(changes) => self.presence(channel, changes),
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(&mut self.blocks);
        self.out.send(blocks.into()).await.map_err(|_| Broken)
    }

    fn messages(
        &mut self,
        channel: &str,
        serial: Option<&str>,
        envelope: &Envelope,
        messages: &[Message],
    ) {
        if let Some(serial) = serial {
            let serials = &mut self.place.serials;
            serials.insert(channel.to_owned(), serial.to_owned());
        }
        let last = messages.len().saturating_sub(1);
        for (index, message) in messages.iter().enumerate() {
            let whole = Message {
                id: message
                    .id
                    .clone()
                    .or_else(|| Some(format!("{}:{index}", envelope.id.as_deref()?))),
                timestamp_ms: message.timestamp_ms.or(envelope.timestamp_ms),
                connection_id: message
                    .connection_id
                    .clone()
                    .or_else(|| envelope.connection_id.clone()),
                ..message.clone()
            };
            // Of messages that came together only the last says where the stream is.
            let id = (index == last).then(|| self.place.token());
            self.block("message", id.as_deref(), channel, &whole);
        }
    }

    fn presence(&mut self, channel: &str, changes: &[PresenceMessage]) {
        for change in changes {
            self.block("presence", None, channel, change);
        }
    }

    fn error(&mut self, channel: Option<&str>, error: &ProtocolError) {
        let mut data = serde_json::to_value(error).expect("an error can be written");
        if let Some(channel) = channel {
            data["channel"] = channel.into();
        }
        self.blocks
            .push_str(&format!("event: error\ndata: {data}\n\n"));
    }

    fn block(&mut self, event: &str, id: Option<&str>, channel: &str, item: &impl Serialize) {
        let mut value = serde_json::to_value(item).expect("what was published can be written");
        let data = if self.enveloped {
            value["channel"] = channel.into();
            value.to_string()
        } else {
            value["data"].as_str().unwrap_or_default().to_owned()
        };
        if let Some(id) = id {
            self.blocks.push_str(&format!("id: {id}\n"));
        }
        self.blocks.push_str(&format!("event: {event}\n"));
        for line in data.split('\n') {
            self.blocks.push_str(&format!("data: {line}\n"));
        }
        self.blocks.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_token() {
        let place = Place {
            key: "a!b".to_owned(),
            serials: BTreeMap::from([("room,1".to_owned(), "s-1".to_owned())]),
        };
        let read = Place::parse(&place.token()).unwrap();
        assert_eq!((read.key, read.serials), (place.key, place.serials));
        assert!(Place::parse("nonsense!").is_none());
        assert!(Place::parse("bm9uc2Vuc2U").is_none());
    }
}
