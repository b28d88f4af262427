//! Rules one by one, then properties over random logs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headcount_model::{
    Batch, Category, ChannelKey, Claim, Command, Entry, Era, Event, EventId, EventKind, Fence,
    Incarnation, LoggedEvent, Modes, NodeId, Occupancy, OwnerRef, Pacing, RegionName, Register,
    ShardId, Tail, Timestamp, Transition,
};
use proptest::prelude::*;

use crate::{Applied, EXPIRE_CHUNK, Outcome, Shard};

mod scenarios;

fn key(name: &str) -> ChannelKey {
    ChannelKey::new("app", name).unwrap()
}

fn owner(region: &str, fence: u64) -> OwnerRef {
    OwnerRef {
        region: RegionName::new(region).unwrap(),
        fence: Fence(fence),
    }
}

fn claim(region: &str, fence: u64) -> Command {
    claim_with(region, fence, Vec::new())
}

fn claim_with(region: &str, fence: u64, tails: Vec<Tail>) -> Command {
    let (node, incarnation) = (NodeId(fence), Incarnation(1));
    Command::Claim(Claim {
        owner: owner(region, fence),
        node,
        incarnation,
        tails,
    })
}

fn counts(connections: u32) -> Occupancy {
    (0..connections).map(|_| Modes::DEFAULT.occupancy()).sum()
}

fn transition(number: u64, name: &str, active: bool) -> Transition {
    Transition {
        number,
        channel: key(name),
        active,
        occupancy: counts(u32::from(active)),
        at: Timestamp(number),
        is_global_master: false,
    }
}

fn batch(region: &str, fence: u64, sequence: u64, transitions: Vec<Transition>) -> Batch {
    Batch {
        owner: owner(region, fence),
        sequence,
        dropped: Vec::new(),
        transitions,
        registers: Vec::new(),
    }
}

fn registers(region: &str, fence: u64, sequence: u64, counts: &[(&str, Occupancy)]) -> Command {
    let registers = counts.iter().map(|(name, occupancy)| Register {
        channel: key(name),
        occupancy: *occupancy,
    });
    Command::Batch(Batch {
        registers: registers.collect(),
        ..batch(region, fence, sequence, Vec::new())
    })
}

/// A shard with its next index, at a time that tests move.
struct Log {
    shard: Shard,
    now: u64,
}

impl Log {
    fn new() -> Self {
        Self {
            shard: Shard::new(ShardId(7), Era(0)),
            now: 1_000,
        }
    }

    fn entry(&self, commands: Vec<Command>) -> Entry {
        Entry {
            stamp: Timestamp(self.now),
            coordinator: RegionName::new("eu").unwrap(),
            commands,
        }
    }

    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        let entry = self.entry(commands);
        self.shard.apply(self.shard.applied() + 1, entry)
    }

    /// Applies one command and returns its events as "kind@region connections".
    fn tell(&mut self, command: Command) -> Vec<String> {
        told(&self.apply(vec![command]).logged.events)
    }
}

fn told(events: &[LoggedEvent]) -> Vec<String> {
    let line = |logged: &LoggedEvent| {
        let event = &logged.event;
        let kind = event.kind.as_str().trim_start_matches("channel.");
        format!(
            "{kind}@{} {}",
            event.region,
            event.occupancy.get(Category::Connections)
        )
    };
    events.iter().map(line).collect()
}

#[test]
fn the_first_region_opens_and_the_last_closes() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1), claim("eu", 2)]);
    let first = log.tell(Command::Batch(batch(
        "us",
        1,
        1,
        vec![transition(1, "c", true)],
    )));
    assert_eq!(
        first,
        ["region.active@us 1", "opened@eu 1", "occupancy@eu 1"]
    );
    let second = log.tell(Command::Batch(batch(
        "eu",
        2,
        1,
        vec![transition(1, "c", true)],
    )));
    assert_eq!(
        second,
        ["region.active@eu 1"],
        "1 to 2 crosses nothing and is held back"
    );
    let third = log.tell(Command::Batch(batch(
        "us",
        1,
        2,
        vec![transition(2, "c", false)],
    )));
    assert_eq!(third, ["region.inactive@us 0"]);
    let last = log.tell(Command::Batch(batch(
        "eu",
        2,
        2,
        vec![transition(2, "c", false)],
    )));
    assert_eq!(
        last,
        ["region.inactive@eu 0", "occupancy@eu 0", "closed@eu 0"]
    );
    assert_eq!(log.shard.channels(), 0);
    assert_eq!(log.shard.next_due(), None);
}

