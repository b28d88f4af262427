//! What an owner promises to, and believes of, the owners of other regions.

use headcount_model::{Fence, Stage};

use super::{
    FENCE, OTHER, Test, changed, delta, interest, pull, set, to_node, to_region, told, told_set,
};
use crate::fixtures::{channel, leave, member, now, put, region};
use crate::{Config, OwnerInput, OwnerItem, RegionItem, RegionMessage};

#[test]
fn a_pull_is_answered_by_the_set_or_by_its_being_the_same() {
    let config = Config {
        message_items_max: 2,
        ..Config::default()
    };
    let mut test = Test::serving(config);
    let effects = test.region(1, vec![pull(Fence(0), 0)]);
    assert_eq!(to_region(&effects, 1), [set(0, &[])]);
    test.gateway(1, &[], vec![interest(true)]);
    for id in 0..3 {
        test.gateway(1, &[], vec![changed(put(1, id, 1))]);
    }
    let effects = test.region(1, vec![pull(FENCE, 2)]);
    let items = to_region(&effects, 1);
    let parts: Vec<_> = items
        .iter()
        .map(|item| match item {
            RegionItem::Set {
                version,
                members,
                first,
                last,
                ..
            } => (*version, members.len(), *first, *last),
            other => panic!("{other:?} is no part of a set"),
        })
        .collect();
    assert_eq!(
        parts,
        [
            (3, 1, true, false),
            (3, 1, false, false),
            (3, 1, false, true)
        ]
    );
    let effects = test.region(1, vec![pull(FENCE, 3)]);
    assert_eq!(to_region(&effects, 1), [delta(3, 3, &[])]);
    let effects = test.region(1, vec![pull(Fence(9), 3)]);
    assert_eq!(to_region(&effects, 1).len(), 3, "another owner's 3 is no 3");
}

#[test]
fn changes_that_do_not_follow_are_pulled_once() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    let effects = test.region(1, vec![delta(4, 5, &[put(2, 2, 1)])]);
    assert_eq!(to_node(&effects, 1), [told(put(2, 2, 1))]);
    let effects = test.region(1, vec![delta(7, 8, &[put(2, 3, 1)])]);
    assert_eq!(to_region(&effects, 1), [pull(OTHER, 5)]);
    assert_eq!(test.region(1, vec![delta(8, 9, &[put(2, 4, 1)])]), []);
    let effects = test.region(1, vec![set(9, &[member(2, 2, 1), member(2, 4, 1)])]);
    assert_eq!(
        to_node(&effects, 1).len(),
        1,
        "one item, in it: {effects:?}"
    );
    assert_eq!(test.owner.stats().members, 2);
}

#[test]
fn a_region_that_says_that_it_is_ready_is_pulled() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    let effects = test.region(1, vec![RegionItem::Ready]);
    assert_eq!(to_region(&effects, 1), [pull(OTHER, 4)]);
    // What it did not miss does not come again.
    let effects = test.region(1, vec![delta(4, 4, &[])]);
    assert_eq!((effects, test.owner.stats().pulls), (vec![], 0));
}

#[test]
fn a_channel_that_is_new_here_opens_with_the_sets_that_were_pulled() {
    let config = Config::default();
    let latest = now(0).monotonic.after(config.pull_wait);
    let mut test = Test::serving(config);
    test.region(1, vec![RegionItem::Ready]);
    let effects = test.gateway(1, &[], vec![interest(true)]);
    assert_eq!(to_node(&effects, 1), []);
    assert_eq!(test.owner.next_deadline(), Some(latest));
    let effects = test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    assert_eq!(to_node(&effects, 1), [told_set(&[member(2, 1, 1)])]);
    assert_eq!(test.owner.next_deadline(), None);

    // It does not wait for who does not answer.
    test.gateway(1, &[], vec![interest(false)]);
    test.gateway(1, &[], vec![interest(true)]);
    test.now.monotonic = latest;
    let mut effects = Vec::new();
    test.owner.on_deadline(test.now, &mut effects);
    assert_eq!(to_node(&effects, 1), [told_set(&[])]);
    test.gateway(1, &[], vec![interest(false)]);
    test.gateway(1, &[], vec![interest(true)]);
    let (region, fence) = (region(1), OTHER);
    let effects = test.step(OwnerInput::RegionLost { region, fence });
    assert_eq!(to_node(&effects, 1), [told_set(&[])]);
}

