//! What a connection does on its channels: attach, detach, publish, enter.

use std::collections::BTreeMap;
use std::sync::Arc;

use headcount_access::{AccessError, Operation, QualifiedName};
use headcount_model::{ChannelName, MemberId, Occupancy, Refusal, RefusalCode, ReportItem};
use headcount_realtime::{
    AttachParams, Broadcast, ChannelModes, Content, Envelope, Message, MessageAction,
    OccupancyParam, PresenceAction, PresenceId, PresenceMessage, ProtocolError, PublishResult,
    ServerFrame, flags,
};

use super::attachments::{Attachment, Kind};
use super::connection::Connection;
use super::hub::{Attaching, Place, Since};
use super::lifecycle::LIFECYCLE;
use super::mailbox::{AttachmentId, Delivery};
use super::occupancy;
use super::transport::{Broken, Transport};
use crate::limits::Limit;
use crate::telemetry;

/// Members in one page of a SYNC: well below the largest frame that clients are told.
const SYNC_MEMBERS: usize = 100;

/// The code for an attachment that there is no room for at present. Clients are detached with it, as
/// they try again by themselves after that, which they do not after an ERROR.
pub(super) const CHANNELS_TOO_FAST: u32 = 90021;

/// What an ATTACH came to, and what is sent for it after the ATTACHED.
pub(super) struct Joined {
    pub(super) attached: ServerFrame,
    /// Messages with their serials, as far as they have one.
    pub(super) backlog: Vec<(Option<String>, Arc<Broadcast>)>,
    pub(super) members: Vec<PresenceMessage>,
    pub(super) occupancy: Option<(OccupancyParam, Occupancy)>,
}

impl Joined {
    /// Nothing but the frame.
    pub(super) fn bare(attached: ServerFrame) -> Self {
        Self {
            attached,
            backlog: Vec::new(),
            members: Vec::new(),
            occupancy: None,
        }
    }
}

impl Connection {
    /// Attaches, or changes what is attached.
    pub(super) async fn attach(
        &mut self,
        transport: &mut Transport,
        channel: &str,
        serial: Option<&str>,
        params: &BTreeMap<String, String>,
        bits: u64,
    ) -> Result<(), Broken> {
        let prepared = self.prepare(channel, params, bits);
        let joined = match prepared {
            Ok((place, params)) if &*place.name == LIFECYCLE => {
                self.attach_lifecycle(channel, place, params, serial).await
            }
            Ok((place, params)) => self.join(channel, place, params, serial).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(joined) => self.tell_joined(transport, channel, joined).await,
            Err(error) => {
                telemetry::told(error.code);
                self.drop_attachment(channel);
                let channel = channel.to_owned();
                let frame = if error.code == CHANNELS_TOO_FAST {
                    let error = Some(error);
                    ServerFrame::Detached { channel, error }
                } else {
                    let channel = Some(channel);
                    ServerFrame::Error { channel, error }
                };
                transport.feed(&frame).await
            }
        }
    }

    /// Judges an ATTACH: which channel it is, and what of it is permitted.
    fn prepare(
        &self,
        channel: &str,
        params: &BTreeMap<String, String>,
        bits: u64,
    ) -> Result<(Place, AttachParams), ProtocolError> {
        let name = QualifiedName::parse(channel).map_err(|fault| {
            ProtocolError::from(AccessError::InvalidChannelName {
                name: channel.chars().take(64).collect(),
                fault,
            })
        })?;
        if !name.is_metachannel() {
            ChannelName::new(name.base())
                .map_err(|error| ProtocolError::new(40010, 400, error.to_string()))?;
        } else if !super::METACHANNELS.contains(&&*name.channel()) {
            let known = super::METACHANNELS.join(", ");
            let message = format!("there is no such metachannel; there are {known}");
            return Err(ProtocolError::new(40400, 404, message));
        }
        self.credential.may_attach(channel)?;
        let params = AttachParams::resolve(name.params(), params, bits)?;
        if params.occupancy.is_some() {
            self.credential.may(Operation::ChannelMetadata, channel)?;
        }
        let max = self.quota.limits.connection_channels_max;
        if self.attachments.get(channel).is_none() && self.attachments.len() >= max {
            telemetry::rejected("channels_per_connection");
            let message = format!("the connection has {max} channels, as many as it may");
            return Err(ProtocolError::new(90010, 400, message));
        }
        let place = Place {
            app: self.app.clone(),
            name: name.channel().into(),
        };
        Ok((place, params))
    }

