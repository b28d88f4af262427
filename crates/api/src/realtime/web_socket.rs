//! A websocket: payloads in, payloads out.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use headcount_realtime::{Format, ServerFrame};
use tokio::time::timeout;

use super::transport::{Broken, Incoming};

/// How long a client may take to close a websocket that is to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A websocket that a client opened.
pub(crate) struct Socket(pub(crate) WebSocket);

impl Socket {
    pub(super) async fn next(&mut self) -> Incoming {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Payload(text.into()),
            Some(Ok(Message::Binary(bytes))) => Incoming::Payload(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Alive,
            Some(Ok(Message::Close(_))) => {
                self.finish().await;
                Incoming::Gone
            }
            Some(Err(_)) | None => Incoming::Gone,
        }
    }

    pub(super) async fn feed(&mut self, format: Format, payload: Bytes) -> Result<(), Broken> {
        self.0
            .feed(message(format, payload))
            .await
            .map_err(|_| Broken)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        self.0.flush().await.map_err(|_| Broken)
    }

    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        let ping = Message::Ping(Bytes::new());
        self.0.send(ping).await.map_err(|_| Broken)
    }

    /// Sends a last frame, and closes in good order.
    pub(crate) async fn end(mut self, format: Format, frame: &ServerFrame) {
        let closing = async {
            self.0.feed(message(format, frame.encode(format))).await?;
            let close = CloseFrame {
                code: close_code::NORMAL,
                reason: "".into(),
            };
            self.0.send(Message::Close(Some(close))).await
        };
        if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, closing).await {
            self.finish().await;
        }
    }

    /// Takes what the other side still sends until it has closed, too: to close with bytes unread
    /// would take back what it has not read yet.
    async fn finish(&mut self) {
        let closed = async { while let Some(Ok(_)) = self.0.next().await {} };
        let _late = timeout(CLOSE_TIMEOUT, closed).await;
    }
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