#[test]
fn two_regions_in_one_entry_open_once() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1), claim("eu", 2)]);
    let both = log.apply(vec![
        Command::Batch(batch("us", 1, 1, vec![transition(1, "c", true)])),
        Command::Batch(batch("eu", 2, 1, vec![transition(1, "c", true)])),
    ]);
    let expected = [
        "region.active@us 1",
        "opened@eu 1",
        "region.active@eu 1",
        "occupancy@eu 2",
    ];
    assert_eq!(told(&both.logged.events), expected);
}

#[test]
fn regional_events_are_copied_from_their_transition() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 4)]);
    let transition = Transition {
        is_global_master: true,
        ..transition(1, "c", true)
    };
    let applied = log.apply(vec![Command::Batch(batch("us", 4, 1, vec![transition]))]);
    let event = &applied.logged.events[0].event;
    let (era, shard, region) = (Era(0), ShardId(7), RegionName::new("us").unwrap());
    let id = EventId::Transition {
        era,
        shard,
        region,
        fence: Fence(4),
        number: 1,
    };
    assert_eq!(
        (&event.id, event.at, event.is_global_master),
        (&id, Timestamp(1), true)
    );
}

#[test]
fn occupancy_is_paced_but_crossings_are_not() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    log.apply(vec![Command::Batch(batch(
        "us",
        1,
        1,
        vec![transition(1, "c", true)],
    ))]);
    assert!(
        log.tell(registers("us", 1, 2, &[("c", counts(2))]))
            .is_empty()
    );
    assert!(
        log.tell(registers("us", 1, 3, &[("c", counts(3))]))
            .is_empty()
    );
    assert_eq!(log.shard.next_due(), Some(Timestamp(6_000)));
    let mut member = counts(3);
    member.set(Category::PresenceMembers, 1);
    assert_eq!(
        log.tell(registers("us", 1, 4, &[("c", member)])),
        ["occupancy@eu 3"]
    );
    assert!(
        log.tell(registers("us", 1, 5, &[("c", member.plus(counts(1)))]))
            .is_empty()
    );
    log.now = 5_999;
    assert!(log.tell(Command::Tick).is_empty());
    log.now = 6_000;
    assert_eq!(
        log.tell(Command::Tick),
        ["occupancy@eu 4"],
        "the final value is always told"
    );
    assert_eq!(log.shard.next_due(), None);
    log.now = 11_000;
    assert_eq!(
        log.tell(registers("us", 1, 6, &[("c", counts(9))])),
        ["occupancy@eu 9"]
    );
}

#[test]
fn a_channel_that_reopens_with_other_counts_than_it_ends_with_is_told_what_it_ends_with() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    log.apply(vec![Command::Batch(batch(
        "us",
        1,
        1,
        vec![transition(1, "c", true)],
    ))]);
    log.now = 60_000;
    assert_eq!(
        log.tell(registers("us", 1, 2, &[("c", counts(2))])),
        ["occupancy@eu 2"]
    );
    // Closed, opened with one, and with two again, all in one entry.
    let mut reopened = batch(
        "us",
        1,
        3,
        vec![transition(2, "c", false), transition(3, "c", true)],
    );
    reopened.registers.push(Register {
        channel: key("c"),
        occupancy: counts(2),
    });
    assert_eq!(
        log.tell(Command::Batch(reopened)),
        [
            "region.inactive@us 0",
            "closed@eu 0",
            "region.active@us 1",
            "opened@eu 1",
            "occupancy@eu 2"
        ]
    );
    assert_eq!(log.shard.next_due(), None);
}

