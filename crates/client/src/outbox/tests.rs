//! Whatever is reported, sent, lost and resumed, the node comes to know what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{
    ChannelName, ConnectionId, MemberId, Modes, Occupancy, RefusalCode, ReportItem, ReportLimits,
};
use proptest::prelude::*;

use super::{Batch, ITEM_BYTES_MAX, Outbox, Refused};

/// What a node has counted of one session, in the plainest way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    modes: BTreeMap<(ConnectionId, ChannelName), Modes>,
    members: BTreeSet<(ConnectionId, ChannelName, MemberId)>,
    counts: BTreeMap<ChannelName, Occupancy>,
    sequence: u64,
    complete: bool,
}

impl Node {
    /// Counts an item; returns the code of its refusal.
    fn take(&mut self, item: &ReportItem) -> Result<(), RefusalCode> {
        match item.clone() {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                if !modes.contains(Modes::PRESENCE) {
                    let here = (&connection, &channel);
                    self.members.retain(|member| (&member.0, &member.1) != here);
                }
                self.modes.insert((connection, channel), modes);
            }
            ReportItem::Detach {
                connection,
                channel,
            } => {
                let here = (&connection, &channel);
                self.members.retain(|member| (&member.0, &member.1) != here);
                self.modes.remove(&(connection, channel));
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                let modes = self.modes.get(&(connection.clone(), channel.clone()));
                let modes = modes.ok_or(RefusalCode::NotAttached)?;
                if !modes.contains(Modes::PRESENCE) {
                    return Err(RefusalCode::NoPresenceMode);
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
                self.members.retain(|member| member.0 != connection);
                self.modes.retain(|place, _| place.0 != connection);
            }
            ReportItem::Counts { channel, occupancy } => {
                self.counts.remove(&channel);
                if !occupancy.is_zero() {
                    self.counts.insert(channel, occupancy);
                }
            }
            ReportItem::Activity { .. } => {}
        }
        Ok(())
    }

    /// Counts a batch that was not counted before; returns what it refuses.
    fn apply(&mut self, batch: &Batch) -> Vec<(u32, Option<RefusalCode>, String)> {
        if batch.sequence <= self.sequence {
            return Vec::new();
        }
        assert_eq!(batch.sequence, self.sequence + 1, "a hole");
        self.sequence = batch.sequence;
        self.complete |= batch.set_complete;
        let refused = (0..).zip(&batch.items).filter_map(|(index, item)| {
            let code = self.take(item).err()?;
            Some((index, Some(code), String::new()))
        });
        refused.collect()
    }

    fn known(&self) -> impl PartialEq + std::fmt::Debug {
        (
            self.modes.clone(),
            self.members.clone(),
            self.counts.clone(),
        )
    }
}

#[derive(Clone, Debug)]
enum Op {
    Change(ReportItem),
    /// A batch is made and reaches the node.
    Send,
    /// The oldest batch on the way is acknowledged.
    Ack,
    /// The stream breaks: batches do not reach the node until the session is resumed or new.
    Break,
    Resume,
    NewSession,
    Flush,
}

fn limits(items: u32) -> ReportLimits {
    ReportLimits {
        batch_items_max: items,
        ..ReportLimits::default()
    }
}

struct World {
    outbox: Outbox<usize>,
    node: Node,
    /// What a node would know that hears everything at once.
    wanted: Node,
    broken: bool,
    answers: BTreeMap<u64, Vec<(u32, Option<RefusalCode>, String)>>,
    /// What each flush waits for, until it is done.
    flushes: BTreeMap<usize, Node>,
    flushed: usize,
}

impl World {
    fn new() -> Self {
        let mut outbox = Outbox::new();
        outbox.start_session();
        Self {
            outbox,
            node: Node::default(),
            wanted: Node::default(),
            broken: false,
            answers: BTreeMap::new(),
            flushes: BTreeMap::new(),
            flushed: 0,
        }
    }

    fn send(&mut self) -> bool {
        let Some(batch) = self.outbox.next_batch(&limits(3)) else {
            return false;
        };
        assert!(batch.items.len() <= 3);
        if !self.broken {
            self.answers.insert(batch.sequence, self.node.apply(batch));
        }
        true
    }

