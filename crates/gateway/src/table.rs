//! What is attached, by source, and the registers that it adds up to.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::str::FromStr;

use foldhash::fast::FixedState;
use headcount_model::mutants::Mutant;
use headcount_model::{
    AppId, COUNT_MAX, Category, ChannelKey, CompactOccupancy, ConnectionId, GatewayItem, MemberId,
    Modes, NameError, Occupancy, Refusal, RefusalReason, ReportChange, ShardMap, SourceId,
};
use smallvec::SmallVec;

use crate::attachments::{Attachment, Attachments};
use crate::config::Config;
use crate::index::Index;
use crate::slab::Slab;
use crate::uplink::{CONTROL, Register, Shard, State};

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    shard: u16,
    register: u32,
}

impl Place {
    #[cfg(test)]
    pub(crate) fn new(shard: u16, register: u32) -> Self {
        Self { shard, register }
    }
}

#[derive(Clone, Debug)]
struct Connection {
    id: ConnectionId,
    attachments: Attachments,
}

/// Who counts: a session of an edge, or the node's clients of one app.
#[derive(Debug)]
struct Source {
    id: SourceId,
    app: AppId,
    /// Everything attached was told.
    complete: bool,
    /// Attachments, members and channels told by counts.
    entries: usize,
    /// Its registers by name.
    channels: Index<Place>,
    connections: Slab<Connection>,
    /// Numbers of connections by id.
    connection_ids: Index<u32>,
    /// The connection that was looked for last, if it is still there: mostly the next item is about
    /// it too.
    last_connection: Option<u32>,
    /// Members by number of the connection and place; ascending, never empty.
    members: BTreeMap<(u32, Place), SmallVec<[MemberId; 1]>>,
}

/// All sources of the node, and the shards that their registers belong to.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) shards: Vec<Shard>,
    map: ShardMap,
    /// Shards that have something to tell and were not looked at since, each once.
    pub(crate) dirty: Vec<u16>,
    /// Those that must not wait for company, each once: a count went from or to zero, or a source
    /// came or went.
    pub(crate) urgent: Vec<u16>,
    sources: Slab<Source>,
    names: FixedState,
    /// How many registers were freed, so that a place which was found before is known to hold.
    freed: u64,
    /// Sum of what the sources have.
    entries: usize,
    entries_max: usize,
    activity_max: usize,
}

