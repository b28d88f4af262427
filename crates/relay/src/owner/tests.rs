//! What an owner promises, rule by rule.

use std::collections::BTreeMap;

use headcount_model::{Fence, Incarnation, NodeId, Now, RegionName, Stage};

use crate::fixtures::{channel, leave, member, message, now, put, region};
use crate::{
    Change, Config, GatewayItem, GatewayMessage, Member, Owner, OwnerEffect, OwnerInput, OwnerItem,
    OwnerMessage, RegionItem, RegionMessage, Regions,
};

mod regions;

const FENCE: Fence = Fence(10);
/// The fence of the owner of region 1.
const OTHER: Fence = Fence(20);

/// The owner of region 0 and the streams to it.
struct Test {
    owner: Owner,
    now: Now,
    /// By node: stream and sequence.
    gateways: BTreeMap<u64, (u64, u64)>,
    /// By region: fence, stream and sequence.
    regions: BTreeMap<u64, (Fence, u64, u64)>,
}

impl Test {
    fn new(config: Config, awaited: &[RegionName]) -> Self {
        let awaited = awaited.iter().cloned();
        Self {
            owner: Owner::new(config, region(0), FENCE, awaited, now(0).monotonic),
            now: now(0),
            gateways: BTreeMap::new(),
            regions: BTreeMap::from([(1, (OTHER, 1, 0)), (2, (Fence(30), 1, 0))]),
        }
    }

    /// An owner that serves nodes 1 and 2, and knows the owner of region 1.
    fn serving(config: Config) -> Self {
        let mut test = Self::new(config, &[]);
        test.live(&[1, 2]);
        test.reach(1);
        test.gateway(1, &[], vec![GatewayItem::Complete]);
        test.gateway(2, &[], vec![GatewayItem::Complete]);
        assert!(test.owner.stats().serving);
        test
    }

    fn step(&mut self, input: OwnerInput) -> Vec<OwnerEffect> {
        let mut effects = Vec::new();
        self.owner.step(self.now, input, &mut effects);
        self.owner.check_invariants();
        effects
    }

    fn live(&mut self, nodes: &[u64]) -> Vec<OwnerEffect> {
        let live = nodes.iter().map(|node| (NodeId(*node), Incarnation(1)));
        let live = live.collect();
        self.step(OwnerInput::Gateways { live })
    }

    fn reach(&mut self, number: u64) -> Vec<OwnerEffect> {
        let (fence, ..) = self.regions[&number];
        let region = region(number);
        self.step(OwnerInput::RegionOwner { region, fence })
    }

    /// A gateway says something about channels that are active in `active`.
    fn gateway(&mut self, node: u64, active: &[u64], items: Vec<GatewayItem>) -> Vec<OwnerEffect> {
        let (stream, sequence) = self.gateways.entry(node).or_insert((1, 0));
        *sequence += 1;
        let message = GatewayMessage {
            node: NodeId(node),
            incarnation: Incarnation(1),
            fence: FENCE,
            stream: *stream,
            sequence: *sequence,
            items,
        };
        let active: Regions = active.iter().map(|number| region(*number)).collect();
        let active = vec![active; message.items.len()];
        self.step(OwnerInput::FromGateway { message, active })
    }

    /// Region `number` says something.
    fn region(&mut self, number: u64, items: Vec<RegionItem>) -> Vec<OwnerEffect> {
        let (fence, stream, sequence) = self.regions.get_mut(&number).unwrap();
        *sequence += 1;
        let message = RegionMessage {
            region: region(number),
            fence: *fence,
            to: FENCE,
            stream: *stream,
            sequence: *sequence,
            items,
        };
        self.step(OwnerInput::FromRegion(message))
    }
}

fn interest(on: bool) -> GatewayItem {
    let channel = channel(0);
    GatewayItem::Interest { channel, on }
}

fn changed(change: Change) -> GatewayItem {
    GatewayItem::Changes {
        channel: channel(0),
        changes: vec![change],
    }
}

fn pull(fence: Fence, version: u64) -> RegionItem {
    RegionItem::Interest {
        channel: channel(0),
        fence,
        version,
    }
}

fn set(version: u64, members: &[Member]) -> RegionItem {
    RegionItem::Set {
        channel: channel(0),
        version,
        members: members.to_vec(),
        first: true,
        last: true,
    }
}

fn delta(previous: u64, version: u64, changes: &[Change]) -> RegionItem {
    RegionItem::Changes {
        channel: channel(0),
        previous,
        version,
        changes: changes.to_vec(),
    }
}

fn told_set(members: &[Member]) -> OwnerItem {
    OwnerItem::Set {
        channel: channel(0),
        members: members.to_vec(),
        first: true,
        last: true,
    }
}

fn told(change: Change) -> OwnerItem {
    OwnerItem::Changes {
        channel: channel(0),
        changes: vec![change],
    }
}

