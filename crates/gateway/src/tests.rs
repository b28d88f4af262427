//! What a gateway promises, rule by rule.

use std::time::Duration;

use headcount_model::{
    AppId, Category, ChannelKey, ChannelName, ConnectionId, EdgeId, Fence, GatewayAck, GatewayItem,
    GatewayUpdate, Hello, Incarnation, MemberId, Modes, Monotonic, NodeId, Now, Occupancy, Refusal,
    RefusalReason, ReportAck, ReportBatch, ReportItem, ReportItems, SessionError, ShardId,
    SourceId, Stage, Timestamp, Welcome,
};

use crate::{Config, Effect, Gateway, Input, StreamId};

const SHARD: ShardId = ShardId(0);

/// A gateway, its clock, and the batches' numbers of one session after another.
struct World {
    gateway: Gateway,
    now: Now,
    sequence: u64,
}

impl World {
    fn new(config: Config) -> Self {
        let gateway = Gateway::new(config, NodeId(1), Incarnation(1), Monotonic::default());
        let now = Now {
            monotonic: Monotonic::default(),
            wall: Timestamp(0),
        };
        Self {
            gateway,
            now,
            sequence: 0,
        }
    }

    fn one_shard() -> Self {
        Self::new(Config {
            shards: 1.into(),
            ..Config::default()
        })
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.gateway.step(self.now, input, &mut effects);
        effects
    }

    /// Lets time pass, stopping at each deadline on the way.
    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        let end = self.now.monotonic.after(span);
        let mut effects = Vec::new();
        while let Some(at) = self.gateway.next_deadline().filter(|at| *at <= end) {
            self.now.monotonic = self.now.monotonic.max(at);
            self.gateway.on_deadline(self.now, &mut effects);
        }
        self.now.monotonic = end;
        effects
    }

    fn flush(&mut self) -> Vec<GatewayUpdate> {
        updates(self.pass(Duration::from_millis(5)))
    }

    fn open(&mut self, stream: u64, session: u64, resume: Option<u64>) -> Vec<Effect> {
        self.sequence = 0;
        self.step(Input::Open {
            stream: StreamId(stream),
            app: app(),
            hello: Hello {
                edge: EdgeId::new("e").unwrap(),
                incarnation: Incarnation(1),
                session,
                resume,
            },
        })
    }

    fn tell(&mut self, stream: u64, items: Vec<ReportItem>) -> Vec<Refusal> {
        self.sequence += 1;
        let batch = ReportBatch {
            sequence: self.sequence,
            items: items.into(),
            set_complete: false,
        };
        let effects = self.batch(stream, batch);
        let [Effect::Ack { ack, .. }] = effects.as_slice() else {
            panic!("want one acknowledgement, got {effects:?}");
        };
        ack.refusals.clone()
    }

    fn complete(&mut self, stream: u64) {
        self.sequence += 1;
        self.batch(
            stream,
            ReportBatch {
                sequence: self.sequence,
                items: ReportItems::default(),
                set_complete: true,
            },
        );
    }

    fn batch(&mut self, stream: u64, batch: ReportBatch) -> Vec<Effect> {
        let stream = StreamId(stream);
        self.step(Input::Batch { stream, batch })
    }

    fn owner(&mut self, fence: u64) -> Vec<GatewayUpdate> {
        updates(self.step(Input::Owner {
            shard: SHARD,
            fence: Fence(fence),
        }))
    }

    fn ack(&mut self, fence: u64, stream: u64, sequence: u64) -> Vec<GatewayUpdate> {
        let ack = GatewayAck {
            fence: Fence(fence),
            stream,
            sequence,
        };
        updates(self.step(Input::Ack { shard: SHARD, ack }))
    }

    fn counts(&self, name: &str) -> Occupancy {
        let registers = self.gateway.registers();
        let of_channel = registers.filter(|(_, channel, _)| channel.name.as_str() == name);
        of_channel.map(|(_, _, occupancy)| occupancy).sum()
    }
}

