//! Runs that break one promise each, and runs that look alike and do not.

use headcount_model::{Category, Modes};

use super::*;
use crate::Step;

fn ms(ms: u64) -> At {
    Duration::from_millis(ms)
}

fn source(edge: &str) -> Source {
    Source {
        edge: edge.to_owned(),
        incarnation: 1,
    }
}

fn attach(connection: &str, modes: Modes) -> ReportItem {
    ReportItem::Attach {
        connection: connection.parse().unwrap(),
        channel: "c".parse().unwrap(),
        modes,
    }
}

fn detach(connection: &str) -> ReportItem {
    ReportItem::Detach {
        connection: connection.parse().unwrap(),
        channel: "c".parse().unwrap(),
    }
}

/// δ is 100 ms, whoever dies is gone after 1 s.
fn ledger() -> Ledger {
    Ledger::new(Allowance {
        propagation: ms(100),
        departure: ms(1_000),
    })
}

/// `us` attaches one connection from 1,000 to 1,010 ms, and detaches it from 5,000 to 5,010 ms.
fn visit() -> Ledger {
    let mut ledger = ledger();
    let us = source("us");
    ledger.begin(us.clone(), "us");
    let ticket = ledger.report(&us, ms(1_000), &[attach("1", Modes::DEFAULT)]);
    ledger.acked(ticket, ms(1_010));
    let ticket = ledger.report(&us, ms(5_000), &[detach("1")]);
    ledger.acked(ticket, ms(5_010));
    ledger
}

fn sample(from: u64, to: u64, occupancy: Occupancy) -> Sample {
    Sample {
        node: "us/1".to_owned(),
        channel: "c".to_owned(),
        from: ms(from),
        to: ms(to),
        occupancy,
    }
}

fn one() -> Occupancy {
    Modes::DEFAULT.occupancy()
}

/// Returns which rule an answer breaks.
fn broken(ledger: &Ledger, from: u64, to: u64, occupancy: Occupancy) -> Option<Rule> {
    ledger
        .judge(&sample(from, to, occupancy))
        .map(|fault| fault.rule)
}

#[test]
fn presence_follows_what_was_reported_and_acknowledged() {
    let ledger = visit();
    let expected = [
        (999, Presence::MustBeAbsent),
        (1_000, Presence::MayBePresent),
        (1_110, Presence::MayBePresent),
        (1_111, Presence::MustBePresent),
        (4_999, Presence::MustBePresent),
        (5_000, Presence::MayBePresent),
        (5_110, Presence::MayBePresent),
        (5_111, Presence::MustBeAbsent),
    ];
    for (at, presence) in expected {
        assert_eq!(ledger.presence("c", None, ms(at)), presence, "{at}");
        assert_eq!(ledger.presence("c", Some("us"), ms(at)), presence, "{at}");
        let elsewhere = ledger.presence("c", Some("eu"), ms(at));
        assert_eq!(elsewhere, Presence::MustBeAbsent, "{at}");
    }
}

#[test]
fn what_was_never_acknowledged_may_come_at_any_time() {
    let mut ledger = ledger();
    ledger.begin(source("us"), "us");
    let _unknown = ledger.report(&source("us"), ms(1_000), &[attach("1", Modes::DEFAULT)]);
    let presence = ledger.presence("c", None, ms(1_000_000));
    assert_eq!(presence, Presence::MayBePresent);
    assert!(
        ledger
            .attached()
            .is_err_and(|waiting| waiting.contains("us/1"))
    );
    // Its session is killed: then it must be gone in time.
    ledger.killed(&source("us"), ms(2_000));
    assert_eq!(
        ledger.presence("c", None, ms(3_100)),
        Presence::MayBePresent
    );
    assert_eq!(
        ledger.presence("c", None, ms(3_101)),
        Presence::MustBeAbsent
    );
    assert_eq!(ledger.attached(), Ok(BTreeMap::new()));
}

