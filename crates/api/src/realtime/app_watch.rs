//! One watch of each app's lifecycle events for all clients of this node: what in-band occupancy
//! follows, and what subscribers of `[meta]channel.lifecycle` share while they keep up.
//!
//! A subscriber that comes with a serial that is not among the last ones has a watch of its own
//! instead (`meta`), which goes on from anywhere.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use headcount_model::{
    AppId, EventKind, Occupancy, WatchEnd, WatchError, WatchEvent, WatchFilter, WatchItem,
};
use headcount_realtime::Broadcast;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Core;
use super::hub::Place;
use super::mailbox::{AttachmentId, Delivery, Mailbox};
use super::occupancy;

/// How long to wait before a watch that did not start is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is checked whether an app is followed still.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Events that are remembered for those who come back.
const MEMORY_MAX: usize = 1_000;

/// The apps that are watched.
#[derive(Debug, Default)]
pub(crate) struct AppWatches(Mutex<HashMap<AppId, Arc<AppWatch>>>);

/// The watch of one app.
#[derive(Debug)]
pub(crate) struct AppWatch {
    /// True while it tells all that happens.
    watching: watch::Sender<bool>,
    told: Mutex<Told>,
}

/// What was told, and to whom.
#[derive(Debug, Default)]
struct Told {
    subscribers: BTreeMap<AttachmentId, Arc<Mailbox>>,
    /// The last events, oldest first. Of those that came together, the last has the serial.
    memory: VecDeque<(Arc<Broadcast>, Option<Arc<str>>)>,
    /// Where the watch is.
    serial: Option<Arc<str>>,
}

/// Events with the serials that are told with them.
pub(crate) type Backlog = Vec<(Option<Arc<str>>, Arc<Broadcast>)>;

/// What a subscriber begins with.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) watch: Arc<AppWatch>,
    /// Where the watch is, if it has begun.
    pub(crate) serial: Option<Arc<str>>,
    /// What came after the serial that was asked for.
    pub(crate) backlog: Backlog,
}

impl AppWatches {
    /// Sees to it that an app is watched, for somebody who follows an occupancy in the hub; returns
    /// once it is, or when that takes too long.
    pub(crate) async fn follow(&self, realtime: &Arc<Core>, app: &AppId) {
        let watch = self.of(&mut self.apps(), realtime, app);
        watch.begun().await;
    }

    /// Subscribes to an app's lifecycle events, from now on or after a serial; nothing if that
    /// serial is not remembered.
    pub(crate) async fn subscribe(
        &self,
        realtime: &Arc<Core>,
        app: &AppId,
        (id, mailbox): (AttachmentId, &Arc<Mailbox>),
        after: Option<&str>,
    ) -> Option<Subscribed> {
        let (watch, backlog) = {
            let mut apps = self.apps();
            let watch = match after {
                None => self.of(&mut apps, realtime, app),
                Some(_) => Arc::clone(apps.get(app)?),
            };
            // Before the map is let go of, so that the watch does not end meanwhile.
            let mut told = watch.told();
            let backlog = match after {
                None => Vec::new(),
                Some(serial) => told.after(serial)?,
            };
            told.subscribers.insert(id, Arc::clone(mailbox));
            drop(told);
            (watch, backlog)
        };
        watch.begun().await;
        let serial = watch.told().serial.clone();
        Some(Subscribed {
            watch,
            serial,
            backlog,
        })
    }

    fn of(
        &self,
        apps: &mut HashMap<AppId, Arc<AppWatch>>,
        realtime: &Arc<Core>,
        app: &AppId,
    ) -> Arc<AppWatch> {
        match apps.entry(app.clone()) {
            Entry::Occupied(watch) => Arc::clone(watch.get()),
            Entry::Vacant(vacant) => {
                let watch = Arc::new(AppWatch {
                    watching: watch::Sender::new(false),
                    told: Mutex::default(),
                });
                let task = Arc::clone(&watch).run(Arc::clone(realtime), app.clone());
                tokio::spawn(task);
                Arc::clone(vacant.insert(watch))
            }
        }
    }

    /// Ends an app's watch if nobody follows it any more; returns whether it has ended.
    fn end(&self, realtime: &Core, app: &AppId) -> bool {
        let mut apps = self.apps();
        let unused = apps
            .get(app)
            .is_none_or(|watch| watch.told().subscribers.is_empty())
            // Whoever follows is in the hub before asking for the watch.
            && realtime.hub.followed(app).is_empty();
        if unused {
            apps.remove(app);
        }
        unused
    }

    fn apps(&self) -> MutexGuard<'_, HashMap<AppId, Arc<AppWatch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppWatch {
    /// Tells a subscriber nothing more.
    pub(crate) fn unsubscribe(&self, id: AttachmentId) {
        self.told().subscribers.remove(&id);
    }

    /// Waits until the watch tells what happens, but not for ever: without one, the present is all
    /// there is.
    async fn begun(&self) {
        let mut watching = self.watching.subscribe();
        let begun = watching.wait_for(|watching| *watching);
        let _late = tokio::time::timeout(super::READ_TIMEOUT, begun).await;
    }

