//! Where connections come in.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::net::TcpListener;

use crate::stream::{Socket, Stream};

/// A connection that came in, and from where.
pub type Accepted = (Box<dyn Socket>, SocketAddr);

/// A listener that is not the system's.
pub trait Listen: Debug + Send + Sync + 'static {
    /// Takes the next connection, or wakes who asks when there is one. One task asks at a time.
    ///
    /// # Errors
    /// As a system would say.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>>;

    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;
}

/// A listener, bound.
#[derive(Debug)]
pub enum Listener {
    /// The system's.
    Tcp(TcpListener),
    /// A simulation's.
    Other(Box<dyn Listen>),
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// As the system says.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), peer))
            }
            Self::Other(listener) => {
                let (socket, peer) = poll_fn(|context| listener.poll_accept(context)).await?;
                Ok((Stream::Other(socket), peer))
            }
        }
    }

    /// Returns where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Other(listener) => Ok(listener.local_addr()),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}