    /// Returns what is in effect of the modes that a client asked for.
    pub(super) fn effective(
        &self,
        channel: &str,
        params: &AttachParams,
    ) -> Result<ChannelModes, ProtocolError> {
        let permitted = ChannelModes::permitted(&self.credential, channel);
        let modes = params.modes.intersection(permitted);
        if modes.is_empty() {
            let message = "the capability permits none of the modes that were asked for";
            return Err(ProtocolError::new(40160, 401, message));
        }
        Ok(modes)
    }

    /// Attaches to a channel that counts, or to one that the relay carries.
    async fn join(
        &mut self,
        channel: &str,
        place: Place,
        params: AttachParams,
        serial: Option<&str>,
    ) -> Result<Joined, ProtocolError> {
        let modes = self.effective(channel, &params)?;
        let kind = match ChannelName::new(&place.name) {
            Ok(name) => Kind::Counted(name),
            Err(_) => Kind::Relayed,
        };
        let former = self.attachments.get(channel);
        let former = former.map(|former| (former.id, former.modes, former.paused));
        let live = former.is_some_and(|(_, _, paused)| !paused);
        let since = match (live, serial, params.rewind) {
            (true, _, _) | (false, None, None) => Since::Now,
            (false, Some(serial), _) => Since::Serial(serial),
            (false, None, Some(rewind)) => Since::Rewind(rewind),
        };
        let attached = self.realtime.hub.attach(
            &place,
            &Attaching {
                mailbox: &self.mailbox,
                connection: &self.names.id,
                modes,
                echo: self.echo,
                since,
                former: former.map(|(id, ..)| id),
                quota: matches!(kind, Kind::Counted(_)).then_some(&self.quota),
            },
        )?;
        let occupancy = match &kind {
            Kind::Counted(name) => {
                let counted = self.count_in(name, &place, modes, params.occupancy, attached.id);
                match counted.await {
                    Ok(known) => params.occupancy.zip(known),
                    Err(error) => {
                        self.realtime.hub.detach(&place, attached.id);
                        return Err(error);
                    }
                }
            }
            Kind::Relayed | Kind::Shared(_) | Kind::Lifecycle(_) => None,
        };
        let shows_members = modes.contains(ChannelModes::PRESENCE_SUBSCRIBE);
        let members = if shows_members {
            attached.members
        } else {
            Vec::new()
        };
        let told = [
            (!members.is_empty(), flags::HAS_PRESENCE),
            (attached.continuous, flags::RESUMED),
            (
                matches!(since, Since::Rewind(_)) && !attached.backlog.is_empty(),
                flags::HAS_BACKLOG,
            ),
        ];
        let told = told.iter().filter(|(is, _)| *is).map(|(_, flag)| flag);
        let bits = told.fold(modes.flags(), |bits, flag| bits | flag);
        let frame = ServerFrame::Attached {
            channel: channel.to_owned(),
            channel_serial: Some(attached.serial.clone()),
            flags: bits,
            params: params.echo.clone(),
            error: None,
        };
        let members_entered = self.attachments.get_mut(channel);
        let members_entered = members_entered.map(|former| std::mem::take(&mut former.members));
        let attachment = Attachment {
            id: attached.id,
            place,
            kind,
            params,
            modes,
            members: members_entered.unwrap_or_default(),
            paused: false,
            serial: Some(attached.serial),
        };
        self.attachments.insert(channel, attachment);
        let serial = |number| Some(self.realtime.hub.serial(number));
        let backlog = attached.backlog.into_iter();
        Ok(Joined {
            attached: frame,
            backlog: backlog
                .map(|(number, broadcast)| (serial(number), broadcast))
                .collect(),
            members,
            occupancy,
        })
    }

