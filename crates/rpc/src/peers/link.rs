//! One stream to one peer: a bounded queue, a connection that is made again, batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// First and longest wait before a broken stream is opened again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Most bytes of items in one message, unless a single item has more: so much that the message's
/// own cost does not count, and so little that nothing waits long behind it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The sending end of a stream.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    queue: mpsc::Sender<Queued<T>>,
    room: Arc<Semaphore>,
    weigh: fn(&T) -> usize,
    connected: Arc<AtomicBool>,
}

/// An item that waits.
#[derive(Debug)]
struct Queued<T> {
    since: Instant,
    bytes: usize,
    item: T,
    /// Room that it takes in the queue.
    _room: OwnedSemaphorePermit,
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
    queue: mpsc::Receiver<Queued<T>>,
    connected: Arc<AtomicBool>,
}

/// Makes a stream's two ends with room for `bound` items of any size.
pub(crate) fn outlet<T>(bound: usize) -> (Outlet<T>, Source<T>) {
    weighed_outlet(bound, 0, |_| 0)
}

/// Makes a stream's two ends with room for `bound` items that have `bytes_max` bytes together, each
/// as many as `weigh` says.
pub(crate) fn weighed_outlet<T>(
    bound: usize,
    bytes_max: usize,
    weigh: fn(&T) -> usize,
) -> (Outlet<T>, Source<T>) {
    let (sender, receiver) = mpsc::channel(bound);
    let connected = Arc::new(AtomicBool::new(false));
    let outlet = Outlet {
        queue: sender,
        room: Arc::new(Semaphore::new(bytes_max)),
        weigh,
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
        let bytes = (self.weigh)(&item);
        let room = u32::try_from(bytes).ok();
        let room = room.and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
        let queued = Queued {
            since: Instant::now(),
            bytes,
            item,
            _room: room.ok_or(Refused::Full)?,
        };
        self.queue.try_send(queued).map_err(|_| Refused::Full)
    }

    /// Returns how many items wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    #[cfg(test)]
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
    queue: mpsc::Receiver<Queued<T>>,
    delay: Duration,
    held: Option<Queued<T>>,
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
        if let (Some(held), false) = (&self.held, self.delay.is_zero()) {
            tokio::time::sleep_until(held.since + self.delay).await;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.held.take() {
            let is_full = batch.len() == batch_max || bytes + next.bytes > BATCH_BYTES_MAX;
            if !batch.is_empty() && (is_full || next.since + self.delay > Instant::now()) {
                self.held = Some(next);
                break;
            }
            bytes += next.bytes;
            batch.push(next.item);
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
        assert_eq!(outlet.waiting(), 1);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn items_with_a_weight_are_bounded_in_bytes_too() {
        const HALF: usize = BATCH_BYTES_MAX / 2;
        let (outlet, source) = weighed_outlet::<usize>(10, 5 * HALF, |bytes| *bytes);
        let (batches, mut seen) = mpsc::unbounded_channel();
        let task = tokio::spawn(
            source.run(Duration::from_millis(40), 10, move |mut stream| {
                let batches = batches.clone();
                Box::pin(async move {
                    while let Some(batch) = stream.next().await {
                        batches.send(batch).unwrap();
                    }
                    true
                })
            }),
        );
        while !outlet.is_connected() {
            tokio::task::yield_now().await;
        }
        for bytes in [HALF, HALF, 1, 2 * HALF + 1, HALF - 2] {
            assert_eq!(outlet.send(bytes), Ok(()));
        }
        assert_eq!(outlet.send(1), Err(Refused::Full));
        assert_eq!(seen.recv().await.unwrap(), [HALF, HALF]);
        assert_eq!(seen.recv().await.unwrap(), [1]);
        assert_eq!(seen.recv().await.unwrap(), [2 * HALF + 1], "alone");
        assert_eq!(seen.recv().await.unwrap(), [HALF - 2]);
        assert_eq!(outlet.send(5 * HALF + 1), Err(Refused::Full), "at no time");
        assert_eq!(outlet.send(5 * HALF), Ok(()), "all room was given back");
        task.abort();
    }
}