#[test]
fn counts_of_a_former_life_that_come_back_are_told_again() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    let first = batch("us", 1, 1, vec![transition(1, "c", true)]);
    log.apply(vec![Command::Batch(first)]);
    log.now = 60_000;
    assert_eq!(
        log.tell(registers("us", 1, 2, &[("c", counts(2))])),
        ["occupancy@eu 2"]
    );
    // Closed and opened with one in one entry: whoever hears of counts only still has two.
    let reopens = vec![transition(2, "c", false), transition(3, "c", true)];
    assert_eq!(
        log.tell(Command::Batch(batch("us", 1, 3, reopens))),
        [
            "region.inactive@us 0",
            "closed@eu 0",
            "region.active@us 1",
            "opened@eu 1",
            "occupancy@eu 1"
        ]
    );
    assert!(
        log.tell(registers("us", 1, 4, &[("c", counts(2))]))
            .is_empty()
    );
    log.now = 65_000;
    assert_eq!(log.tell(Command::Tick), ["occupancy@eu 2"]);
    assert_eq!(log.shard.next_due(), None);
}

#[test]
fn a_value_that_comes_back_is_not_told_again() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    log.apply(vec![Command::Batch(batch(
        "us",
        1,
        1,
        vec![transition(1, "c", true)],
    ))]);
    log.tell(registers("us", 1, 2, &[("c", counts(2))]));
    log.tell(registers("us", 1, 3, &[("c", counts(1))]));
    assert_eq!(log.shard.next_due(), None);
    log.now = 60_000;
    assert!(log.tell(Command::Tick).is_empty());
}

#[test]
fn only_the_next_batch_of_the_claimed_fence_applies() {
    let mut log = Log::new();
    let one = || Command::Batch(batch("us", 1, 1, vec![transition(1, "c", true)]));
    assert_eq!(log.apply(vec![one()]).outcomes, [Outcome::Fenced(Fence(0))]);
    log.apply(vec![claim("us", 1)]);
    let late = Command::Batch(batch("us", 1, 2, vec![transition(2, "c", false)]));
    assert_eq!(log.apply(vec![late]).outcomes, [Outcome::OutOfSequence(0)]);
    assert_eq!(
        log.apply(vec![one(), one()]).outcomes,
        [Outcome::Done, Outcome::Repeated]
    );
    log.apply(vec![claim("us", 2)]);
    let old = Command::Batch(batch("us", 1, 2, vec![transition(2, "c", false)]));
    assert_eq!(log.apply(vec![old]).outcomes, [Outcome::Fenced(Fence(2))]);
    assert_eq!(
        log.apply(vec![claim("us", 1)]).outcomes,
        [Outcome::Fenced(Fence(2))]
    );
    assert_eq!(
        log.apply(vec![claim("us", 2)]).outcomes,
        [Outcome::Repeated]
    );
}

#[test]
fn dropped_numbers_count_for_contiguity() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    let first = Batch {
        dropped: vec![1, 2, 4, 5],
        ..batch("us", 1, 1, vec![transition(3, "c", true)])
    };
    assert_eq!(log.tell(Command::Batch(first))[0], "region.active@us 1");
    assert_eq!(log.shard.mark(&RegionName::new("us").unwrap()).number, 5);
    let second = batch("us", 1, 2, vec![transition(6, "c", false)]);
    assert_eq!(log.tell(Command::Batch(second))[0], "region.inactive@us 0");
}

#[test]
fn a_claim_takes_over_what_the_older_owner_told() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    log.apply(vec![Command::Batch(batch(
        "us",
        1,
        1,
        vec![transition(1, "c", true)],
    ))]);
    let told = [2, 3].map(|number| transition(number, "c", number == 3));
    let tail = Tail {
        fence: Fence(1),
        transitions: told.to_vec(),
    };
    let events = log.tell(claim_with("us", 5, vec![tail]));
    let expected = [
        "region.inactive@us 0",
        "closed@eu 0",
        "region.active@us 1",
        "opened@eu 1",
    ];
    assert_eq!(
        events, expected,
        "closed and reopened in one entry leaves the counts as told"
    );
    log.apply(vec![Command::ExpireRegion(owner("us", 5))]);
    let expired = Tail {
        fence: Fence(5),
        transitions: vec![transition(1, "d", true)],
    };
    assert!(
        log.tell(claim_with("us", 6, vec![expired])).is_empty(),
        "that fence has expired"
    );
}