fn app() -> AppId {
    AppId::new("app").unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn connection(name: &str) -> ConnectionId {
    ConnectionId::new(name).unwrap()
}

fn source(session: u64) -> SourceId {
    SourceId::Edge {
        edge: EdgeId::new("app/e").unwrap(),
        incarnation: Incarnation(1),
        session,
    }
}

fn attach(who: &str, name: &str) -> ReportItem {
    attach_with(who, name, Modes::DEFAULT)
}

fn attach_with(who: &str, name: &str, modes: Modes) -> ReportItem {
    ReportItem::Attach {
        connection: connection(who),
        channel: channel(name),
        modes,
    }
}

fn detach(who: &str, name: &str) -> ReportItem {
    ReportItem::Detach {
        connection: connection(who),
        channel: channel(name),
    }
}

fn enter(who: &str, name: &str, member: &str) -> ReportItem {
    ReportItem::PresenceEnter {
        connection: connection(who),
        channel: channel(name),
        member: MemberId::new(member).unwrap(),
    }
}

fn counts(name: &str, connections: u32) -> ReportItem {
    let mut occupancy = Occupancy::ZERO;
    occupancy.set(Category::Connections, connections);
    ReportItem::Counts {
        channel: channel(name),
        occupancy,
    }
}

fn register(session: u64, name: &str, attachments: u32) -> GatewayItem {
    let one = Modes::DEFAULT.occupancy();
    GatewayItem::Register {
        source: source(session),
        channel: ChannelKey::new("app", name).unwrap(),
        occupancy: Occupancy::from_counts(one.counts().map(|count| count * attachments)),
    }
}

fn updates(effects: Vec<Effect>) -> Vec<GatewayUpdate> {
    let sent = effects.into_iter().filter_map(|effect| match effect {
        Effect::Send { update, .. } => Some(update),
        Effect::Welcome { .. }
        | Effect::Ack { .. }
        | Effect::Close { .. }
        | Effect::ClientsAck { .. }
        | Effect::Settled { .. } => None,
    });
    sent.collect()
}

fn items(updates: &[GatewayUpdate]) -> Vec<GatewayItem> {
    updates
        .iter()
        .flat_map(|update| update.items.clone())
        .collect()
}

#[test]
fn counts_of_a_busy_node_wait_for_company_and_news_does_not() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    let room = |number: u32| format!("room:{number}");
    world.tell(
        1,
        (0..4_000)
            .map(|number| attach("a", &room(number)))
            .collect(),
    );
    assert_eq!(items(&world.flush()).len(), 4_000);
    // A count that stays above zero waits for four intervals, a channel that is new for one.
    world.tell(1, vec![attach("b", "room:1")]);
    let counts = world.gateway.next_deadline().unwrap();
    world.tell(1, vec![attach("b", "new")]);
    let news = world.gateway.next_deadline().unwrap();
    let interval = Duration::from_millis(5);
    assert_eq!(counts.since(world.now.monotonic), interval * 4);
    assert_eq!(news.since(world.now.monotonic), interval);
    let told = items(&world.flush());
    assert!(told.contains(&register(1, "new", 1)), "{told:?}");
    // Once there is little to tell, nothing waits for longer than the interval.
    world.pass(interval * 4);
    world.tell(1, vec![attach("c", "room:2")]);
    let counts = world.gateway.next_deadline().unwrap();
    assert_eq!(counts.since(world.now.monotonic), interval);
}

#[test]
fn ten_thousand_attaches_are_one_register() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    let all = (0..10_000).map(|n| attach(&format!("c{n}"), "room"));
    assert_eq!(world.tell(1, all.collect()), []);
    assert_eq!(items(&world.flush()), [register(1, "room", 10_000)]);
    assert_eq!(world.flush(), []);
}

#[test]
fn changes_wait_for_the_flush_interval_and_no_longer() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    assert_eq!(world.pass(Duration::from_millis(4)), []);
    world.tell(1, vec![attach("b", "room")]);
    let sent = updates(world.pass(Duration::from_millis(1)));
    assert_eq!(items(&sent), [register(1, "room", 2)]);
}

#[test]
fn a_detach_tells_zero_and_frees_the_register() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.flush();
    world.tell(
        1,
        vec![detach("a", "room"), detach("a", "room"), detach("b", "x")],
    );
    assert_eq!(items(&world.flush()), [register(1, "room", 0)]);
    assert_eq!(world.gateway.stats().registers, 0);
    assert_eq!(world.gateway.stats().entries, 0);
}

#[test]
fn attaching_again_changes_modes_in_place() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let watcher = attach_with("a", "room", Modes::SUBSCRIBE);
    world.tell(
        1,
        vec![attach("a", "room"), enter("a", "room", "ann"), watcher],
    );
    assert_eq!(world.counts("room"), Modes::SUBSCRIBE.occupancy());
    world.tell(1, vec![attach_with("a", "room", Modes::default())]);
    assert_eq!(world.counts("room"), Modes::default().occupancy());
    assert_eq!(world.gateway.stats().entries, 1);
}