/// What goes to a node.
fn to_node(effects: &[OwnerEffect], wanted: u64) -> Vec<OwnerItem> {
    let items = effects.iter().filter_map(|effect| match effect {
        OwnerEffect::ToGateway { node, message } if *node == NodeId(wanted) => Some(message),
        _ => None,
    });
    items.flat_map(|message| message.items.clone()).collect()
}

/// What goes to a region.
fn to_region(effects: &[OwnerEffect], wanted: u64) -> Vec<RegionItem> {
    let wanted = region(wanted);
    let items = effects.iter().filter_map(|effect| match effect {
        OwnerEffect::ToRegion { region, message } if *region == wanted => Some(message),
        _ => None,
    });
    items.flat_map(|message| message.items.clone()).collect()
}

#[test]
fn nobody_is_told_a_set_before_all_gateways_have_told_theirs() {
    let mut test = Test::new(Config::default(), &[]);
    test.live(&[1, 2]);
    assert_eq!(to_region(&test.reach(1), 1), []);
    let items = vec![interest(true), changed(put(1, 1, 1)), GatewayItem::Complete];
    let effects = test.gateway(1, &[1], items);
    assert_eq!(to_region(&effects, 1), [pull(Fence(0), 0)]);
    assert_eq!(to_node(&effects, 1), []);
    assert_eq!(test.region(1, vec![pull(Fence(0), 0)]), []);

    let effects = test.gateway(2, &[], vec![GatewayItem::Complete]);
    assert_eq!(to_region(&effects, 1), [RegionItem::Ready]);
    assert_eq!(
        to_node(&effects, 1),
        [],
        "the other region's set is missing"
    );
    let effects = test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    assert_eq!(to_node(&effects, 1), [told_set(&[member(2, 1, 1)])]);
}

#[test]
fn adoption_waits_for_regions_until_something_is_said_of_them() {
    let mut test = Test::new(Config::default(), &[region(1), region(2)]);
    test.live(&[1]);
    test.gateway(1, &[], vec![GatewayItem::Complete]);
    test.reach(1);
    assert!(!test.owner.stats().serving);
    let (region, fence) = (region(2), Fence(30));
    test.step(OwnerInput::RegionLost { region, fence });
    assert!(test.owner.stats().serving);
}

#[test]
fn adoption_ends_at_its_cap() {
    let config = Config::default();
    let cap = now(0).monotonic.after(config.adoption_cap);
    let mut test = Test::new(config, &[region(1)]);
    test.live(&[1, 2]);
    test.gateway(1, &[], vec![interest(true), GatewayItem::Complete]);
    assert_eq!(test.owner.next_deadline(), Some(cap));
    test.now.monotonic = cap;
    let mut effects = Vec::new();
    test.owner.on_deadline(test.now, &mut effects);
    assert_eq!(to_node(&effects, 1), [told_set(&[])]);
    assert_eq!(test.owner.next_deadline(), None);
}

#[test]
fn a_gateway_is_told_a_set_without_its_own_members_and_then_changes() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true), changed(put(1, 1, 1))]);
    let effects = test.gateway(2, &[], vec![interest(true)]);
    assert_eq!(to_node(&effects, 2), [told_set(&[member(1, 1, 1)])]);
    let effects = test.gateway(2, &[], vec![changed(put(2, 1, 1))]);
    assert_eq!(to_node(&effects, 1), [told(put(2, 1, 1))]);
    assert_eq!(to_node(&effects, 2), []);
    let effects = test.gateway(1, &[], vec![changed(put(1, 1, 1))]);
    assert_eq!(effects, [], "a repeat is no change");
}

#[test]
fn the_first_interest_pulls_and_the_last_forgets() {
    let mut test = Test::serving(Config::default());
    let effects = test.gateway(1, &[], vec![interest(true)]);
    assert_eq!(to_region(&effects, 1), [pull(Fence(0), 0)]);
    assert_eq!(
        to_region(&test.gateway(2, &[], vec![interest(true)]), 1),
        []
    );
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    assert_eq!(test.owner.stats().members, 1);
    test.gateway(1, &[], vec![interest(false)]);
    test.gateway(2, &[], vec![interest(false)]);
    let stats = test.owner.stats();
    assert_eq!((stats.channels, stats.members, stats.pulls), (0, 0, 0));
}