#[test]
fn a_goodbye_counts_until_it_is_answered() {
    let mut ledger = ledger();
    let us = source("us");
    ledger.begin(us.clone(), "us");
    let ticket = ledger.report(&us, ms(0), &[attach("1", Modes::DEFAULT)]);
    ledger.acked(ticket, ms(10));
    ledger.goodbye(&us, ms(2_000));
    assert_eq!(
        ledger.presence("c", None, ms(9_000)),
        Presence::MayBePresent
    );
    ledger.left(&us, ms(2_010));
    assert_eq!(
        ledger.presence("c", None, ms(2_110)),
        Presence::MayBePresent
    );
    assert_eq!(
        ledger.presence("c", None, ms(2_111)),
        Presence::MustBeAbsent
    );
}

#[test]
fn right_answers_are_right() {
    let ledger = visit();
    for (from, to, occupancy) in [
        (0, 900, Occupancy::ZERO),
        (1_050, 1_060, Occupancy::ZERO),
        (1_050, 1_060, one()),
        (2_000, 3_000, one()),
        // It says that it is old.
        (1_050, 3_000, Occupancy::ZERO),
        (5_200, 6_000, Occupancy::ZERO),
    ] {
        assert_eq!(
            broken(&ledger, from, to, occupancy),
            None,
            "{from} {to} {occupancy:?}"
        );
    }
}

#[test]
fn c2_a_ghost_is_found_once_its_time_is_over_and_not_before() {
    let mut ledger = ledger();
    let us = source("us");
    ledger.begin(us.clone(), "us");
    let ticket = ledger.report(&us, ms(0), &[attach("1", Modes::DEFAULT)]);
    ledger.acked(ticket, ms(10));
    ledger.killed(&us, ms(2_000));
    for (at, expected) in [(2_500, None), (3_100, None), (3_101, Some(Rule::NoGhosts))] {
        assert_eq!(broken(&ledger, at, at, one()), expected, "{at}");
        let gone = broken(&ledger, at, at, Occupancy::ZERO);
        assert_eq!(gone, None, "{at}");
    }
}

#[test]
fn c3_what_lives_is_not_taken_away_unless_its_region_was_cut_off() {
    let mut ledger = visit();
    assert_eq!(
        broken(&ledger, 3_000, 3_000, Occupancy::ZERO),
        Some(Rule::NoFalseVoid)
    );
    ledger.may_void("eu", ms(2_500), ms(3_500));
    assert_eq!(
        broken(&ledger, 3_000, 3_000, Occupancy::ZERO),
        Some(Rule::NoFalseVoid)
    );
    ledger.may_void("us", ms(2_500), ms(3_500));
    assert_eq!(broken(&ledger, 3_000, 3_000, Occupancy::ZERO), None);
    // What was taken away is back once the cut is healed.
    assert_eq!(broken(&ledger, 3_600, 3_600, Occupancy::ZERO), None);
    assert_eq!(
        broken(&ledger, 3_601, 3_601, Occupancy::ZERO),
        Some(Rule::NoFalseVoid)
    );
}

#[test]
fn c16_more_than_is_attached_is_found_in_each_category() {
    let ledger = visit();
    for category in Category::ALL {
        let mut more = one();
        more.set(category, more.get(category) + 1);
        let rule = Some(Rule::Conservation);
        assert_eq!(broken(&ledger, 3_000, 3_000, more), rule, "{category:?}");
    }
    assert_eq!(
        broken(&ledger, 6_000, 6_000, one()),
        Some(Rule::Conservation)
    );
}

#[test]
fn what_is_broken_delays_and_excuses_nothing_else() {
    let mut ledger = visit();
    ledger.late(ms(900), ms(2_000));
    ledger.late(ms(2_050), ms(2_500));
    // The second began before the first was over with its propagation.
    assert_eq!(ledger.settled("c", ms(1_010)), ms(2_600));
    assert_eq!(broken(&ledger, 2_600, 2_600, Occupancy::ZERO), None);
    assert_eq!(
        broken(&ledger, 2_601, 2_601, Occupancy::ZERO),
        Some(Rule::NoFalseVoid)
    );
    assert_eq!(ledger.settled("c", ms(100)), ms(200));
    assert_eq!(ledger.settled("c", ms(2_501)), ms(2_601));
}