    /// Counts an attachment that the hub has. If it follows the channel's occupancy, returns what
    /// that is with the attachment in it.
    async fn count_in(
        &mut self,
        name: &ChannelName,
        place: &Place,
        modes: ChannelModes,
        follows: Option<OccupancyParam>,
        id: AttachmentId,
    ) -> Result<Option<Occupancy>, ProtocolError> {
        let logged = match follows {
            None => None,
            Some(param) => {
                // What happens from here on is told, and none of it is in what is read; the
                // attachment is counted only after that, so it is in neither.
                self.realtime.hub.follow(place, id, &self.mailbox, param);
                let watches = &self.realtime.watches;
                watches.follow(&self.realtime, &self.app).await;
                Some(occupancy::logged(&self.realtime, &self.app, name).await)
            }
        };
        if self.held.is_some() {
            // Nothing is added to what the log says, which may have the client's old connection.
            return Ok(logged.inspect(|known| self.realtime.hub.followed_from(place, id, *known)));
        }
        let before = self
            .attachments
            .iter()
            .find(|(_, other)| other.place == *place)
            .map(|(_, other)| other.modes.counted());
        let item = ReportItem::Attach {
            connection: self.id.clone(),
            channel: name.clone(),
            modes: modes.counted(),
        };
        self.count(vec![item]).await?;
        Ok(logged.map(|logged| {
            let before = before.map_or(Occupancy::ZERO, |modes| modes.occupancy());
            let known = occupancy::with_own(logged, before, modes.counted().occupancy());
            self.realtime.hub.followed_from(place, id, known);
            known
        }))
    }

    async fn tell_joined(
        &mut self,
        transport: &mut Transport,
        channel: &str,
        joined: Joined,
    ) -> Result<(), Broken> {
        transport.feed(&joined.attached).await?;
        sync_members(transport, channel, &joined.members).await?;
        for (serial, broadcast) in joined.backlog {
            transport
                .feed_broadcast(&broadcast, channel, serial.as_deref())
                .await?;
        }
        if let Some((param, known)) = joined.occupancy {
            let frame = self.occupancy_frame(channel, param, &known);
            transport.feed(&frame).await?;
        }
        Ok(())
    }

    /// Sends messages and presence that others left.
    pub(super) async fn deliver(
        &mut self,
        transport: &mut Transport,
        delivery: Delivery,
    ) -> Result<(), Broken> {
        let Some((channel, attachment)) = self.attachments.live(delivery.attachment) else {
            return Ok(());
        };
        let serial = delivery.serial.as_deref();
        telemetry::realtime_deliveries_total.count(1);
        transport
            .feed_broadcast(&delivery.broadcast, channel, serial)
            .await?;
        if let Some(serial) = serial {
            attachment.serial = Some(serial.to_owned());
        }
        Ok(())
    }

    /// Sends the newest counts.
    pub(super) async fn tell_occupancy(
        &mut self,
        transport: &mut Transport,
        id: AttachmentId,
        occupancy: &Occupancy,
    ) -> Result<(), Broken> {
        let Some((channel, attachment)) = self.attachments.live(id) else {
            return Ok(());
        };
        let Some(param) = attachment.params.occupancy else {
            return Ok(());
        };
        let channel = Arc::clone(channel);
        let frame = self.occupancy_frame(&channel, param, occupancy);
        transport.feed(&frame).await
    }

    fn occupancy_frame(
        &self,
        channel: &str,
        param: OccupancyParam,
        occupancy: &Occupancy,
    ) -> ServerFrame {
        let message = occupancy::message(param, occupancy);
        ServerFrame::Message {
            channel: channel.to_owned(),
            channel_serial: None,
            envelope: Envelope {
                id: Some(self.realtime.draw_id()),
                timestamp_ms: Some(self.realtime.ports.clock.wall().0),
                connection_id: None,
            },
            messages: vec![message],
        }
    }

