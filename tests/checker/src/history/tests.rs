//! Histories that break one promise each.

use super::*;

fn told(id: &str, kind: EventKind, region: &str) -> Step {
    let active = matches!(
        kind,
        EventKind::Opened | EventKind::RegionActive | EventKind::Occupancy
    );
    Step::Event(Told {
        id: id.to_owned(),
        kind,
        channel: "room".to_owned(),
        region: region.to_owned(),
        is_global_master: true,
        active,
        occupancy: Occupancy::ZERO,
        at_ms: 0,
        position: Some(Position::START),
    })
}

fn history(steps: Vec<Step>) -> History {
    History {
        steps,
        cursor: None,
        covered: 0,
    }
}

fn life() -> Vec<Step> {
    vec![
        told("1", EventKind::RegionActive, "us"),
        told("2", EventKind::Opened, "us"),
        told("3", EventKind::RegionActive, "eu"),
        told("4", EventKind::RegionInactive, "us"),
        told("5", EventKind::RegionInactive, "eu"),
        told("6", EventKind::Closed, "us"),
    ]
}

fn without(at: usize) -> History {
    let mut steps = life();
    steps.remove(at);
    history(steps)
}

#[test]
fn a_whole_life_is_right_and_leaves_nothing() {
    assert_eq!(history(life()).check(), BTreeMap::new());
}

#[test]
fn every_missing_event_is_found() {
    for at in 0..6 {
        let lost = without(at);
        let found = !lost.faults().is_empty() || !lost.fold().0.is_empty();
        assert!(found, "nobody misses event {at}");
    }
}

#[test]
fn exchanged_neighbours_are_found_where_order_matters() {
    for at in [0, 3, 4] {
        let mut steps = life();
        steps.swap(at, at + 1);
        let wrong = history(steps).faults();
        assert_eq!(wrong.is_empty(), at == 3, "{at}: {wrong:?}");
    }
}

#[test]
fn what_a_cursor_covers_must_not_come_again() {
    let mut steps = life();
    let again = steps[5].clone();
    steps.push(Step::Resumed {
        node: "b".to_owned(),
        covered: 5,
    });
    steps.push(again.clone());
    assert_eq!(history(steps.clone()).faults(), []);
    steps[6] = Step::Resumed {
        node: "b".to_owned(),
        covered: 6,
    };
    assert_eq!(history(steps).faults().len(), 1);
    let mut steps = life();
    steps.push(again);
    assert_eq!(history(steps).faults().len(), 1);
}

#[test]
fn what_was_not_covered_may_come_after_further_resumptions_and_once() {
    let resumed = |covered| Step::Resumed {
        node: "b".to_owned(),
        covered,
    };
    let mut steps = life();
    let again = steps[5].clone();
    steps.extend([resumed(5), resumed(8), again.clone()]);
    assert_eq!(history(steps.clone()).faults(), []);
    steps.push(again);
    assert_eq!(history(steps).faults().len(), 1);
}

#[test]
fn gaps_and_other_bodies_are_found() {
    let mut steps = life();
    steps.push(Step::Gap("shard 0".to_owned()));
    assert_eq!(history(steps).faults().len(), 1);
    let mut steps = life();
    steps.push(Step::Resumed {
        node: "b".to_owned(),
        covered: 0,
    });
    steps.push(told("2", EventKind::Opened, "eu"));
    assert_eq!(history(steps).faults().len(), 1);
}

#[test]
fn watchers_that_were_told_differently_do_not_agree() {
    assert_eq!(agree(&[history(life()), history(life())]), Ok(()));
    for at in 0..6 {
        let compared = agree(&[history(life()), without(at)]);
        assert!(compared.is_err(), "nobody misses event {at}");
    }
}

#[test]
fn what_never_reached_the_log_may_be_told_to_some() {
    let early = |id: &str, kind| match told(id, kind, "us") {
        Step::Event(told) => Step::Event(Told {
            position: None,
            ..told
        }),
        other => other,
    };
    let mut steps = life();
    steps.insert(1, early("1b", EventKind::RegionInactive));
    steps.insert(2, early("1c", EventKind::RegionActive));
    let both = [history(life()), history(steps)];
    assert_eq!(both[1].check(), BTreeMap::new());
    assert_eq!(agree_on_the_log(&both), Ok(()));
    assert!(agree(&both).is_err());
    assert!(agree_on_the_log(&[history(life()), without(1)]).is_err());
    let other = history(vec![told("1", EventKind::RegionActive, "eu")]);
    let other = [history(life()[..1].to_vec()), other];
    assert!(agree_on_the_log(&other).is_err());
}
