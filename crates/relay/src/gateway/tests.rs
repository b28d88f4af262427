//! What a gateway promises, rule by rule.

use headcount_model::{Fence, Incarnation, NodeId, Stage};

use crate::fixtures::{channel, key, leave, member, message, now, put};
use crate::{
    Action, Change, Config, Delivery, Gateway, GatewayEffect, GatewayInput, GatewayItem,
    GatewayMessage, Lost, Member, MemberKey, OwnerItem, OwnerMessage, Refusal,
};

const FENCE: Fence = Fence(7);

/// A gateway, and the messages of its owner so far.
struct Test {
    gateway: Gateway,
    stream: u64,
    sequence: u64,
}

impl Test {
    fn new(config: Config) -> Self {
        Self {
            gateway: Gateway::new(config, NodeId(1), Incarnation(1)),
            stream: 0,
            sequence: 0,
        }
    }

    /// A gateway that is connected and interested in channel 0.
    fn attached(config: Config) -> Self {
        let mut test = Self::new(config);
        test.interest(0, true);
        test.step(GatewayInput::Owner { fence: FENCE });
        test
    }

    fn step_at(&mut self, millis: u64, input: GatewayInput) -> Vec<GatewayEffect> {
        let mut effects = Vec::new();
        self.gateway.step(now(millis), input, &mut effects);
        for effect in &effects {
            if let GatewayEffect::ToOwner(message) = effect
                && message.stream != self.stream
            {
                (self.stream, self.sequence) = (message.stream, 0);
            }
        }
        effects
    }

    fn step(&mut self, input: GatewayInput) -> Vec<GatewayEffect> {
        self.step_at(0, input)
    }

    fn interest(&mut self, number: u64, on: bool) -> Vec<GatewayEffect> {
        let channel = channel(number);
        self.step(GatewayInput::Interest { channel, on })
    }

    fn change(&mut self, change: Change) -> Vec<GatewayEffect> {
        let channel = channel(0);
        self.step(GatewayInput::Presence { channel, change })
    }

    /// The owner answers the current stream.
    fn owner(&mut self, items: Vec<OwnerItem>) -> Vec<GatewayEffect> {
        self.sequence += 1;
        let message = OwnerMessage {
            fence: FENCE,
            stream: self.stream,
            sequence: self.sequence,
            items,
        };
        self.step(GatewayInput::FromOwner(message))
    }

    fn members(&self) -> Vec<Member> {
        self.gateway.members(&channel(0)).cloned().collect()
    }
}

fn set(members: &[Member]) -> OwnerItem {
    part(members, true, true)
}

fn part(members: &[Member], first: bool, last: bool) -> OwnerItem {
    OwnerItem::Set {
        channel: channel(0),
        members: members.to_vec(),
        first,
        last,
    }
}

fn changes(changes: &[Change]) -> OwnerItem {
    OwnerItem::Changes {
        channel: channel(0),
        changes: changes.to_vec(),
    }
}

fn sent(effects: &[GatewayEffect]) -> Vec<&GatewayMessage> {
    let sent = effects.iter().filter_map(|effect| match effect {
        GatewayEffect::ToOwner(message) => Some(message),
        _ => None,
    });
    sent.collect()
}

fn items(effects: &[GatewayEffect]) -> Vec<GatewayItem> {
    let sent = sent(effects).into_iter();
    sent.flat_map(|message| message.items.clone()).collect()
}

fn shown(effects: &[GatewayEffect]) -> Vec<(Action, MemberKey)> {
    let shown = effects.iter().filter_map(|effect| match effect {
        GatewayEffect::Deliver {
            delivery: Delivery::Presence { action, member },
            ..
        } => Some((*action, member.key.clone())),
        _ => None,
    });
    shown.collect()
}

fn interest(number: u64) -> GatewayItem {
    GatewayItem::Interest {
        channel: channel(number),
        on: true,
    }
}

