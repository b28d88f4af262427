//! A node in memory: what [`headcount_api::ports`] asks for, and a listener on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use headcount_access::{AccessError, AppSpec, Apps, Credential, KeySpec, Revocations, Secret};
use headcount_api::ports::{
    Access, Clock, Counting, Directory, Entropy, Freshness, HandingOver, HistoryQuery, HistoryRead,
    ListItem, ListQuery, ListRead, NotReleased, OldConnection, Outlet, Ports, ReadError, ReadLevel,
    Released, RevokeError, Revoking, Source, StatusRead, Whereabouts,
};
use headcount_api::{Config, NodeIdentity, Realtime, RealtimeConfig};
use headcount_model::{
    AppId, ChannelKey, ChannelStatus, ConnectionId, CursorError, Era, Event, EventId, EventKind,
    HistoryPoint, Incarnation, Modes, NodeId, Occupancy, Position, Refusal, RefusalReason,
    RegionName, ReportItem, ShardId, Timestamp, WatchError, WatchEvent, WatchFilter, WatchItem,
};
use headcount_relay::GatewayMessage;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::client::{Answer, ask};

/// A moment in 2025.
pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

/// The header line of a key.
pub(crate) fn basic(key: &str) -> String {
    format!("authorization: Basic {}", STANDARD.encode(key))
}

/// The header line of the key that may do everything.
pub(crate) fn root() -> String {
    basic("dev.root:root-secret")
}

/// How reads go.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    /// They are answered.
    #[default]
    Well,
    /// They fail.
    Failing(ReadError),
    /// They never end.
    Hanging,
    /// They panic.
    Panicking,
}

/// What the node knows. Shared by the test and the listener.
#[derive(Debug)]
pub(crate) struct World {
    channels: Mutex<BTreeMap<ChannelKey, Occupancy>>,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) freshness: Mutex<Freshness>,
    /// Most items that a list gives at once, to make short pages.
    pub(crate) page_max: Mutex<usize>,
    items: watch::Sender<Vec<WatchItem>>,
    /// What happened before anybody watched.
    past: Mutex<Vec<Arc<WatchEvent>>>,
    pub(crate) filters: Mutex<Vec<WatchFilter>>,
    pub(crate) levels: Mutex<Vec<ReadLevel>>,
    pub(crate) revocations: Mutex<Revocations>,
    /// What is to be revoked later.
    pub(crate) announced: Mutex<Revocations>,
    revoked: watch::Sender<u64>,
    /// What was revoked over HTTP.
    pub(crate) revokings: Mutex<Vec<Revoking>>,
    /// Whether a fresh watch says first where it begins, as nodes' do.
    pub(crate) greets: Mutex<bool>,
    /// What realtime clients are attached to, and their members.
    pub(crate) books: Mutex<Books>,
    /// The channel that nobody may be attached to.
    pub(crate) refused: Mutex<Option<String>>,
    /// Whether owners have acknowledged everything.
    pub(crate) settled: watch::Sender<bool>,
    /// The nodes that clients may come from.
    pub(crate) others: Mutex<BTreeMap<NodeId, Other>>,
    /// What the relay was given for owners.
    pub(crate) relayed: Mutex<Vec<(ShardId, GatewayMessage)>>,
    randoms: Mutex<u64>,
}

/// A node that clients may come from.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    pub(crate) whereabouts: Whereabouts,
    /// Ends connections, if the node can be reached.
    pub(crate) realtime: Option<Realtime>,
    pub(crate) lease_ended: watch::Sender<bool>,
    /// What it was asked to end.
    pub(crate) asked: Vec<OldConnection>,
}

impl Other {
    /// One that does not answer.
    pub(crate) fn silent(whereabouts: Whereabouts) -> Self {
        Self {
            whereabouts,
            realtime: None,
            lease_ended: watch::Sender::new(false),
            asked: Vec::new(),
        }
    }
}

/// What realtime clients were reported to be attached to.
#[derive(Debug, Default)]
pub(crate) struct Books {
    attached: BTreeMap<(String, String), Modes>,
    members: BTreeSet<(String, String, String)>,
    /// How often a channel's activity was renewed.
    pub(crate) activity: usize,
}

