//! The world as the driver of its stages: it delivers, performs effects, and judges what is shown.

use std::time::Duration;

use headcount_model::{NodeId, Stage};

use crate::fixtures::region;
use crate::world::{Envelope, NODES, Node, REGIONS, Set, Way, World, brief};
use crate::{
    Action, Delivery, Gateway, GatewayEffect, GatewayInput, Member, Message, OwnerEffect,
    OwnerInput, Regions, RelayChannel,
};

impl World {
    /// Delivers a message of the `pick`-th way that has one; returns whether there was one.
    pub(crate) fn deliver(&mut self, pick: usize) -> bool {
        self.ways.retain(|_, queue| !queue.is_empty());
        let ways = self.ways.values_mut();
        let late = Some(&mut self.late).filter(|late| !late.is_empty());
        let mut queues: Vec<_> = ways.chain(late).collect();
        let pick = pick % queues.len().max(1);
        let Some(envelope) = queues.get_mut(pick).and_then(|queue| queue.pop_front()) else {
            return false;
        };
        match envelope {
            Envelope::Up(number, message) => {
                let items = message.items.iter();
                let active = items.map(|item| self.active(number, item.channel()));
                let active = active.collect();
                self.tell_owner(number, OwnerInput::FromGateway { message, active });
            }
            Envelope::Down(node, message) => self.tell(node, GatewayInput::FromOwner(message)),
            Envelope::Across(number, message) => {
                self.tell_owner(number, OwnerInput::FromRegion(message));
            }
        }
        true
    }

    pub(crate) fn drain(&mut self) {
        let mut count = 0;
        while self.deliver(count * 7) {
            count += 1;
            if count > 100_000 {
                return self.fault("messages never end".to_owned());
            }
        }
    }

