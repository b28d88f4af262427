//! What a connection is doing, for whoever decides that it does nothing or too little.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Counts of a connection. Written by its socket and its requests, read by
/// [`Activity::idleness`]; they order nothing, so the weakest ordering does.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests that came in so far.
    started: AtomicU64,
    /// Requests of which the answer's body is not out yet.
    under_way: AtomicUsize,
    /// Writes that got on.
    writes: AtomicU64,
}

impl Activity {
    /// Counts a request until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> UnderWay {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Waits until the connection has brought nothing for too long: no request since its start, or
    /// nothing at all for `idle`. Needed beside hyper's own deadline for headers, which does not
    /// run before the protocol is known, nor on HTTP/2.
    pub(crate) async fn idleness(&self, first: Duration, idle: Duration) -> Idleness {
        sleep(first).await;
        if self.started.load(Ordering::Relaxed) == 0 {
            return Idleness::NeverAsked;
        }
        let progress = || {
            let writes = self.writes.load(Ordering::Relaxed);
            (self.started.load(Ordering::Relaxed), writes)
        };
        loop {
            let before = progress();
            sleep(idle).await;
            if progress() == before && self.under_way.load(Ordering::Relaxed) == 0 {
                return Idleness::Quiet;
            }
        }
    }
}

/// How a connection is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idleness {
    /// It was opened and no request came.
    NeverAsked,
    /// It was used, and is no more.
    Quiet,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that fails once its peer has taken nothing for too long.
#[derive(Debug)]
pub(crate) struct StallGuard<S> {
    socket: S,
    limit: Duration,
    /// Runs while the socket takes nothing. Made once and reset, as most writes never wait.
    deadline: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    activity: Arc<Activity>,
}

impl<S> StallGuard<S> {
    pub(crate) fn new(socket: S, limit: Duration, activity: Arc<Activity>) -> Self {
        Self {
            socket,
            limit,
            deadline: None,
            stalled: false,
            activity,
        }
    }

    /// Passes a write's outcome on, unless it has been waiting for too long.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = false;
            self.activity.writes.fetch_add(1, Ordering::Relaxed);
            return written;
        }
        let at = Instant::now() + self.limit;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep_until(at)));
        if !self.stalled {
            self.stalled = true;
            deadline.as_mut().reset(at);
        }
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_ends_the_connection() {
        let (socket, _peer) = tokio::io::duplex(16);
        let mut guard = StallGuard::new(socket, LIMIT, Arc::default());
        let started = Instant::now();
        let error = guard.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_goes_on_reading_does_not() {
        let (socket, mut peer) = tokio::io::duplex(16);
        let mut guard = StallGuard::new(socket, LIMIT, Arc::default());
        let reading = async {
            for _ in 0..10 {
                // allow-sleep: the peer is slow on purpose, and the time is paused
                sleep(LIMIT - Duration::from_secs(1)).await;
                let mut bytes = [0; 16];
                let _read = peer.read(&mut bytes).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(guard.write_all(&[0; 160]), reading);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_needs_silence() {
        let (first, idle) = (Duration::from_secs(10), Duration::from_secs(60));
        let silent = Arc::new(Activity::default());
        assert_eq!(silent.idleness(first, idle).await, Idleness::NeverAsked);

        let used = Arc::new(Activity::default());
        let under_way = used.begin();
        let started = Instant::now();
        let release = async {
            // allow-sleep: a request takes its time, which is paused
            sleep(Duration::from_secs(100)).await;
            drop(under_way);
        };
        let (idleness, ()) = tokio::join!(used.idleness(first, idle), release);
        assert_eq!(idleness, Idleness::Quiet);
        assert_eq!(started.elapsed().as_secs(), 10 + 60 + 60);
    }
}