fn told(change: Change) -> GatewayItem {
    GatewayItem::Changes {
        channel: channel(0),
        changes: vec![change],
    }
}

fn lost(effects: &[GatewayEffect]) -> Vec<Lost> {
    let lost = effects.iter().filter_map(|effect| match effect {
        GatewayEffect::Lost { lost, .. } => Some(*lost),
        _ => None,
    });
    lost.collect()
}

#[test]
fn a_new_stream_tells_the_whole_set_and_then_what_was_held() {
    let mut test = Test::new(Config::default());
    test.interest(0, true);
    test.change(put(1, 1, 5));
    test.step(GatewayInput::Publish(message(0, "p", 1)));
    let effects = test.step(GatewayInput::Owner { fence: FENCE });
    let expected = [
        interest(0),
        told(put(1, 1, 5)),
        GatewayItem::Complete,
        GatewayItem::Publish(message(0, "p", 1)),
    ];
    assert_eq!(items(&effects), expected);

    let effects = test.step(GatewayInput::Owner { fence: FENCE });
    assert_eq!(
        items(&effects),
        expected[..3],
        "what was held went out once"
    );
    assert_eq!(
        (sent(&effects)[0].stream, sent(&effects)[0].sequence),
        (2, 1)
    );
}

#[test]
fn messages_are_cut_at_their_bound_and_numbered() {
    let config = Config {
        message_items_max: 2,
        ..Config::default()
    };
    let mut test = Test::new(config);
    test.interest(0, true);
    for id in 0..3 {
        test.change(put(1, id, id));
    }
    let effects = test.step(GatewayInput::Owner { fence: FENCE });
    let sent = sent(&effects);
    assert!(sent.iter().all(|message| message.items.len() <= 2));
    let sequences: Vec<u64> = sent.iter().map(|message| message.sequence).collect();
    assert_eq!(sequences, (1..=sent.len() as u64).collect::<Vec<_>>());
}

#[test]
fn what_is_not_news_of_a_local_member_is_ignored() {
    let mut test = Test::attached(Config::default());
    assert_eq!(items(&test.change(put(1, 1, 5))), [told(put(1, 1, 5))]);
    for stale in [put(1, 1, 5), put(1, 1, 4), leave(1, 1, 5), leave(1, 2, 9)] {
        assert_eq!(test.change(stale), []);
    }
    assert_eq!(items(&test.change(leave(1, 1, 6))), [told(leave(1, 1, 6))]);
    assert_eq!(test.gateway.count(&channel(0)), 0);
}

#[test]
fn what_the_node_cannot_take_is_refused() {
    let config = Config {
        members_max: 1,
        channels_max: 1,
        ..Config::default()
    };
    let mut test = Test::attached(config);
    let refused = |effects: Vec<GatewayEffect>| match &effects[..] {
        [GatewayEffect::Refused { refusal, .. }] => refusal.clone(),
        other => panic!("{other:?} is no refusal"),
    };
    assert_eq!(
        refused(test.interest(1, true)),
        Refusal::ChannelsFull { max: 1 }
    );
    let change = GatewayInput::Presence {
        channel: channel(1),
        change: put(1, 1, 1),
    };
    assert_eq!(refused(test.step(change)), Refusal::NotInterested);

    test.change(put(1, 1, 1));
    assert_eq!(
        refused(test.change(put(1, 2, 2))),
        Refusal::MembersFull { max: 1 }
    );
    assert_eq!(items(&test.change(put(1, 1, 3))), [told(put(1, 1, 3))]);
}

