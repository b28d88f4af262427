//! What happens at the edges: people come, change their minds, rush and leave. Pure: a seed and the
//! time decide everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use headcount_model::{
    Category, ChannelName, ConnectionId, MemberId, Modes, NameError, Occupancy, ReportItem,
};

use super::zipf::{Dice, Zipf};

/// How long those who rushed to a channel stay there.
const BURST_STAY: Duration = Duration::from_secs(3);

/// How many come in the first moments, a second.
const ARRIVALS_PER_SECOND: f64 = 20_000.0;

/// One connection in so many is attached to nothing.
const AWAY_SHARE: usize = 20;

/// What the traffic is like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) edges: usize,
    pub(super) channels: usize,
    pub(super) zipf: f64,
    pub(super) connections: usize,
    /// Attaches and detaches a second.
    pub(super) rate: f64,
    /// Share of attachments that enter presence.
    pub(super) presence: f64,
    /// Share of attachments that only subscribe.
    pub(super) readers: f64,
    pub(super) burst_every: Option<Duration>,
    pub(super) burst_size: usize,
    /// Whether edges tell counts in place of attachments.
    pub(super) counts: bool,
    pub(super) prefix: String,
}

/// An attachment.
#[derive(Clone, Copy, Debug)]
struct Attachment {
    channel: usize,
    modes: Modes,
    presence: bool,
}

/// The traffic, from its beginning.
#[derive(Debug)]
pub(super) struct Traffic {
    shape: Shape,
    names: Vec<ChannelName>,
    zipf: Zipf,
    dice: Dice,
    /// By connection: where it is attached.
    attached: Vec<Option<Attachment>>,
    /// Connections that left and will come again, the longest away first.
    away: VecDeque<usize>,
    /// How many connections have come for the first time.
    arrived: usize,
    /// Comings and goings that were due by the rate, so far.
    churned: f64,
    now: Duration,
    next_burst: Option<Duration>,
    /// Bursts under way: when they end, their number, and where.
    bursts: VecDeque<(Duration, u64, usize)>,
    burst_number: u64,
    /// For edges that tell counts: what each has on each channel, and which of them changed.
    counts: Vec<BTreeMap<usize, Occupancy>>,
    changed: Vec<BTreeSet<usize>>,
    /// Attaches and detaches so far.
    pub(super) changes: u64,
}

impl Traffic {
    pub(super) fn new(shape: Shape, seed: u64) -> Result<Self, NameError> {
        let names: Result<Vec<ChannelName>, NameError> = (0..shape.channels)
            .map(|rank| ChannelName::new(&format!("{}{rank}", shape.prefix)))
            .collect();
        Ok(Self {
            names: names?,
            zipf: Zipf::new(shape.channels, shape.zipf),
            dice: Dice::new(seed),
            attached: vec![None; shape.connections],
            away: VecDeque::new(),
            arrived: 0,
            churned: 0.0,
            now: Duration::ZERO,
            next_burst: shape.burst_every,
            bursts: VecDeque::new(),
            burst_number: 0,
            counts: vec![BTreeMap::new(); shape.edges],
            changed: vec![BTreeSet::new(); shape.edges],
            changes: 0,
            shape,
        })
    }

    /// Returns how many connections are attached, those of bursts left out.
    pub(super) fn present(&self) -> usize {
        self.attached
            .iter()
            .filter(|attached| attached.is_some())
            .count()
    }

    /// Lets time pass until `now`; returns what each edge has to report.
    pub(super) fn advance(&mut self, now: Duration) -> Vec<Vec<ReportItem>> {
        let mut items = vec![Vec::new(); self.shape.edges];
        let passed = now.saturating_sub(self.now).as_secs_f64();
        self.now = now;
        if self.arrived < self.attached.len() {
            self.arrive(passed, &mut items);
        } else if !self.attached.is_empty() {
            self.churn(passed, &mut items);
        }
        self.burst(&mut items);
        for (edge, changed) in self.changed.iter_mut().enumerate() {
            for channel in std::mem::take(changed) {
                let occupancy = self.counts[edge].get(&channel).copied().unwrap_or_default();
                if occupancy.is_zero() {
                    self.counts[edge].remove(&channel);
                }
                items[edge].push(ReportItem::Counts {
                    channel: self.names[channel].clone(),
                    occupancy,
                });
            }
        }
        items
    }

    fn arrive(&mut self, passed: f64, items: &mut [Vec<ReportItem>]) {
        let due = whole(ARRIVALS_PER_SECOND * passed).max(1);
        for connection in self.arrived..self.attached.len().min(self.arrived + due) {
            self.attach(connection, items);
            self.arrived = connection + 1;
        }
    }