impl Table {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            shards: (0..config.shards.count()).map(|_| Shard::new()).collect(),
            map: config.shards.clone(),
            dirty: Vec::new(),
            urgent: Vec::new(),
            sources: Slab::new(),
            names: FixedState::with_seed(config.hash_seed),
            freed: 0,
            entries: 0,
            entries_max: config.entries_max,
            activity_max: config.activity_max,
        }
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Adds a source with nothing attached.
    pub(crate) fn open_source(&mut self, id: SourceId, app: AppId) -> u32 {
        self.sources.insert(Source {
            id,
            app,
            complete: false,
            entries: 0,
            channels: Index::new(),
            connections: Slab::new(),
            connection_ids: Index::new(),
            last_connection: None,
            members: BTreeMap::new(),
        })
    }

    pub(crate) fn is_complete(&self, source: u32) -> bool {
        self.sources.at(source).complete
    }

    /// Marks a source as told whole, and tells every owner after its registers.
    pub(crate) fn complete_source(&mut self, source: u32) {
        let source = self.sources.at_mut(source);
        source.complete = true;
        let id = source.id.clone();
        self.say_to_all(&GatewayItem::SourceComplete(id));
    }

    /// Takes a source out with everything that it attached, and tells every owner.
    pub(crate) fn end_source(&mut self, source: u32) {
        let source = self.sources.remove(source);
        self.entries -= source.entries;
        for place in source.channels.values() {
            let shard = &mut self.shards[usize::from(place.shard)];
            let register = shard.registers.at_mut(place.register);
            if register.state.queued {
                register.state.dead = true;
            } else {
                let _gone = shard.registers.remove(place.register);
            }
        }
        self.say_to_all(&GatewayItem::SourceEnded(source.id));
    }

    /// Queues an item for every owner that can hear it.
    pub(crate) fn say_to_all(&mut self, item: &GatewayItem) {
        for number in 0..self.shards.len() {
            let shard = &mut self.shards[number];
            if shard.live {
                shard.say(item.clone());
                self.schedule(number as u16);
                self.hurry(number as u16);
            }
        }
    }

    /// Puts a shard on the list for the next flush.
    pub(crate) fn schedule(&mut self, shard: u16) {
        let scheduled = &mut self.shards[usize::from(shard)].scheduled;
        if !std::mem::replace(scheduled, true) {
            self.dirty.push(shard);
        }
    }

    /// Puts a shard on the list of those that must not wait.
    fn hurry(&mut self, shard: u16) {
        let urgent = &mut self.shards[usize::from(shard)].urgent;
        if !std::mem::replace(urgent, true) {
            self.urgent.push(shard);
        }
    }

    /// Counts items of a source in order; returns those that were refused, which changed nothing.
    pub(crate) fn apply_all<'a>(
        &mut self,
        source: u32,
        items: impl Iterator<Item = ReportChange<'a>>,
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut items = (0..).zip(items).peekable();
        let mut ahead: SmallVec<[_; LOOK_AHEAD]> = SmallVec::new();
        while items.peek().is_some() {
            let look = |(index, item): (u32, ReportChange<'a>)| {
                let channel = item.channel();
                (
                    index,
                    item,
                    channel.and_then(|name| self.find(source, name)),
                )
            };
            ahead.extend(items.by_ref().take(LOOK_AHEAD).map(look));
            let freed = self.freed;
            for (index, item, place) in ahead.drain(..) {
                // What was not there may have come since, and what was there may have gone.
                let place = place.filter(|_| self.freed == freed);
                let place = place.or_else(|| self.find(source, item.channel()?));
                if let Err(reason) = self.apply(source, place, item) {
                    refusals.push(Refusal {
                        item: index,
                        reason,
                    });
                }
            }
        }
        refusals
    }

    /// Counts one item of a source, whose register of the item's channel is at `place`, if it has one.
    fn apply(
        &mut self,
        source: u32,
        place: Option<Place>,
        item: ReportChange<'_>,
    ) -> Result<(), RefusalReason> {
        match item {
            ReportChange::Attach {
                connection,
                channel,
                modes,
            } => self.attach(source, place, connection, channel, modes),
            ReportChange::Detach { connection, .. } => {
                self.detach(source, place, connection);
                Ok(())
            }
            ReportChange::PresenceEnter {
                connection,
                channel,
                member,
            } => self.enter(source, place, connection, channel, member),
            ReportChange::PresenceLeave {
                connection, member, ..
            } => {
                self.leave(source, place, connection, member);
                Ok(())
            }
            ReportChange::ConnectionClosed { connection } => {
                self.close_connection(source, connection);
                Ok(())
            }
            ReportChange::Counts { channel, occupancy } => {
                self.count(source, place, channel, occupancy)
            }
            ReportChange::Activity { channel } => self.note_activity(source, channel),
        }
    }

    fn attach(
        &mut self,
        source: u32,
        place: Option<Place>,
        connection: &str,
        channel: &str,
        modes: Modes,
    ) -> Result<(), RefusalReason> {
        if let Some(place) = place
            && self.register(place).state.counted
        {
            return Err(RefusalReason::ToldByCounts(named(channel)));
        }
        let number = self.find_connection(source, connection);
        if let (Some(place), Some(number)) = (place, number) {
            let held = self.sources.at_mut(source).connections.at_mut(number);
            if let Some(attachment) = held.attachments.get_mut(place) {
                let before = std::mem::replace(&mut attachment.modes, modes);
                if attachment.has_members && !modes.contains(Modes::PRESENCE) {
                    attachment.has_members = false;
                    self.drop_members(source, number, place);
                }
                if before != modes {
                    self.change(place, |counts| {
                        counts.minus(before.occupancy()).plus(modes.occupancy())
                    });
                }
                return Ok(());
            }
        }
        self.admit()?;
        let place = place.unwrap_or_else(|| self.add_register(source, channel));
        let number = number.unwrap_or_else(|| self.add_connection(source, connection));
        let from = self.sources.at_mut(source);
        from.entries += 1;
        let attachment = Attachment {
            modes,
            has_members: false,
        };
        let attachments = &mut from.connections.at_mut(number).attachments;
        attachments.insert(place, attachment);
        self.entries += 1;
        self.change(place, |counts| counts.plus(modes.occupancy()));
        Ok(())
    }

    fn detach(&mut self, source: u32, place: Option<Place>, connection: &str) {
        let number = self.find_connection(source, connection);
        let (Some(number), Some(place)) = (number, place) else {
            return;
        };
        let held = self.sources.at_mut(source).connections.at_mut(number);
        let Some(attachment) = held.attachments.remove(place) else {
            return;
        };
        let is_last = held.attachments.is_empty();
        if attachment.has_members {
            self.drop_members(source, number, place);
        }
        self.uncount(source, place, attachment.modes);
        if is_last {
            self.drop_connection(source, number);
        }
    }

    fn close_connection(&mut self, source: u32, connection: &str) {
        let Some(number) = self.find_connection(source, connection) else {
            return;
        };
        let held = self.sources.at_mut(source).connections.at_mut(number);
        for (place, attachment) in held.attachments.take() {
            if attachment.has_members {
                self.drop_members(source, number, place);
            }
            self.uncount(source, place, attachment.modes);
        }
        self.drop_connection(source, number);
    }

    fn enter(
        &mut self,
        source: u32,
        place: Option<Place>,
        connection: &str,
        channel: &str,
        member: &str,
    ) -> Result<(), RefusalReason> {
        let found = self.find_connection(source, connection).zip(place);
        let attachment = found.and_then(|(number, place)| {
            let held = self.sources.at_mut(source).connections.at_mut(number);
            let attachment = held.attachments.get_mut(place).copied()?;
            Some((number, place, attachment))
        });
        let Some((number, place, attachment)) = attachment else {
            return Err(RefusalReason::NotAttached {
                connection: named(connection),
                channel: named(channel),
            });
        };
        if !attachment.modes.contains(Modes::PRESENCE) {
            return Err(RefusalReason::NoPresenceMode {
                connection: named(connection),
                channel: named(channel),
            });
        }
        let members = self.sources.at(source).members.get(&(number, place));
        if members.is_some_and(|members| position(members, member).is_ok()) {
            return Ok(());
        }
        self.admit()?;
        self.entries += 1;
        let from = self.sources.at_mut(source);
        from.entries += 1;
        let held = from.connections.at_mut(number);
        if let Some(attachment) = held.attachments.get_mut(place) {
            attachment.has_members = true;
        }
        let members = from.members.entry((number, place)).or_default();
        if let Err(at) = position(members, member) {
            members.insert(at, named(member));
        }
        self.add_members(place, 1);
        Ok(())
    }

    fn leave(&mut self, source: u32, place: Option<Place>, connection: &str, member: &str) {
        let number = self.find_connection(source, connection);
        let (Some(number), Some(place)) = (number, place) else {
            return;
        };
        let from = self.sources.at_mut(source);
        let Some(members) = from.members.get_mut(&(number, place)) else {
            return;
        };
        let Ok(at) = position(members, member) else {
            return;
        };
        let _gone = members.remove(at);
        if members.is_empty() {
            from.members.remove(&(number, place));
            let held = from.connections.at_mut(number);
            if let Some(attachment) = held.attachments.get_mut(place) {
                attachment.has_members = false;
            }
        }
        from.entries -= 1;
        self.entries -= 1;
        self.add_members(place, -1);
    }

    fn count(
        &mut self,
        source: u32,
        place: Option<Place>,
        channel: &str,
        occupancy: Occupancy,
    ) -> Result<(), RefusalReason> {
        let above = |category: &Category| occupancy.get(*category) > COUNT_MAX;
        if let Some(category) = Category::ALL.into_iter().find(above) {
            return Err(RefusalReason::Count {
                category,
                count: occupancy.get(category),
            });
        }
        let (is_counted, is_attached) = place.map_or((false, false), |place| {
            let register = self.register(place);
            let is_counted = register.state.counted;
            (is_counted, !is_counted && !register.occupancy.is_zero())
        });
        let only_attachments = self.sources.at(source).id == SourceId::Clients;
        if is_attached || only_attachments {
            return Err(RefusalReason::ToldByAttachments(named(channel)));
        }
        let counts_now = !occupancy.is_zero();
        if !is_counted && !counts_now {
            return Ok(());
        }
        if counts_now && !is_counted {
            self.admit()?;
            self.entries += 1;
            self.sources.at_mut(source).entries += 1;
        }
        if is_counted && !counts_now {
            self.entries -= 1;
            self.sources.at_mut(source).entries -= 1;
        }
        let place = place.unwrap_or_else(|| self.add_register(source, channel));
        let register = self.register_mut(place);
        register.state.counted = counts_now;
        if register.occupancy.get() != occupancy {
            self.change(place, |_| occupancy);
        }
        Ok(())
    }

    fn note_activity(&mut self, source: u32, channel: &str) -> Result<(), RefusalReason> {
        let app = self.sources.at(source).app.clone();
        let key = ChannelKey {
            app,
            name: named(channel),
        };
        let number = self.shard_of(&key);
        let shard = &mut self.shards[usize::from(number)];
        if !shard.live || shard.activity.contains(&key) {
            return Ok(());
        }
        if shard.activity.len() >= self.activity_max {
            return Err(RefusalReason::Overloaded {
                what: "channels with activity to tell",
                limit: self.activity_max,
            });
        }
        shard.activity.insert(key);
        self.schedule(number);
        Ok(())
    }

    /// Checks that there is room for one more entry.
    fn admit(&self) -> Result<(), RefusalReason> {
        if self.entries < self.entries_max {
            return Ok(());
        }
        Err(RefusalReason::Overloaded {
            what: "attachments, members and counts",
            limit: self.entries_max,
        })
    }

    /// Takes an attachment off the counts.
    fn uncount(&mut self, source: u32, place: Place, modes: Modes) {
        self.entries -= 1;
        self.sources.at_mut(source).entries -= 1;
        self.change(place, |counts| counts.minus(modes.occupancy()));
    }

    /// Drops every member of an attachment, which must have some.
    fn drop_members(&mut self, source: u32, connection: u32, place: Place) {
        let from = self.sources.at_mut(source);
        let members = from
            .members
            .remove(&(connection, place))
            .expect("attachments know whether they have members");
        from.entries -= members.len();
        self.entries -= members.len();
        let gone = i64::try_from(members.len()).expect("entries are bounded");
        self.add_members(place, -gone);
    }

    fn add_members(&mut self, place: Place, change: i64) {
        self.change(place, |mut counts| {
            let members = i64::from(counts.get(Category::PresenceMembers)) + change;
            let members = u32::try_from(members).expect("entries are bounded and counted once");
            counts.set(Category::PresenceMembers, members);
            counts
        });
    }

    /// Changes a register's counts, and has it told.
    fn change(&mut self, place: Place, to: impl FnOnce(Occupancy) -> Occupancy) {
        let shard = &mut self.shards[usize::from(place.shard)];
        let register = shard.registers.at_mut(place.register);
        let before = register.occupancy.get();
        let after = to(before);
        register.occupancy = after.into();
        if shard.live {
            let crosses = before.crosses(&after);
            if !std::mem::replace(&mut register.state.queued, true) {
                shard.queue.push_back(place.register);
                self.schedule(place.shard);
            }
            if crosses {
                self.hurry(place.shard);
            }
        } else if after.is_zero() {
            self.free(place);
        }
    }

    /// Frees a register without counts; absence means zero to whoever hears the whole set.
    fn free(&mut self, place: Place) {
        let Self {
            shards,
            sources,
            names,
            ..
        } = self;
        self.freed += 1;
        let shard = &mut shards[usize::from(place.shard)];
        let register = shard.registers.remove(place.register);
        if register.state.dead {
            return;
        }
        let hash = names.hash_one(register.name.as_str()).into();
        let source = sources.at_mut(register.source);
        source.channels.remove(hash, place);
    }

    fn register(&self, place: Place) -> &Register {
        self.shards[usize::from(place.shard)]
            .registers
            .at(place.register)
    }

    fn register_mut(&mut self, place: Place) -> &mut Register {
        self.shards[usize::from(place.shard)]
            .registers
            .at_mut(place.register)
    }

    fn find(&self, source: u32, channel: &str) -> Option<Place> {
        let hash = self.names.hash_one(channel).into();
        let channels = &self.sources.at(source).channels;
        channels.find(hash, |place| self.register(place).name.as_str() == channel)
    }

    fn find_connection(&mut self, source: u32, connection: &str) -> Option<u32> {
        let from = self.sources.at_mut(source);
        let Source {
            connections,
            connection_ids,
            last_connection,
            ..
        } = from;
        let is_meant = |number: u32| connections.at(number).id.as_str() == connection;
        if let Some(last) = last_connection.filter(|last| is_meant(*last)) {
            return Some(last);
        }
        let hash = self.names.hash_one(connection).into();
        let found = connection_ids.find(hash, is_meant);
        if found.is_some() {
            *last_connection = found;
        }
        found
    }

    fn add_register(&mut self, source: u32, channel: &str) -> Place {
        let hash = self.names.hash_one(channel).into();
        let app = self.sources.at(source).app.clone();
        let name = named(channel);
        let key = ChannelKey { app, name };
        let shard = self.shard_of(&key);
        let register = self.shards[usize::from(shard)].registers.insert(Register {
            name: key.name,
            occupancy: CompactOccupancy::ZERO,
            source,
            state: State::default(),
        });
        let place = Place { shard, register };
        let source = self.sources.at_mut(source);
        source.channels.insert(hash, place);
        place
    }

    fn add_connection(&mut self, source: u32, connection: &str) -> u32 {
        let hash = self.names.hash_one(connection).into();
        let from = self.sources.at_mut(source);
        let number = from.connections.insert(Connection {
            id: named(connection),
            attachments: Attachments::new(),
        });
        from.connection_ids.insert(hash, number);
        from.last_connection = Some(number);
        number
    }

    fn drop_connection(&mut self, source: u32, number: u32) {
        let Self { sources, names, .. } = self;
        let from = sources.at_mut(source);
        let connection = from.connections.remove(number);
        from.last_connection = from.last_connection.filter(|last| *last != number);
        let hash = names.hash_one(connection.id.as_str()).into();
        from.connection_ids.remove(hash, number);
    }

    /// Returns the channel's shard, in two bytes.
    fn shard_of(&self, channel: &ChannelKey) -> u16 {
        u16::try_from(self.map.of(channel).0).expect("a cluster has at most 1,024 shards")
    }

    /// Begins to tell the whole set of a shard: queues every register that counts something and
    /// every source that is complete, then `marks`.
    pub(crate) fn tell_all(&mut self, number: u16, marks: impl IntoIterator<Item = GatewayItem>) {
        let shard = &mut self.shards[usize::from(number)];
        shard.queue.clear();
        shard.controls.clear();
        shard.activity.clear();
        for register in shard.registers.numbers() {
            let shard = &mut self.shards[usize::from(number)];
            let held = shard.registers.at_mut(register);
            if held.state.dead || held.occupancy.is_zero() {
                self.free(Place {
                    shard: number,
                    register,
                });
            } else if !Mutant::StreamWithoutSet.is_planted() {
                held.state.queued = true;
                shard.queue.push_back(register);
            }
        }
        let complete = self.sources.iter().filter(|(_, source)| source.complete);
        let complete = complete.map(|(_, source)| GatewayItem::SourceComplete(source.id.clone()));
        let items: Vec<_> = complete.chain(marks).collect();
        let shard = &mut self.shards[usize::from(number)];
        for item in items {
            shard.say(item);
        }
        self.schedule(number);
    }

    /// Forgets what waits to be told to a shard's owner, who cannot be reached.
    pub(crate) fn tell_nothing(&mut self, number: u16) {
        let shard = &mut self.shards[usize::from(number)];
        shard.controls.clear();
        shard.activity.clear();
        for register in std::mem::take(&mut shard.queue) {
            if register == CONTROL {
                continue;
            }
            let held = self.shards[usize::from(number)].registers.at_mut(register);
            held.state.queued = false;
            if held.state.dead || held.occupancy.is_zero() {
                self.free(Place {
                    shard: number,
                    register,
                });
            }
        }
    }

    /// Takes up to `most` items off a shard's queue, with the counts of this moment.
    pub(crate) fn take_items(&mut self, number: u16, most: usize) -> Vec<GatewayItem> {
        let waiting = &self.shards[usize::from(number)];
        let mut items = Vec::with_capacity(most.min(waiting.queue.len() + waiting.activity.len()));
        while items.len() < most {
            let shard = &mut self.shards[usize::from(number)];
            let Some(register) = shard.queue.pop_front() else {
                let Some(channel) = shard.activity.pop_first() else {
                    break;
                };
                items.push(GatewayItem::Activity(channel));
                continue;
            };
            shard.taken += 1;
            if register == CONTROL {
                let control = shard.controls.pop_front();
                items.push(control.expect("each control place has its control"));
                continue;
            }
            let held = shard.registers.at_mut(register);
            held.state.queued = false;
            let (dead, occupancy) = (held.state.dead, held.occupancy.get());
            if !dead {
                let source = self.sources.at(held.source);
                let app = source.app.clone();
                let name = held.name.clone();
                items.push(GatewayItem::Register {
                    source: source.id.clone(),
                    channel: ChannelKey { app, name },
                    occupancy,
                });
            }
            if dead || occupancy.is_zero() {
                self.free(Place {
                    shard: number,
                    register,
                });
            }
        }
        items
    }

    /// Returns every register that counts something: its source, channel and counts.
    pub(crate) fn registers(&self) -> impl Iterator<Item = (&SourceId, ChannelKey, Occupancy)> {
        let all = self.shards.iter().flat_map(|shard| shard.registers.iter());
        let counting = all.filter(|(_, held)| !held.state.dead && !held.occupancy.is_zero());
        counting.map(|(_, held)| {
            let source = self.sources.at(held.source);
            let (app, name) = (source.app.clone(), held.name.clone());
            (&source.id, ChannelKey { app, name }, held.occupancy.get())
        })
    }
}

