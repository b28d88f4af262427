//! In-band occupancy: what the log says of an app's channels, told on the channels themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use headcount_model::{
    AppId, Category, ChannelKey, ChannelName, EventKind, Occupancy, WatchFilter, WatchItem,
};
use headcount_realtime::{Message, MessageAction, OccupancyParam, Payload};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Core;
use super::hub::Place;
use crate::ports::ReadLevel;

/// The name of the messages.
const NAME: &str = "[meta]occupancy";

/// How long to wait before a watch that did not start is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is checked whether anybody follows an app still; longer than [`AHEAD`].
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long after it attached a follower knows more than the log may.
const AHEAD: Duration = Duration::from_secs(5);

/// The apps of which somebody follows a channel's occupancy; each is watched once. The value is
/// true while a watch tells all that happens.
#[derive(Debug, Default)]
pub(crate) struct Follows(Mutex<HashMap<AppId, watch::Receiver<bool>>>);

impl Follows {
    /// Sees to it that an app is watched; returns once it is, or when it takes too long.
    pub(crate) async fn follow(&self, realtime: &Arc<Core>, app: &AppId) {
        let mut watching = match self.apps().entry(app.clone()) {
            Entry::Occupied(watched) => watched.get().clone(),
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(false);
                tokio::spawn(watch_app(Arc::clone(realtime), app.clone(), sender));
                vacant.insert(receiver).clone()
            }
        };
        let started = watching.wait_for(|watching| *watching);
        // Without a watch the counts are what they are at present; they follow when there is one.
        let _late = tokio::time::timeout(super::READ_TIMEOUT, started).await;
    }

    fn apps(&self) -> MutexGuard<'_, HashMap<AppId, watch::Receiver<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an app's watch if nobody follows it any more; returns whether it has ended.
    fn end(&self, realtime: &Core, app: &AppId) -> bool {
        let mut apps = self.apps();
        // Whoever follows is in the hub before asking for the watch.
        let unused = realtime.hub.followed(app).is_empty();
        if unused {
            apps.remove(app);
        }
        unused
    }
}

/// Watches an app until nobody follows it.
async fn watch_app(realtime: Arc<Core>, app: AppId, watching: watch::Sender<bool>) {
    let filter = WatchFilter {
        app: Some(app.clone()),
        prefix: String::new(),
        kinds: [EventKind::Opened, EventKind::Closed, EventKind::Occupancy]
            .into_iter()
            .collect(),
    };
    let mut missed = false;
    while !realtime.occupancy.end(&realtime, &app) {
        let started = realtime.ports.directory.watch(filter.clone(), None).await;
        match started {
            Ok(items) => {
                watching.send_replace(true);
                if tell(&realtime, &app, items, missed).await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(target: "api", %app, %error, "occupancy is not watched");
                tokio::time::sleep(RETRY).await;
            }
        }
        watching.send_replace(false);
        missed = true;
    }
}

/// Tells what a watch brings; returns true once nobody wants to know.
async fn tell(
    realtime: &Core,
    app: &AppId,
    mut items: BoxStream<'static, WatchItem>,
    mut missed: bool,
) -> bool {
    if missed {
        sync(realtime, app).await;
    }
    let mut ticks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
    loop {
        let item = tokio::select! {
            item = items.next() => item,
            _ = ticks.tick() => {
                if realtime.occupancy.end(realtime, app) {
                    return true;
                }
                // Those who were left out, as they had just attached.
                if std::mem::take(&mut missed) {
                    sync(realtime, app).await;
                }
                continue;
            }
        };
        match item {
            Some(WatchItem::Events { events, .. }) => {
                for event in events {
                    let event = &event.event;
                    let occupancy = if event.kind == EventKind::Closed {
                        Occupancy::ZERO
                    } else {
                        event.occupancy
                    };
                    let place = Place {
                        app: app.clone(),
                        name: event.channel.name.as_str().into(),
                    };
                    realtime.hub.occupancy(&place, occupancy, Duration::ZERO);
                }
            }
            Some(WatchItem::Gap { .. }) => {
                missed = true;
                sync(realtime, app).await;
            }
            Some(WatchItem::Position { .. }) => {}
            Some(WatchItem::End { .. }) | None => return false,
        }
    }
}

/// Reads the counts of every channel that is followed, after something may have been missed.
async fn sync(realtime: &Core, app: &AppId) {
    for place in realtime.hub.followed(app) {
        let Ok(name) = ChannelName::new(&place.name) else {
            continue;
        };
        if let Some(occupancy) = read(realtime, app, &name).await {
            realtime.hub.occupancy(&place, occupancy, AHEAD);
        }
    }
}

async fn read(realtime: &Core, app: &AppId, name: &ChannelName) -> Option<Occupancy> {
    let channel = ChannelKey {
        app: app.clone(),
        name: name.clone(),
    };
    let read = realtime.ports.directory.status(channel, ReadLevel::Local);
    let read = tokio::time::timeout(super::READ_TIMEOUT, read).await;
    Some(read.ok()?.ok()?.status.occupancy.metrics)
}

/// Returns a channel's counts for somebody who has just attached with `own`, and had `before`: as
/// the log knows them, with what it cannot know yet.
pub(super) async fn at_attach(
    realtime: &Core,
    app: &AppId,
    name: &ChannelName,
    before: Occupancy,
    own: Occupancy,
) -> Occupancy {
    let logged = read(realtime, app, name).await.unwrap_or(Occupancy::ZERO);
    let mut now = Occupancy::ZERO;
    for category in Category::ALL {
        let others = logged.get(category).saturating_sub(before.get(category));
        now.set(category, others.saturating_add(own.get(category)));
    }
    now
}

/// Returns the message that tells counts (`contract.md` section 2).
pub(super) fn message(param: OccupancyParam, occupancy: &Occupancy) -> Message {
    Message {
        name: Some(NAME.to_owned()),
        data: Payload::Text(param.data(occupancy)),
        encoding: Some("json".to_owned()),
        action: MessageAction::Meta,
        ..Message::default()
    }
}
