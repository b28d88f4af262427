//! Attachments to `[meta]channel.lifecycle`. They share the app's watch while they keep up with it;
//! one that comes with an older serial, or another node's, has a watch of its own, which goes on from
//! there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use headcount_model::{Timestamp, WatchEnd, WatchError, WatchFilter, WatchItem};
use headcount_realtime::{AttachParams, Broadcast, ProtocolError, Rewind, ServerFrame, flags};

use super::attachments::{Attachment, Kind};
use super::channels::Joined;
use super::connection::Connection;
use super::hub::Place;
use super::mailbox::AttachmentId;
use super::transport::{Broken, Transport};
use crate::ports::HistoryQuery;
use crate::telemetry;

/// How an attachment begins: of which kind it is, where, and what it has missed.
type Begun = (Kind, Option<String>, Vec<(Option<String>, Arc<Broadcast>)>);

impl Connection {
    /// Attaches to the lifecycle events, after a serial if there is one.
    pub(super) async fn attach_lifecycle(
        &mut self,
        channel: &str,
        place: Place,
        params: AttachParams,
        serial: Option<&str>,
    ) -> Result<Joined, ProtocolError> {
        let modes = self.effective(channel, &params)?;
        if let Some(attachment) = self.attachments.get_mut(channel)
            && !attachment.paused
        {
            attachment.params = params;
            attachment.modes = modes;
            return Ok(Joined::bare(ServerFrame::Attached {
                channel: channel.to_owned(),
                channel_serial: attachment.serial.clone(),
                flags: modes.flags() | flags::RESUMED,
                params: attachment.params.echo.clone(),
                error: None,
            }));
        }
        if let Some(former) = self.attachments.get(channel) {
            former.stop_watch();
        }
        let id = AttachmentId(self.realtime.hub.next());
        let mut begun = self.share(id, serial).await;
        let mut lost = None;
        if begun.is_none() && serial.is_some() {
            begun = match self.own(id, serial).await {
                Ok(own) => Some(own),
                Err(WatchError::Cursor(_) | WatchError::UnknownShard { .. }) => {
                    let message = "the serial is not known here: events may have been missed";
                    lost = Some(ProtocolError::new(80023, 400, message));
                    self.share(id, None).await
                }
                Err(error) => return Err(unwatchable(&error)),
            };
        }
        let Some((kind, serial_now, missed)) = begun else {
            let message = "lifecycle events cannot be watched now";
            return Err(ProtocolError::new(50003, 503, message));
        };
        let resumed = serial.is_some() && lost.is_none();
        let backlog = match params.rewind.filter(|_| !resumed) {
            Some(rewind) => self.rewound(rewind).await?,
            None => missed,
        };
        let told = [
            (resumed, flags::RESUMED),
            (!resumed && !backlog.is_empty(), flags::HAS_BACKLOG),
        ];
        let told = told.iter().filter(|(is, _)| *is).map(|(_, flag)| flag);
        let bits = told.fold(modes.flags(), |bits, flag| bits | flag);
        let attachment = Attachment {
            id,
            place,
            kind,
            params,
            modes,
            members: BTreeMap::new(),
            paused: false,
            serial: serial_now.clone(),
        };
        let frame = ServerFrame::Attached {
            channel: channel.to_owned(),
            channel_serial: serial_now,
            flags: bits,
            params: attachment.params.echo.clone(),
            error: lost,
        };
        self.attachments.insert(channel, attachment);
        Ok(Joined {
            attached: frame,
            backlog,
            members: Vec::new(),
            occupancy: None,
        })
    }

    /// Shares the app's watch, after a serial if there is one that it remembers.
    async fn share(&mut self, id: AttachmentId, after: Option<&str>) -> Option<Begun> {
        let realtime = Arc::clone(&self.realtime);
        let subscriber = (id, &self.mailbox);
        let subscribed = realtime
            .watches
            .subscribe(&realtime, &self.app, subscriber, after);
        let subscribed = subscribed.await?;
        let serial = match after {
            Some(after) => Some(after.to_owned()),
            None => subscribed.serial.as_deref().map(str::to_owned),
        };
        let backlog = subscribed.backlog.into_iter();
        let backlog = backlog
            .map(|(serial, broadcast)| (serial.as_deref().map(str::to_owned), broadcast))
            .collect();
        Some((Kind::Shared(subscribed.watch), serial, backlog))
    }

    /// Starts a watch of its own after a serial.
    async fn own(&mut self, id: AttachmentId, after: Option<&str>) -> Result<Begun, WatchError> {
        let watch = self.watch(after).await?;
        let watch = self.attachments.follow(id, watch);
        let serial = after.map(str::to_owned);
        Ok((Kind::Lifecycle(Some(watch)), serial, Vec::new()))
    }