#[test]
fn what_was_seen_everywhere_is_not_late_any_more() {
    let mut ledger = visit();
    ledger.late(ms(1_000), ms(4_000));
    assert_eq!(broken(&ledger, 3_000, 3_000, Occupancy::ZERO), None);
    ledger.proved("c", ms(2_000));
    let rule = Some(Rule::NoFalseVoid);
    assert_eq!(broken(&ledger, 3_000, 3_000, Occupancy::ZERO), rule);
    assert_eq!(broken(&ledger, 1_900, 1_900, Occupancy::ZERO), None);
    // It proves nothing of other channels, and of what comes later.
    assert_eq!(ledger.settled("d", ms(1_900)), ms(4_100));
    assert_eq!(ledger.settled("c", ms(2_001)), ms(4_100));
}

fn told(id: &str, kind: EventKind) -> Told {
    Told {
        id: id.to_owned(),
        kind,
        channel: "c".to_owned(),
        region: "us".to_owned(),
        is_global_master: true,
        active: matches!(kind, EventKind::Opened | EventKind::RegionActive),
        occupancy: Occupancy::ZERO,
        at_ms: 0,
        position: None,
    }
}

/// Judges events that were told at these times.
fn justified(ledger: &Ledger, events: &[(u64, EventKind)]) -> Vec<Fault> {
    let numbered = events.iter().enumerate();
    let steps = numbered.map(|(id, (_, kind))| Step::Event(told(&id.to_string(), *kind)));
    let history = History {
        steps: steps.collect(),
        ..History::default()
    };
    let numbered = events.iter().enumerate();
    let heard = numbered.map(|(id, (at, _))| (id.to_string(), ms(*at)));
    ledger.justify(&history, &heard.collect())
}

#[test]
fn c7_transitions_need_a_cause_before_them_and_in_their_order() {
    use EventKind::{Closed, Opened, RegionActive, RegionInactive};
    let ledger = visit();
    let right = [
        (1_020, RegionActive),
        (1_030, Opened),
        (9_000, RegionInactive),
        (9_000, Closed),
    ];
    assert_eq!(justified(&ledger, &right), []);
    let wrong: [&[(u64, EventKind)]; 4] = [
        // Nobody was there yet, for the channel and for the region.
        &[(999, Opened)],
        &[(999, RegionActive)],
        // Nobody had left yet.
        &[(1_020, Opened), (4_999, Closed)],
        // Nobody came again.
        &[(1_020, Opened), (5_500, Closed), (6_000, Opened)],
    ];
    for events in wrong {
        let faults = justified(&ledger, events);
        assert_eq!(faults.len(), 1, "{events:?}: {faults:?}");
        assert_eq!(faults[0].rule, Rule::Justification);
        assert_eq!(justified(&ledger, &events[..events.len() - 1]), []);
    }
}

#[test]
fn c7_what_was_taken_away_comes_again() {
    use EventKind::{Closed, Opened};
    let events = [
        (1_020, Opened),
        (4_000, Closed),
        (4_200, Opened),
        (9_000, Closed),
    ];
    let mut ledger = visit();
    assert_eq!(
        justified(&ledger, &events).len(),
        3,
        "only one came, and left"
    );
    ledger.may_void("us", ms(3_000), ms(3_500));
    assert_eq!(justified(&ledger, &events), []);
}

#[test]
fn c7_what_is_taken_back_may_happen_again() {
    use EventKind::{RegionActive, RegionInactive};
    let ledger = visit();
    let story = |back: &str| {
        let events = [
            ("0.0.us.1.1", RegionActive),
            ("0.0.us.1.2", RegionInactive),
            (back, RegionActive),
            ("0.0.us.2.1", RegionInactive),
        ];
        let steps = events.iter().map(|(id, kind)| Step::Event(told(id, *kind)));
        let history = History {
            steps: steps.collect(),
            ..History::default()
        };
        let heard = events.map(|(id, _)| (id.to_owned(), ms(9_000)));
        ledger.justify(&history, &heard.into())
    };
    assert_eq!(story("0.0.us.1.2.void"), []);
    assert_eq!(story("0.0.us.2.2").len(), 2);
}

#[test]
fn c7_an_event_that_nobody_heard_is_no_evidence() {
    let history = History {
        steps: vec![Step::Event(told("0", EventKind::Opened))],
        ..History::default()
    };
    assert_eq!(visit().justify(&history, &BTreeMap::new()).len(), 1);
}