#[test]
fn members_are_counted_by_connection_and_leave_with_it() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let refusals = world.tell(
        1,
        vec![
            attach("a", "room"),
            attach("b", "room"),
            attach("b", "hall"),
            enter("a", "room", "ann"),
            enter("a", "room", "ann"),
            enter("b", "room", "ann"),
            enter("b", "room", "bob"),
            enter("b", "hall", "bob"),
        ],
    );
    assert_eq!(refusals, []);
    let members = |world: &World, name| world.counts(name).get(Category::PresenceMembers);
    assert_eq!((members(&world, "room"), members(&world, "hall")), (3, 1));
    let leave = ReportItem::PresenceLeave {
        connection: connection("b"),
        channel: channel("room"),
        member: MemberId::new("bob").unwrap(),
    };
    world.tell(1, vec![leave.clone(), leave, detach("b", "hall")]);
    assert_eq!((members(&world, "room"), members(&world, "hall")), (2, 0));
    let closed = ReportItem::ConnectionClosed {
        connection: connection("b"),
    };
    world.tell(1, vec![closed.clone(), closed]);
    assert_eq!(members(&world, "room"), 1);
    assert_eq!(world.gateway.stats().entries, 2);
}

#[test]
fn refused_items_leave_the_others_counted() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let refusals = world.tell(
        1,
        vec![
            counts("sum", 7),
            attach("a", "sum"),
            attach("a", "room"),
            counts("room", 7),
            enter("b", "room", "bob"),
            attach_with("b", "room", Modes::SUBSCRIBE),
            enter("b", "room", "bob"),
            counts("big", headcount_model::COUNT_MAX + 1),
        ],
    );
    let reasons: Vec<_> = refusals.into_iter().map(|r| (r.item, r.reason)).collect();
    let (b, room) = (connection("b"), channel("room"));
    assert_eq!(
        reasons,
        [
            (1, RefusalReason::ToldByCounts(channel("sum"))),
            (3, RefusalReason::ToldByAttachments(room.clone())),
            (
                4,
                RefusalReason::NotAttached {
                    connection: b.clone(),
                    channel: room.clone()
                }
            ),
            (
                6,
                RefusalReason::NoPresenceMode {
                    connection: b,
                    channel: room
                }
            ),
            (
                7,
                RefusalReason::Count {
                    category: Category::Connections,
                    count: headcount_model::COUNT_MAX + 1
                }
            ),
        ]
    );
    assert_eq!(world.counts("sum").get(Category::Connections), 7);
    assert_eq!(world.counts("room").get(Category::Connections), 2);
}

#[test]
fn counts_of_zero_free_a_channel_for_attachments() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let freed = vec![counts("room", 7), counts("room", 0), attach("a", "room")];
    assert_eq!(world.tell(1, freed), []);
    let back = vec![detach("a", "room"), counts("room", 3), counts("room", 2)];
    assert_eq!(world.tell(1, back), []);
    assert_eq!(world.counts("room").get(Category::Connections), 2);
    assert_eq!(world.gateway.stats().entries, 1);
}

#[test]
fn a_full_node_refuses_more_and_says_its_limit() {
    let mut world = World::new(Config {
        entries_max: 2,
        ..Config::default()
    });
    world.open(1, 1, None);
    let refusals = world.tell(
        1,
        vec![
            attach("a", "room"),
            counts("sum", 1),
            attach("b", "room"),
            counts("sum", 2),
            enter("a", "room", "ann"),
        ],
    );
    let refused: Vec<_> = refusals.iter().map(|refusal| refusal.item).collect();
    assert_eq!(refused, [2, 4]);
    assert_eq!(
        refusals[0].reason.to_string(),
        "the node holds 2 attachments, members and counts, as many as it may; try later, or \
         another node"
    );
    assert_eq!(
        world.tell(1, vec![detach("a", "room"), attach("b", "room")]),
        []
    );
}