#[test]
fn changes_from_nothing_need_no_pull() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    // The other region forgot the channel and came back to it.
    let effects = test.region(1, vec![delta(0, 9, &[put(2, 2, 1)])]);
    assert_eq!(to_region(&effects, 1), []);
    let changes = vec![leave(2, 1, 1), put(2, 2, 1)];
    let channel = channel(0);
    let expected = [OwnerItem::Changes { channel, changes }];
    assert_eq!(to_node(&effects, 1), expected);
}

#[test]
fn changes_go_where_the_log_or_the_region_itself_says() {
    let mut test = Test::serving(Config::default());
    test.reach(2);
    test.gateway(1, &[], vec![interest(true)]);
    let effects = test.gateway(1, &[0, 1], vec![changed(put(1, 1, 1))]);
    assert_eq!(to_region(&effects, 1), [delta(0, 1, &[put(1, 1, 1)])]);
    assert_eq!(to_region(&effects, 2), []);
    test.region(2, vec![pull(Fence(0), 0)]);
    let effects = test.gateway(1, &[1], vec![changed(put(1, 1, 2))]);
    assert_eq!(to_region(&effects, 1), to_region(&effects, 2));
}

#[test]
fn a_told_interest_is_held_until_the_log_agrees_or_for_its_time() {
    let config = Config {
        told_max: 1,
        ..Config::default()
    };
    let hold = config.told_hold;
    let mut test = Test::serving(config);
    test.region(1, vec![pull(Fence(0), 0)]);
    assert_eq!(test.owner.stats().told, 1);
    assert_eq!(
        test.owner.next_deadline(),
        Some(now(0).monotonic.after(hold))
    );
    test.reach(2);
    let effects = test.region(2, vec![pull(Fence(0), 0)]);
    assert_eq!(to_region(&effects, 2), [set(0, &[])], "answered, not held");
    assert_eq!(test.owner.stats().interests_dropped, 1);

    let activations = vec![(region(1), channel(0)), (region(0), channel(0))];
    let effects = test.step(OwnerInput::Activated { activations });
    assert_eq!(
        to_region(&effects, 1),
        [delta(0, 0, &[])],
        "is that what you have?"
    );
    assert_eq!(test.owner.stats().told, 0);

    test.region(1, vec![pull(Fence(0), 0)]);
    test.now.monotonic = test.now.monotonic.after(hold);
    test.owner.on_deadline(test.now, &mut Vec::new());
    assert_eq!(test.owner.stats().told, 0);
}

#[test]
fn an_older_owner_of_a_region_is_not_listened_to() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    let (name, fence) = (region(1), Fence(21));
    let effects = test.step(OwnerInput::RegionOwner {
        region: name,
        fence,
    });
    let expected = [RegionItem::Ready, pull(OTHER, 4)];
    assert_eq!(to_region(&effects, 1), expected);
    assert_eq!(test.region(1, vec![set(5, &[])]), []);
    assert_eq!(
        test.owner.stats().members,
        1,
        "kept until the new one speaks"
    );
    test.regions.insert(1, (fence, 1, 0));
    let effects = test.region(1, vec![set(1, &[])]);
    assert_eq!(to_node(&effects, 1), [told(leave(2, 1, 1))]);
}

#[test]
fn a_region_that_expires_loses_its_members_and_its_voice() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.region(1, vec![pull(Fence(0), 0), set(4, &[member(2, 1, 1)])]);
    let (name, fence) = (region(1), Fence(19));
    let region = name.clone();
    let effects = test.step(OwnerInput::RegionExpired { region, fence });
    assert_eq!(effects, [], "it has a higher fence");
    let fence = OTHER;
    let effects = test.step(OwnerInput::RegionExpired {
        region: name,
        fence,
    });
    assert_eq!(to_node(&effects, 1), [told(leave(2, 1, 1))]);
    assert_eq!(
        (test.owner.stats().told, test.owner.stats().members),
        (0, 0)
    );
    assert_eq!(test.region(1, vec![set(5, &[member(2, 1, 1)])]), []);
    assert_eq!(test.reach(1), []);
    assert_eq!(test.owner.stats().members, 0);
}

#[test]
fn what_is_meant_for_another_owner_is_ignored() {
    let mut test = Test::serving(Config::default());
    let message = |to| RegionMessage {
        region: region(1),
        fence: OTHER,
        to,
        stream: 1,
        sequence: 1,
        items: vec![pull(Fence(0), 0)],
    };
    assert_eq!(test.step(OwnerInput::FromRegion(message(Fence(9)))), []);
    assert_eq!(test.step(OwnerInput::FromRegion(message(FENCE))).len(), 1);
}
