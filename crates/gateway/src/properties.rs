//! What holds whatever happens: the registers are what is attached, and owners come to believe
//! them, through repeats, resumptions, takeovers, losses and changes of owner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headcount_model::{
    AppId, Category, ChannelKey, ChannelName, ConnectionId, EdgeId, Fence, GatewayAck, GatewayItem,
    GatewayUpdate, Hello, Incarnation, MemberId, Modes, Monotonic, NodeId, Now, Occupancy,
    ReportBatch, ReportItem, ShardId, SourceId, Stage, shard_of,
};
use proptest::prelude::*;

use crate::{Config, Effect, Gateway, Input, StreamId};

const SHARDS: u32 = 3;

/// One thing that happens. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Op {
    Open {
        edge: u8,
        restart: bool,
        resume: bool,
    },
    Tell {
        edge: u8,
        items: Vec<ReportItem>,
        complete: bool,
    },
    Repeat {
        edge: u8,
    },
    Hole {
        edge: u8,
    },
    Break {
        edge: u8,
    },
    Goodbye {
        edge: u8,
    },
    Clients(Vec<ReportItem>),
    Owner {
        shard: u32,
        higher: bool,
    },
    OwnerLost {
        shard: u32,
    },
    /// Updates and acknowledgements are lost until the next [`Op::Heal`].
    Cut,
    Heal {
        /// Whether the gateway is told that the ways are open again.
        told: bool,
    },
    /// Milliseconds.
    Pass(u64),
}

/// What one source has attached, kept in the plainest way.
#[derive(Clone, Debug, Default)]
struct Attached {
    modes: BTreeMap<(ConnectionId, ChannelName), Modes>,
    members: BTreeSet<(ConnectionId, ChannelName, MemberId)>,
    counts: BTreeMap<ChannelName, Occupancy>,
}

impl Attached {
    /// Counts an item; returns whether it is accepted.
    fn apply(&mut self, item: &ReportItem) -> bool {
        match item.clone() {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                if self.counts.contains_key(&channel) {
                    return false;
                }
                if !modes.contains(Modes::PRESENCE) {
                    self.members
                        .retain(|m| (&m.0, &m.1) != (&connection, &channel));
                }
                self.modes.insert((connection, channel), modes);
            }
            ReportItem::Detach {
                connection,
                channel,
            } => {
                self.members
                    .retain(|m| (&m.0, &m.1) != (&connection, &channel));
                self.modes.remove(&(connection, channel));
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                let modes = self.modes.get(&(connection.clone(), channel.clone()));
                if !modes.is_some_and(|modes| modes.contains(Modes::PRESENCE)) {
                    return false;
                }
                self.members.insert((connection, channel, member));
            }
            ReportItem::PresenceLeave {
                connection,
                channel,
                member,
            } => {
                self.members.remove(&(connection, channel, member));
            }
            ReportItem::ConnectionClosed { connection } => {
                self.members.retain(|m| m.0 != connection);
                self.modes.retain(|at, _| at.0 != connection);
            }
            ReportItem::Counts { channel, occupancy } => {
                if self.modes.keys().any(|at| at.1 == channel) {
                    return false;
                }
                if occupancy.is_zero() {
                    self.counts.remove(&channel);
                } else {
                    self.counts.insert(channel, occupancy);
                }
            }
            ReportItem::Activity { .. } => {}
        }
        true
    }

    fn totals(&self) -> BTreeMap<ChannelName, Occupancy> {
        let mut totals = self.counts.clone();
        for ((_, channel), modes) in &self.modes {
            let total = totals.entry(channel.clone()).or_default();
            *total = total.plus(modes.occupancy());
        }
        for (_, channel, _) in &self.members {
            let total = totals.entry(channel.clone()).or_default();
            total.set(
                Category::PresenceMembers,
                total.get(Category::PresenceMembers) + 1,
            );
        }
        totals
    }
}

/// A session as its edge knows it.
#[derive(Clone, Debug)]
struct Session {
    id: SourceId,
    attached: Attached,
    broken_at: Option<Monotonic>,
}

#[derive(Clone, Debug, Default)]
struct Edge {
    incarnation: u64,
    /// The last number used.
    number: u64,
    stream: Option<StreamId>,
    sequence: u64,
    last: Option<ReportBatch>,
    /// Oldest first; the last is the one that the stream carries, or carried.
    sessions: Vec<Session>,
}