    /// Starts a watch of the app's lifecycle events.
    async fn watch(
        &mut self,
        cursor: Option<&str>,
    ) -> Result<BoxStream<'static, WatchItem>, WatchError> {
        let filter = WatchFilter {
            app: Some(self.app.clone()),
            prefix: String::new(),
            kinds: self.realtime.lifecycle_kinds(&self.app),
        };
        let watch = self
            .realtime
            .ports
            .directory
            .watch(filter, cursor.map(str::to_owned));
        let after = super::READ_TIMEOUT;
        tokio::time::timeout(after, watch)
            .await
            .unwrap_or_else(|_| {
                let reason = format!("it did not start within {} ms", after.as_millis());
                Err(WatchError::Unavailable(reason))
            })
    }

    /// Reads the events of a rewind, oldest first.
    async fn rewound(
        &mut self,
        rewind: Rewind,
    ) -> Result<Vec<(Option<String>, Arc<Broadcast>)>, ProtocolError> {
        let now = self.realtime.ports.clock.wall();
        let (limit, from) = match rewind {
            Rewind::Messages(0) => return Ok(Vec::new()),
            Rewind::Messages(count) => (count as usize, None),
            Rewind::Span(span) => {
                let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                let from = Timestamp(now.0.saturating_sub(span_ms));
                (super::REWIND_EVENTS_MAX, Some(from))
            }
        };
        let query = HistoryQuery {
            app: self.app.clone(),
            kinds: self.realtime.lifecycle_kinds(&self.app),
            from,
            to: None,
            newest_first: true,
            after: None,
            limit,
        };
        let read = self.realtime.ports.directory.history(query).await;
        let read = read.map_err(|error| ProtocolError::new(50003, 503, error.to_string()))?;
        let events = read.events.iter().rev();
        Ok(events
            .map(|event| (None, self.realtime.encodings.of(event)))
            .collect())
    }

    /// Tells what a watch has brought.
    pub(super) async fn told(
        &mut self,
        transport: &mut Transport,
        id: AttachmentId,
        item: WatchItem,
    ) -> Result<(), Broken> {
        let Some((channel, attachment)) = self.attachments.live(id) else {
            return Ok(());
        };
        match item {
            WatchItem::Events { events, cursor } => {
                telemetry::realtime_deliveries_total.count(events.len() as u64);
                let last = events.len().saturating_sub(1);
                let channel = Arc::clone(channel);
                attachment.serial = Some(cursor.clone());
                for (index, event) in events.iter().enumerate() {
                    // Of events that came together only the last says where the client is.
                    let serial = (index == last).then_some(cursor.as_str());
                    let broadcast = self.realtime.encodings.of(event);
                    transport
                        .feed_broadcast(&broadcast, &channel, serial)
                        .await?;
                }
            }
            WatchItem::Position { cursor } => attachment.serial = Some(cursor),
            WatchItem::Gap { cursor, .. } => {
                let message = "events are missing here: read the present state by GET /channels";
                let error = Some(ProtocolError::new(90003, 404, message));
                attachment.serial = Some(cursor.clone());
                let frame = ServerFrame::Attached {
                    channel: channel.to_string(),
                    channel_serial: Some(cursor),
                    flags: attachment.modes.flags(),
                    params: attachment.params.echo.clone(),
                    error,
                };
                transport.feed(&frame).await?;
            }
            WatchItem::End { reason, cursor } => {
                let channel = channel.to_string();
                attachment.serial = Some(cursor.clone());
                return self.watch_ended(transport, channel, reason, cursor).await;
            }
        }
        transport.flush().await
    }

    /// Goes on elsewhere with a watch that the node ended, or lets the client attach again.
    async fn watch_ended(
        &mut self,
        transport: &mut Transport,
        channel: String,
        reason: WatchEnd,
        cursor: String,
    ) -> Result<(), Broken> {
        if reason == WatchEnd::Moved
            && let Ok(watch) = self.watch(Some(&cursor)).await
            && let Some(id) = self.attachments.get(&channel).map(|held| held.id)
        {
            let watch = self.attachments.follow(id, watch);
            if let Some(attachment) = self.attachments.get_mut(&channel) {
                attachment.kind = Kind::Lifecycle(Some(watch));
            }
            return Ok(());
        }
        let (code, status, message) = match reason {
            WatchEnd::TooSlow => (
                80020,
                400,
                "events came faster than they were taken: attach again to go on",
            ),
            WatchEnd::Moved | WatchEnd::Unavailable => (
                50003,
                503,
                "events cannot be read here now: attach again to go on",
            ),
        };
        let error = Some(ProtocolError::new(code, status, message));
        self.drop_attachment(&channel);
        transport
            .send(&ServerFrame::Detached { channel, error })
            .await
    }
}

fn unwatchable(error: &WatchError) -> ProtocolError {
    let (code, status) = match error {
        WatchError::Cursor(_) | WatchError::UnknownShard { .. } => (40011, 400),
        WatchError::TooManyWatchers { .. } => (42910, 429),
        WatchError::Unavailable(_) => (50003, 503),
    };
    ProtocolError::new(code, status, error.to_string())
}