impl Books {
    /// Returns the modes of the connections that are attached to a channel.
    pub(crate) fn attached(&self, channel: &str) -> Vec<Modes> {
        let attached = self.attached.iter().filter(|((of, _), _)| of == channel);
        attached.map(|(_, modes)| *modes).collect()
    }

    /// Returns the client ids that are members of a channel.
    pub(crate) fn members(&self, channel: &str) -> Vec<&str> {
        let members = self.members.iter().filter(|(of, ..)| of == channel);
        members.map(|(.., member)| member.as_str()).collect()
    }

    fn note(&mut self, item: &ReportItem) {
        let text = |connection: &ConnectionId| connection.as_str().to_owned();
        match item {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                let place = (channel.as_str().to_owned(), text(connection));
                self.attached.insert(place, *modes);
            }
            ReportItem::Detach {
                connection,
                channel,
            } => {
                let place = (channel.as_str().to_owned(), text(connection));
                self.members
                    .retain(|(of, by, _)| (of, by) != (&place.0, &place.1));
                self.attached.remove(&place);
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                let channel = channel.as_str().to_owned();
                let member = member.as_str().to_owned();
                self.members.insert((channel, text(connection), member));
            }
            ReportItem::PresenceLeave {
                connection,
                channel,
                member,
            } => {
                let channel = channel.as_str().to_owned();
                let member = member.as_str().to_owned();
                self.members.remove(&(channel, text(connection), member));
            }
            ReportItem::ConnectionClosed { connection } => {
                let gone = text(connection);
                self.attached.retain(|(_, by), _| *by != gone);
                self.members.retain(|(_, by, _)| *by != gone);
            }
            ReportItem::Activity { .. } => self.activity += 1,
            ReportItem::Counts { .. } => panic!("realtime clients do not count themselves"),
        }
    }
}

impl World {
    fn new() -> Self {
        Self {
            channels: Mutex::default(),
            mood: Mutex::default(),
            freshness: Mutex::new(Freshness {
                source: source(),
                age: Duration::from_millis(7),
                unheard: Vec::new(),
            }),
            page_max: Mutex::new(usize::MAX),
            items: watch::channel(Vec::new()).0,
            past: Mutex::default(),
            filters: Mutex::default(),
            levels: Mutex::default(),
            revocations: Mutex::new(Revocations::new(10)),
            announced: Mutex::new(Revocations::new(10)),
            revoked: watch::channel(0).0,
            revokings: Mutex::default(),
            greets: Mutex::default(),
            books: Mutex::default(),
            refused: Mutex::default(),
            settled: watch::Sender::new(true),
            others: Mutex::default(),
            relayed: Mutex::default(),
            randoms: Mutex::default(),
        }
    }

    /// Makes a channel active with so many plain attachments.
    pub(crate) fn attach(&self, app: &str, name: &str, attachments: usize) {
        let occupancy = (0..attachments).map(|_| Modes::DEFAULT.occupancy()).sum();
        let key = ChannelKey::new(app, name).unwrap();
        self.channels.lock().unwrap().insert(key, occupancy);
    }

    /// Tells watchers something. The cursor after the n-th item is `c` and n.
    pub(crate) fn tell(&self, item: impl FnOnce(String) -> WatchItem) {
        self.items.send_modify(|items| {
            let cursor = format!("c{}", items.len() + 1);
            items.push(item(cursor));
        });
    }

    /// Tells watchers that these channels opened.
    pub(crate) fn tell_opened(&self, names: &[&str]) {
        let events = names.iter().map(|name| Arc::new(opened(name))).collect();
        self.tell(|cursor| WatchItem::Events { events, cursor });
    }

    /// Lets something have happened so many ms ago.
    pub(crate) fn happened(&self, kind: EventKind, name: &str, ago_ms: u64) {
        let mut past = self.past.lock().unwrap();
        let mut event = opened(name);
        let position = Position {
            index: past.len() as u64 + 1,
            ordinal: 0,
        };
        event.position = Some(position);
        event.event.id = EventId::Log {
            era: Era(1),
            shard: event.shard,
            position,
        };
        event.event.kind = kind;
        event.event.at = Timestamp(NOW_MS - ago_ms);
        past.push(Arc::new(event));
    }