#[test]
fn a_set_is_shown_as_the_changes_that_lead_to_it() {
    let mut test = Test::attached(Config::default());
    assert!(!test.gateway.knows(&channel(0)));
    let effects = test.owner(vec![set(&[
        member(2, 1, 1),
        member(2, 2, 1),
        member(2, 3, 1),
    ])]);
    let present = |id| (Action::Present, key(2, id));
    assert_eq!(shown(&effects), [present(1), present(2), present(3)]);
    assert!(test.gateway.knows(&channel(0)));

    // Another owner's set is compared with what is shown.
    test.step(GatewayInput::OwnerLost { fence: FENCE });
    test.step(GatewayInput::Owner { fence: FENCE });
    assert_eq!(test.gateway.count(&channel(0)), 3, "kept meanwhile");
    let effects = test.owner(vec![set(&[
        member(2, 2, 1),
        member(2, 3, 2),
        member(2, 4, 1),
    ])]);
    let expected = [
        (Action::Leave, key(2, 1)),
        (Action::Update, key(2, 3)),
        (Action::Enter, key(2, 4)),
    ];
    assert_eq!(shown(&effects), expected);
}

#[test]
fn a_set_counts_when_its_last_part_has_come() {
    let mut test = Test::attached(Config::default());
    let effects = test.owner(vec![part(&[member(2, 1, 1)], true, false)]);
    assert_eq!((shown(&effects), test.members()), (vec![], vec![]));
    let effects = test.owner(vec![part(&[member(2, 2, 1)], false, true)]);
    assert_eq!(shown(&effects).len(), 2);
}

#[test]
fn parts_and_changes_of_an_earlier_interest_are_ignored() {
    let mut test = Test::attached(Config::default());
    test.owner(vec![part(&[member(2, 1, 1)], true, false)]);
    test.interest(0, false);
    test.interest(0, true);
    let late = vec![
        part(&[member(2, 2, 1)], false, true),
        changes(&[put(2, 3, 1)]),
    ];
    assert_eq!(test.owner(late), []);
    assert!(!test.gateway.knows(&channel(0)));
}

#[test]
fn changes_on_a_new_stream_wait_for_its_set() {
    let mut test = Test::attached(Config::default());
    test.owner(vec![set(&[member(2, 1, 1)]), part(&[], true, false)]);
    test.step(GatewayInput::Owner { fence: FENCE });
    let early = vec![changes(&[leave(2, 1, 2)]), part(&[], false, true)];
    assert_eq!(test.owner(early), [], "they lead from another set");
    assert_eq!(test.members(), [member(2, 1, 1)]);
}

#[test]
fn changes_are_shown_by_what_is_known() {
    let mut test = Test::attached(Config::default());
    test.owner(vec![set(&[])]);
    let all = [
        put(2, 1, 1),
        put(2, 1, 2),
        put(2, 1, 2),
        leave(2, 1, 3),
        leave(2, 1, 3),
    ];
    let effects = test.owner(vec![changes(&all)]);
    let actions: Vec<Action> = shown(&effects)
        .into_iter()
        .map(|(action, _)| action)
        .collect();
    assert_eq!(actions, [Action::Enter, Action::Update, Action::Leave]);
}

#[test]
fn a_member_that_is_here_and_elsewhere_is_shown_once() {
    let mut test = Test::attached(Config::default());
    test.owner(vec![set(&[member(1, 1, 3)])]);
    // Its connection moves here; then the other node lets go, or does not.
    test.change(put(1, 1, 4));
    assert_eq!(test.members(), [member(1, 1, 4)]);
    assert_eq!(test.owner(vec![changes(&[put(1, 1, 5)])]), []);
    let effects = test.change(leave(1, 1, 9));
    assert_eq!(shown(&effects), [(Action::Enter, key(1, 1))]);

    test.change(put(1, 1, 10));
    assert_eq!(test.owner(vec![changes(&[leave(1, 1, 6)])]), []);
    assert_eq!(shown(&test.change(leave(1, 1, 11))), []);
}

#[test]
fn remote_members_beyond_the_bound_are_dropped_and_counted() {
    let config = Config {
        members_max: 2,
        ..Config::default()
    };
    let mut test = Test::attached(config);
    test.owner(vec![set(&[
        member(2, 1, 1),
        member(2, 2, 1),
        member(2, 3, 1),
    ])]);
    let effects = test.owner(vec![changes(&[put(2, 4, 1), put(2, 1, 2)])]);
    assert_eq!(lost(&effects), [Lost::Members(1)]);
    assert_eq!(test.members(), [member(2, 1, 2), member(2, 2, 1)]);
    assert_eq!(test.gateway.stats().members_dropped, 2);
}