    /// Detaches a channel of which the client could not take what was left for it; the client
    /// attaches again at once, where it was.
    pub(super) async fn shed(
        &mut self,
        transport: &mut Transport,
        id: AttachmentId,
    ) -> Result<(), Broken> {
        let Some((channel, _)) = self.attachments.live(id) else {
            return Ok(());
        };
        let channel = channel.to_string();
        let message = "messages came faster than they were taken: attach again to go on";
        let error = Some(ProtocolError::new(80020, 400, message));
        self.drop_attachment(&channel);
        transport
            .feed(&ServerFrame::Detached { channel, error })
            .await
    }

    /// Detaches as the client wishes.
    pub(super) async fn detach(
        &mut self,
        transport: &mut Transport,
        channel: &str,
    ) -> Result<(), Broken> {
        self.drop_attachment(channel);
        let channel = channel.to_owned();
        let frame = ServerFrame::Detached {
            channel,
            error: None,
        };
        transport.feed(&frame).await
    }

    /// Lets go of an attachment, with its members.
    pub(super) fn drop_attachment(&mut self, channel: &str) {
        let Some(attachment) = self.attachments.remove(channel) else {
            return;
        };
        // Before the channel is let go of, with which its members would be.
        self.leave_members(&attachment.place, attachment.members);
        self.realtime.hub.detach(&attachment.place, attachment.id);
        let Kind::Counted(name) = &attachment.kind else {
            return;
        };
        // The same channel may be attached under another spelling, such as one with params.
        if self.is_attached_otherwise(&attachment.place) {
            return;
        }
        let item = ReportItem::Detach {
            connection: self.id.clone(),
            channel: name.clone(),
        };
        self.uncount(vec![item]);
    }

    fn is_attached_otherwise(&self, place: &Place) -> bool {
        self.attachments
            .iter()
            .any(|(_, other)| other.place == *place)
    }

    /// Lets go of everything that would outlive the connection; what counts is forgotten at once
    /// by the caller.
    pub(super) fn detach_all(&mut self) {
        self.members_leave();
        for (_, attachment) in self.attachments.iter() {
            attachment.stop_watch();
            self.realtime.hub.detach(&attachment.place, attachment.id);
        }
    }

    /// Tells that the connection's members are gone, unless it was told.
    pub(super) fn members_leave(&mut self) {
        if std::mem::replace(&mut self.absent, true) {
            return;
        }
        for (_, attachment) in self.attachments.iter() {
            self.leave_members(&attachment.place, attachment.members.clone());
        }
    }

    /// Lets the connection's members go while its attachments go on counting.
    pub(super) fn uncount_members(&mut self) {
        self.members_leave();
        let mut items = Vec::new();
        for (_, attachment) in self.attachments.iter() {
            let Kind::Counted(name) = &attachment.kind else {
                continue;
            };
            let members = attachment.members.keys();
            items.extend(members.filter_map(|client_id| {
                Some(ReportItem::PresenceLeave {
                    connection: self.id.clone(),
                    channel: name.clone(),
                    member: MemberId::new(client_id).ok()?,
                })
            }));
        }
        if !items.is_empty() {
            self.uncount(items);
        }
    }

    fn leave_members(&self, place: &Place, members: BTreeMap<String, PresenceMessage>) {
        if members.is_empty() {
            return;
        }
        let at = self.realtime.ports.clock.wall().0;
        let leaves = members.into_values().map(|member| PresenceMessage {
            // Not one of the connection's own, so that clients go by the time.
            id: Some(self.realtime.draw_id()),
            action: PresenceAction::Leave,
            timestamp_ms: Some(at),
            ..member
        });
        let leaves: Vec<_> = leaves.collect();
        self.realtime.hub.presence(place, &leaves);
    }

    /// Makes everything count again after a while in which nothing did, or no member.
    pub(super) async fn wake(&mut self) {
        self.absent = false;
        if self.held.is_none() {
            // What is refused now is refused again when the client attaches.
            let _refused = self.count_all().await;
        }
        let at = self.realtime.ports.clock.wall().0;
        for (_, attachment) in self.attachments.iter() {
            let members = attachment.members.values();
            let enters = members.map(|member| PresenceMessage {
                action: PresenceAction::Enter,
                timestamp_ms: Some(at),
                ..member.clone()
            });
            let enters: Vec<_> = enters.collect();
            self.realtime.hub.presence(&attachment.place, &enters);
        }
    }

