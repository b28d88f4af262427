//! What others leave for a connection: the only way into its task, and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headcount_access::ClientIdRule;
use headcount_model::Occupancy;
use headcount_realtime::Broadcast;
use tokio::sync::{Notify, oneshot};

use super::transport::Transport;
use crate::telemetry;

/// Names one attachment of one connection; a channel that is attached anew gets another one, so
/// that what was left under the old one is known to be of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttachmentId(pub(crate) u64);

/// Something that a channel's subscribers are sent.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) attachment: AttachmentId,
    /// Encoded once for all subscribers.
    pub(crate) broadcast: Arc<Broadcast>,
    /// Its place among the channel's messages, as clients see it; `None` if none is told with it.
    pub(crate) serial: Option<Arc<str>>,
    /// Where too much waits already, it takes the place of what waits under the same text.
    pub(crate) rolls_up: Option<Arc<str>>,
}

/// Somebody has gone on at another node, which wants the connection ended.
#[derive(Debug)]
pub(crate) struct Release {
    /// Who.
    pub(crate) identity: ClientIdRule,
    /// Told what became of it; dropped if a newer one took its place.
    pub(crate) answer: oneshot::Sender<Released>,
}

/// What became of a [`Release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// The connection has ended.
    Ended,
    /// It is somebody else's, and goes on.
    Foreign,
    /// It does not count yet, as it was itself not released by the node that it came from.
    Held,
}

/// Transports that may wait: a client that comes back more often at once is a new one.
const RESUMES_MAX: usize = 4;

/// Letters of one connection, left by channels, by other transports and by operators. Written by
/// anybody, emptied by the connection's task.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    news: Notify,
}

/// What was left.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) deliveries: VecDeque<Delivery>,
    /// Bytes of the deliveries, as far as they are this connection's to send.
    bytes: usize,
    /// Newest counts of attachments that follow their channel's occupancy; each once.
    pub(crate) occupancy: Vec<(AttachmentId, Occupancy)>,
    /// Attachments for which there was no room.
    pub(crate) lagging: Vec<AttachmentId>,
    /// Over which the client wants to go on.
    #[expect(clippy::vec_box, reason = "they come and are handed on in boxes")]
    pub(crate) resumes: Vec<Box<Transport>>,
    /// Where the client has gone on. The newest only: who asked before has given up.
    pub(crate) release: Option<Release>,
    /// Whether deliveries are dropped, since no transport could carry them; channels remember them.
    paused: bool,
    /// Whether the task has ended.
    closed: bool,
}

impl Mail {
    /// Drops what a delivery takes the place of.
    fn roll_up(&mut self, newer: &Delivery) {
        let Some(text) = &newer.rolls_up else {
            return;
        };
        let same = |older: &Delivery| {
            older.attachment == newer.attachment && older.rolls_up.as_ref() == Some(text)
        };
        if let Some(at) = self.deliveries.iter().position(same)
            && let Some(older) = self.deliveries.remove(at)
        {
            self.bytes -= older.broadcast.size();
            telemetry::realtime_rolled_up_total.count(1);
        }
    }
}

/// How much may wait for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) deliveries: usize,
    pub(crate) bytes: usize,
}

impl Mailbox {
    /// Leaves a delivery; false if there is no room, and the attachment is lagging from now on.
    pub(crate) fn deliver(&self, delivery: Delivery, capacity: Capacity) -> bool {
        let mut mail = self.mail();
        if mail.paused || mail.closed {
            return true;
        }
        let bytes = delivery.broadcast.size();
        if mail.deliveries.len() > capacity.deliveries / 2 {
            mail.roll_up(&delivery);
        }
        if mail.deliveries.len() >= capacity.deliveries || mail.bytes + bytes > capacity.bytes {
            telemetry::rejected("subscriber_too_slow");
            mail.lagging.push(delivery.attachment);
            drop(mail);
            self.news.notify_one();
            return false;
        }
        mail.bytes += bytes;
        mail.deliveries.push_back(delivery);
        drop(mail);
        self.news.notify_one();
        true
    }

    /// Tells that an attachment misses something, and has to begin anew.
    pub(crate) fn lag(&self, attachment: AttachmentId) {
        let mut mail = self.mail();
        if !mail.paused && !mail.closed {
            mail.lagging.push(attachment);
        }
        drop(mail);
        self.news.notify_one();
    }

    /// Leaves the newest counts, in the place of older ones that were not sent yet.
    pub(crate) fn occupancy(&self, attachment: AttachmentId, occupancy: Occupancy) {
        let mut mail = self.mail();
        if mail.paused || mail.closed {
            return;
        }
        match mail.occupancy.iter_mut().find(|(of, _)| *of == attachment) {
            Some((_, before)) => *before = occupancy,
            None => mail.occupancy.push((attachment, occupancy)),
        }
        drop(mail);
        self.news.notify_one();
    }

    /// Brings a transport to go on with; gives it back if the connection has ended, or has too many.
    pub(crate) fn resume(&self, transport: Box<Transport>) -> Result<(), Box<Transport>> {
        let mut mail = self.mail();
        if mail.closed || mail.resumes.len() >= RESUMES_MAX {
            return Err(transport);
        }
        mail.resumes.push(transport);
        drop(mail);
        self.news.notify_one();
        Ok(())
    }

    /// Asks to end the connection; gives the letter back if it has ended.
    pub(crate) fn release(&self, release: Release) -> Result<(), Release> {
        let mut mail = self.mail();
        if mail.closed {
            return Err(release);
        }
        mail.release = Some(release);
        drop(mail);
        self.news.notify_one();
        Ok(())
    }

    /// Waits until something may have been left.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes what was left.
    pub(crate) fn take(&self) -> Mail {
        let mut mail = self.mail();
        let paused = mail.paused;
        let taken = std::mem::take(&mut *mail);
        mail.paused = paused;
        taken
    }

    /// Drops deliveries from now on, or takes them again.
    pub(crate) fn pause(&self, paused: bool) {
        let mut mail = self.mail();
        mail.paused = paused;
        if paused {
            mail.deliveries = VecDeque::new();
            mail.occupancy = Vec::new();
            mail.lagging = Vec::new();
            mail.bytes = 0;
        }
    }

    /// Takes nothing any more, and returns what came too late.
    pub(crate) fn close(&self) -> Mail {
        let mut mail = self.mail();
        let closed = Mail {
            closed: true,
            ..Mail::default()
        };
        std::mem::replace(&mut *mail, closed)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
