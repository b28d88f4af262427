//! What happened on this node's channels, as REST tells it: every item says for itself what
//! subscribers take from the envelope around it.

use std::sync::Arc;
use std::time::Duration;

use headcount_model::{AppId, EventKind, EventKinds};
use headcount_realtime::{
    Broadcast, ChannelModes, Content, Envelope, Limits, Message, PresenceMessage,
};

use super::hub::{Attaching, Hub, Place, Since};
use super::mailbox::AttachmentId;
use super::{Core, METACHANNELS};
use crate::limits::Exceeded;

/// How long the owner of a channel's region is waited for to tell the members: it is near.
const VISIT_MAX: Duration = Duration::from_millis(500);

/// How often is looked whether it has.
const VISIT_PAUSE: Duration = Duration::from_millis(5);

/// An attachment that wants nothing and counts nowhere, for as long as it lives: what this node is
/// attached to, it is told of.
struct Visit<'a> {
    hub: &'a Hub,
    place: &'a Place,
    id: AttachmentId,
}

impl<'a> Visit<'a> {
    fn begin(hub: &'a Hub, place: &'a Place) -> Self {
        let attached = hub.attach(
            place,
            &Attaching {
                mailbox: &Arc::default(),
                connection: &"".into(),
                modes: ChannelModes::NONE,
                echo: false,
                since: Since::Now,
                former: None,
                quota: None,
            },
        );
        let attached = attached.expect("nothing limits what is only looked at");
        Self {
            hub,
            place,
            id: attached.id,
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.hub.detach(self.place, self.id);
    }
}

/// The serial is not one that this node gave in this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownSerial;

impl Core {
    /// The bounds of what clients of an app may publish.
    pub(crate) fn publish_limits(&self, app: &AppId) -> Limits {
        self.limits(&self.quotas.of(app).limits)
    }

    /// The events that an app is told on `[meta]channel.lifecycle`.
    pub(crate) fn lifecycle_kinds(&self, app: &AppId) -> EventKinds {
        if self.ports.access.tells_occupancy(app.as_str()) {
            return EventKinds::ALL;
        }
        let kinds = EventKind::ALL.into_iter();
        kinds.filter(|kind| *kind != EventKind::Occupancy).collect()
    }

    /// Returns whether there is such a metachannel.
    pub(crate) fn is_metachannel(name: &str) -> bool {
        METACHANNELS.contains(&name)
    }

    /// Returns the messages that a channel remembers, oldest first; those up to a serial, if one is
    /// given.
    pub(crate) fn messages(
        &self,
        app: &AppId,
        name: &str,
        until: Option<&str>,
    ) -> Result<Vec<Message>, UnknownSerial> {
        let until = until.map(|serial| self.hub.number(serial).ok_or(UnknownSerial));
        let until = until.transpose()?.unwrap_or(u64::MAX);
        let remembered = self.hub.remembered(&place(app, name)).into_iter();
        let remembered = remembered.take_while(|(serial, _)| *serial <= until);
        let messages = remembered.flat_map(|(serial, broadcast)| {
            let serial = self.hub.serial(serial);
            messages_of(&broadcast, &serial)
        });
        Ok(messages.collect())
    }

    /// Returns the members of a channel. Where nobody is attached to it here, the region's owner
    /// is asked for them, and waited for a moment.
    pub(crate) async fn members(&self, app: &AppId, name: &str) -> Vec<PresenceMessage> {
        let place = place(app, name);
        let _visit = (!self.hub.knows(&place)).then(|| Visit::begin(&self.hub, &place));
        let known = async {
            while !self.hub.knows(&place) {
                tokio::time::sleep(VISIT_PAUSE).await;
            }
        };
        // Without an owner, those who are attached to this node are all that can be known.
        let _late = tokio::time::timeout(VISIT_MAX, known).await;
        self.hub.members(&place)
    }

    /// Returns what a channel remembers of its members, oldest first.
    pub(crate) fn presence_changes(&self, app: &AppId, name: &str) -> Vec<PresenceMessage> {
        let remembered = self.hub.changes(&place(app, name));
        remembered.iter().flat_map(changes_of).collect()
    }

    /// Publishes messages of nobody's connection; returns their id and serials.
    ///
    /// # Errors
    /// What the app may not do.
    pub(crate) fn publish_messages(
        &self,
        app: &AppId,
        name: &headcount_model::ChannelName,
        messages: Vec<Message>,
    ) -> Result<(String, Vec<String>), Exceeded> {
        let given = messages.first().and_then(|first| first.id.clone());
        let drawn = self.draw_id();
        let envelope = Envelope {
            id: Some(drawn.clone()),
            timestamp_ms: Some(self.ports.clock.wall().0),
            connection_id: None,
        };
        let broadcast = Broadcast::new(envelope, Content::Messages(messages));
        let serials = self.publish(&self.quotas.of(app), app, name, None, broadcast)?;
        Ok((given.unwrap_or(drawn), serials))
    }
}

fn place(app: &AppId, name: &str) -> Place {
    Place {
        app: app.clone(),
        name: name.into(),
    }
}

/// The id that clients give an item without one.
fn id_of(envelope: &Envelope, index: usize) -> Option<String> {
    let id = envelope.id.as_ref()?;
    Some(format!("{id}:{index}"))
}

fn messages_of(broadcast: &Broadcast, serial: &str) -> Vec<Message> {
    let envelope = broadcast.envelope();
    let Content::Messages(messages) = broadcast.content() else {
        return Vec::new();
    };
    let messages = messages.iter().enumerate().map(|(index, message)| Message {
        id: message.id.clone().or_else(|| id_of(envelope, index)),
        connection_id: envelope.connection_id.clone(),
        timestamp_ms: message.timestamp_ms.or(envelope.timestamp_ms),
        serial: Some(format!("{serial}:{index}")),
        ..message.clone()
    });
    messages.collect()
}

fn changes_of(broadcast: &Arc<Broadcast>) -> Vec<PresenceMessage> {
    let envelope = broadcast.envelope();
    let Content::Presence(changes) = broadcast.content() else {
        return Vec::new();
    };
    let changes = changes.iter().enumerate().map(|(index, change)| {
        let connection_id = change.connection_id.as_ref();
        PresenceMessage {
            id: change.id.clone().or_else(|| id_of(envelope, index)),
            connection_id: connection_id.or(envelope.connection_id.as_ref()).cloned(),
            timestamp_ms: change.timestamp_ms.or(envelope.timestamp_ms),
            ..change.clone()
        }
    });
    changes.collect()
}
