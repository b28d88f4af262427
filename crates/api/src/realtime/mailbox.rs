//! What others leave for a connection: the only way into its task, and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headcount_model::Occupancy;
use headcount_realtime::{Broadcast, ProtocolError};
use tokio::sync::Notify;

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
    /// Its place among the channel's messages; `None` for presence, which is not resumed by it.
    pub(crate) serial: Option<u64>,
}

/// Orders that may wait: a client that comes back more often at once is a new one.
const ORDERS_MAX: usize = 4;

/// Something that is to be done by the connection's task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Go on over another transport.
    Resume(Box<Transport>),
    /// Tell the client and end.
    End(ProtocolError),
}

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
    pub(crate) orders: Vec<Order>,
    /// Whether deliveries are dropped, since no transport could carry them; channels remember them.
    paused: bool,
    /// Whether the task has ended.
    closed: bool,
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

    /// Gives an order; gives it back if the connection has ended, or has too many.
    pub(crate) fn order(&self, order: Order) -> Result<(), Order> {
        let mut mail = self.mail();
        if mail.closed || mail.orders.len() >= ORDERS_MAX {
            return Err(order);
        }
        mail.orders.push(order);
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

    /// Takes nothing any more, and returns what was ordered too late.
    pub(crate) fn close(&self) -> Vec<Order> {
        let mut mail = self.mail();
        *mail = Mail {
            closed: true,
            orders: std::mem::take(&mut mail.orders),
            ..Mail::default()
        };
        std::mem::take(&mut mail.orders)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