#[test]
fn registers_never_change_activity() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    assert!(
        log.tell(registers("us", 1, 1, &[("c", counts(5))]))
            .is_empty()
    );
    assert_eq!(log.shard.status(&key("c")), None);
    log.apply(vec![Command::Batch(batch(
        "us",
        1,
        2,
        vec![transition(1, "c", true)],
    ))]);
    log.now = 20_000;
    log.apply(vec![registers("us", 1, 3, &[("c", Occupancy::ZERO)])]);
    assert!(
        log.shard.status(&key("c")).is_some(),
        "lingering: active with nobody there"
    );
}

#[test]
fn expiry_goes_on_in_chunks_and_a_claim_cancels_it() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1), claim("eu", 2)]);
    let count = EXPIRE_CHUNK as u64 + 10;
    let all = (1..=count)
        .map(|n| transition(n, &format!("c{n:05}"), true))
        .collect();
    log.apply(vec![Command::Batch(batch("us", 1, 1, all))]);
    let first = log.apply(vec![Command::ExpireRegion(owner("us", 1))]);
    let closed = |applied: &Applied| {
        applied
            .logged
            .events
            .iter()
            .filter(|event| event.event.kind == EventKind::Closed)
            .count()
    };
    assert_eq!(closed(&first), EXPIRE_CHUNK);
    assert_eq!(log.shard.expiring(), Some(owner("us", 1)));
    let mut other = log.shard.clone();
    let second = log.apply(vec![Command::ExpireRegion(owner("us", 1))]);
    assert_eq!((closed(&second), log.shard.expiring()), (10, None));
    assert_eq!(
        log.apply(vec![Command::ExpireRegion(owner("us", 1))])
            .outcomes,
        [Outcome::Repeated]
    );
    let late = Command::Batch(batch("us", 1, 2, vec![transition(count + 1, "d", true)]));
    assert_eq!(log.apply(vec![late]).outcomes, [Outcome::Fenced(Fence(1))]);

    let coordinator = RegionName::new("eu").unwrap();
    let commands = vec![claim("us", 9), Command::ExpireRegion(owner("us", 1))];
    let entry = Entry {
        stamp: Timestamp(2_000),
        coordinator,
        commands,
    };
    let outcomes = other.apply(other.applied() + 1, entry).outcomes;
    assert_eq!(outcomes, [Outcome::Done, Outcome::Fenced(Fence(9))]);
    assert_eq!((other.channels(), other.expiring()), (10, None));
}

#[test]
fn an_expiry_ends_fences_that_never_claimed() {
    let mut log = Log::new();
    log.apply(vec![Command::ExpireRegion(owner("us", 3))]);
    assert_eq!(
        log.apply(vec![claim("us", 3)]).outcomes,
        [Outcome::Fenced(Fence(3))]
    );
    assert_eq!(log.apply(vec![claim("us", 4)]).outcomes, [Outcome::Done]);
}

#[test]
fn pacing_changes_by_version_and_within_bounds() {
    let mut log = Log::new();
    let pacing = |version, seconds| {
        let occupancy_interval = Duration::from_secs(seconds);
        Command::Configure(Pacing {
            version,
            occupancy_interval,
        })
    };
    log.apply(vec![pacing(2, 60), pacing(1, 1)]);
    let expected = Pacing {
        version: 2,
        occupancy_interval: Duration::from_secs(15),
    };
    assert_eq!(log.shard.pacing(), expected);
}