/// An owner's table, kept by R13 in the plainest way.
#[derive(Clone, Debug, Default)]
struct Owner {
    fence: Fence,
    stream: u64,
    sequence: u64,
    counts: BTreeMap<(SourceId, ChannelKey), Occupancy>,
    /// Not mentioned on the stream yet.
    unmentioned: BTreeSet<(SourceId, ChannelKey)>,
}

impl Owner {
    fn take(&mut self, update: &GatewayUpdate) -> Option<GatewayAck> {
        if update.fence != self.fence {
            return None;
        }
        if update.stream > self.stream {
            self.stream = update.stream;
            self.sequence = 0;
            self.unmentioned = self.counts.keys().cloned().collect();
        }
        if update.stream < self.stream || update.sequence != self.sequence + 1 {
            return None;
        }
        self.sequence = update.sequence;
        for item in &update.items {
            match item.clone() {
                GatewayItem::Register {
                    source,
                    channel,
                    occupancy,
                } => {
                    let key = (source, channel);
                    self.unmentioned.remove(&key);
                    if occupancy.is_zero() {
                        self.counts.remove(&key);
                    } else {
                        self.counts.insert(key, occupancy);
                    }
                }
                GatewayItem::SourceEnded(id) => self.counts.retain(|key, _| key.0 != id),
                GatewayItem::StreamComplete => {
                    for key in std::mem::take(&mut self.unmentioned) {
                        self.counts.remove(&key);
                    }
                }
                GatewayItem::SourceComplete(_)
                | GatewayItem::Activity(_)
                | GatewayItem::Recovered => {}
            }
        }
        Some(GatewayAck {
            fence: self.fence,
            stream: self.stream,
            sequence: self.sequence,
        })
    }
}

struct World {
    config: Config,
    gateway: Gateway,
    now: Now,
    streams: u64,
    edges: Vec<Edge>,
    clients: Attached,
    owners: Vec<Owner>,
    cut: bool,
}

fn app() -> AppId {
    AppId::new("app").unwrap()
}

impl World {
    fn new() -> Self {
        let config = Config {
            shards: SHARDS.into(),
            update_items_max: 3,
            window_updates: 2,
            ..Config::default()
        };
        let start = Monotonic::default();
        Self {
            gateway: Gateway::new(config.clone(), NodeId(1), Incarnation(1), start),
            config,
            now: Now::default(),
            streams: 0,
            edges: vec![Edge::default(); 2],
            clients: Attached::default(),
            owners: vec![Owner::default(); SHARDS as usize],
            cut: false,
        }
    }

    /// Makes one in which all was told, and what `lost` changed since then was lost on the way.
    fn after_a_loss(ops: Vec<Op>, lost: Vec<ReportItem>) -> Self {
        let mut world = Self::new();
        for op in ops {
            world.run(op);
        }
        world.converge();
        world.cut = true;
        world.run(Op::Clients(lost));
        world.pass(Duration::from_millis(5));
        world
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.gateway.step(self.now, input, &mut effects);
        self.carry(effects)
    }