#[test]
fn c1_lists_and_events_must_end_in_what_is_attached() {
    let mut ledger = ledger();
    for (edge, modes) in [("us", Modes::DEFAULT), ("eu", Modes::PUBLISH)] {
        let source = source(edge);
        ledger.begin(source.clone(), edge);
        let ticket = ledger.report(&source, ms(0), &[attach("1", modes)]);
        ledger.acked(ticket, ms(10));
    }
    let both = one().plus(Modes::PUBLISH.occupancy());
    let listed = |name: &str, counts| BTreeMap::from([(name.to_owned(), counts)]);
    assert_eq!(ledger.converged("n", &listed("c", both)), None);
    for wrong in [listed("c", one()), listed("d", both), BTreeMap::new()] {
        let fault = ledger.converged("n", &wrong);
        assert!(
            fault.is_some_and(|fault| fault.rule == Rule::Convergence),
            "{wrong:?}"
        );
    }

    let state = ChannelState {
        open: true,
        active: vec!["eu".to_owned(), "us".to_owned()],
        occupancy: both,
    };
    let states = |state: &ChannelState| BTreeMap::from([("c".to_owned(), state.clone())]);
    assert_eq!(ledger.ends(&states(&state)), None);
    let closed = ChannelState {
        open: false,
        ..state.clone()
    };
    let alone = ChannelState {
        open: true,
        active: vec!["us".to_owned()],
        occupancy: both,
    };
    let fewer = ChannelState {
        occupancy: one(),
        ..state
    };
    for wrong in [closed, alone, fewer] {
        let fault = ledger.ends(&states(&wrong));
        assert!(
            fault.is_some_and(|fault| fault.rule == Rule::Convergence),
            "{wrong:?}"
        );
    }
    assert!(ledger.ends(&BTreeMap::new()).is_some());
}

#[test]
fn books_follow_the_reporter_api() {
    let enter = |member: &str| ReportItem::PresenceEnter {
        connection: "1".parse().unwrap(),
        channel: "c".parse().unwrap(),
        member: member.parse().unwrap(),
    };
    let leave = |member: &str| ReportItem::PresenceLeave {
        connection: "1".parse().unwrap(),
        channel: "c".parse().unwrap(),
        member: member.parse().unwrap(),
    };
    let mut counted = Occupancy::ZERO;
    counted.set(Category::Publishers, 7);
    let counts = ReportItem::Counts {
        channel: "c".parse().unwrap(),
        occupancy: counted,
    };
    let closed = ReportItem::ConnectionClosed {
        connection: "1".parse().unwrap(),
    };
    let story = [
        (attach("1", Modes::DEFAULT), [1, 1, 1, 1, 0, 1, 0, 0]),
        (enter("ann"), [1, 1, 1, 1, 1, 1, 0, 0]),
        (enter("ann"), [1, 1, 1, 1, 1, 1, 0, 0]),
        (enter("bob"), [1, 1, 1, 1, 2, 1, 0, 0]),
        (leave("ann"), [1, 1, 1, 1, 1, 1, 0, 0]),
        (attach("1", Modes::PUBLISH), [1, 1, 0, 0, 0, 0, 0, 0]),
        (counts, [1, 8, 0, 0, 0, 0, 0, 0]),
        (attach("2", Modes::SUBSCRIBE), [2, 8, 1, 0, 0, 0, 0, 0]),
        (closed, [1, 7, 1, 0, 0, 0, 0, 0]),
        (detach("2"), [0, 7, 0, 0, 0, 0, 0, 0]),
        (detach("2"), [0, 7, 0, 0, 0, 0, 0, 0]),
    ];
    let mut ledger = ledger();
    let us = source("us");
    ledger.begin(us.clone(), "us");
    for (item, expected) in story {
        let ticket = ledger.report(&us, ms(1), std::slice::from_ref(&item));
        ledger.acked(ticket, ms(2));
        let attached = ledger.attached().unwrap();
        assert_eq!(attached["c"]["us"].counts(), expected, "{item:?}");
    }
}