    fn ack(&mut self) -> bool {
        let oldest = self.outbox.unacknowledged_batches().next();
        let Some(sequence) = oldest.map(|batch| batch.sequence) else {
            return false;
        };
        let Some(refusals) = self
            .answers
            .get(&sequence)
            .filter(|_| !self.broken)
            .cloned()
        else {
            return false;
        };
        let (_, done) = self.outbox.acknowledge(sequence, refusals);
        for flush in done {
            self.flushes.remove(&flush).expect("a flush ends once");
        }
        true
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Change(item) => {
                // An enter that would be refused now may be accepted if it is told later.
                if self.wanted.take(&item).is_ok() {
                    self.outbox.change(item);
                }
            }
            Op::Send => {
                self.send();
            }
            Op::Ack => {
                self.ack();
            }
            Op::Break => self.broken = true,
            Op::Resume => {
                self.broken = false;
                let again: Vec<_> = self.outbox.unacknowledged_batches().cloned().collect();
                for batch in again {
                    let refusals = self.node.apply(&batch);
                    self.answers.entry(batch.sequence).or_insert(refusals);
                }
            }
            Op::NewSession => {
                self.broken = false;
                self.node = Node::default();
                self.answers.clear();
                self.outbox.start_session();
            }
            Op::Flush => {
                self.flushed += 1;
                if let Some(flush) = self.outbox.flush(self.flushed) {
                    assert_eq!(flush, self.flushed);
                    assert_eq!(self.node.known(), self.wanted.known());
                } else {
                    self.flushes.insert(self.flushed, self.wanted.clone());
                }
            }
        }
    }

    fn settle(&mut self) {
        self.run(Op::Resume);
        while self.send() || self.ack() {}
        assert_eq!(self.node.known(), self.wanted.known());
        assert!(self.node.complete && self.flushes.is_empty());
        assert!(!self.outbox.has_work());
        let held = self.outbox.attachments.iter().flatten().count();
        assert_eq!(held, self.wanted.modes.len(), "nothing else is kept");
        assert_eq!(self.outbox.counts.len(), self.wanted.counts.len());
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let connection = || (0..2_u8).prop_map(|n| ConnectionId::new(&format!("c{n}")).unwrap());
    let channel = || (0..3_u8).prop_map(|n| ChannelName::new(&format!("room{n}")).unwrap());
    let sum = || (0..2_u8).prop_map(|n| ChannelName::new(&format!("sum{n}")).unwrap());
    let member = || (0..2_u8).prop_map(|n| MemberId::new(&format!("m{n}")).unwrap());
    let modes = prop_oneof![
        3 => Just(Modes::DEFAULT),
        1 => Just(Modes::SUBSCRIBE),
        1 => Just(Modes::PRESENCE)
    ];
    let change = prop_oneof![
        6 => (connection(), channel(), modes).prop_map(|(connection, channel, modes)| {
            ReportItem::Attach { connection, channel, modes }
        }),
        3 => (connection(), channel())
            .prop_map(|(connection, channel)| ReportItem::Detach { connection, channel }),
        5 => (connection(), channel(), member()).prop_map(|(connection, channel, member)| {
            ReportItem::PresenceEnter { connection, channel, member }
        }),
        2 => (connection(), channel(), member()).prop_map(|(connection, channel, member)| {
            ReportItem::PresenceLeave { connection, channel, member }
        }),
        1 => connection().prop_map(|connection| ReportItem::ConnectionClosed { connection }),
        2 => (sum(), 0..3_u32).prop_map(|(channel, count)| {
            ReportItem::Counts { channel, occupancy: Occupancy::from_counts([count; 8]) }
        }),
        1 => channel().prop_map(|channel| ReportItem::Activity { channel }),
    ];
    let op = prop_oneof![
        12 => change.prop_map(Op::Change),
        4 => Just(Op::Send),
        3 => Just(Op::Ack),
        1 => Just(Op::Break),
        1 => Just(Op::Resume),
        1 => Just(Op::NewSession),
        1 => Just(Op::Flush),
    ];
    proptest::collection::vec(op, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2 * ProptestConfig::default().cases))]

    #[test]
    fn a_node_comes_to_know_what_is_wanted(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
        world.run(Op::NewSession);
        world.settle();
    }
}