#[test]
fn repeated_batches_are_answered_as_before_and_change_nothing() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let batch = ReportBatch {
        sequence: 1,
        items: vec![attach("a", "room"), enter("b", "room", "bob")].into(),
        set_complete: false,
    };
    let first = world.batch(1, batch.clone());
    world.batch(
        1,
        ReportBatch {
            sequence: 2,
            items: vec![detach("a", "room")].into(),
            set_complete: false,
        },
    );
    assert_eq!(world.batch(1, batch), first);
    assert!(matches!(&first[..], [Effect::Ack { ack, .. }] if ack.refusals.len() == 1));
    assert_eq!(world.counts("room"), Occupancy::ZERO);
}

#[test]
fn a_hole_ends_the_stream_and_names_the_sequence_expected() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    let batch = ReportBatch {
        sequence: 3,
        ..ReportBatch::default()
    };
    let error = SessionError::Hole {
        expected: 2,
        got: 3,
    };
    let stream = StreamId(1);
    assert_eq!(
        world.batch(1, batch.clone()),
        [Effect::Close { stream, error }]
    );
    assert_eq!(world.batch(1, batch), [], "the stream is closed");
    assert_eq!(world.counts("room").get(Category::Connections), 1);
}

#[test]
fn a_broken_session_resumes_where_it_was() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.step(Input::Broken {
        stream: StreamId(1),
    });
    world.pass(Duration::from_millis(4_999));
    let welcome = Welcome {
        session: 1,
        resumed: true,
        last_sequence: 1,
    };
    let stream = StreamId(2);
    assert_eq!(
        world.open(2, 2, Some(1)),
        [Effect::Welcome { stream, welcome }]
    );
    world.sequence = 1;
    world.pass(Duration::from_secs(60));
    assert_eq!(world.tell(2, vec![attach("b", "room")]), []);
    assert_eq!(world.counts("room").get(Category::Connections), 2);
}

#[test]
fn a_broken_session_ends_after_its_grace() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.flush();
    world.ack(1, 1, 2);
    world.step(Input::Broken {
        stream: StreamId(1),
    });
    assert_eq!(world.pass(Duration::from_millis(4_999)), []);
    let sent = updates(world.pass(Duration::from_millis(10)));
    assert_eq!(items(&sent), [GatewayItem::SourceEnded(source(1))]);
    assert_eq!(world.gateway.stats().registers, 0);
}

#[test]
fn goodbye_ends_a_session_at_once() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.step(Input::Goodbye {
        stream: StreamId(1),
    });
    assert_eq!(
        items(&world.flush()),
        [GatewayItem::SourceEnded(source(1))],
        "a register that was never told needs no zero"
    );
    assert_eq!(
        world.gateway.stats(),
        crate::Stats {
            in_flight: 2,
            ..Default::default()
        }
    );
}

#[test]
fn a_resumption_takes_a_half_open_stream_over() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    let effects = world.open(2, 2, Some(1));
    assert_eq!(
        effects[0],
        Effect::Close {
            stream: StreamId(1),
            error: SessionError::Superseded { by: 1 }
        }
    );
    assert!(matches!(effects[1], Effect::Welcome { welcome, .. } if welcome.resumed));
    world.step(Input::Broken {
        stream: StreamId(1),
    });
    world.pass(Duration::from_secs(60));
    assert_eq!(world.tell(2, vec![attach("a", "room")]), []);
}

#[test]
fn stale_sessions_are_refused_with_the_highest_seen() {
    let mut world = World::one_shard();
    world.open(1, 5, None);
    world.step(Input::Goodbye {
        stream: StreamId(1),
    });
    let refused = |asked_session| SessionError::Stale {
        asked_incarnation: Incarnation(1),
        asked_session,
        seen_incarnation: Incarnation(1),
        seen_session: 5,
    };
    for session in [4, 5] {
        let stream = StreamId(10 + session);
        let error = refused(session);
        assert_eq!(
            world.open(10 + session, session, None),
            [Effect::Close { stream, error }]
        );
    }
    world.pass(Duration::from_secs(120));
    assert!(matches!(
        world.open(20, 4, None)[..],
        [Effect::Welcome { .. }]
    ));
}

#[test]
fn edges_of_different_apps_do_not_meet() {
    let mut world = World::one_shard();
    world.open(1, 5, None);
    let hello = Hello {
        edge: EdgeId::new("e").unwrap(),
        incarnation: Incarnation(1),
        session: 1,
        resume: Some(5),
    };
    let other = AppId::new("other").unwrap();
    let stream = StreamId(2);
    let welcome = Welcome {
        session: 1,
        resumed: false,
        last_sequence: 0,
    };
    let opened = world.step(Input::Open {
        stream,
        app: other,
        hello,
    });
    assert_eq!(opened, [Effect::Welcome { stream, welcome }]);
}

