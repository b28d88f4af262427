//! The stage: dispatches inputs, keeps all deadlines, and sends what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headcount_model::{
    AppId, ChannelKey, EdgeId, Fence, GatewayAck, GatewayItem, GatewayUpdate, Hello, Incarnation,
    Monotonic, NodeId, Now, Occupancy, Refusal, ReportAck, ReportBatch, ReportItem, SHARDS_MAX,
    SessionError, ShardId, SourceId, Stage, Welcome,
};

use crate::config::Config;
use crate::io::{Effect, Input, StreamId};
use crate::sessions::{Admission, EdgeKey, Sessions};
use crate::table::Table;

/// What a gateway waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    /// Changes are to be sent.
    Flush,
    /// Those that must not wait are.
    Hurry,
    /// The recovery time ends.
    Recovery,
    /// A session's grace is over.
    Session(u32),
    /// An owner's acknowledgement is overdue.
    Uplink(u16),
    /// An edge without sessions need not be remembered any longer.
    Forget(EdgeKey),
}

/// How full a gateway is; for gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions of edges, with those in their grace.
    pub sessions: usize,
    /// Attachments, members and channels told by counts.
    pub entries: usize,
    /// Registers, one for each source and channel.
    pub registers: usize,
    /// Registers and marks that wait to be sent.
    pub queued: usize,
    /// Updates that are sent and not acknowledged.
    pub in_flight: u64,
}

/// What is attached to a node. See the crate's documentation for its driver's duties.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    node: NodeId,
    incarnation: Incarnation,
    table: Table,
    sessions: Sessions,
    /// Sources of direct clients by app; they stay for the life of the process.
    clients: BTreeMap<AppId, u32>,
    /// Requests to be told when owners have heard all, with how many of them still have to.
    settling: BTreeMap<u64, usize>,
    deadlines: BTreeSet<(Monotonic, Deadline)>,
    /// Whether a flush is among the deadlines.
    flushing: bool,
    /// Whether a flush of only what is urgent is.
    hurrying: bool,
    /// How long counts wait for company; grows with what the last flush had to tell.
    pause: Duration,
    recovered: bool,
    draining: bool,
}

impl Gateway {
    /// Makes the gateway of a node that starts at `start`, with nothing attached.
    #[must_use]
    pub fn new(config: Config, node: NodeId, incarnation: Incarnation, start: Monotonic) -> Self {
        assert!(
            (1..=SHARDS_MAX).contains(&config.shards.count()),
            "a cluster has 1 to {SHARDS_MAX} shards"
        );
        let recovery = (start.after(config.recovery), Deadline::Recovery);
        Self {
            table: Table::new(&config),
            sessions: Sessions::new(config.edges_max),
            clients: BTreeMap::new(),
            settling: BTreeMap::new(),
            deadlines: BTreeSet::from([recovery]),
            flushing: false,
            hurrying: false,
            pause: config.flush_interval,
            recovered: false,
            draining: false,
            config,
            node,
            incarnation,
        }
    }