    /// One leaves, one comes, in turns: as many stay as there are meant to be, save for those few
    /// who are on their way from one channel to another.
    fn churn(&mut self, passed: f64, items: &mut [Vec<ReportItem>]) {
        self.churned += self.shape.rate * passed;
        let due = whole(self.churned);
        self.churned = self.churned.fract();
        let away_most = self.attached.len() / AWAY_SHARE + 1;
        for _ in 0..due {
            if self.away.len() < away_most {
                let connection = self.dice.below(self.attached.len());
                if let Some(attachment) = self.attached[connection].take() {
                    let edge = connection % self.shape.edges;
                    self.leave(edge, &format!("c{connection}"), attachment, items);
                    self.away.push_back(connection);
                    continue;
                }
            }
            if let Some(connection) = self.away.pop_front() {
                self.attach(connection, items);
            }
        }
    }

    fn attach(&mut self, connection: usize, items: &mut [Vec<ReportItem>]) {
        let channel = self.zipf.draw(&mut self.dice);
        let only_reads = self.dice.happens(self.shape.readers);
        let reader = Modes::SUBSCRIBE.union(Modes::PRESENCE_SUBSCRIBE);
        let modes = if only_reads { reader } else { Modes::DEFAULT };
        let presence = !only_reads && self.dice.happens(self.shape.presence);
        let attachment = Attachment {
            channel,
            modes,
            presence,
        };
        self.attached[connection] = Some(attachment);
        let edge = connection % self.shape.edges;
        self.come(edge, &format!("c{connection}"), attachment, items);
    }

    fn burst(&mut self, items: &mut [Vec<ReportItem>]) {
        while self
            .bursts
            .front()
            .is_some_and(|(end, ..)| *end <= self.now)
        {
            let Some((_, number, channel)) = self.bursts.pop_front() else {
                return;
            };
            self.rush(number, channel, false, items);
        }
        let (Some(at), Some(every)) = (self.next_burst, self.shape.burst_every) else {
            return;
        };
        if at <= self.now && self.arrived == self.attached.len() {
            let channel = self.zipf.draw(&mut self.dice);
            self.rush(self.burst_number, channel, true, items);
            self.bursts
                .push_back((self.now + BURST_STAY, self.burst_number, channel));
            self.burst_number += 1;
            self.next_burst = Some(self.now + every);
        }
    }

    fn rush(&mut self, number: u64, channel: usize, come: bool, items: &mut [Vec<ReportItem>]) {
        let attachment = Attachment {
            channel,
            modes: Modes::DEFAULT,
            presence: false,
        };
        for index in 0..self.shape.burst_size {
            let (edge, name) = (index % self.shape.edges, format!("b{number}-{index}"));
            if come {
                self.come(edge, &name, attachment, items);
            } else {
                self.leave(edge, &name, attachment, items);
            }
        }
    }

    fn come(
        &mut self,
        edge: usize,
        name: &str,
        attachment: Attachment,
        items: &mut [Vec<ReportItem>],
    ) {
        self.changes += 1;
        if self.shape.counts {
            self.count(edge, attachment, Occupancy::plus);
            return;
        }
        let Attachment {
            channel,
            modes,
            presence,
        } = attachment;
        let channel = self.names[channel].clone();
        let connection = own_name(ConnectionId::new(name));
        items[edge].push(ReportItem::Attach {
            connection: connection.clone(),
            channel: channel.clone(),
            modes,
        });
        if presence {
            let member = own_name(MemberId::new(name));
            items[edge].push(ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            });
        }
    }

    fn leave(
        &mut self,
        edge: usize,
        name: &str,
        attachment: Attachment,
        items: &mut [Vec<ReportItem>],
    ) {
        self.changes += 1;
        if self.shape.counts {
            self.count(edge, attachment, Occupancy::minus);
            return;
        }
        let channel = self.names[attachment.channel].clone();
        let connection = own_name(ConnectionId::new(name));
        items[edge].push(ReportItem::Detach {
            connection,
            channel,
        });
    }

    fn count(
        &mut self,
        edge: usize,
        attachment: Attachment,
        change: fn(Occupancy, Occupancy) -> Occupancy,
    ) {
        let mut occupancy = attachment.modes.occupancy();
        if attachment.presence {
            occupancy.set(Category::PresenceConnections, 1);
            occupancy.set(Category::PresenceMembers, 1);
        }
        let before = self.counts[edge].entry(attachment.channel).or_default();
        *before = change(*before, occupancy);
        self.changed[edge].insert(attachment.channel);
    }
}