#[test]
fn a_newer_session_replaces_the_older_once_its_set_is_complete() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room"), attach("b", "room")]);
    world.complete(1);
    world.flush();
    world.open(2, 2, None);
    world.tell(2, vec![attach("a", "room")]);
    // Both count until then, however long it takes within the takeover time.
    world.pass(Duration::from_secs(45));
    assert_eq!(world.counts("room").get(Category::Connections), 3);
    world.owner(1);
    world.complete(2);
    assert_eq!(
        items(&world.flush()),
        [
            GatewayItem::SourceComplete(source(2)),
            GatewayItem::SourceEnded(source(1))
        ]
    );
    assert_eq!(world.counts("room").get(Category::Connections), 1);
}

#[test]
fn an_older_session_is_not_kept_for_ever() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.open(2, 2, None);
    world.pass(Duration::from_secs(61));
    assert_eq!(world.gateway.stats().sessions, 1);
    assert_eq!(world.counts("room"), Occupancy::ZERO);
}

#[test]
fn a_new_owner_is_told_the_whole_set_and_its_end() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.complete(1);
    assert_eq!(world.flush(), [], "nobody to tell");
    let whole = [
        register(1, "room", 1),
        GatewayItem::SourceComplete(source(1)),
        GatewayItem::StreamComplete,
    ];
    let sent = world.owner(7);
    assert_eq!(items(&sent), whole);
    assert_eq!(
        (sent[0].fence, sent[0].stream, sent[0].sequence),
        (Fence(7), 1, 1)
    );
    let again = world.owner(7);
    assert_eq!(items(&again), whole);
    assert_eq!((again[0].stream, again[0].sequence), (2, 1));
    assert_eq!(world.owner(6), [], "an older owner is ignored");
    assert_eq!(
        world.ack(7, 1, 1),
        [],
        "as are acknowledgements of an older stream"
    );
    assert_eq!(world.gateway.stats().in_flight, 1);
}