    /// Returns how full it is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shards = &self.table.shards;
        Stats {
            sessions: self.sessions.slots.len(),
            entries: self.table.entries(),
            registers: shards.iter().map(|shard| shard.registers.len()).sum(),
            queued: shards.iter().map(|shard| shard.queue.len()).sum(),
            in_flight: shards.iter().map(crate::uplink::Shard::in_flight).sum(),
        }
    }

    /// Returns every register that counts something, shard by shard.
    pub fn registers(&self) -> impl Iterator<Item = (&SourceId, ChannelKey, Occupancy)> {
        self.table.registers()
    }

    /// Panics if its state contradicts itself. Looks at everything: for tests and simulation.
    pub fn invariants(&self) {
        self.table.invariants();
        for (number, shard) in (0..).zip(&self.table.shards) {
            assert!(shard.in_flight() <= self.config.window_updates);
            shard.invariants();
            let deadline = shard.deadline.map(|at| (at, Deadline::Uplink(number)));
            assert_eq!(deadline.is_some(), shard.in_flight() > 0);
            assert!(deadline.is_none_or(|deadline| self.deadlines.contains(&deadline)));
        }
        for (number, session) in self.sessions.slots.iter() {
            assert_eq!(session.deadline.is_some(), session.stream.is_none());
            let deadline = session.deadline.map(|at| (at, Deadline::Session(number)));
            assert!(deadline.is_none_or(|deadline| self.deadlines.contains(&deadline)));
        }
    }

    fn open(
        &mut self,
        now: Now,
        stream: StreamId,
        app: AppId,
        hello: &Hello,
        effects: &mut Vec<Effect>,
    ) {
        assert!(
            self.sessions.on(stream).is_none(),
            "the driver numbers streams once"
        );
        let refuse = |error| Effect::Close { stream, error };
        if self.draining {
            effects.push(refuse(SessionError::Draining));
            return;
        }
        let key = (app, hello.edge.clone());
        let (session, resumed) = match self.sessions.admit(&key, hello) {
            Err(error) => {
                effects.push(refuse(error));
                return;
            }
            Ok(Admission::Resume(session)) => (session, true),
            Ok(Admission::Open { older }) => {
                for session in older {
                    self.supersede(now, session, hello.session, effects);
                }
                if let Some(at) = self.sessions.remember(&key, None) {
                    self.deadlines.remove(&(at, Deadline::Forget(key.clone())));
                }
                let source = self
                    .table
                    .open_source(source_id(&key, hello), key.0.clone());
                (self.sessions.open(key, hello, source), false)
            }
        };
        self.disarm_session(session);
        let number = self.sessions.slots.at(session).number;
        if let Some(before) = self.sessions.attach(session, stream) {
            effects.push(Effect::Close {
                stream: before,
                error: SessionError::Superseded { by: number },
            });
        }
        let welcome = Welcome {
            session: number,
            resumed,
            last_sequence: self.sessions.slots.at(session).last_sequence,
        };
        effects.push(Effect::Welcome { stream, welcome });
    }

    /// Closes the stream of a session whose edge opened a newer one; it goes on counting until the
    /// newer one's set is complete.
    fn supersede(&mut self, now: Now, session: u32, by: u64, effects: &mut Vec<Effect>) {
        if let Some(stream) = self.sessions.detach(session) {
            let error = SessionError::Superseded { by };
            effects.push(Effect::Close { stream, error });
            self.start_grace(now, session);
        }
    }

    fn start_grace(&mut self, now: Now, session: u32) {
        self.sessions.slots.at_mut(session).broken_at = Some(now.monotonic);
        self.arm_session(session, now.monotonic.after(self.config.grace));
    }

    fn arm_session(&mut self, session: u32, at: Monotonic) {
        self.disarm_session(session);
        self.sessions.slots.at_mut(session).deadline = Some(at);
        self.deadlines.insert((at, Deadline::Session(session)));
    }

    fn disarm_session(&mut self, session: u32) {
        if let Some(at) = self.sessions.slots.at_mut(session).deadline.take() {
            self.deadlines.remove(&(at, Deadline::Session(session)));
        }
    }

    fn batch(
        &mut self,
        now: Now,
        stream: StreamId,
        batch: &ReportBatch,
        effects: &mut Vec<Effect>,
    ) {
        let Some(number) = self.sessions.on(stream) else {
            return;
        };
        let session = self.sessions.slots.at_mut(number);
        if batch.sequence != 0 && batch.sequence <= session.last_sequence {
            let ack = session.repeat(batch.sequence);
            effects.push(Effect::Ack { stream, ack });
            return;
        }
        let expected = session.last_sequence + 1;
        if batch.sequence != expected {
            let error = SessionError::Hole {
                expected,
                got: batch.sequence,
            };
            let _stream = self.sessions.detach(number);
            self.start_grace(now, number);
            effects.push(Effect::Close { stream, error });
            return;
        }
        let source = session.source;
        let ack = ReportAck {
            sequence: batch.sequence,
            refusals: self.table.apply_all(source, batch.items.iter()),
        };
        let session = self.sessions.slots.at_mut(number);
        session.last_sequence = batch.sequence;
        session.keep(&ack, self.config.window_batches);
        effects.push(Effect::Ack { stream, ack });
        if batch.set_complete && !self.table.is_complete(source) {
            self.table.complete_source(source);
            for older in self.sessions.older(number) {
                self.end(now, older);
            }
        }
    }

    /// Ends a session with everything that it attached.
    fn end(&mut self, now: Now, session: u32) {
        self.disarm_session(session);
        let (held, is_last) = self.sessions.remove(session);
        self.table.end_source(held.source);
        if is_last {
            let at = now.monotonic.after(self.config.edge_memory);
            let _none = self.sessions.remember(&held.edge, Some(at));
            self.deadlines.insert((at, Deadline::Forget(held.edge)));
        }
    }

    /// A session's grace is over: it ends, unless a newer session of its edge is about to tell
    /// what replaces it.
    fn expire(&mut self, now: Now, session: u32) {
        self.sessions.slots.at_mut(session).deadline = None;
        let broken_at = self.sessions.slots.at(session).broken_at;
        let broken_at = broken_at.expect("only broken sessions have a grace");
        let last = broken_at.after(self.config.takeover);
        if self.sessions.is_being_replaced(session) && now.monotonic < last {
            let next = now.monotonic.after(self.config.grace).min(last);
            self.arm_session(session, next);
        } else {
            self.end(now, session);
        }
    }

    fn clients(&mut self, app: AppId, items: &[ReportItem]) -> Vec<Refusal> {
        let table = &mut self.table;
        let source = *self
            .clients
            .entry(app)
            .or_insert_with_key(|app| table.open_source(SourceId::Clients, app.clone()));
        self.table
            .apply_all(source, items.iter().map(ReportItem::as_change))
    }

    fn settle(&mut self, request: u64, effects: &mut Vec<Effect>) {
        let shards = self.table.shards.iter_mut();
        let waits = shards.map(|shard| shard.settle(request));
        match waits.filter(|waits| *waits).count() {
            0 => effects.push(Effect::Settled { request }),
            waiting => drop(self.settling.insert(request, waiting)),
        }
    }

    /// Tells whom the owner of a shard was the last to keep waiting.
    fn settled(&mut self, number: u16, effects: &mut Vec<Effect>) {
        while let Some(request) = self.table.shards[usize::from(number)].settled() {
            let waiting = self.settling.get_mut(&request);
            let waiting = waiting.expect("a request waits until its last shard is settled");
            *waiting -= 1;
            if *waiting == 0 {
                self.settling.remove(&request);
                effects.push(Effect::Settled { request });
            }
        }
    }

    fn owner(&mut self, now: Now, shard: ShardId, fence: Fence, effects: &mut Vec<Effect>) {
        let number = self.number(shard);
        let uplink = &mut self.table.shards[usize::from(number)];
        if fence < uplink.fence {
            return;
        }
        uplink.fence = fence;
        uplink.live = true;
        uplink.timeouts = 0;
        self.restart(now, number, effects);
    }

    fn way_reopened(&mut self, now: Now, shard: ShardId, fence: Fence, effects: &mut Vec<Effect>) {
        let number = self.number(shard);
        let uplink = &self.table.shards[usize::from(number)];
        if uplink.live && uplink.fence == fence && uplink.in_flight() > 0 {
            self.restart(now, number, effects);
        }
    }

    fn owner_lost(&mut self, shard: ShardId, fence: Fence, effects: &mut Vec<Effect>) {
        let number = self.number(shard);
        let uplink = &mut self.table.shards[usize::from(number)];
        if fence < uplink.fence {
            return;
        }
        uplink.fence = fence;
        if std::mem::replace(&mut uplink.live, false) {
            uplink.forget_updates();
            self.disarm_uplink(number);
            self.table.tell_nothing(number);
            self.settled(number, effects);
        }
    }

    /// Starts a new stream to a shard's owner, with the whole set.
    fn restart(&mut self, now: Now, number: u16, effects: &mut Vec<Effect>) {
        self.disarm_uplink(number);
        let uplink = &mut self.table.shards[usize::from(number)];
        uplink.stream += 1;
        uplink.forget_updates();
        uplink.sent = 0;
        uplink.acked = 0;
        let recovered = self.recovered.then_some(GatewayItem::Recovered);
        let marks = [GatewayItem::StreamComplete].into_iter().chain(recovered);
        self.table.tell_all(number, marks);
        self.table.shards[usize::from(number)].settle_anew();
        self.send(now, number, effects);
    }

    fn acknowledged(
        &mut self,
        now: Now,
        shard: ShardId,
        ack: GatewayAck,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.number(shard);
        let uplink = &mut self.table.shards[usize::from(number)];
        let was_full = uplink.in_flight() >= self.config.window_updates;
        if !uplink.acknowledge(ack) {
            return;
        }
        self.disarm_uplink(number);
        self.arm_uplink(now, number);
        if was_full {
            self.send(now, number, effects);
        }
        self.settled(number, effects);
    }

    fn disarm_uplink(&mut self, number: u16) {
        if let Some(at) = self.table.shards[usize::from(number)].deadline.take() {
            self.deadlines.remove(&(at, Deadline::Uplink(number)));
        }
    }

    /// Waits for the next acknowledgement, if one is due and none is waited for.
    fn arm_uplink(&mut self, now: Now, number: u16) {
        let uplink = &mut self.table.shards[usize::from(number)];
        if uplink.in_flight() == 0 || uplink.deadline.is_some() {
            return;
        }
        let patience = self.config.ack_timeout * 2_u32.pow(uplink.timeouts.min(DOUBLINGS_MAX));
        let at = now.monotonic.after(patience);
        uplink.deadline = Some(at);
        self.deadlines.insert((at, Deadline::Uplink(number)));
    }

    /// Sends what a shard has to tell, as far as the window goes.
    fn send(&mut self, now: Now, number: u16, effects: &mut Vec<Effect>) {
        loop {
            let uplink = &self.table.shards[usize::from(number)];
            if !uplink.has_work() || uplink.in_flight() >= self.config.window_updates {
                break;
            }
            let items = self.table.take_items(number, self.config.update_items_max);
            if items.is_empty() {
                continue;
            }
            let uplink = &mut self.table.shards[usize::from(number)];
            let sequence = uplink.number_update();
            let update = GatewayUpdate {
                node: self.node,
                incarnation: self.incarnation,
                fence: uplink.fence,
                stream: uplink.stream,
                sequence,
                items,
            };
            let shard = ShardId(u32::from(number));
            effects.push(Effect::Send { shard, update });
        }
        self.arm_uplink(now, number);
        // What was taken may have been nothing that is told.
        self.settled(number, effects);
    }

    /// Sends everything that waits. The more it was, the longer the next counts wait: a busy node
    /// would otherwise tell each change of a channel that changes all the time.
    fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.flushing = false;
        let before = effects.len();
        let mut dirty = std::mem::take(&mut self.table.dirty);
        for number in dirty.drain(..) {
            self.table.shards[usize::from(number)].scheduled = false;
            self.send(now, number, effects);
        }
        self.table.dirty = dirty;
        for number in std::mem::take(&mut self.table.urgent) {
            self.table.shards[usize::from(number)].urgent = false;
        }
        let told: usize = effects[before..].iter().map(told).sum();
        let longer = (told / REGISTERS_PER_PAUSE).clamp(1, PAUSES_MAX);
        self.pause = self.config.flush_interval * longer as u32;
    }

    /// Sends what waits for the owners of shards with something urgent.
    fn hurry(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.hurrying = false;
        let mut urgent = std::mem::take(&mut self.table.urgent);
        for number in urgent.drain(..) {
            self.table.shards[usize::from(number)].urgent = false;
            self.send(now, number, effects);
        }
        self.table.urgent = urgent;
    }

    /// Sees to it that changes are sent in time.
    fn arm_flush(&mut self, now: Now) {
        if !self.flushing && !self.table.dirty.is_empty() {
            self.flushing = true;
            let at = now.monotonic.after(self.pause);
            self.deadlines.insert((at, Deadline::Flush));
        }
        let stretched = self.pause > self.config.flush_interval;
        if stretched && !self.hurrying && !self.table.urgent.is_empty() {
            self.hurrying = true;
            let at = now.monotonic.after(self.config.flush_interval);
            self.deadlines.insert((at, Deadline::Hurry));
        }
    }

    fn live_shards(&self) -> Vec<u16> {
        let shards = (0..).zip(&self.table.shards);
        let live = shards.filter(|(_, shard)| shard.live);
        live.map(|(number, _)| number).collect()
    }

    /// Returns the shard's number; the driver's shards are those of the configuration.
    fn number(&self, shard: ShardId) -> u16 {
        assert!(
            shard.0 < self.config.shards.count(),
            "shard {shard} does not exist"
        );
        u16::try_from(shard.0).expect("a cluster has at most 1,024 shards")
    }
}

