//! One websocket of a connection: payloads in, payloads out.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use headcount_access::Credential;
use headcount_realtime::{ConnectQuery, Format, ServerFrame};
use tokio::time::timeout;

/// How long a client may take to close a websocket that is to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A websocket that a client opened, with what it asked for and who it is.
pub(crate) struct Transport {
    socket: WebSocket,
    pub(crate) query: ConnectQuery,
    pub(crate) credential: Credential,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A frame of the protocol, to be decoded in the connection's format.
    Payload(Bytes),
    /// Nothing but a sign of life.
    Alive,
    /// The websocket was closed, or broke.
    Gone,
}

/// The websocket cannot be written any more.
#[derive(Debug)]
pub(crate) struct Broken;

impl Transport {
    pub(crate) fn new(socket: WebSocket, query: ConnectQuery, credential: Credential) -> Self {
        Self {
            socket,
            query,
            credential,
        }
    }

    fn format(&self) -> Format {
        self.query.format
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Payload(text.into()),
            Some(Ok(Message::Binary(bytes))) => Incoming::Payload(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Alive,
            Some(Ok(Message::Close(_))) => {
                finish(&mut self.socket).await;
                Incoming::Gone
            }
            Some(Err(_)) | None => Incoming::Gone,
        }
    }

    /// Writes a frame into the socket's buffer.
    pub(crate) async fn feed(&mut self, frame: &ServerFrame) -> Result<(), Broken> {
        let payload = frame.encode(self.format());
        self.feed_payload(payload).await
    }

    /// Writes an encoded frame into the socket's buffer.
    pub(crate) async fn feed_payload(&mut self, payload: Bytes) -> Result<(), Broken> {
        let message = message(self.format(), payload);
        self.socket.feed(message).await.map_err(|_| Broken)
    }

    /// Sends what was fed.
    pub(crate) async fn flush(&mut self) -> Result<(), Broken> {
        self.socket.flush().await.map_err(|_| Broken)
    }

    /// Writes a frame and sends it.
    pub(crate) async fn send(&mut self, frame: &ServerFrame) -> Result<(), Broken> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Asks the client's websocket for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), Broken> {
        let ping = Message::Ping(Bytes::new());
        self.socket.send(ping).await.map_err(|_| Broken)
    }

    /// Sends a last frame and closes the websocket; a client that does not take it is left.
    pub(crate) async fn end(self, frame: &ServerFrame) {
        let format = self.format();
        refuse(self.socket, format, frame).await;
    }
}

/// Sends a last frame over a websocket, and closes it in good order.
pub(crate) async fn refuse(mut socket: WebSocket, format: Format, frame: &ServerFrame) {
    let closing = async {
        socket.feed(message(format, frame.encode(format))).await?;
        let close = CloseFrame {
            code: close_code::NORMAL,
            reason: "".into(),
        };
        socket.send(Message::Close(Some(close))).await
    };
    if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, closing).await {
        finish(&mut socket).await;
    }
}

/// Takes what the other side still sends until it has closed, too: to close with bytes unread would
/// take back what it has not read yet.
async fn finish(socket: &mut WebSocket) {
    let closed = async { while let Some(Ok(_)) = socket.next().await {} };
    let _late = timeout(CLOSE_TIMEOUT, closed).await;
}

/// Frames are text or binary by their format. What is encoded here is valid UTF-8 in JSON, and is
/// not looked through a second time where that can be had.
fn message(format: Format, payload: Bytes) -> Message {
    match format {
        Format::Json => match axum::extract::ws::Utf8Bytes::try_from(payload) {
            Ok(text) => Message::Text(text),
            Err(_) => unreachable!("JSON is UTF-8"),
        },
        Format::MessagePack => Message::Binary(payload),
    }
}