    fn mood<T: Send + 'static>(
        &self,
        answer: Result<T, ReadError>,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        match self.mood.lock().unwrap().clone() {
            Mood::Well => std::future::ready(answer).boxed(),
            Mood::Failing(error) => std::future::ready(Err(error)).boxed(),
            Mood::Hanging => std::future::pending().boxed(),
            Mood::Panicking => async { panic!("as the test wants") }.boxed(),
        }
    }
}

fn opened(name: &str) -> WatchEvent {
    let position = Position {
        index: name.len() as u64,
        ordinal: 0,
    };
    let shard = ShardId(3);
    WatchEvent {
        shard,
        position: Some(position),
        event: Event {
            id: EventId::Log {
                era: Era(1),
                shard,
                position,
            },
            kind: EventKind::Opened,
            channel: ChannelKey::new("dev", name).unwrap(),
            at: Timestamp(NOW_MS),
            region: RegionName::new("eu-west-1").unwrap(),
            is_global_master: true,
            active: true,
            occupancy: Modes::DEFAULT.occupancy(),
        },
    }
}

fn source() -> Source {
    Source {
        region: RegionName::new("us-east-1").unwrap(),
        node: NodeId(4),
    }
}

fn coordinator() -> RegionName {
    RegionName::new("ap-southeast-1").unwrap()
}

impl Directory for World {
    fn status(
        &self,
        channel: ChannelKey,
        level: ReadLevel,
    ) -> BoxFuture<'_, Result<StatusRead, ReadError>> {
        self.levels.lock().unwrap().push(level);
        let known = self.channels.lock().unwrap().get(&channel).copied();
        self.mood(Ok(StatusRead {
            status: ChannelStatus::new(known.is_some(), known.unwrap_or_default()),
            coordinator: coordinator(),
            freshness: self.freshness.lock().unwrap().clone(),
        }))
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListRead, ReadError>> {
        let channels = self.channels.lock().unwrap();
        let page_max = *self.page_max.lock().unwrap();
        let mut found = channels.iter().filter(|(key, _)| {
            let after = query.after.as_ref().is_none_or(|after| key.name > *after);
            key.app == query.app && key.name.as_str().starts_with(&query.prefix) && after
        });
        let items: Vec<ListItem> = found
            .by_ref()
            .take(query.limit.min(page_max))
            .map(|(key, occupancy)| ListItem {
                name: key.name.clone(),
                value: query
                    .with_values
                    .then(|| (ChannelStatus::new(true, *occupancy), coordinator())),
            })
            .collect();
        let more = found.next().is_some();
        let next = items.last().filter(|_| more).map(|item| item.name.clone());
        let freshness = self.freshness.lock().unwrap().clone();
        self.mood(Ok(ListRead {
            items,
            next,
            freshness,
        }))
    }

    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>> {
        self.filters.lock().unwrap().push(filter);
        let receiver = self.items.subscribe();
        let greets = cursor.is_none() && *self.greets.lock().unwrap();
        let start = match cursor {
            None => Ok(receiver.borrow().len()),
            Some(token) => token
                .strip_prefix('c')
                .and_then(|number| number.parse().ok())
                .ok_or(WatchError::Cursor(CursorError::Damaged)),
        };
        let started = start.map(|start| {
            let cursor = format!("c{start}");
            let greeting = greets.then_some(WatchItem::Position { cursor });
            let items = stream::unfold((receiver, start), |(mut receiver, at)| async move {
                let item = receiver.wait_for(|items| items.len() > at).await.ok()?[at].clone();
                Some((item, (receiver, at + 1)))
            });
            stream::iter(greeting).chain(items).boxed()
        });
        std::future::ready(started).boxed()
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryRead, ReadError>> {
        let mut events = self.past.lock().unwrap().clone();
        for item in &*self.items.borrow() {
            if let WatchItem::Events { events: told, .. } = item {
                events.extend(told.iter().cloned());
            }
        }
        events.retain(|event| {
            let at = event.event.at;
            event.event.channel.app == query.app
                && query.kinds.contains(event.event.kind)
                && query.from.is_none_or(|from| at >= from)
                && query.to.is_none_or(|to| at <= to)
        });
        events.sort_by_key(point);
        if query.newest_first {
            events.reverse();
        }
        events.retain(|event| match query.after {
            Some(after) if query.newest_first => point(event) < after,
            Some(after) => point(event) > after,
            None => true,
        });
        let more = events.len() > query.limit;
        events.truncate(query.limit);
        let next = events.last().filter(|_| more).map(point);
        self.mood(Ok(HistoryRead { events, next }))
    }
}

/// Where an event stands in history.
fn point(event: &Arc<WatchEvent>) -> HistoryPoint {
    HistoryPoint {
        at: event.event.at,
        shard: event.shard,
        position: event.position.unwrap(),
    }
}

impl Counting for World {
    fn report(&self, _app: AppId, items: Vec<ReportItem>) -> BoxFuture<'_, Vec<Refusal>> {
        let refused = self.refused.lock().unwrap().clone();
        let mut books = self.books.lock().unwrap();
        let mut refusals = Vec::new();
        for (number, item) in (0..).zip(&items) {
            match item {
                ReportItem::Attach { channel, .. }
                    if refused.as_deref() == Some(channel.as_str()) =>
                {
                    refusals.push(Refusal {
                        item: number,
                        reason: RefusalReason::Overloaded {
                            what: "channels",
                            limit: 0,
                        },
                    });
                }
                _ => books.note(item),
            }
        }
        std::future::ready(refusals).boxed()
    }