#[test]
fn a_lost_owner_is_told_nothing_until_it_is_back() {
    let mut world = World::one_shard();
    world.owner(2);
    world.ack(2, 1, 1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room"), attach("b", "hall")]);
    let lost = |fence| Input::OwnerLost {
        shard: SHARD,
        fence: Fence(fence),
    };
    world.step(lost(1));
    assert_eq!(
        items(&world.flush()).len(),
        2,
        "another owner was lost, not this one"
    );
    world.step(lost(2));
    world.tell(1, vec![detach("a", "room")]);
    assert_eq!(updates(world.pass(Duration::from_secs(14))), []);
    assert_eq!(
        items(&world.owner(2)),
        [register(1, "hall", 1), GatewayItem::StreamComplete]
    );
}

#[test]
fn recovery_is_said_once_on_each_stream() {
    let mut world = World::one_shard();
    let said = |sent: &[GatewayUpdate]| {
        let all = items(sent);
        let recovered = all.iter().filter(|item| **item == GatewayItem::Recovered);
        recovered.count()
    };
    assert_eq!(said(&world.owner(1)), 0);
    world.ack(1, 1, 1);
    assert_eq!(said(&updates(world.pass(Duration::from_millis(14_999)))), 0);
    assert_eq!(said(&updates(world.pass(Duration::from_millis(10)))), 1);
    world.ack(1, 1, 2);
    assert_eq!(said(&updates(world.pass(Duration::from_secs(60)))), 0);
    let again = world.owner(1);
    assert_eq!(
        items(&again),
        [GatewayItem::StreamComplete, GatewayItem::Recovered]
    );
}

#[test]
fn unacknowledged_updates_lead_to_a_new_stream() {
    let mut world = World::one_shard();
    world.owner(1);
    world.ack(1, 1, 1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    assert_eq!(world.flush().len(), 1);
    assert_eq!(updates(world.pass(Duration::from_millis(1_999))), []);
    let again = updates(world.pass(Duration::from_millis(1)));
    assert_eq!(again[0].stream, 2);
    assert_eq!(
        items(&again),
        [register(1, "room", 1), GatewayItem::StreamComplete]
    );
    // Twice as patient the second time.
    assert_eq!(updates(world.pass(Duration::from_millis(3_999))), []);
    assert_eq!(updates(world.pass(Duration::from_millis(1)))[0].stream, 3);
    world.ack(1, 3, 1);
    assert_eq!(world.gateway.stats().in_flight, 0);
    assert_eq!(updates(world.pass(Duration::from_secs(5))), []);
}

#[test]
fn a_way_that_is_open_again_leads_to_a_new_stream_if_something_may_be_lost() {
    let mut world = World::one_shard();
    let reopened = |fence| Input::WayReopened {
        shard: SHARD,
        fence: Fence(fence),
    };
    assert_eq!(world.step(reopened(1)), [], "there is no owner");
    world.owner(2);
    world.ack(2, 1, 1);
    assert_eq!(world.step(reopened(2)), [], "all was heard");
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    assert_eq!(world.step(reopened(2)), [], "nothing new was sent yet");
    assert_eq!(world.flush().len(), 1);
    assert_eq!(world.step(reopened(1)), [], "this is another owner");
    let again = updates(world.step(reopened(2)));
    assert_eq!((again[0].stream, again[0].sequence), (2, 1));
    assert_eq!(
        items(&again),
        [register(1, "room", 1), GatewayItem::StreamComplete]
    );
    world.ack(2, 2, 1);
    assert_eq!(updates(world.pass(Duration::from_secs(5))), []);
}

#[test]
fn updates_and_the_window_are_bounded() {
    let mut world = World::new(Config {
        shards: 1.into(),
        update_items_max: 10,
        window_updates: 2,
        ..Config::default()
    });
    world.open(1, 1, None);
    let all = (0..45).map(|n| attach("a", &format!("room{n}")));
    world.tell(1, all.collect());
    let first = world.owner(1);
    assert_eq!(
        first.iter().map(|u| u.items.len()).collect::<Vec<_>>(),
        [10, 10]
    );
    assert_eq!(world.flush(), []);
    let second = world.ack(1, 1, 1);
    assert_eq!((second.len(), second[0].sequence), (1, 3));
    let third = world.ack(1, 1, 3);
    assert_eq!(
        third.iter().map(|u| u.items.len()).collect::<Vec<_>>(),
        [10, 6]
    );
    assert_eq!(third[1].items[5], GatewayItem::StreamComplete);
}

#[test]
fn activity_is_told_once_a_flush() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    let publish = || ReportItem::Activity {
        channel: channel("room"),
    };
    assert_eq!(world.tell(1, vec![publish(), publish(), publish()]), []);
    let told = [GatewayItem::Activity(
        ChannelKey::new("app", "room").unwrap(),
    )];
    assert_eq!(items(&world.flush()), told);
    assert_eq!(world.flush(), []);
}

#[test]
fn direct_clients_count_beside_edges() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    let effects = world.step(Input::Clients {
        request: 9,
        app: app(),
        items: vec![attach("a", "room"), counts("room", 7)],
    });
    let refusals = vec![Refusal {
        item: 1,
        reason: RefusalReason::ToldByAttachments(channel("room")),
    }];
    let request = 9;
    assert_eq!(effects, [Effect::ClientsAck { request, refusals }]);
    assert_eq!(world.counts("room").get(Category::Connections), 2);
    let told = items(&world.flush());
    assert!(
        matches!(
            &told[1],
            GatewayItem::Register {
                source: SourceId::Clients,
                ..
            }
        ),
        "{told:?}"
    );
}

/// Lets a direct client attach or go.
fn client(world: &mut World, item: ReportItem) {
    let effects = world.step(Input::Clients {
        request: 0,
        app: app(),
        items: vec![item],
    });
    assert!(matches!(&effects[..], [Effect::ClientsAck { refusals, .. }] if refusals.is_empty()));
}

fn settled(effects: &[Effect]) -> Vec<u64> {
    let settled = effects.iter().filter_map(|effect| {
        let Effect::Settled { request } = effect else {
            return None;
        };
        Some(*request)
    });
    settled.collect()
}