#[test]
fn without_an_owner_messages_are_held_for_a_time_and_a_size() {
    let config = Config {
        held_bytes_max: 100,
        ..Config::default()
    };
    let held_for = config.held_for;
    let mut test = Test::attached(config);
    test.step(GatewayInput::OwnerLost { fence: FENCE });
    for serial in 1..=3 {
        let effects = test.step_at(serial, GatewayInput::Publish(message(0, "p", serial)));
        let expected: &[Lost] = if serial == 3 { &[Lost::Message] } else { &[] };
        assert_eq!(lost(&effects), expected);
    }
    assert_eq!(
        test.gateway.stats().messages_dropped,
        1,
        "100 bytes are two"
    );
    let due = now(2).monotonic.after(held_for);
    assert_eq!(test.gateway.next_deadline(), Some(due));
    let millis = u64::try_from(due.0.as_millis()).unwrap();
    let mut effects = Vec::new();
    test.gateway.on_deadline(now(millis), &mut effects);
    assert_eq!(lost(&effects), [Lost::Message]);
    assert_eq!(test.gateway.stats().messages_dropped, 2);

    let effects = test.step(GatewayInput::Owner { fence: FENCE });
    let last = items(&effects).pop();
    assert_eq!(last, Some(GatewayItem::Publish(message(0, "p", 3))));
    assert_eq!(test.gateway.stats().held_bytes, 0);
    assert_eq!(test.gateway.next_deadline(), None);
}

#[test]
fn messages_are_shown_on_channels_of_interest() {
    let mut test = Test::attached(Config::default());
    let message = |number| OwnerItem::Message(message(number, "p", 1));
    let effects = test.owner(vec![message(0), message(1)]);
    assert!(matches!(
        &effects[..],
        [GatewayEffect::Deliver { delivery: Delivery::Message(shown), .. }]
            if shown.channel == channel(0)
    ));
}

#[test]
fn a_hole_and_a_restart_start_a_new_stream() {
    let mut test = Test::attached(Config::default());
    test.sequence = 1;
    let effects = test.owner(vec![set(&[])]);
    assert_eq!(items(&effects), [interest(0), GatewayItem::Complete]);
    assert_eq!(test.stream, 2);

    let mut restart = OwnerMessage {
        fence: FENCE,
        stream: 2,
        sequence: 0,
        items: vec![OwnerItem::Restart],
    };
    let effects = test.step(GatewayInput::FromOwner(restart.clone()));
    assert_eq!(sent(&effects)[0].stream, 3);
    assert_eq!(test.step(GatewayInput::FromOwner(restart.clone())), []);
    (restart.stream, restart.fence) = (3, Fence(6));
    assert_eq!(test.step(GatewayInput::FromOwner(restart)), []);
}

#[test]
fn owners_below_the_highest_fence_heard_of_are_ignored() {
    let mut test = Test::attached(Config::default());
    let fence = Fence(6);
    assert_eq!(test.step(GatewayInput::Owner { fence }), []);
    test.step(GatewayInput::OwnerLost { fence });
    assert_eq!(
        items(&test.change(put(1, 1, 1))).len(),
        1,
        "still connected"
    );
    test.step(GatewayInput::OwnerLost { fence: Fence(8) });
    assert_eq!(test.step(GatewayInput::Owner { fence: FENCE }), []);
}

#[test]
fn a_new_incarnation_tells_everything_under_it() {
    let mut test = Test::attached(Config::default());
    let incarnation = Incarnation(2);
    let effects = test.step(GatewayInput::Reborn { incarnation });
    assert_eq!(sent(&effects)[0].incarnation, incarnation);
    assert_eq!(items(&effects), [interest(0), GatewayItem::Complete]);
}
