//! One stream to one peer: a bounded queue, a connection that is made again, batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;

/// First and longest wait before a broken stream is opened again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// The sending end of a stream.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    queue: mpsc::Sender<(Instant, T)>,
    connected: Arc<AtomicBool>,
}

/// Why something was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NotConnected,
    Full,
}

/// The other end, for the task that runs the stream.
#[derive(Debug)]
pub(crate) struct Source<T> {
    queue: mpsc::Receiver<(Instant, T)>,
    connected: Arc<AtomicBool>,
}

/// Makes a stream's two ends with room for `bound` items.
pub(crate) fn outlet<T>(bound: usize) -> (Outlet<T>, Source<T>) {
    let (sender, receiver) = mpsc::channel(bound);
    let connected = Arc::new(AtomicBool::new(false));
    let outlet = Outlet {
        queue: sender,
        connected: Arc::clone(&connected),
    };
    (
        outlet,
        Source {
            queue: receiver,
            connected,
        },
    )
}

impl<T> Outlet<T> {
    /// Queues an item, or refuses it at once.
    pub(crate) fn send(&self, item: T) -> Result<(), Refused> {
        if !self.connected.load(Ordering::Relaxed) {
            return Err(Refused::NotConnected);
        }
        self.queue
            .try_send((Instant::now(), item))
            .map_err(|_| Refused::Full)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

impl<T: Send + 'static> Source<T> {
    /// Runs the stream until the outlet is dropped: `open` opens it with a stream of batches, and
    /// returns when it has ended, with whether it ever worked.
    pub(crate) async fn run(
        self,
        delay: Duration,
        batch_max: usize,
        mut open: impl FnMut(BatchStream<T>) -> BoxFuture<'static, bool> + Send,
    ) {
        let Self { queue, connected } = self;
        let queue = Arc::new(tokio::sync::Mutex::new(Batches {
            queue,
            delay,
            held: None,
        }));
        let mut wait = RETRY_FIRST;
        loop {
            // What was queued for the broken stream is old by now; whoever sent it sends again.
            let mut batches = Arc::clone(&queue).lock_owned().await;
            if batches.clear() {
                return;
            }
            connected.store(true, Ordering::Relaxed);
            let worked = open(stream_of(batches, batch_max)).await;
            connected.store(false, Ordering::Relaxed);
            wait = if worked {
                RETRY_FIRST
            } else {
                (wait * 2).min(RETRY_LONGEST)
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// Batches of one stream, each with at least one item.
pub(crate) type BatchStream<T> = std::pin::Pin<Box<dyn Stream<Item = Vec<T>> + Send>>;

/// The queue as batches, each held back for the emulated delay of the way.
#[derive(Debug)]
struct Batches<T> {
    queue: mpsc::Receiver<(Instant, T)>,
    delay: Duration,
    held: Option<(Instant, T)>,
}

impl<T> Batches<T> {
    /// Drops everything queued; returns whether the outlet is gone.
    fn clear(&mut self) -> bool {
        self.held = None;
        while self.queue.try_recv().is_ok() {}
        self.queue.is_closed()
    }

    async fn next(&mut self, batch_max: usize) -> Option<Vec<T>> {
        if self.held.is_none() {
            self.held = Some(self.queue.recv().await?);
        }
        if let (Some((at, _)), false) = (&self.held, self.delay.is_zero()) {
            tokio::time::sleep_until(*at + self.delay).await;
        }
        let mut batch = Vec::new();
        while let Some((at, item)) = self.held.take() {
            if !batch.is_empty() && (batch.len() == batch_max || at + self.delay > Instant::now()) {
                self.held = Some((at, item));
                break;
            }
            batch.push(item);
            self.held = self.queue.try_recv().ok();
        }
        Some(batch)
    }
}

/// Makes a stream that holds the queue until it is dropped.
fn stream_of<T: Send + 'static>(
    batches: OwnedMutexGuard<Batches<T>>,
    batch_max: usize,
) -> BatchStream<T> {
    Box::pin(stream::unfold(batches, move |mut batches| async move {
        let batch = batches.next(batch_max).await?;
        Some((batch, batches))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test(start_paused = true)]
    async fn items_are_batched_and_delayed() {
        let (outlet, source) = outlet::<u32>(10);
        let (batches, mut seen) = mpsc::unbounded_channel();
        let task = tokio::spawn(source.run(Duration::from_millis(40), 3, move |stream| {
            let batches = batches.clone();
            Box::pin(async move {
                let mut stream = stream;
                while let Some(batch) = stream.next().await {
                    if batches.send(batch).is_err() {
                        break;
                    }
                }
                true
            })
        }));
        while !outlet.is_connected() {
            tokio::task::yield_now().await;
        }
        let start = Instant::now();
        for n in 0..4 {
            outlet.send(n).unwrap();
        }
        assert_eq!(seen.recv().await.unwrap(), [0, 1, 2]);
        assert_eq!(start.elapsed(), Duration::from_millis(40));
        assert_eq!(seen.recv().await.unwrap(), [3]);
        drop(outlet);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_or_broken_outlet_refuses() {
        let (outlet, source) = outlet::<u32>(1);
        assert_eq!(outlet.send(1), Err(Refused::NotConnected));
        let task = tokio::spawn(source.run(Duration::ZERO, 3, |stream| {
            Box::pin(async move {
                let _kept = stream;
                std::future::pending::<bool>().await
            })
        }));
        while !outlet.is_connected() {
            tokio::task::yield_now().await;
        }
        assert_eq!(outlet.send(1), Ok(()));
        assert_eq!(outlet.send(2), Err(Refused::Full));
        task.abort();
    }
}