impl Table {
    /// Panics if the table contradicts itself. Looks at everything, so it is for tests.
    pub(crate) fn invariants(&self) {
        let mut indexed = 0;
        for shard in &self.shards {
            let mut waiting: Vec<_> = shard.queue.iter().filter(|at| **at != CONTROL).collect();
            let controls = shard.queue.len() - waiting.len();
            assert_eq!(controls, shard.controls.len(), "each control has its place");
            waiting.sort_unstable();
            let flagged = shard.registers.iter().filter(|(_, held)| held.state.queued);
            let flagged: Vec<_> = flagged.map(|(number, _)| number).collect();
            assert!(
                waiting.into_iter().eq(&flagged),
                "what waits says so, and waits once"
            );
            assert!(
                shard.live || shard.queue.is_empty() && shard.activity.is_empty(),
                "nothing waits for an owner that is not there"
            );
            for (_, held) in shard.registers.iter() {
                let is_kept = held.state.queued || !held.occupancy.is_zero();
                assert!(is_kept, "a register of nothing is freed");
                indexed += usize::from(!held.state.dead);
            }
        }
        let sources: Vec<_> = self.sources.iter().map(|(_, source)| source).collect();
        let channels: usize = sources.iter().map(|source| source.channels.len()).sum();
        assert_eq!(channels, indexed, "registers are indexed by their sources");
        let entries: usize = sources.iter().map(|source| source.entries).sum();
        assert_eq!(entries, self.entries);
    }
}

/// Takes a name whose rules were checked when its item was made.
fn named<N: FromStr<Err = NameError>>(text: &str) -> N {
    text.parse().expect("the names of items are good")
}

fn position(members: &[MemberId], member: &str) -> Result<usize, usize> {
    members.binary_search_by(|other| other.as_str().cmp(member))
}

/// For how many items the channels are looked for before the first of them is counted. Most of the
/// time of an attach is waiting for memory, and what is looked for in a row is waited for together.
const LOOK_AHEAD: usize = 16;
