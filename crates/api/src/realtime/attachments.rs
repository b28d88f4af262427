//! What a connection is attached to.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::AbortHandle;
use futures::stream::{BoxStream, SelectAll, abortable};
use headcount_model::{ChannelName, WatchItem};
use headcount_realtime::{AttachParams, ChannelModes, PresenceMessage};

use super::app_watch::AppWatch;
use super::hub::Place;
use super::mailbox::AttachmentId;

/// The attachments of one connection, by their channels as the client writes them.
#[derive(Default)]
pub(crate) struct Attachments {
    by_channel: BTreeMap<Arc<str>, Box<Attachment>>,
    by_id: BTreeMap<AttachmentId, Arc<str>>,
    /// The watches of those that follow lifecycle events.
    pub(crate) watches: SelectAll<BoxStream<'static, (AttachmentId, WatchItem)>>,
}

/// One attachment.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    /// What the client asked for, so that a new token can be held against it.
    pub(crate) params: AttachParams,
    /// What is in effect.
    pub(crate) modes: ChannelModes,
    /// The members that the connection has entered, by client id, as they are.
    pub(crate) members: BTreeMap<String, PresenceMessage>,
    /// Whether the client has to attach again before it is told anything.
    pub(crate) paused: bool,
    /// The last serial that the client was told.
    pub(crate) serial: Option<String>,
}

/// What an attachment is attached to.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A channel that counts.
    Counted(ChannelName),
    /// A metachannel that the relay carries.
    Relayed,
    /// The lifecycle events, as all clients share them.
    Shared(Arc<AppWatch>),
    /// The lifecycle events, told by a watch of its own; none while it is paused.
    Lifecycle(Option<AbortHandle>),
}

impl Attachments {
    pub(crate) fn len(&self) -> usize {
        self.by_channel.len()
    }

    pub(crate) fn get(&self, channel: &str) -> Option<&Attachment> {
        self.by_channel.get(channel).map(|held| &**held)
    }

    pub(crate) fn get_mut(&mut self, channel: &str) -> Option<&mut Attachment> {
        self.by_channel.get_mut(channel).map(|held| &mut **held)
    }

    /// Returns an attachment with its channel, if it is the channel's present one and the client
    /// may be told.
    pub(crate) fn live(&mut self, id: AttachmentId) -> Option<(&Arc<str>, &mut Attachment)> {
        let channel = self.by_id.get(&id)?;
        let attachment = self.by_channel.get_mut(channel)?;
        (!attachment.paused).then_some((channel, attachment))
    }

    /// Puts an attachment in the place of the channel's former one.
    pub(crate) fn insert(&mut self, channel: &str, attachment: Attachment) {
        let channel: Arc<str> = match self.by_channel.get_key_value(channel) {
            Some((channel, former)) => {
                self.by_id.remove(&former.id);
                Arc::clone(channel)
            }
            None => channel.into(),
        };
        self.by_id.insert(attachment.id, Arc::clone(&channel));
        if let Some(former) = self.by_channel.insert(channel, Box::new(attachment)) {
            former.stop_watch();
        }
    }

    pub(crate) fn remove(&mut self, channel: &str) -> Option<Attachment> {
        let attachment = self.by_channel.remove(channel)?;
        self.by_id.remove(&attachment.id);
        attachment.stop_watch();
        Some(*attachment)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Attachment)> {
        self.by_channel.iter().map(|(name, held)| (name, &**held))
    }

    /// Tells the client nothing until it attaches again; ends all watches, which go on from their
    /// serials.
    pub(crate) fn pause(&mut self) {
        for attachment in self.by_channel.values_mut() {
            attachment.paused = true;
            if let Kind::Lifecycle(watch) = &mut attachment.kind
                && let Some(watch) = watch.take()
            {
                watch.abort();
            }
        }
        self.watches = SelectAll::new();
    }

    /// Follows a watch for an attachment.
    pub(crate) fn follow(
        &mut self,
        id: AttachmentId,
        watch: BoxStream<'static, WatchItem>,
    ) -> AbortHandle {
        let (watch, handle) = abortable(watch);
        self.watches.push(watch.map(move |item| (id, item)).boxed());
        handle
    }
}

impl Attachment {
    pub(crate) fn stop_watch(&self) {
        match &self.kind {
            Kind::Lifecycle(Some(watch)) => watch.abort(),
            Kind::Shared(watch) => watch.unsubscribe(self.id),
            Kind::Lifecycle(None) | Kind::Counted(_) | Kind::Relayed => {}
        }
    }
}
