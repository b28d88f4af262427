//! A queue that one worker empties, whether the worker is a thread or a task.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

/// A queue with one reader. Its bound is kept by the senders, who hold permits.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    /// Wakes a worker that is a thread.
    filled: Condvar,
    /// Wakes a worker that is a task.
    notify: Notify,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    /// Set once; nothing is taken in afterwards.
    closed: bool,
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        let inner = Inner {
            items: VecDeque::new(),
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            filled: Condvar::new(),
            notify: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().expect("no holder of the lock panics")
    }

    fn wake(&self) {
        self.filled.notify_one();
        self.notify.notify_one();
    }

    /// Puts an item last; gives it back if the mailbox is closed.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        {
            let mut inner = self.lock();
            if inner.closed {
                return Err(item);
            }
            inner.items.push_back(item);
        }
        self.wake();
        Ok(())
    }

    /// Takes items from the front while `fits` says so, and always the first.
    pub(super) fn take(&self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut inner = self.lock();
        let fitting = inner.items.iter().take_while(|item| fits(item)).count();
        let count = fitting.max(1).min(inner.items.len());
        inner.items.drain(..count).collect()
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    pub(super) fn is_finished(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.items.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks until there is something to take, the mailbox is closed or the time is up.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        let idle = |inner: &mut Inner<T>| inner.items.is_empty() && !inner.closed;
        let inner = self.lock();
        match timeout {
            Some(timeout) => {
                drop(self.filled.wait_timeout_while(inner, timeout, idle));
            }
            None => drop(self.filled.wait_while(inner, idle)),
        }
    }

    /// As [`wait`](Self::wait), in a task.
    pub(super) async fn wait_in_task(&self, timeout: Option<Duration>) {
        if !self.is_empty() || self.is_finished() {
            return;
        }
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, self.notify.notified()).await),
            None => self.notify.notified().await,
        }
    }
}