    /// Counts everything that the connection has, members as far as they are present; returns the
    /// channels of which something is refused, and why.
    pub(super) async fn count_all(&mut self) -> Vec<(Arc<str>, ProtocolError)> {
        let (mut items, mut channels) = (Vec::new(), Vec::new());
        for (channel, attachment) in self.attachments.iter() {
            let Kind::Counted(name) = &attachment.kind else {
                continue;
            };
            items.push(ReportItem::Attach {
                connection: self.id.clone(),
                channel: name.clone(),
                modes: attachment.modes.counted(),
            });
            let members = attachment.members.keys().filter(|_| !self.absent);
            items.extend(members.filter_map(|client_id| {
                Some(ReportItem::PresenceEnter {
                    connection: self.id.clone(),
                    channel: name.clone(),
                    member: MemberId::new(client_id).ok()?,
                })
            }));
            channels.resize(items.len(), channel);
        }
        if items.is_empty() {
            return Vec::new();
        }
        let app = self.app.clone();
        let refusals = self.realtime.ports.counting.report(app, items).await;
        let mut refused = refusals
            .iter()
            .filter_map(|refusal| {
                let item = usize::try_from(refusal.item).ok()?;
                Some((Arc::clone(channels.get(item)?), refused(refusal)))
            })
            .collect::<Vec<_>>();
        // In the order of their channels; the first says what is the matter.
        refused.dedup_by(|(later, _), (former, _)| later == former);
        refused
    }

    /// Lets everything count that did not, as another node might have counted it. A channel that
    /// may not is detached, so that the client attaches again and is told why then.
    pub(super) async fn begin_to_count(&mut self, transport: &mut Transport) -> Result<(), Broken> {
        for (channel, error) in self.count_all().await {
            self.drop_attachment(&channel);
            let (channel, error) = (channel.to_string(), Some(error));
            transport
                .feed(&ServerFrame::Detached { channel, error })
                .await?;
        }
        transport.flush().await
    }

    /// Sends what was missed on every channel, for clients that do not attach again by themselves.
    pub(super) async fn replay_all(&mut self, transport: &mut Transport) -> Result<(), Broken> {
        let paused = self.attachments.iter().filter(|(_, held)| held.paused);
        let paused: Vec<_> = paused
            .map(|(channel, held)| {
                let (params, modes) = (held.params.echo.clone(), held.params.modes);
                (channel.to_string(), held.serial.clone(), params, modes)
            })
            .collect();
        for (channel, serial, params, modes) in paused {
            let bits = modes.flags();
            self.attach(transport, &channel, serial.as_deref(), &params, bits)
                .await?;
        }
        Ok(())
    }

