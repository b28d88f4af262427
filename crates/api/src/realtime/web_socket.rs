//! A websocket: payloads in, payloads out.

use std::error::Error as _;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use headcount_realtime::{Format, ServerFrame};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite;

use super::transport::{Broken, Incoming};
use crate::telemetry;

/// How long a client may take to close a websocket that is to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a websocket stays open of which bytes are left unread: as long as what its client is
/// told needs to arrive.
const LINGER: Duration = Duration::from_millis(500);

/// Bytes that a connection's read buffer begins with. Each connection has one, and most frames are
/// smaller.
const READ_BUFFER: usize = 1024;

/// Bytes that are gathered before they are written, if nobody flushes before.
const WRITE_BUFFER: usize = 16 * 1024;

/// How many times the longest frame of the protocol a websocket takes. Whoever sends somewhat too
/// much can be told in good order then: what was sent is read, and a connection that is closed with
/// bytes unread takes back what its client was told.
const FRAME_GRACE: usize = 2;

/// How a websocket is taken, for a protocol whose frames have so many bytes at most.
pub(super) fn configured(upgrade: WebSocketUpgrade, frame_bytes_max: usize) -> WebSocketUpgrade {
    let max = frame_bytes_max.saturating_mul(FRAME_GRACE);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(usize::MAX)
        .max_frame_size(max)
        .max_message_size(max)
}

/// A websocket that a client opened.
pub(crate) struct Socket {
    socket: WebSocket,
    /// Whether it was given up with bytes unread, so that nothing more can be read from it.
    cut: bool,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client closed, or broke off, or broke the rules of websockets and was told.
    Gone,
    /// The client sends more at once than is read.
    TooLarge,
}

impl Socket {
    pub(super) fn new(socket: WebSocket) -> Self {
        Self { socket, cut: false }
    }

    pub(super) async fn next(&mut self) -> Incoming {
        match self.receive().await {
            Ok(Message::Text(text)) => Incoming::Payload(text.into()),
            Ok(Message::Binary(bytes)) => Incoming::Payload(bytes),
            Ok(Message::Ping(_) | Message::Pong(_)) => Incoming::Alive,
            Ok(Message::Close(_)) | Err(Ended::Gone) => Incoming::Gone,
            Err(Ended::TooLarge) => Incoming::TooLarge,
        }
    }

    /// Waits for a message, and sees an end that the client makes through.
    pub(super) async fn receive(&mut self) -> Result<Message, Ended> {
        let error = match self.socket.next().await {
            Some(Ok(Message::Close(_))) => {
                self.close(None).await;
                return Err(Ended::Gone);
            }
            Some(Ok(message)) => return Ok(message),
            Some(Err(error)) => error,
            None => return Err(Ended::Gone),
        };
        let code = match error.source().and_then(|error| error.downcast_ref()) {
            Some(tungstenite::Error::Capacity(_)) => {
                telemetry::rejected("websocket_frame_too_large");
                self.cut = true;
                return Err(Ended::TooLarge);
            }
            Some(tungstenite::Error::Utf8(_)) => close_code::INVALID,
            Some(tungstenite::Error::Protocol(fault)) if !is_end(fault) => close_code::PROTOCOL,
            _ => return Err(Ended::Gone),
        };
        telemetry::rejected("websocket_violation");
        self.cut = true;
        self.close(Some(code)).await;
        Err(Ended::Gone)
    }

    pub(super) async fn feed(&mut self, format: Format, payload: Bytes) -> Result<(), Broken> {
        self.socket
            .feed(message(format, payload))
            .await
            .map_err(|_| Broken)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        self.socket.flush().await.map_err(|_| Broken)
    }

    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        let ping = Message::Ping(Bytes::new());
        self.socket.send(ping).await.map_err(|_| Broken)
    }

    /// Sends a last frame, and closes in good order.
    pub(crate) async fn end(mut self, format: Format, frame: &ServerFrame) {
        let payload = message(format, frame.encode(format));
        let feeding = timeout(CLOSE_TIMEOUT, self.socket.feed(payload));
        if let Ok(Ok(())) = feeding.await {
            self.close(Some(close_code::NORMAL)).await;
        }
    }

    /// Closes with a code, or answers the client's closing, and waits until both have. Boxed, as it
    /// happens once in the life of a connection that has to be small.
    pub(super) fn close(&mut self, code: Option<u16>) -> BoxFuture<'_, ()> {
        async move {
            if let Some(code) = code {
                let close = CloseFrame {
                    code,
                    reason: "".into(),
                };
                let closing = self.socket.send(Message::Close(Some(close)));
                let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, closing).await else {
                    return;
                };
            }
            if self.cut {
                sleep(LINGER).await;
                return;
            }
            // To close with bytes unread would take back what the client has not read yet.
            let closed = async { while let Some(Ok(_)) = self.socket.next().await {} };
            let _late = timeout(CLOSE_TIMEOUT, closed).await;
        }
        .boxed()
    }
}

/// Whether a connection just ended, which is told as if a rule were broken.
fn is_end(fault: &tungstenite::error::ProtocolError) -> bool {
    use tungstenite::error::ProtocolError;
    matches!(
        fault,
        ProtocolError::ResetWithoutClosingHandshake
            | ProtocolError::SendAfterClosing
            | ProtocolError::ReceivedAfterClosing
    )
}

/// Frames are text or binary by their format.
fn message(format: Format, payload: Bytes) -> Message {
    match format {
        Format::Json => {
            let text = Utf8Bytes::try_from(payload).expect("JSON is UTF-8");
            Message::Text(text)
        }
        Format::MessagePack => Message::Binary(payload),
    }
}