#[test]
fn listing_walks_a_prefix_in_order() {
    let mut log = Log::new();
    log.apply(vec![claim("us", 1)]);
    let names = ["b", "a:2", "a:1", "a:10", "aa", "a:"];
    let all = (1..)
        .zip(names)
        .map(|(number, name)| transition(number, name, true))
        .collect();
    log.apply(vec![Command::Batch(batch("us", 1, 1, all))]);
    let list = |prefix: &str, after: Option<&str>| -> Vec<String> {
        log.shard
            .list("app", prefix, after)
            .map(|(name, _)| name.to_string())
            .collect()
    };
    assert_eq!(list("", None), ["a:", "a:1", "a:10", "a:2", "aa", "b"]);
    assert_eq!(list("a:", Some("a:1")), ["a:10", "a:2"]);
    assert_eq!(list("a:", Some("A")), ["a:", "a:1", "a:10", "a:2"]);
    assert_eq!(log.shard.list("other", "", None).count(), 0);
}

// Properties over random logs.

/// One step of a random log. Numbers are turned into the next right ones when it is played, unless
/// `wrong` says otherwise.
#[derive(Clone, Debug)]
enum Step {
    Claim {
        region: u8,
        skip: u64,
        tail: Vec<(u8, bool)>,
    },
    Configure {
        interval: u64,
    },
    Batch {
        region: u8,
        wrong: u8,
        transitions: Vec<(u8, bool)>,
        registers: Vec<(u8, u32)>,
    },
    Again {
        back: usize,
    },
    Expire {
        region: u8,
    },
    Settle {
        region: u8,
    },
    Tick {
        later: u64,
    },
}

/// Steps of a log: those of each entry.
fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let transitions = proptest::collection::vec((0..4_u8, any::<bool>()), 0..5);
    let tail = proptest::collection::vec((0..4_u8, any::<bool>()), 0..3);
    let registers = proptest::collection::vec((0..4_u8, 0..4_u32), 0..4);
    let step = prop_oneof![
        2 => (0..3_u8, 0..2_u64, tail)
            .prop_map(|(region, skip, tail)| Step::Claim { region, skip, tail }),
        1 => (0..7_000_u64).prop_map(|interval| Step::Configure { interval }),
        10 => (0..3_u8, 0..8_u8, transitions, registers).prop_map(
            |(region, wrong, transitions, registers)| {
                Step::Batch { region, wrong, transitions, registers }
            }
        ),
        2 => (0..4_usize).prop_map(|back| Step::Again { back }),
        1 => (0..3_u8).prop_map(|region| Step::Expire { region }),
        1 => (0..3_u8).prop_map(|region| Step::Settle { region }),
        2 => (0..7_000_u64).prop_map(|later| Step::Tick { later }),
    ];
    // Mostly one of each, as what an entry does is to be found when it is wrong.
    let entry = prop_oneof![
        2 => proptest::collection::vec(step.clone(), 1),
        1 => proptest::collection::vec(step, 2..5),
    ];
    proptest::collection::vec(entry, 0..50)
}

const REGIONS: [&str; 3] = ["us", "eu", "ap"];

/// Numbers the transitions that follow `number`.
fn numbered(number: u64, transitions: &[(u8, bool)]) -> Vec<Transition> {
    let transitions = (number + 1..).zip(transitions);
    transitions
        .map(|(number, (channel, active))| transition(number, &format!("c{channel}"), *active))
        .collect()
}

/// What makes commands of steps.
#[derive(Default)]
struct Player {
    fence: u64,
    pacing: u64,
    sent: Vec<Command>,
}