    /// Brings updates to the owners and their acknowledgements back; returns the other effects.
    fn carry(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::new();
        let mut waiting = effects;
        while !waiting.is_empty() {
            let mut next = Vec::new();
            for effect in waiting {
                let Effect::Send { shard, update } = effect else {
                    rest.push(effect);
                    continue;
                };
                assert!(update.items.len() <= self.config.update_items_max);
                if self.cut {
                    continue;
                }
                if let Some(ack) = self.owners[shard.0 as usize].take(&update) {
                    let input = Input::Ack { shard, ack };
                    self.gateway.step(self.now, input, &mut next);
                }
            }
            waiting = next;
        }
        rest
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now.monotonic.after(span);
        while let Some(at) = self.gateway.next_deadline().filter(|at| *at <= end) {
            self.now.monotonic = self.now.monotonic.max(at);
            let mut effects = Vec::new();
            self.gateway.on_deadline(self.now, &mut effects);
            let rest = self.carry(effects);
            assert!(rest.is_empty(), "{rest:?}");
        }
        self.now.monotonic = end;
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Open {
                edge,
                restart,
                resume,
            } => self.open(edge.into(), restart, resume),
            Op::Tell {
                edge,
                items,
                complete,
            } => self.tell(edge.into(), items, complete),
            Op::Repeat { edge } => {
                let edge = &self.edges[usize::from(edge)];
                if let (Some(stream), Some(batch)) = (edge.stream, edge.last.clone()) {
                    let sequence = batch.sequence;
                    let effects = self.step(Input::Batch { stream, batch });
                    assert!(
                        matches!(&effects[..], [Effect::Ack { ack, .. }] if ack.sequence == sequence)
                    );
                }
            }
            Op::Hole { edge } => {
                let edge = &mut self.edges[usize::from(edge)];
                if let Some(stream) = edge.stream.take() {
                    edge.sessions.last_mut().unwrap().broken_at = Some(self.now.monotonic);
                    let batch = ReportBatch {
                        sequence: edge.sequence + 2,
                        ..ReportBatch::default()
                    };
                    let effects = self.step(Input::Batch { stream, batch });
                    assert!(matches!(&effects[..], [Effect::Close { .. }]));
                }
            }
            Op::Break { edge } => {
                let edge = &mut self.edges[usize::from(edge)];
                if let Some(stream) = edge.stream.take() {
                    edge.sessions.last_mut().unwrap().broken_at = Some(self.now.monotonic);
                    self.step(Input::Broken { stream });
                }
            }
            Op::Goodbye { edge } => {
                let edge = &mut self.edges[usize::from(edge)];
                if let Some(stream) = edge.stream.take() {
                    edge.sessions.clear();
                    self.step(Input::Goodbye { stream });
                }
            }
            Op::Clients(items) => {
                let tellable = items.into_iter();
                let items: Vec<_> = tellable
                    .filter(|item| !matches!(item, ReportItem::Counts { .. }))
                    .collect();
                let expected = refused(&mut self.clients, &items);
                let effects = self.step(Input::Clients {
                    request: 1,
                    app: app(),
                    items,
                });
                let [Effect::ClientsAck { refusals, .. }] = &effects[..] else {
                    panic!("{effects:?}");
                };
                assert_eq!(
                    refusals.iter().map(|r| r.item).collect::<Vec<_>>(),
                    expected
                );
            }
            Op::Owner { shard, higher } => {
                let owner = &mut self.owners[shard as usize];
                if higher || owner.fence == Fence(0) {
                    *owner = Owner {
                        fence: Fence(owner.fence.0 + 1),
                        ..Owner::default()
                    };
                }
                let fence = owner.fence;
                let shard = ShardId(shard);
                self.step(Input::Owner { shard, fence });
            }
            Op::OwnerLost { shard } => {
                let fence = self.owners[shard as usize].fence;
                let shard = ShardId(shard);
                self.step(Input::OwnerLost { shard, fence });
            }
            Op::Cut => self.cut = true,
            Op::Heal { told } => self.heal(told),
            Op::Pass(millis) => self.pass(Duration::from_millis(millis)),
        }
    }

    fn heal(&mut self, told: bool) {
        self.cut = false;
        for shard in (0..SHARDS).filter(|_| told) {
            let fence = self.owners[shard as usize].fence;
            let shard = ShardId(shard);
            self.step(Input::WayReopened { shard, fence });
        }
    }

    fn open(&mut self, index: usize, restart: bool, resume: bool) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        let edge = &mut self.edges[index];
        let resumable = edge.number;
        if restart || edge.incarnation == 0 {
            edge.incarnation += 1;
            edge.number = 0;
        }
        edge.number += 1;
        let hello = Hello {
            edge: EdgeId::new(&format!("e{index}")).unwrap(),
            incarnation: Incarnation(edge.incarnation),
            session: edge.number,
            resume: (resume && !restart && resumable > 0).then_some(resumable),
        };
        let now = self.now.monotonic;
        let effects = self.step(Input::Open {
            stream,
            app: app(),
            hello: hello.clone(),
        });
        let Some(Effect::Welcome { welcome, .. }) = effects.last() else {
            panic!("{effects:?}");
        };
        let edge = &mut self.edges[index];
        let had_stream = edge.stream.replace(stream).is_some();
        assert_eq!(effects.len(), 1 + usize::from(had_stream));
        if welcome.resumed {
            assert_eq!(Some(welcome.session), hello.resume);
            assert_eq!(welcome.last_sequence, edge.sequence);
            // The number that was offered for a new session was not used.
            edge.number = welcome.session;
            edge.sessions.last_mut().unwrap().broken_at = None;
            return;
        }
        if let Some(last) = edge.sessions.last_mut() {
            let in_grace = last
                .broken_at
                .is_none_or(|at| now.since(at) < self.config.grace);
            assert!(
                hello.resume.is_none() || !in_grace,
                "it could have been resumed"
            );
            last.broken_at.get_or_insert(now);
        }
        edge.sequence = 0;
        edge.last = None;
        edge.sessions.push(Session {
            id: SourceId::Edge {
                edge: EdgeId::new(&format!("app/e{index}")).unwrap(),
                incarnation: hello.incarnation,
                session: hello.session,
            },
            attached: Attached::default(),
            broken_at: None,
        });
    }

    fn tell(&mut self, index: usize, items: Vec<ReportItem>, complete: bool) {
        let edge = &mut self.edges[index];
        let Some(stream) = edge.stream else {
            return;
        };
        edge.sequence += 1;
        let session = edge.sessions.last_mut().unwrap();
        let expected = refused(&mut session.attached, &items);
        let batch = ReportBatch {
            sequence: edge.sequence,
            items: items.into(),
            set_complete: complete,
        };
        edge.last = Some(batch.clone());
        if complete {
            edge.sessions.drain(..edge.sessions.len() - 1);
        }
        let effects = self.step(Input::Batch { stream, batch });
        let [Effect::Ack { ack, .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        let refused: Vec<_> = ack.refusals.iter().map(|r| r.item).collect();
        assert_eq!(refused, expected);
    }

    /// What the gateway holds, by source and channel.
    fn held(&self) -> BTreeMap<(SourceId, ChannelKey), Occupancy> {
        let registers = self.gateway.registers();
        let by_key = registers.map(|(source, channel, counts)| ((source.clone(), channel), counts));
        by_key.collect()
    }

    /// Compares the gateway's registers with what is attached, source by source.
    fn check(&mut self) {
        self.gateway.invariants();
        let mut held = self.held();
        let now = self.now.monotonic;
        for edge in &mut self.edges {
            let longest = self.config.takeover + self.config.grace;
            edge.sessions.retain(|session| {
                let gone_for = session.broken_at.map(|at| now.since(at));
                gone_for.is_none_or(|span| span <= longest)
            });
            for session in &edge.sessions {
                let keys = held.keys().filter(|key| key.0 == session.id);
                let keys: Vec<_> = keys.cloned().collect();
                let mine = keys.iter().map(|key| held.remove_entry(key).unwrap());
                let mine: BTreeMap<_, _> =
                    mine.map(|((_, at), counts)| (at.name, counts)).collect();
                let gone_for = session.broken_at.map(|at| now.since(at));
                let may_be_gone = gone_for.is_some_and(|span| span >= self.config.grace);
                let is_gone = mine.is_empty() && may_be_gone;
                assert!(is_gone || mine == session.attached.totals());
            }
        }
        let keys = self.clients.totals().into_keys();
        let clients =
            keys.map(|name| held.remove(&(SourceId::Clients, ChannelKey { app: app(), name })));
        let clients: Vec<_> = clients.map(Option::unwrap_or_default).collect();
        assert_eq!(
            clients,
            self.clients.totals().into_values().collect::<Vec<_>>()
        );
        assert!(held.is_empty(), "nobody attached {held:?}");
    }

    /// Heals everything and compares the owners' tables with the gateway's registers.
    fn converge(&mut self) {
        self.cut = false;
        for shard in 0..SHARDS {
            let needs = self.owners[shard as usize].fence == Fence(0);
            self.run(Op::Owner {
                shard,
                higher: needs,
            });
        }
        self.settle();
    }

    /// Lets flushes pass, more than one if a session expires meanwhile, and compares.
    fn settle(&mut self) {
        for _ in 0..10 {
            self.pass(Duration::from_millis(5));
            let stats = self.gateway.stats();
            if (stats.queued, stats.in_flight) == (0, 0) {
                break;
            }
        }
        self.compare();
    }

    fn compare(&self) {
        let held = self.held();
        for (shard, owner) in (0..).map(ShardId).zip(&self.owners) {
            let mine = held
                .iter()
                .filter(|(key, _)| shard_of(&key.1, SHARDS) == shard);
            let mine: BTreeMap<_, _> = mine.map(|(key, counts)| (key.clone(), *counts)).collect();
            assert_eq!(owner.counts, mine, "shard {shard}");
        }
    }
}

/// Counts items in the plain way; returns the indices of those to be refused.
fn refused(attached: &mut Attached, items: &[ReportItem]) -> Vec<u32> {
    let refused = (0..).zip(items).filter(|(_, item)| !attached.apply(item));
    refused.map(|(index, _)| index).collect()
}

fn items() -> impl Strategy<Value = Vec<ReportItem>> {
    let connection = || (0..3_u8).prop_map(|n| ConnectionId::new(&format!("c{n}")).unwrap());
    let channel = || (0..5_u8).prop_map(|n| ChannelName::new(&format!("room{n}")).unwrap());
    let member = || (0..2_u8).prop_map(|n| MemberId::new(&format!("m{n}")).unwrap());
    let modes = (0..64_u32).prop_map(|bits| Modes::from_bits(bits | (4 * (bits & 1))).unwrap());
    let item = prop_oneof![
        6 => (connection(), channel(), modes)
            .prop_map(|(connection, channel, modes)| ReportItem::Attach { connection, channel, modes }),
        3 => (connection(), channel())
            .prop_map(|(connection, channel)| ReportItem::Detach { connection, channel }),
        4 => (connection(), channel(), member())
            .prop_map(|(connection, channel, member)| ReportItem::PresenceEnter { connection, channel, member }),
        2 => (connection(), channel(), member())
            .prop_map(|(connection, channel, member)| ReportItem::PresenceLeave { connection, channel, member }),
        1 => connection().prop_map(|connection| ReportItem::ConnectionClosed { connection }),
        2 => (channel(), 0..3_u32).prop_map(|(channel, count)| {
            let occupancy = Occupancy::from_counts([count; 8]);
            ReportItem::Counts { channel, occupancy }
        }),
        1 => channel().prop_map(|channel| ReportItem::Activity { channel }),
    ];
    proptest::collection::vec(item, 0..8)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let edge = || 0..2_u8;
    let op = prop_oneof![
        3 => (edge(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(edge, restart, resume)| Op::Open { edge, restart, resume }),
        10 => (edge(), items(), prop::bool::weighted(0.2))
            .prop_map(|(edge, items, complete)| Op::Tell { edge, items, complete }),
        1 => edge().prop_map(|edge| Op::Repeat { edge }),
        1 => edge().prop_map(|edge| Op::Hole { edge }),
        1 => edge().prop_map(|edge| Op::Break { edge }),
        1 => edge().prop_map(|edge| Op::Goodbye { edge }),
        2 => items().prop_map(Op::Clients),
        2 => (0..SHARDS, any::<bool>()).prop_map(|(shard, higher)| Op::Owner { shard, higher }),
        1 => (0..SHARDS).prop_map(|shard| Op::OwnerLost { shard }),
        1 => Just(Op::Cut),
        1 => any::<bool>().prop_map(|told| Op::Heal { told }),
        4 => prop_oneof![0..12_u64, 0..3_000_u64, 0..25_000_u64].prop_map(Op::Pass),
    ];
    proptest::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2 * ProptestConfig::default().cases))]

    #[test]
    fn registers_are_what_is_attached_and_owners_come_to_believe_them(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
            world.check();
        }
        world.converge();
        // Nor does an owner lose track without a new stream.
        for edge in 0..2 {
            world.run(Op::Open { edge, restart: false, resume: true });
            let all = ["c0", "c1"].map(|name| ReportItem::ConnectionClosed {
                connection: ConnectionId::new(name).unwrap(),
            });
            world.run(Op::Tell { edge, items: all.into(), complete: true });
        }
        world.settle();
        for edge in 0..2 {
            world.run(Op::Break { edge });
        }
        world.pass(Duration::from_secs(80));
        world.check();
        world.settle();
    }

    #[test]
    fn a_silent_loss_is_repaired_without_help(ops in ops(), lost in items()) {
        let mut world = World::after_a_loss(ops, lost);
        world.cut = false;
        // The first patience, and time for the whole set.
        world.pass(Duration::from_millis(2_500));
        world.settle();
        world.check();
    }

    #[test]
    fn a_loss_is_repaired_at_once_where_the_way_is_said_to_be_open_again(ops in ops(), lost in items()) {
        let mut world = World::after_a_loss(ops, lost);
        world.run(Op::Heal { told: true });
        world.settle();
        world.check();
    }
}
