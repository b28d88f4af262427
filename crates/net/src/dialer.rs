//! Where connections go out.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tower::Service;

use crate::stream::{Socket, Stream};

/// A connection that is coming about.
pub type Dialling<T> = BoxFuture<'static, io::Result<T>>;

/// What connects where it is not the system that does.
pub trait Dial: Debug + Send + Sync + 'static {
    /// Connects to `host:port`.
    fn dial(&self, address: &str) -> Dialling<Box<dyn Socket>>;
}

/// How outgoing connections come about. The default is by the system's TCP, which libraries do
/// better by themselves: there is no [`Dialer::connector`] then.
#[derive(Clone, Debug, Default)]
pub struct Dialer(Option<Arc<dyn Dial>>);

impl Dialer {
    /// Makes a dialer that is not the system's.
    #[must_use]
    pub fn of(dial: Arc<dyn Dial>) -> Self {
        Self(Some(dial))
    }

    /// Returns what an HTTP library is to connect with; `None` if it is to do so by itself.
    #[must_use]
    pub fn connector(&self) -> Option<Connector> {
        self.0.clone().map(Connector)
    }
}

/// Connects as an HTTP library asks for it: to an URI's authority.
#[derive(Clone, Debug)]
pub struct Connector(Arc<dyn Dial>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Dialling<Self::Response>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let address = uri.authority().map_or("", |authority| authority.as_str());
        let dialling = self.0.dial(address);
        async move { Ok(TokioIo::new(Stream::Other(dialling.await?))) }.boxed()
    }
}