#[test]
fn what_counts_is_settled_once_the_owner_has_acknowledged_it() {
    let mut world = World::one_shard();
    // Nobody is there to be told, and whoever comes is told all.
    client(&mut world, attach("a", "room"));
    assert_eq!(settled(&world.step(Input::Settle { request: 1 })), [1]);
    world.owner(1);
    world.ack(1, 1, 1);
    assert_eq!(settled(&world.step(Input::Settle { request: 2 })), [2]);

    // Not while it is queued, nor on its way; what comes later is not waited for.
    client(&mut world, detach("a", "room"));
    assert_eq!(settled(&world.step(Input::Settle { request: 3 })), []);
    assert_eq!(settled(&world.pass(Duration::from_millis(5))), []);
    client(&mut world, attach("b", "room"));
    assert_eq!(settled(&world.step(Input::Settle { request: 4 })), []);
    assert_eq!(settled(&world.pass(Duration::from_millis(5))), []);
    let ack = |stream, sequence| Input::Ack {
        shard: SHARD,
        ack: GatewayAck {
            fence: Fence(1),
            stream,
            sequence,
        },
    };
    assert_eq!(settled(&world.step(ack(1, 2))), [3]);

    // A new stream tells all anew, and only its acknowledgement counts.
    world.owner(1);
    assert_eq!(settled(&world.step(ack(1, 3))), []);
    assert_eq!(settled(&world.step(ack(2, 1))), [4]);

    // An owner that is lost keeps nobody waiting.
    client(&mut world, detach("b", "room"));
    assert_eq!(settled(&world.step(Input::Settle { request: 5 })), []);
    let lost = Input::OwnerLost {
        shard: SHARD,
        fence: Fence(1),
    };
    assert_eq!(settled(&world.step(lost)), [5]);
    world.gateway.invariants();
}

#[test]
fn settling_waits_for_every_owner() {
    let mut world = World::new(Config {
        shards: 2.into(),
        ..Config::default()
    });
    let owner = |shard| Input::Owner {
        shard: ShardId(shard),
        fence: Fence(1),
    };
    for shard in [0, 1] {
        world.step(owner(shard));
    }
    assert_eq!(settled(&world.step(Input::Settle { request: 1 })), []);
    let ack = |shard| Input::Ack {
        shard: ShardId(shard),
        ack: GatewayAck {
            fence: Fence(1),
            stream: 1,
            sequence: 1,
        },
    };
    assert_eq!(settled(&world.step(ack(0))), []);
    assert_eq!(settled(&world.step(ack(1))), [1]);
}

#[test]
fn a_reborn_node_tells_everything_under_its_new_incarnation() {
    let mut world = World::one_shard();
    world.owner(1);
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    world.flush();
    let incarnation = Incarnation(4);
    let sent = updates(world.step(Input::Reborn { incarnation }));
    assert_eq!((sent[0].incarnation, sent[0].stream), (incarnation, 2));
    assert_eq!(
        items(&sent),
        [register(1, "room", 1), GatewayItem::StreamComplete]
    );
}

#[test]
fn a_draining_node_closes_its_streams_and_keeps_counting() {
    let mut world = World::one_shard();
    world.open(1, 1, None);
    world.tell(1, vec![attach("a", "room")]);
    let closed = |stream| Effect::Close {
        stream: StreamId(stream),
        error: SessionError::Draining,
    };
    assert_eq!(world.step(Input::Drain), [closed(1)]);
    assert_eq!(world.open(2, 2, Some(1)), [closed(2)]);
    assert_eq!(world.counts("room").get(Category::Connections), 1);
}

#[test]
fn the_number_of_edges_is_bounded() {
    let mut world = World::new(Config {
        edges_max: 1,
        ..Config::default()
    });
    world.open(1, 1, None);
    let hello = Hello {
        edge: EdgeId::new("f").unwrap(),
        incarnation: Incarnation(1),
        session: 1,
        resume: None,
    };
    let effects = world.step(Input::Open {
        stream: StreamId(2),
        app: app(),
        hello,
    });
    let error = SessionError::Overloaded {
        what: "edges",
        limit: 1,
    };
    let stream = StreamId(2);
    assert_eq!(effects, [Effect::Close { stream, error }]);
}

#[test]
fn acknowledgements_of_old_batches_are_forgotten() {
    let mut world = World::new(Config {
        window_batches: 2,
        ..Config::default()
    });
    world.open(1, 1, None);
    for _ in 0..4 {
        world.tell(1, vec![enter("a", "room", "ann")]);
    }
    let mut repeat = |sequence| {
        let batch = ReportBatch {
            sequence,
            ..ReportBatch::default()
        };
        match world.batch(1, batch).pop() {
            Some(Effect::Ack {
                ack: ReportAck { refusals, .. },
                ..
            }) => refusals.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([1, 2, 3, 4].map(&mut repeat), [0, 0, 1, 1]);
}