impl Player {
    /// Returns the command of a step that comes after what `shard` holds.
    fn command(&mut self, shard: &Shard, step: &Step) -> Command {
        let mark = |region: u8| {
            let region = REGIONS[usize::from(region)];
            (region, shard.mark(&RegionName::new(region).unwrap()))
        };
        let command = match step {
            Step::Claim { region, skip, tail } => {
                self.fence += 1 + skip;
                let (region, mark) = mark(*region);
                let tail = Tail {
                    fence: mark.fence,
                    transitions: numbered(mark.number, tail),
                };
                claim_with(region, self.fence, vec![tail])
            }
            Step::Configure { interval } => {
                self.pacing += 1;
                Command::Configure(Pacing {
                    version: self.pacing,
                    occupancy_interval: Duration::from_millis(*interval),
                })
            }
            Step::Batch {
                region,
                wrong,
                transitions,
                registers,
            } => {
                let (region, mark) = mark(*region);
                let sequence = mark.sequence + u64::from(*wrong != 1) + u64::from(*wrong == 2);
                let number = mark.number + u64::from(*wrong == 3);
                let fence = mark.fence.0 + u64::from(*wrong == 4);
                let transitions = numbered(number, transitions);
                let mut batch = batch(region, fence, sequence, transitions);
                batch.registers = registers
                    .iter()
                    .map(|(channel, count)| Register {
                        channel: key(&format!("c{channel}")),
                        occupancy: counts(*count),
                    })
                    .collect();
                Command::Batch(batch)
            }
            Step::Again { back } => match self.sent.iter().rev().nth(*back) {
                Some(command) => command.clone(),
                None => Command::Tick,
            },
            Step::Expire { region } => {
                let (region, mark) = mark(*region);
                Command::ExpireRegion(owner(region, mark.fence.0))
            }
            Step::Settle { region } => {
                let (region, mark) = mark(*region);
                Command::Settled(owner(region, mark.fence.0))
            }
            Step::Tick { .. } => Command::Tick,
        };
        self.sent.push(command.clone());
        command
    }
}

/// Plays steps into a log and returns every entry with its events.
fn play(entries: &[Vec<Step>]) -> (Shard, Vec<(Entry, Applied)>) {
    let mut log = Log::new();
    let mut player = Player::default();
    let mut history = Vec::new();
    for steps in entries {
        let later = steps.iter().map(|step| match step {
            Step::Tick { later } => *later,
            _ => 0,
        });
        log.now += later.sum::<u64>();
        // Each is right after those before it in the same entry.
        let mut ahead = log.shard.clone();
        let mut commands = Vec::new();
        for step in steps {
            let command = player.command(&ahead, step);
            ahead.apply(ahead.applied() + 1, log.entry(vec![command.clone()]));
            commands.push(command);
        }
        let entry = log.entry(commands.clone());
        history.push((entry, log.apply(commands)));
    }
    (log.shard, history)
}

/// Folds events into what they say is active, checking alternation and nesting (I4, I5).
fn fold(history: &[(Entry, Applied)]) -> BTreeMap<ChannelKey, BTreeSet<RegionName>> {
    let mut active: BTreeMap<ChannelKey, BTreeSet<RegionName>> = BTreeMap::new();
    let mut open: BTreeSet<ChannelKey> = BTreeSet::new();
    for event in history
        .iter()
        .flat_map(|(_, applied)| &applied.logged.events)
    {
        let event = &event.event;
        let regions = active.entry(event.channel.clone()).or_default();
        match event.kind {
            EventKind::RegionActive => {
                assert!(
                    regions.insert(event.region.clone()),
                    "active twice: {event:?}"
                );
            }
            EventKind::RegionInactive => {
                assert!(regions.remove(&event.region), "inactive twice: {event:?}");
                assert!(
                    open.contains(&event.channel),
                    "inactive while closed: {event:?}"
                );
            }
            EventKind::Opened => {
                assert_eq!(regions.len(), 1, "opens with its first region: {event:?}");
                assert!(
                    open.insert(event.channel.clone()),
                    "opened twice: {event:?}"
                );
            }
            EventKind::Closed => {
                assert!(regions.is_empty(), "closes with its last region: {event:?}");
                assert!(open.remove(&event.channel), "closed twice: {event:?}");
            }
            EventKind::Occupancy => {
                assert!(
                    open.contains(&event.channel),
                    "counts of a closed channel: {event:?}"
                );
            }
        }
    }
    active.retain(|_, regions| !regions.is_empty());
    assert_eq!(active.keys().cloned().collect::<BTreeSet<_>>(), open);
    active
}