/// Names that are made here are short and plain.
fn own_name<T>(name: Result<T, NameError>) -> T {
    name.expect("a letter and digits are a good name")
}

/// Cuts a positive number down to a whole one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts from floats saturate, and no number here is negative"
)]
fn whole(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            edges: 3,
            channels: 50,
            zipf: 1.0,
            connections: 200,
            rate: 100.0,
            presence: 0.5,
            readers: 0.5,
            burst_every: Some(Duration::from_secs(5)),
            burst_size: 30,
            counts: false,
            prefix: "t:".to_owned(),
        }
    }

    fn played(shape: Shape, seed: u64, seconds: u64) -> (Traffic, Vec<Vec<ReportItem>>) {
        let mut traffic = Traffic::new(shape, seed).unwrap();
        let mut items = vec![Vec::new(); traffic.shape.edges];
        for tick in 1..=seconds * 10 {
            let new = traffic.advance(Duration::from_millis(tick * 100));
            for (edge, new) in new.into_iter().enumerate() {
                items[edge].extend(new);
            }
        }
        (traffic, items)
    }

    #[test]
    fn the_same_seed_brings_the_same_traffic() {
        let (_, one) = played(shape(), 7, 20);
        assert_eq!(one, played(shape(), 7, 20).1);
        assert_ne!(one, played(shape(), 8, 20).1);
    }

    /// Replays the items as a gateway would; counts on each channel.
    fn counted(items: &[ReportItem]) -> BTreeMap<ChannelName, Occupancy> {
        let mut attached = BTreeMap::new();
        let mut told = BTreeMap::new();
        for item in items {
            match item {
                ReportItem::Attach {
                    connection,
                    channel,
                    modes,
                } => {
                    let key = (connection.clone(), channel.clone());
                    assert!(
                        attached.insert(key, modes.occupancy()).is_none(),
                        "attached twice"
                    );
                }
                ReportItem::PresenceEnter {
                    connection,
                    channel,
                    ..
                } => {
                    let key = (connection.clone(), channel.clone());
                    let occupancy: &mut Occupancy = attached.get_mut(&key).unwrap();
                    occupancy.set(Category::PresenceConnections, 1);
                    occupancy.set(Category::PresenceMembers, 1);
                }
                ReportItem::Detach {
                    connection,
                    channel,
                } => {
                    let key = (connection.clone(), channel.clone());
                    assert!(attached.remove(&key).is_some(), "left without being there");
                }
                ReportItem::Counts { channel, occupancy } => {
                    told.insert(channel.clone(), *occupancy);
                }
                other => panic!("{other:?}"),
            }
        }
        for ((_, channel), occupancy) in attached {
            let sum: &mut Occupancy = told.entry(channel).or_default();
            *sum = sum.plus(occupancy);
        }
        told.retain(|_, occupancy| !occupancy.is_zero());
        told
    }

    #[test]
    fn edges_that_count_tell_what_the_others_tell() {
        let (_, attachments) = played(shape(), 3, 30);
        let (_, counts) = played(
            Shape {
                counts: true,
                ..shape()
            },
            3,
            30,
        );
        for edge in 0..3 {
            assert_eq!(counted(&attachments[edge]), counted(&counts[edge]));
        }
        assert!(counts.iter().flatten().count() < attachments.iter().flatten().count());
    }

    #[test]
    fn rates_and_sizes_are_as_asked() {
        let calm = Shape {
            burst_every: None,
            rate: 0.0,
            ..shape()
        };
        let (traffic, _) = played(calm, 1, 1);
        assert_eq!(traffic.present(), 200, "all have come");
        let (traffic, _) = played(shape(), 1, 11);
        // 200 come in the first tick; then 100 a second for 10.9 s; a burst of 30 comes at 5 s and
        // goes at 8 s, another comes at 10 s.
        let expected = 200 + 1_090 + 90;
        assert!(
            (expected - 1..=expected).contains(&traffic.changes),
            "{}",
            traffic.changes
        );
        assert!(
            (189..=200).contains(&traffic.present()),
            "{}",
            traffic.present()
        );
    }

    #[test]
    fn nobody_at_all_is_a_traffic_too() {
        let empty = Shape {
            connections: 0,
            burst_size: 0,
            ..shape()
        };
        let (_, items) = played(empty, 1, 10);
        assert!(items.iter().all(Vec::is_empty));
    }
}