    /// Watches until nobody follows.
    async fn run(self: Arc<Self>, realtime: Arc<Core>, app: AppId) {
        let filter = WatchFilter {
            app: Some(app.clone()),
            ..WatchFilter::default()
        };
        let mut missed = false;
        while !realtime.watches.end(&realtime, &app) {
            let serial = self.told().serial.as_deref().map(str::to_owned);
            let directory = &realtime.ports.directory;
            match directory.watch(filter.clone(), serial).await {
                Ok(items) => {
                    if self.tell(&realtime, &app, items, missed).await {
                        return;
                    }
                }
                Err(WatchError::Cursor(_) | WatchError::UnknownShard { .. }) => {
                    self.told().shed();
                }
                Err(error) => {
                    tracing::debug!(target: "api", %app, %error, "an app is not watched");
                    tokio::time::sleep(RETRY).await;
                }
            }
            self.watching.send_replace(false);
            missed = true;
        }
    }

    /// Tells what a watch brings; returns true once nobody wants to know.
    async fn tell(
        &self,
        realtime: &Core,
        app: &AppId,
        mut items: BoxStream<'static, WatchItem>,
        mut missed: bool,
    ) -> bool {
        if missed {
            occupancy::sync(realtime, app).await;
        }
        let tells_occupancy = realtime.ports.access.tells_occupancy(app.as_str());
        let mut ticks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        loop {
            let item = tokio::select! {
                item = items.next() => item,
                _ = ticks.tick() => {
                    if realtime.watches.end(realtime, app) {
                        return true;
                    }
                    // Those who were left out, as they had just attached.
                    if std::mem::take(&mut missed) {
                        occupancy::sync(realtime, app).await;
                    }
                    continue;
                }
            };
            match item {
                Some(WatchItem::Events { events, cursor }) => {
                    for event in &events {
                        follow_occupancy(realtime, event);
                    }
                    let told = events.iter().filter(|event| {
                        tells_occupancy || event.event.kind != EventKind::Occupancy
                    });
                    let told: Vec<_> = told.collect();
                    self.told().events(realtime, &told, cursor.into());
                }
                Some(WatchItem::Gap { cursor, .. }) => {
                    missed = true;
                    self.gap(cursor);
                    occupancy::sync(realtime, app).await;
                }
                Some(WatchItem::Position { cursor }) => {
                    self.told().serial = Some(cursor.into());
                }
                Some(WatchItem::End { reason, cursor }) => {
                    self.told().serial = Some(cursor.into());
                    if reason == WatchEnd::Unavailable {
                        tokio::time::sleep(RETRY).await;
                    }
                    return false;
                }
                None => return false,
            }
            self.watching.send_if_modified(|watching| {
                let begins = !*watching && self.told().serial.is_some();
                *watching |= begins;
                begins
            });
        }
    }

    /// Notes that events are missing up to a cursor.
    fn gap(&self, cursor: String) {
        let mut told = self.told();
        told.shed();
        told.serial = Some(cursor.into());
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Tells events that came together, and remembers them.
    fn events(&mut self, realtime: &Core, events: &[&Arc<WatchEvent>], serial: Arc<str>) {
        let capacity = realtime.config.capacity();
        let last = events.len().saturating_sub(1);
        for (index, event) in events.iter().enumerate() {
            let broadcast = realtime.encodings.of(event);
            let own = (index == last).then(|| Arc::clone(&serial));
            let rolls_up = event.event.kind == EventKind::Occupancy;
            let rolls_up = rolls_up.then(|| Arc::from(event.event.channel.name.as_str()));
            self.subscribers.retain(|id, mailbox| {
                let delivery = Delivery {
                    attachment: *id,
                    broadcast: Arc::clone(&broadcast),
                    serial: own.clone(),
                    rolls_up: rolls_up.clone(),
                };
                mailbox.deliver(delivery, capacity)
            });
            self.memory.push_back((broadcast, own));
        }
        let excess = self.memory.len().saturating_sub(MEMORY_MAX);
        self.memory.drain(..excess);
        self.serial = Some(serial);
    }

    /// Returns what was told after a serial, if that is known.
    fn after(&self, serial: &str) -> Option<Backlog> {
        if self.serial.as_deref() == Some(serial) {
            return Some(Vec::new());
        }
        let known = |own: &Option<Arc<str>>| own.as_deref() == Some(serial);
        let at = self.memory.iter().rposition(|(_, own)| known(own))?;
        let after = self.memory.iter().skip(at + 1);
        Some(
            after
                .map(|(broadcast, own)| (own.clone(), Arc::clone(broadcast)))
                .collect(),
        )
    }

    /// Lets everybody attach again, each from its own serial, as events are missing here.
    fn shed(&mut self) {
        for (id, mailbox) in std::mem::take(&mut self.subscribers) {
            mailbox.lag(id);
        }
        self.memory.clear();
        self.serial = None;
    }
}

/// Tells those who follow the occupancy of an event's channel.
fn follow_occupancy(realtime: &Core, event: &WatchEvent) {
    let event = &event.event;
    let occupancy = match event.kind {
        EventKind::Closed => Occupancy::ZERO,
        EventKind::Opened | EventKind::Occupancy => event.occupancy,
        EventKind::RegionActive | EventKind::RegionInactive => return,
    };
    let place = Place {
        app: event.channel.app.clone(),
        name: event.channel.name.as_str().into(),
    };
    realtime.hub.occupancy(&place, occupancy, Duration::ZERO);
}