#[test]
fn a_message_goes_to_each_who_is_concerned_once() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true)]);
    test.gateway(2, &[], vec![interest(true)]);
    test.region(1, vec![pull(Fence(0), 0)]);
    let published = message(0, "p", 1);
    let publish = GatewayItem::Publish(published.clone());
    let effects = test.gateway(1, &[0, 1, 2], vec![publish]);
    assert_eq!(to_node(&effects, 1), []);
    assert_eq!(
        to_node(&effects, 2),
        [OwnerItem::Message(published.clone())]
    );
    let across = RegionItem::Message(published.clone());
    assert_eq!(to_region(&effects, 1), std::slice::from_ref(&across));
    assert_eq!(
        test.owner.stats().messages_dropped,
        1,
        "region 2 is not reachable"
    );

    let effects = test.region(1, vec![across]);
    let expected = [OwnerItem::Message(published)];
    assert_eq!(to_node(&effects, 1), expected);
    assert_eq!(to_node(&effects, 2), expected);
    assert_eq!(effects.len(), 2, "never passed on: {effects:?}");
}

#[test]
fn a_gateway_that_is_gone_takes_its_members_along() {
    let mut test = Test::serving(Config::default());
    test.gateway(1, &[], vec![interest(true), changed(put(1, 1, 1))]);
    test.gateway(2, &[], vec![interest(true)]);
    let effects = test.live(&[2]);
    assert_eq!(to_node(&effects, 2), [told(leave(1, 1, 1))]);
    let expected = [delta(1, 2, &[leave(1, 1, 1)])];
    assert_eq!(
        to_region(&effects, 1),
        expected,
        "wherever the channel is active"
    );
    assert_eq!(
        test.gateway(1, &[], vec![interest(true)]),
        [],
        "not listened to"
    );
}

#[test]
fn a_gateway_that_spoke_before_its_lease_was_known_starts_anew() {
    let mut test = Test::new(Config::default(), &[]);
    assert_eq!(test.gateway(1, &[], vec![GatewayItem::Complete]), []);
    let effects = test.live(&[1]);
    let message = OwnerMessage {
        fence: FENCE,
        stream: 1,
        sequence: 0,
        items: vec![OwnerItem::Restart],
    };
    let node = NodeId(1);
    assert_eq!(effects, [OwnerEffect::ToGateway { node, message }]);
}

#[test]
fn what_a_new_stream_does_not_mention_is_gone_at_its_end() {
    let mut test = Test::serving(Config::default());
    let both = vec![interest(true), changed(put(1, 1, 1)), changed(put(1, 2, 1))];
    test.gateway(1, &[], both);
    test.gateway(2, &[], vec![interest(true)]);
    test.gateways.insert(1, (2, 0));
    let effects = test.gateway(1, &[], vec![interest(true), changed(put(1, 2, 1))]);
    assert_eq!(to_node(&effects, 2), []);
    let effects = test.gateway(1, &[], vec![GatewayItem::Complete]);
    assert_eq!(to_node(&effects, 2), [told(leave(1, 1, 1))]);
    assert_eq!(to_region(&effects, 1), [delta(2, 3, &[leave(1, 1, 1)])]);

    test.gateways.insert(1, (3, 0));
    test.gateway(1, &[], vec![GatewayItem::Complete]);
    assert_eq!(test.owner.stats().members, 0);
    assert_eq!(test.owner.stats().channels, 1, "node 2 is interested");
}

#[test]
fn holes_end_streams() {
    let mut test = Test::serving(Config::default());
    test.gateways.insert(1, (1, 9));
    let effects = test.gateway(1, &[], vec![interest(true)]);
    assert_eq!(effects.len(), 1);
    assert!(matches!(&effects[0], OwnerEffect::ToGateway { message, .. }
        if message.items == [OwnerItem::Restart] && message.stream == 1));
    test.region(1, vec![]);
    test.regions.insert(1, (OTHER, 1, 5));
    let effects = test.region(1, vec![RegionItem::Ready]);
    assert_eq!(to_region(&effects, 1), [RegionItem::Restart { stream: 1 }]);
    assert_eq!(test.owner.stats().holes, 2);

    // And a peer that saw one is given a new stream.
    test.regions.insert(1, (OTHER, 2, 0));
    let effects = test.region(1, vec![RegionItem::Restart { stream: 1 }]);
    assert_eq!(to_region(&effects, 1), [RegionItem::Ready]);
    let effects = test.region(1, vec![RegionItem::Restart { stream: 1 }]);
    assert_eq!(effects, []);
}

#[test]
fn members_beyond_the_bound_are_dropped_and_counted() {
    let config = Config {
        members_max: 1,
        channels_max: 1,
        ..Config::default()
    };
    let mut test = Test::serving(config);
    let more = GatewayItem::Interest {
        channel: channel(1),
        on: true,
    };
    let items = vec![
        interest(true),
        more,
        changed(put(1, 1, 1)),
        changed(put(1, 2, 1)),
    ];
    test.gateway(1, &[], items);
    test.region(1, vec![set(4, &[member(2, 1, 1)])]);
    let stats = test.owner.stats();
    assert_eq!((stats.members, stats.members_dropped), (1, 2));
    assert_eq!((stats.channels, stats.interests_dropped), (1, 1));
}