    /// Holds every attachment against a new credential.
    pub(super) async fn repermit(&mut self, transport: &mut Transport) -> Result<(), Broken> {
        let channels: Vec<String> = self
            .attachments
            .iter()
            .map(|(channel, _)| channel.to_string())
            .collect();
        for channel in channels {
            let Some(attachment) = self.attachments.get(&channel) else {
                continue;
            };
            let may_follow = match attachment.params.occupancy {
                Some(_) => self.credential.may(Operation::ChannelMetadata, &channel),
                None => Ok(()),
            };
            let effective = may_follow
                .map_err(ProtocolError::from)
                .and_then(|()| self.effective(&channel, &attachment.params));
            match effective {
                Ok(modes) if modes == attachment.modes => {}
                Ok(_) => {
                    let params = attachment.params.echo.clone();
                    let bits = attachment.params.modes.flags();
                    let serial = attachment.serial.clone();
                    self.attach(transport, &channel, serial.as_deref(), &params, bits)
                        .await?;
                }
                Err(error) => {
                    self.drop_attachment(&channel);
                    let channel = Some(channel);
                    transport
                        .feed(&ServerFrame::Error { channel, error })
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes to a channel, attached or not.
    pub(super) async fn publish(
        &mut self,
        channel: &str,
        msg_serial: u64,
        messages: Vec<Message>,
    ) -> Result<PublishResult, ProtocolError> {
        let name = self.may_change(channel, Operation::Publish, ChannelModes::PUBLISH)?;
        self.may_say(messages.len())?;
        let envelope = Envelope {
            id: Some(format!("{}:{msg_serial}", self.names.id)),
            timestamp_ms: Some(self.realtime.ports.clock.wall().0),
            connection_id: Some(self.names.id.to_string()),
        };
        if let Some(other) = messages
            .iter()
            .find(|one| one.action != MessageAction::Create)
        {
            let message = format!("messages are not kept here: action {:?}", other.action);
            return Err(ProtocolError::new(40000, 400, message));
        }
        let messages = messages.into_iter().map(|message| {
            let named = message.client_id.as_deref();
            let client_id = self.identity.publisher(named)?.map(str::to_owned);
            Ok::<_, AccessError>(Message {
                client_id,
                ..message
            })
        });
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let count = messages.len();
        let broadcast = Broadcast::new(envelope, Content::Messages(messages));
        let serials =
            self.realtime
                .publish(&self.quota, &self.app, &name, Some(&self.id), broadcast)?;
        self.said(count);
        Ok(PublishResult { serials })
    }

    /// Changes the presence set of a channel.
    pub(super) async fn change_presence(
        &mut self,
        channel: &str,
        msg_serial: u64,
        items: Vec<PresenceMessage>,
    ) -> Result<(), ProtocolError> {
        let name = self.may_change(channel, Operation::Presence, ChannelModes::PRESENCE)?;
        let Some(attachment) = self.attachments.get(channel) else {
            let message = "presence needs the channel to be attached";
            return Err(ProtocolError::new(91001, 400, message));
        };
        let place = attachment.place.clone();
        let count = items.len();
        self.may_say(count)?;
        let at = self.realtime.ports.clock.wall().0;
        let mut changes = Vec::new();
        let mut reports = Vec::new();
        for (index, item) in (0..).zip(items) {
            let client_id = self.identity.member(item.client_id.as_deref())?.to_owned();
            let member = MemberId::new(&client_id)
                .map_err(|error| ProtocolError::new(40012, 400, error.to_string()))?;
            let (connection, channel) = (self.id.clone(), name.clone());
            reports.push(match item.action {
                PresenceAction::Leave | PresenceAction::Absent => ReportItem::PresenceLeave {
                    connection,
                    channel,
                    member,
                },
                PresenceAction::Enter | PresenceAction::Update | PresenceAction::Present => {
                    ReportItem::PresenceEnter {
                        connection,
                        channel,
                        member,
                    }
                }
            });
            let id = PresenceId {
                connection_id: &self.names.id,
                msg_serial,
                index,
            };
            changes.push(PresenceMessage {
                id: Some(id.to_string()),
                client_id: Some(client_id),
                connection_id: Some(self.names.id.to_string()),
                timestamp_ms: Some(at),
                ..item
            });
        }
        let members_max = self.quota.limits.channel_members_max;
        self.realtime.hub.has_room(&place, &changes, members_max)?;
        let now = self.realtime.hub.monotonic();
        self.quota.say(count as u64, false, now)?;
        self.said(count);
        self.count(reports).await?;
        self.realtime.hub.presence(&place, &changes);
        if let Some(attachment) = self.attachments.get_mut(channel) {
            for change in changes {
                let client_id = change.client_id.clone().unwrap_or_default();
                match change.action {
                    PresenceAction::Leave | PresenceAction::Absent => {
                        attachment.members.remove(&client_id);
                    }
                    PresenceAction::Enter | PresenceAction::Update | PresenceAction::Present => {
                        attachment.members.insert(client_id, change);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends the presence set.
    pub(super) async fn sync(
        &mut self,
        transport: &mut Transport,
        channel: &str,
    ) -> Result<(), Broken> {
        let Some(attachment) = self.attachments.get(channel) else {
            return Ok(());
        };
        if !attachment.modes.contains(ChannelModes::PRESENCE_SUBSCRIBE) {
            return Ok(());
        }
        let members = self.realtime.hub.members(&attachment.place);
        if members.is_empty() {
            let frame = ServerFrame::Sync {
                channel: channel.to_owned(),
                channel_serial: format!("{}:", self.realtime.draw_id()),
                presence: Vec::new(),
            };
            return transport.feed(&frame).await;
        }
        sync_members(transport, channel, &members).await
    }

    /// Judges a change of a channel: by the attachment's modes if it is attached, else by what is
    /// permitted.
    fn may_change(
        &self,
        channel: &str,
        operation: Operation,
        mode: ChannelModes,
    ) -> Result<ChannelName, ProtocolError> {
        self.credential.may(operation, channel)?;
        let parsed = QualifiedName::parse(channel).ok();
        let name = parsed
            .filter(|name| !name.is_metachannel())
            .ok_or_else(|| ProtocolError::new(40160, 401, "metachannels are only read"))?;
        let name = ChannelName::new(name.base())
            .map_err(|error| ProtocolError::new(40010, 400, error.to_string()))?;
        if let Some(attachment) = self.attachments.get(channel)
            && !attachment.modes.contains(mode)
        {
            let message = "the channel was attached without the mode that this needs";
            return Err(ProtocolError::new(40165, 401, message));
        }
        Ok(name)
    }

    /// Judges whether the connection may say so much now. What is refused for another reason costs
    /// nothing, so it is taken later.
    fn may_say(&self, count: usize) -> Result<(), ProtocolError> {
        let rate = self.quota.limits.connection_messages;
        let now = self.realtime.hub.monotonic();
        if self.inbound.fits(rate, count as u64, now) {
            return Ok(());
        }
        Err(Limit::ConnectionMessages.exceeded(rate).into())
    }

    fn said(&mut self, count: usize) {
        let rate = self.quota.limits.connection_messages;
        let now = self.realtime.hub.monotonic();
        self.inbound.drain(rate, count as u64, now);
    }

    /// Counts what the connection did; the first thing that is refused is an error. While it is
    /// held nothing counts, nor is refused.
    async fn count(&mut self, items: Vec<ReportItem>) -> Result<(), ProtocolError> {
        if self.held.is_some() {
            return Ok(());
        }
        let refusals = self
            .realtime
            .ports
            .counting
            .report(self.app.clone(), items)
            .await;
        refusals
            .into_iter()
            .next()
            .map_or(Ok(()), |refusal| Err(refused(&refusal)))
    }

    /// Uncounts what the connection did, if it counts.
    fn uncount(&self, items: Vec<ReportItem>) {
        if self.held.is_none() {
            let app = self.app.clone();
            self.realtime.ports.counting.uncount(app, items);
        }
    }
}

/// What a client is told of a change that does not count.
fn refused(refusal: &Refusal) -> ProtocolError {
    let (code, status) = match refusal.reason.code() {
        RefusalCode::Overloaded => (CHANNELS_TOO_FAST, 429),
        RefusalCode::NotAttached => (91001, 400),
        RefusalCode::NoPresenceMode => (40165, 401),
        RefusalCode::NotPermitted => (40160, 401),
        RefusalCode::InvalidName => (40010, 400),
        RefusalCode::UnknownItem
        | RefusalCode::InvalidModes
        | RefusalCode::InvalidCount
        | RefusalCode::Mixed => (50001, 500),
    };
    ProtocolError::new(code, status, refusal.reason.to_string())
}

/// Sends a presence set in pages, of which only the last has no cursor.
async fn sync_members(
    transport: &mut Transport,
    channel: &str,
    members: &[PresenceMessage],
) -> Result<(), Broken> {
    let pages = members.chunks(SYNC_MEMBERS);
    let last = pages.len().saturating_sub(1);
    for (index, page) in pages.enumerate() {
        let cursor = if index == last {
            String::new()
        } else {
            (index + 1).to_string()
        };
        let frame = ServerFrame::Sync {
            channel: channel.to_owned(),
            channel_serial: format!("sync:{cursor}"),
            presence: page.to_vec(),
        };
        transport.feed(&frame).await?;
    }
    Ok(())
}
