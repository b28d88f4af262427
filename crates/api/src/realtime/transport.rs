//! What carries a connection: a websocket both ways, or an event stream one way.

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use headcount_access::Credential;
use headcount_realtime::{Broadcast, ConnectQuery, ServerFrame};

use super::event_stream::EventStream;
use super::web_socket::Socket;

/// A way to a client, with what it asked for and who it is.
pub(crate) struct Transport {
    carrier: Carrier,
    pub(crate) query: ConnectQuery,
    pub(crate) credential: Credential,
}

/// What carries it.
#[expect(clippy::large_enum_variant, reason = "nearly all are websockets")]
pub(crate) enum Carrier {
    WebSocket(Socket),
    EventStream(EventStream),
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
    /// More at once than is read; nothing comes any more, but the client can be told.
    TooLarge,
    /// The client is gone.
    Gone,
}

/// Nothing can be sent any more.
#[derive(Debug)]
pub(crate) struct Broken;

impl Transport {
    pub(crate) fn new(carrier: Carrier, query: ConnectQuery, credential: Credential) -> Self {
        Self {
            carrier,
            query,
            credential,
        }
    }

    /// The name of what carries it, as `[meta]connection.lifecycle` has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.carrier {
            Carrier::WebSocket(_) => "web_socket",
            Carrier::EventStream(_) => "sse",
        }
    }

    /// Waits for what comes next. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Incoming {
        match &mut self.carrier {
            Carrier::WebSocket(socket) => socket.next().await,
            Carrier::EventStream(stream) => stream.next().await,
        }
    }

    /// Buffers a frame.
    pub(crate) async fn feed(&mut self, frame: &ServerFrame) -> Result<(), Broken> {
        match &mut self.carrier {
            Carrier::WebSocket(socket) => {
                let payload = frame.encode(self.query.format);
                socket.feed(self.query.format, payload).await
            }
            Carrier::EventStream(stream) => stream.feed(frame).await,
        }
    }

    /// Buffers what many are sent, for the channel as this client wrote it.
    pub(crate) async fn feed_broadcast(
        &mut self,
        broadcast: &Broadcast,
        channel: &str,
        serial: Option<&str>,
    ) -> Result<(), Broken> {
        match &mut self.carrier {
            Carrier::WebSocket(socket) => {
                let payload = broadcast.frame(self.query.format, channel, serial);
                socket.feed(self.query.format, payload).await
            }
            Carrier::EventStream(stream) => stream.feed_broadcast(broadcast, channel, serial).await,
        }
    }

    /// Sends what was buffered.
    pub(crate) async fn flush(&mut self) -> Result<(), Broken> {
        match &mut self.carrier {
            Carrier::WebSocket(socket) => socket.flush().await,
            Carrier::EventStream(stream) => stream.flush().await,
        }
    }

    /// Buffers a frame and sends it.
    pub(crate) async fn send(&mut self, frame: &ServerFrame) -> Result<(), Broken> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Asks for a sign of life, which nothing but a websocket can give; returns whether one is to
    /// be expected.
    pub(crate) async fn ping(&mut self) -> Result<bool, Broken> {
        match &mut self.carrier {
            Carrier::WebSocket(socket) => socket.ping().await.map(|()| true),
            Carrier::EventStream(stream) => stream.flush().await.map(|()| false),
        }
    }

    /// Sends a last frame and ends in good order; a client that does not take it is left. Boxed, as
    /// it happens once in the life of a connection that has to be small.
    pub(crate) fn finish(self: Box<Self>, frame: ServerFrame) -> BoxFuture<'static, ()> {
        async move {
            match self.carrier {
                Carrier::WebSocket(socket) => socket.end(self.query.format, &frame).await,
                Carrier::EventStream(mut stream) => {
                    if stream.feed(&frame).await.is_ok() {
                        let _sent = stream.flush().await;
                    }
                }
            }
        }
        .boxed()
    }
}