    fn uncount(&self, _app: AppId, items: Vec<ReportItem>) {
        let mut books = self.books.lock().unwrap();
        items.iter().for_each(|item| books.note(item));
    }

    fn forget(&self, _app: AppId, connection: ConnectionId) {
        let gone = ReportItem::ConnectionClosed { connection };
        self.books.lock().unwrap().note(&gone);
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        let mut settled = self.settled.subscribe();
        async move { drop(settled.wait_for(|settled| *settled).await) }.boxed()
    }
}

impl HandingOver for World {
    fn whereabouts(&self, node: NodeId) -> Whereabouts {
        let others = self.others.lock().unwrap();
        let other = others.get(&node).map(|other| other.whereabouts);
        other.unwrap_or(Whereabouts::Nowhere)
    }

    fn release(
        &self,
        node: NodeId,
        old: OldConnection,
    ) -> BoxFuture<'_, Result<Released, NotReleased>> {
        let realtime = {
            let mut others = self.others.lock().unwrap();
            let other = others.get_mut(&node).unwrap();
            other.asked.push(old.clone());
            other.realtime.clone()
        };
        async move {
            let reason = "it is silent".to_owned();
            let realtime = realtime.ok_or(NotReleased { reason })?;
            realtime.release(old).await
        }
        .boxed()
    }

    fn lease_ended(&self, node: NodeId) -> BoxFuture<'static, ()> {
        let mut ended = self.others.lock().unwrap()[&node].lease_ended.subscribe();
        async move { drop(ended.wait_for(|ended| *ended).await) }.boxed()
    }
}

impl Outlet for World {
    fn to_owner(&self, shard: ShardId, message: GatewayMessage) {
        self.relayed.lock().unwrap().push((shard, message));
    }
}