proptest! {
    #[test]
    fn events_alternate_nest_and_end_in_the_state(steps in steps()) {
        let (shard, history) = play(&steps);
        let active = fold(&history);
        prop_assert_eq!(active.len(), shard.channels());
        for (key, regions) in active {
            let status = shard.status(&key).expect("the events say that it is active");
            let listed: BTreeSet<RegionName> =
                status.regions.iter().map(|(region, _)| region.clone()).collect();
            prop_assert_eq!(listed, regions);
        }
    }

    #[test]
    fn ids_are_unique_positions_dense_and_links_unbroken(steps in steps()) {
        let (_, history) = play(&steps);
        let mut ids = BTreeSet::new();
        let mut last = BTreeMap::new();
        for (_, applied) in &history {
            for (ordinal, event) in applied.logged.events.iter().enumerate() {
                prop_assert!(ids.insert(event.event.id.clone()));
                prop_assert_eq!(event.position.ordinal as usize, ordinal);
                let previous = last.remove(&event.event.channel);
                prop_assert_eq!(event.previous, previous);
                if event.event.kind != EventKind::Closed {
                    last.insert(event.event.channel.clone(), event.position);
                }
            }
        }
    }

    #[test]
    fn a_restored_replica_goes_on_as_the_original(steps in steps(), at in any::<prop::sample::Index>()) {
        let (shard, history) = play(&steps);
        let cut = at.index(history.len() + 1);
        let mut replica = Shard::new(ShardId(7), Era(0));
        for (entry, _) in &history[..cut] {
            replica.apply(replica.applied() + 1, entry.clone());
        }
        let mut restored = Shard::restore(replica.freeze()).unwrap();
        prop_assert_eq!(restored.freeze(), replica.freeze());
        for (entry, applied) in &history[cut..] {
            let again = restored.apply(restored.applied() + 1, entry.clone());
            prop_assert_eq!(&again, applied);
        }
        prop_assert_eq!(restored.freeze(), shard.freeze());
    }

    #[test]
    fn repeating_what_an_entry_did_changes_nothing_but_time(steps in steps()) {
        let (shard, history) = play(&steps);
        let mut twice = Shard::new(ShardId(7), Era(0));
        for (entry, _) in &history {
            let applied = twice.apply(twice.applied() + 1, entry.clone());
            let done = applied.outcomes.iter().zip(&entry.commands);
            let done = done.filter(|(outcome, _)| **outcome == Outcome::Done);
            let done: Vec<Command> = done.map(|(_, command)| command.clone()).collect();
            let expiry = done.iter().any(|command| matches!(command, Command::ExpireRegion(_)));
            let again = Entry { commands: done, ..entry.clone() };
            let repeated = twice.apply(twice.applied() + 1, again).logged.events;
            prop_assert!(repeated.is_empty() || expiry, "{:?} told {:?}", entry, repeated);
        }
        let facts = |shard: &Shard| -> Vec<_> {
            let frozen = shard.freeze();
            frozen.channels.into_iter().map(|channel| (channel.key, channel.regions)).collect()
        };
        prop_assert_eq!(facts(&twice), facts(&shard));
    }

    #[test]
    fn counts_end_in_what_was_last_told(steps in steps()) {
        let (mut shard, mut history) = play(&steps);
        let coordinator = RegionName::new("eu").unwrap();
        let entry = Entry { stamp: Timestamp(u64::MAX / 2), coordinator, commands: vec![Command::Tick] };
        let applied = shard.apply(shard.applied() + 1, entry.clone());
        history.push((entry, applied));
        prop_assert_eq!(shard.next_due(), None);
        // Some hear of counts only, others take them from whatever is told of the whole channel.
        let mut counted: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        let mut told: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        for event in history.iter().flat_map(|(_, applied)| &applied.logged.events) {
            let Event { kind, channel, occupancy, .. } = &event.event;
            if *kind == EventKind::Occupancy {
                counted.insert(channel.clone(), *occupancy);
            }
            if !kind.is_regional() {
                told.insert(channel.clone(), *occupancy);
            }
        }
        for channel in shard.freeze().channels {
            let occupancy: Occupancy = channel.regions.iter().map(|(_, counts)| *counts).sum();
            let last = counted.get(&channel.key).copied().unwrap_or(Occupancy::ZERO);
            prop_assert_eq!(last, occupancy, "{}", channel.key);
            prop_assert_eq!(told.get(&channel.key), Some(&occupancy), "{}", channel.key);
        }
    }
}
