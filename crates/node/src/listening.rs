//! Listeners that nobody can hold up: a bound on connections, a time to begin in, and an end with
//! the node. For those that bring no such thing themselves: gRPC's and the operators'.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use headcount_net::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::telemetry::{self, Entered};

/// How long to wait before accepting again when the process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection must have sent to be believed that it speaks: HTTP/2's preface. The shortest
/// request of HTTP/1.1 is longer, too, as it names a host.
const BEGINNING_BYTES: usize = 24;

/// What a listener puts up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Most connections; further ones are closed at once.
    pub(crate) connections_max: usize,
    /// How long a connection may take to begin. From then on HTTP/2 probes it.
    pub(crate) beginning: Duration,
    /// How long it may send nothing afterwards, where nothing probes it.
    pub(crate) silence: Option<Duration>,
}

/// A bound listener under terms.
#[derive(Debug)]
pub(crate) struct Listening {
    name: &'static str,
    listener: Listener,
    terms: Terms,
    permits: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Listening {
    /// Takes a listener over. `name` is what metrics call it.
    pub(crate) fn new(
        name: &'static str,
        listener: Listener,
        terms: Terms,
        ended: CancellationToken,
    ) -> Self {
        Self {
            name,
            listener,
            terms,
            permits: Arc::new(Semaphore::new(terms.connections_max)),
            ended,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for the next connection. An error is no reason to end: the process may have run out of
    /// files for a while.
    pub(crate) async fn accept(&self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    telemetry::connection_rejected(self.name, "accept_failed");
                    if !is_of_one_connection(&error) {
                        let listener = self.name;
                        tracing::warn!(target: "node", listener, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                telemetry::connection_rejected(self.name, "connections");
                continue;
            };
            // Small messages must not wait for acknowledgements; a socket that refuses is about
            // to fail.
            let _set = stream.set_nodelay(true);
            return (self.connection(stream, permit), peer);
        }
    }

    fn connection(&self, stream: Stream, permit: OwnedSemaphorePermit) -> Connection {
        Connection {
            stream,
            listener: self.name,
            awaited: Some(Awaited {
                bytes: BEGINNING_BYTES,
                deadline: Box::pin(sleep(self.terms.beginning)),
            }),
            silence: self.terms.silence,
            ended: Box::pin(self.ended.clone().cancelled_owned()),
            _permit: permit,
            _entered: telemetry::connection(self.name),
        }
    }

    /// Returns the connections as tonic takes them; never ends and never fails.
    pub(crate) fn incoming(&self) -> impl futures::Stream<Item = io::Result<Connection>> {
        futures::stream::unfold(self, |listening| async move {
            let (connection, _) = listening.accept().await;
            Some((Ok(connection), listening))
        })
    }
}

/// Whether accepting failed because of the connection, so that the next one may do.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

impl axum::serve::Listener for Listening {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that breaks when its node ends, or when it stays silent. The server's own shutdown
/// waits for streams to end, which those between nodes and those of edges never do; a peer whose
/// stream stays open to a node that is gone would not look for the one that takes its place.
pub(crate) struct Connection {
    stream: Stream,
    listener: &'static str,
    awaited: Option<Awaited>,
    silence: Option<Duration>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
    _entered: Entered,
}

/// What must come, and until when.
struct Awaited {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Ready(()) => Err(ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Notes that something came.
    fn received(&mut self, bytes: usize) {
        let Some(awaited) = &mut self.awaited else {
            return;
        };
        awaited.bytes = awaited.bytes.saturating_sub(bytes);
        if awaited.bytes > 0 {
            return;
        }
        match self.silence {
            Some(silence) => awaited.deadline.as_mut().reset(Instant::now() + silence),
            None => self.awaited = None,
        }
    }

    /// Says whether nothing came for too long.
    fn waited(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(awaited) = &mut self.awaited else {
            return Poll::Pending;
        };
        std::task::ready!(awaited.deadline.as_mut().poll(context));
        let reason = if awaited.bytes > 0 { "silent" } else { "idle" };
        telemetry::connection_rejected(self.listener, reason);
        self.awaited = None;
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                self.received(buffer.filled().len() - before);
                Poll::Ready(read)
            }
            Poll::Pending => self.waited(context),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo {
            local_addr: self.stream.local_addr(),
            remote_addr: self.stream.peer_addr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn listening(connections_max: usize, silence: Option<Duration>) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let terms = Terms {
            connections_max,
            beginning: SHORT,
            silence,
        };
        Listening::new("test", listener.into(), terms, CancellationToken::new())
    }

    async fn pair(listening: &Listening) -> (TcpStream, Connection) {
        let address = listening.listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listening.accept());
        (client.unwrap(), accepted.0)
    }

    async fn end_of(connection: &mut Connection) -> ErrorKind {
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn whoever_does_not_begin_is_cut_off() {
        let listening = listening(2, None).await;
        for begun in ["", "PRI * HTTP/2.0\r\n"] {
            let (mut client, mut connection) = pair(&listening).await;
            client.write_all(begun.as_bytes()).await.unwrap();
            assert_eq!(
                end_of(&mut connection).await,
                ErrorKind::TimedOut,
                "{begun:?}"
            );
        }
    }

    #[tokio::test]
    async fn whoever_began_may_be_silent_only_where_something_probes() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let probed = listening(1, None).await;
        let (mut client, mut connection) = pair(&probed).await;
        client.write_all(preface).await.unwrap();
        let reading = tokio::time::timeout(SHORT * 4, end_of(&mut connection));
        assert!(reading.await.is_err());
        probed.ended.cancel();
        assert_eq!(end_of(&mut connection).await, ErrorKind::ConnectionAborted);

        let unprobed = listening(1, Some(SHORT)).await;
        let (mut client, mut connection) = pair(&unprobed).await;
        client.write_all(preface).await.unwrap();
        assert_eq!(end_of(&mut connection).await, ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_closed_until_one_ends() {
        let listening = listening(1, None).await;
        let address = listening.listener.local_addr().unwrap();
        let (_client, first) = pair(&listening).await;
        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut incoming = std::pin::pin!(listening.incoming());
        let closed = tokio::select! {
            _ = incoming.next() => panic!("a second connection is taken"),
            read = refused.read_u8() => read,
        };
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        drop(first);
        let _client = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }
}