impl Access for World {
    fn apps(&self) -> Arc<Apps> {
        let key = |id: &str, capability: &str| KeySpec {
            id: id.to_owned(),
            secret: Secret::new(format!("{id}-secret")),
            capability: capability.to_owned(),
            enabled: true,
        };
        let keys = vec![
            key("root", r#"{"[*]*":["*"]}"#),
            key("nometa", r#"{"*":["*"]}"#),
            key("meta", r#"{"[meta]*":["subscribe","history"]}"#),
            key("rooms", r#"{"room:*":["channel-metadata"]}"#),
            key("mute", r#"{"*":["publish"]}"#),
        ];
        let other = vec![key("root", r#"{"[*]*":["*"]}"#)];
        let app = |id: &str, keys| AppSpec {
            id: id.to_owned(),
            keys,
        };
        Arc::new(Apps::new(vec![app("dev", keys), app("other", other)]).unwrap())
    }

    fn check(&self, credential: &Credential) -> Result<(), AccessError> {
        self.revocations.lock().unwrap().check(credential)
    }

    fn is_announced(&self, credential: &Credential) -> bool {
        let announced = self.announced.lock().unwrap();
        announced.check(credential).is_err() || self.check(credential).is_err()
    }

    fn revoked(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    fn revoke(&self, revoking: Revoking) -> BoxFuture<'_, Result<(), RevokeError>> {
        let later = revoking.applies_at > revoking.issued_before;
        let revocations = if later {
            &self.announced
        } else {
            &self.revocations
        };
        let mut revocations = revocations.lock().unwrap();
        let before = revoking.issued_before.0;
        let mut targets = revoking.targets.iter().cloned();
        let revoked =
            targets.try_for_each(|target| revocations.revoke(&revoking.key_name, target, before));
        drop(revocations);
        self.revokings.lock().unwrap().push(revoking);
        self.revoked.send_modify(|count| *count += 1);
        let full = |_| RevokeError::Full { max: 10 };
        std::future::ready(revoked.map_err(full)).boxed()
    }

    fn tells_occupancy(&self, app: &str) -> bool {
        app == "dev"
    }
}

impl Clock for World {
    fn wall(&self) -> Timestamp {
        Timestamp(NOW_MS)
    }
}

impl Entropy for World {
    fn bytes(&self) -> [u8; 16] {
        let mut next = self.randoms.lock().unwrap();
        *next += 1;
        let [a, b, c, d, ..] = next.to_le_bytes();
        [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]
    }
}

/// A listener on a node in memory.
pub(crate) struct Node {
    pub(crate) world: Arc<World>,
    /// For what other nodes say.
    pub(crate) realtime: Realtime,
    pub(crate) address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::of(config, RealtimeConfig::default()).await
    }

    /// Starts one with these settings of realtime connections.
    pub(crate) async fn realtime(realtime: RealtimeConfig) -> Self {
        Self::of(Config::default(), realtime).await
    }

    pub(crate) async fn of(config: Config, realtime: RealtimeConfig) -> Self {
        Self::numbered(source().node, config, realtime).await
    }

    /// Starts one of several.
    pub(crate) async fn numbered(node: NodeId, config: Config, realtime: RealtimeConfig) -> Self {
        let world = Arc::new(World::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ports = Ports {
            directory: world.clone(),
            access: world.clone(),
            clock: world.clone(),
            entropy: world.clone(),
            counting: world.clone(),
            handing: world.clone(),
            outlet: world.clone(),
            source: Source { node, ..source() },
        };
        let (shutdown, stopped) = oneshot::channel();
        let stopped = async move {
            let _gone = stopped.await;
        };
        let identity = NodeIdentity {
            node,
            incarnation: Incarnation(1),
            shards: 4.into(),
        };
        let realtime = Realtime::new(realtime, ports.clone(), identity);
        let served =
            headcount_api::serve(config, realtime.clone(), listener.into(), ports, stopped);
        let served = tokio::spawn(served);
        Self {
            world,
            realtime,
            address,
            shutdown: Some(shutdown),
            served,
        }
    }

    /// Begins the shutdown.
    pub(crate) fn shut_down(&mut self) {
        let _gone = self.shutdown.take().map(|shutdown| shutdown.send(()));
    }

    /// Waits for the end of the listener.
    pub(crate) async fn ended(self) {
        self.served.await.unwrap();
    }

    /// Asks with the root key.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.get_as(&root(), target).await
    }

    /// Asks with this header line.
    pub(crate) async fn get_as(&self, header: &str, target: &str) -> Answer {
        ask(self.address, "GET", target, &[header], b"").await
    }
}