fn attach(who: &str, modes: Modes) -> ReportItem {
    ReportItem::Attach {
        connection: ConnectionId::new(who).unwrap(),
        channel: ChannelName::new("room").unwrap(),
        modes,
    }
}

fn enter(who: &str, member: &str) -> ReportItem {
    ReportItem::PresenceEnter {
        connection: ConnectionId::new(who).unwrap(),
        channel: ChannelName::new("room").unwrap(),
        member: MemberId::new(member).unwrap(),
    }
}

fn detach(who: &str) -> ReportItem {
    ReportItem::Detach {
        connection: ConnectionId::new(who).unwrap(),
        channel: ChannelName::new("room").unwrap(),
    }
}

fn next(outbox: &mut Outbox<()>) -> Vec<ReportItem> {
    let batch = outbox.next_batch(&ReportLimits::default());
    batch.map_or_else(Vec::new, |batch| batch.items.clone())
}

#[test]
fn what_cancels_before_it_is_sent_is_not_told() {
    let mut outbox = Outbox::new();
    for change in [attach("a", Modes::DEFAULT), enter("a", "ann"), detach("a")] {
        outbox.change(change);
    }
    outbox.change(attach("b", Modes::SUBSCRIBE));
    outbox.change(attach("b", Modes::DEFAULT));
    assert_eq!(next(&mut outbox), [attach("b", Modes::DEFAULT)]);
    outbox.change(detach("b"));
    outbox.change(attach("b", Modes::DEFAULT));
    assert_eq!(next(&mut outbox), []);
}

#[test]
fn refused_items_are_forgotten_and_told_of() {
    let mut outbox = Outbox::new();
    outbox.change(attach("a", Modes::DEFAULT));
    outbox.change(attach("b", Modes::DEFAULT));
    next(&mut outbox);
    let refusal = (0, Some(RefusalCode::NotPermitted), "no".to_owned());
    let (refused, _) = outbox.acknowledge(1, vec![refusal]);
    let expected = Refused {
        item: attach("a", Modes::DEFAULT),
        code: Some(RefusalCode::NotPermitted),
        message: "no".into(),
    };
    assert_eq!(refused, [expected]);
    outbox.start_session();
    assert_eq!(next(&mut outbox), [attach("b", Modes::DEFAULT)]);
}

#[test]
fn what_a_full_node_refused_is_told_again() {
    let mut outbox = Outbox::new();
    outbox.change(attach("a", Modes::DEFAULT));
    outbox.change(enter("a", "ann"));
    let both = next(&mut outbox);
    let full = (0, Some(RefusalCode::Overloaded), String::new());
    let not_attached = (1, Some(RefusalCode::NotAttached), String::new());
    outbox.acknowledge(1, vec![full, not_attached]);
    assert!(outbox.has_overloaded());
    assert_eq!(next(&mut outbox), []);
    outbox.retry();
    assert_eq!(next(&mut outbox), both);
}

#[test]
fn batches_keep_to_the_bound_of_bytes() {
    let mut outbox = Outbox::<()>::new();
    let long = "x".repeat(2_000);
    for n in 0..20 {
        outbox.change(ReportItem::Activity {
            channel: ChannelName::new(&format!("{long}{n}")).unwrap(),
        });
    }
    let limits = ReportLimits {
        batch_bytes_max: 10_000,
        ..ReportLimits::default()
    };
    let mut total = 0;
    while let Some(batch) = outbox.next_batch(&limits) {
        assert!(batch.items.len() <= 4);
        total += batch.items.len();
    }
    assert_eq!(total, 20);
    // Even where not one item fits the bound for sure, one goes.
    let tight = ReportLimits {
        batch_bytes_max: ITEM_BYTES_MAX as u32 / 2,
        ..limits
    };
    outbox.change(attach("a", Modes::DEFAULT));
    assert_eq!(
        outbox.next_batch(&tight).map(|batch| batch.items.len()),
        Some(1)
    );
}