impl Stage for Gateway {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Open { stream, app, hello } => self.open(now, stream, app, &hello, effects),
            Input::Batch { stream, batch } => self.batch(now, stream, &batch, effects),
            Input::Goodbye { stream } => {
                if let Some(session) = self.sessions.on(stream) {
                    for older in self.sessions.older(session) {
                        self.end(now, older);
                    }
                    self.end(now, session);
                }
            }
            Input::Broken { stream } => {
                if let Some(session) = self.sessions.on(stream) {
                    let _stream = self.sessions.detach(session);
                    self.start_grace(now, session);
                }
            }
            Input::Clients {
                request,
                app,
                items,
            } => {
                let refusals = self.clients(app, &items);
                effects.push(Effect::ClientsAck { request, refusals });
            }
            Input::Owner { shard, fence } => self.owner(now, shard, fence, effects),
            Input::WayReopened { shard, fence } => self.way_reopened(now, shard, fence, effects),
            Input::Settle { request } => self.settle(request, effects),
            Input::OwnerLost { shard, fence } => self.owner_lost(shard, fence, effects),
            Input::Ack { shard, ack } => self.acknowledged(now, shard, ack, effects),
            Input::Reborn { incarnation } => {
                self.incarnation = incarnation;
                for number in self.live_shards() {
                    self.restart(now, number, effects);
                }
            }
            Input::Drain => {
                self.draining = true;
                for stream in self.sessions.streams() {
                    if let Some(session) = self.sessions.on(stream) {
                        let _stream = self.sessions.detach(session);
                        self.start_grace(now, session);
                    }
                    let error = SessionError::Draining;
                    effects.push(Effect::Close { stream, error });
                }
            }
        }
        self.arm_flush(now);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn on_deadline(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now.monotonic
        {
            let Some((_, deadline)) = self.deadlines.pop_first() else {
                break;
            };
            match deadline {
                Deadline::Flush => self.flush(now, effects),
                Deadline::Hurry => self.hurry(now, effects),
                Deadline::Recovery => {
                    self.recovered = true;
                    self.table.say_to_all(&GatewayItem::Recovered);
                }
                Deadline::Session(session) => self.expire(now, session),
                Deadline::Uplink(number) => {
                    let uplink = &mut self.table.shards[usize::from(number)];
                    uplink.deadline = None;
                    uplink.timeouts += 1;
                    self.restart(now, number, effects);
                }
                Deadline::Forget(edge) => self.sessions.forget(&edge),
            }
        }
        self.arm_flush(now);
    }
}

/// Most doublings of the time that an owner is given to acknowledge.
const DOUBLINGS_MAX: u32 = 3;

/// Registers of one flush that make the next one wait for one more interval.
const REGISTERS_PER_PAUSE: usize = 1_000;

/// Most intervals that counts wait.
const PAUSES_MAX: usize = 10;

/// Returns how much an effect tells an owner.
fn told(effect: &Effect) -> usize {
    match effect {
        Effect::Send { update, .. } => update.items.len(),
        Effect::Welcome { .. }
        | Effect::Ack { .. }
        | Effect::Close { .. }
        | Effect::ClientsAck { .. }
        | Effect::Settled { .. } => 0,
    }
}

/// Names a session's source for the whole region: two apps may have edges of one name.
fn source_id((app, edge): &EdgeKey, hello: &Hello) -> SourceId {
    let scoped = EdgeId::new(&format!("{app}/{edge}"));
    SourceId::Edge {
        edge: scoped.expect("an app and an edge at their longest fit an edge id"),
        incarnation: hello.incarnation,
        session: hello.session,
    }
}