    /// Lets time pass, and what is due happen.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.time.monotonic = self.time.monotonic.after(Duration::from_millis(millis));
        self.fire();
    }

    /// Delivers what is on its way and fires all deadlines until nothing is left.
    pub(crate) fn quiesce(&mut self) {
        for _ in 0..1_000 {
            self.drain();
            let owners = self
                .owners
                .values()
                .map(|holder| holder.owner.next_deadline());
            let gateways = self.nodes.values().filter_map(|node| node.gateway.as_ref());
            let gateways = gateways.map(Gateway::next_deadline);
            let Some(next) = owners.chain(gateways).flatten().min() else {
                return;
            };
            self.time.monotonic = self.time.monotonic.max(next);
            self.fire();
        }
        self.fault("deadlines never end".to_owned());
    }

    fn fire(&mut self) {
        let now = self.time;
        for number in 0..REGIONS {
            let mut effects = Vec::new();
            if let Some(holder) = self.owners.get_mut(&number) {
                holder.owner.on_deadline(now, &mut effects);
                holder.owner.check_invariants();
            }
            self.perform_owner(number, effects);
        }
        for node in 0..NODES {
            let mut effects = Vec::new();
            if let Some(gateway) = &mut self.nodes.get_mut(&node).unwrap().gateway {
                gateway.on_deadline(now, &mut effects);
            }
            self.perform(node, effects);
        }
    }

    pub(super) fn running(&mut self, node: u64) -> Option<&mut Node> {
        let node = self.nodes.get_mut(&node).unwrap();
        Some(node).filter(|node| node.gateway.is_some())
    }

    /// Where the channel is active, as the log says in a region.
    fn active(&self, number: u64, channel: Option<&RelayChannel>) -> Regions {
        let log = self.logs.get(&number).into_iter().flatten();
        let log = log.filter(|(of, _)| Some(of) == channel);
        log.map(|(_, at)| region(*at)).collect()
    }

    pub(super) fn tell_live(&mut self, number: u64) {
        let nodes = self.nodes.iter();
        let live = nodes.filter(|(_, node)| node.region == number && node.leased);
        let live = live
            .map(|(id, node)| (NodeId(*id), node.incarnation))
            .collect();
        self.tell_owner(number, OwnerInput::Gateways { live });
    }

    pub(super) fn tell(&mut self, node: u64, input: GatewayInput) {
        self.note(format!("node {node} <- {input:?}"));
        let mut effects = Vec::new();
        if let Some(gateway) = &mut self.nodes.get_mut(&node).unwrap().gateway {
            gateway.step(self.time, input, &mut effects);
        }
        self.perform(node, effects);
    }

    pub(super) fn tell_owner(&mut self, number: u64, input: OwnerInput) {
        self.note(format!("owner r{number} <- {input:?}"));
        let mut effects = Vec::new();
        if let Some(holder) = self.owners.get_mut(&number) {
            holder.owner.step(self.time, input, &mut effects);
            holder.owner.check_invariants();
        }
        self.perform_owner(number, effects);
    }

    fn perform(&mut self, node: u64, effects: Vec<GatewayEffect>) {
        for effect in effects {
            self.note(format!("node {node} -> {effect:?}"));
            let front = self.nodes.get_mut(&node).unwrap();
            let outcome = match effect {
                GatewayEffect::ToOwner(message) => {
                    let fits = message.items.len() <= self.config.message_items_max;
                    if front.connected == Some(message.fence) {
                        let envelope = Envelope::Up(front.region, message);
                        self.ways
                            .entry(Way::Up(node))
                            .or_default()
                            .push_back(envelope);
                    }
                    let fits = fits.then_some(());
                    fits.ok_or_else(|| "too long a message".to_owned())
                }
                GatewayEffect::Deliver {
                    channel,
                    delivery: Delivery::Presence { action, member },
                } => {
                    self.actions.push((node, action, member.key.clone()));
                    front.show(&channel, action, member)
                }
                GatewayEffect::Deliver {
                    channel,
                    delivery: Delivery::Message(message),
                } => {
                    self.messages += 1;
                    front.hear(channel, message)
                }
                GatewayEffect::Refused { .. } | GatewayEffect::Lost { .. } => Ok(()),
            };
            if let Err(what) = outcome {
                self.fault(format!("node {node}: {what}"));
            }
        }
        let front = &self.nodes[&node];
        let Some(gateway) = &front.gateway else {
            return;
        };
        for (channel, shown) in &front.shown {
            let members = gateway.members(channel);
            let members: Set = members.map(|m| (m.key.clone(), m.clone())).collect();
            if members != *shown {
                let (shown, members) = (brief(shown), brief(&members));
                let what = format!("node {node} has {members:?} and shows {shown:?}");
                return self.fault(what);
            }
        }
    }

    fn perform_owner(&mut self, number: u64, effects: Vec<OwnerEffect>) {
        for effect in effects {
            self.note(format!("owner r{number} -> {effect:?}"));
            match effect {
                OwnerEffect::ToGateway { node, message } => {
                    let front = &self.nodes[&node.0];
                    if front.connected == Some(message.fence) {
                        let way = self.ways.entry(Way::Down(node.0)).or_default();
                        way.push_back(Envelope::Down(node.0, message));
                    }
                }
                OwnerEffect::ToRegion { region, message } => {
                    let to: u64 = region.as_str()[1..].parse().unwrap();
                    if self.joined.contains(&(number, to)) {
                        let way = self.ways.entry(Way::Across(number, to)).or_default();
                        way.push_back(Envelope::Across(to, message));
                    }
                }
            }
        }
    }
}

impl Node {
    /// Shows a change to subscribers, who must be able to make sense of it.
    fn show(
        &mut self,
        channel: &RelayChannel,
        action: Action,
        member: Member,
    ) -> Result<(), String> {
        let Some(shown) = self.shown.get_mut(channel) else {
            return Err(format!("{action:?} on {channel}, which nobody attached"));
        };
        let known = shown.get(&member.key);
        let sensible = match action {
            Action::Present | Action::Enter => known.is_none(),
            Action::Update => known.is_some_and(|known| *known != member),
            Action::Leave => known.is_some(),
        };
        if !sensible {
            return Err(format!("{action:?} of {member:?} after {known:?}"));
        }
        if action == Action::Leave {
            shown.remove(&member.key);
        } else {
            shown.insert(member.key.clone(), member);
        }
        Ok(())
    }

    /// Takes a message, which must be newer than all before it of its publisher.
    fn hear(&mut self, channel: RelayChannel, message: Message) -> Result<(), String> {
        let own = format!("publisher{}.", self.number);
        if message.publisher.as_str().starts_with(&own) {
            return Err("its own message".to_owned());
        }
        let serial = u64::from_be_bytes(message.body[..].try_into().unwrap());
        let last = self.heard.insert((channel, message.publisher), serial);
        match last {
            Some(last) if last >= serial => Err(format!("message {serial} after {last}")),
            _ => Ok(()),
        }
    }
}
