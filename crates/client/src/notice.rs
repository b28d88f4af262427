//! What the client tells its edge without being asked.

use tokio::sync::mpsc;

use crate::outbox::Refused;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A stream carries the session. One that was not resumed is told the whole set.
    Connected {
        /// The node's address.
        node: String,
        /// The session.
        session: u64,
        /// Whether the node went on with what it knew.
        resumed: bool,
    },
    /// A stream is over, or could not be opened; the client goes on trying.
    Disconnected {
        /// What is known of it.
        reason: String,
        /// Whether the node does not accept the credential: trying again helps only once another
        /// is given.
        unauthenticated: bool,
    },
    /// The node refused an item. Unless it was full, the client forgets the item.
    Refused(Refused),
    /// So many notices were dropped before this one, because nobody read them.
    Missed(u64),
    /// The client gave up; the last notice.
    Stopped(Stopped),
}

/// Why a client gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// A newer life of the edge reports, or an older one had a clock ahead of ours.
    #[error("incarnation {seen} of the edge was seen, which is newer than this one")]
    StaleIncarnation {
        /// The one that was seen.
        seen: u64,
    },
    /// Another process opened a session under the edge's name.
    #[error("another process reports under the edge's name")]
    Superseded,
}

/// Where notices go: a bounded queue that loses the newest and counts them.
#[derive(Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
    /// The place of the last notice, which is never lost.
    last: Option<mpsc::OwnedPermit<Notice>>,
    missed: u64,
}

impl Notices {
    /// Makes a queue for `most` notices and a last one.
    pub(crate) fn new(most: usize) -> (Self, mpsc::Receiver<Notice>) {
        let (queue, notices) = mpsc::channel(most.max(1) + 1);
        let last = queue.clone().try_reserve_owned().ok();
        let notices_in = Self {
            queue,
            last,
            missed: 0,
        };
        (notices_in, notices)
    }

    pub(crate) fn push(&mut self, notice: Notice) {
        if self.missed > 0 && self.queue.try_send(Notice::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.missed > 0 || self.queue.try_send(notice).is_err() {
            self.missed += 1;
        }
    }

    /// Says why the client gave up.
    pub(crate) fn stop(&mut self, stopped: Stopped) {
        tracing::error!(target: "client", reason = %stopped, "the client of an edge gave up");
        if let Some(place) = self.last.take() {
            place.send(Notice::Stopped(stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_beyond_the_bound_are_counted_and_the_last_is_kept() {
        let (mut notices, mut read) = Notices::new(2);
        let broken = |reason: &str| Notice::Disconnected {
            reason: reason.into(),
            unauthenticated: false,
        };
        for reason in ["a", "b", "c", "d"] {
            notices.push(broken(reason));
        }
        assert_eq!(read.try_recv().unwrap(), broken("a"));
        assert_eq!(read.try_recv().unwrap(), broken("b"));
        notices.push(broken("e"));
        notices.push(broken("f"));
        notices.stop(Stopped::Superseded);
        assert_eq!(read.try_recv().unwrap(), Notice::Missed(2));
        assert_eq!(read.try_recv().unwrap(), broken("e"));
        assert_eq!(
            read.try_recv().unwrap(),
            Notice::Stopped(Stopped::Superseded)
        );
    }
}
