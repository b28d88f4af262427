//! The task of one shard: what happened goes in, what the stages decide is carried out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headcount_consensus::{Group, Leadership, ProposeError, Role};
use headcount_coordinator::{RegionMark, Shard};
use headcount_feed::{Effect as FeedEffect, Input as FeedInput};
use headcount_gateway::Input as GatewayInput;
use headcount_model::{
    Claim, Command, Event, Fence, GatewayUpdate, Incarnation, Logged, Monotonic, NodeId, Now,
    OwnerRef, Position, RegionName, Stage, Timestamp,
};
use headcount_placement::{Control, GroupId};
use headcount_rpc::peers::{Network, Ways};
use headcount_wire::{LoggedMark, Parcel, ParcelBody};
use tokio::sync::{mpsc, watch};

use super::followers::{Follow, Followers};
use super::owning::{Duty, Owning, early_event, transition_of};
use super::proposer::Proposer;
use super::replica::{AppliedItem, Replica};
use super::taken_on::TakenOn;
use super::told::Told;
use crate::clock::Clock;
use crate::gateway::GatewayHandle;
use crate::paths::{Paths, Way};
use crate::relay::{RelayHandle, RelayMail};
use crate::telemetry;

/// Letters that may wait for a driver. Gateways have at most a window of updates each under way,
/// and owners a window of batches, so it fills only when something is badly slow; whoever finds it
/// full drops, and whoever sent sends again.
const MAIL_MAX: usize = 4_096;

/// How long to propose nothing after a proposal failed. Whoever hands its leadership over refuses
/// everything until somebody else leads, and still counts as the leader until then.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// Most updates that are kept for a fence that this node has not heard of yet. More are dropped, and
/// sent again when their acknowledgement is overdue.
const EARLY_MAX: usize = 16;

/// Most letters that are read before their consequences are carried out.
const MAIL_BATCH: usize = 256;

/// What others tell a shard's driver.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A parcel of another node.
    Parcel(Parcel),
    /// An update of this node's own gateway.
    Update(GatewayUpdate),
    /// Another node wants to be told what the feed is told.
    Follow(Follow),
}

/// The way to a driver. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(mpsc::Sender<Mail>);

impl Mailbox {
    /// Drops the letter if the driver is too far behind.
    pub(crate) fn post(&self, mail: Mail) {
        if self.0.try_send(mail).is_err() {
            telemetry::mail_dropped();
        }
    }
}

/// Makes a mailbox and its other end.
pub(crate) fn mailbox() -> (Mailbox, mpsc::Receiver<Mail>) {
    let (sender, receiver) = mpsc::channel(MAIL_MAX);
    (Mailbox(sender), receiver)
}

/// Facts about a driver for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverStats {
    /// Whether it owns its region's part of the shard.
    pub(crate) owns: bool,
    /// Whether it coordinates the shard.
    pub(crate) leads: bool,
    /// Whether it decides nothing more for its region, since the node is about to stop.
    pub(crate) quiet: bool,
    /// Letters that wait.
    pub(crate) mail: usize,
    /// Its way into the log.
    pub(crate) outbox: headcount_gossip::OutboxStats,
}

/// What a driver works with.
pub(crate) struct DriverConfig {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) clock: Clock,
    pub(crate) owner: headcount_region::Config,
    pub(crate) gossip: headcount_gossip::Config,
    pub(crate) network: Network,
    pub(crate) gateway: GatewayHandle,
    pub(crate) relay: RelayHandle,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    /// This node's incarnation, 0 before it has started.
    pub(crate) incarnation: watch::Receiver<Incarnation>,
    /// True once nothing more is to be decided, since the node is about to end.
    pub(crate) quiet: watch::Receiver<bool>,
}

/// The driver of one shard on this node.
pub(crate) struct Driver {
    config: DriverConfig,
    replica: Arc<Replica>,
    group: Group,
    mail: mpsc::Receiver<Mail>,
    owning: Option<Owning>,
    paths: Paths,
    /// Number of the way to the coordinator, if it is open.
    opening: Option<u64>,
    taken_on: TakenOn,
    told: Told,
    /// Updates for a fence that is above what the driver was told of.
    early: Vec<GatewayUpdate>,
    proposer: Proposer,
    /// Until when nothing is proposed.
    refused_until: Monotonic,
    followers: Followers,
    leadership: Leadership,
    /// See [`DriverStats::quiet`].
    quiet: bool,
    /// Told to whoever samples metrics.
    stats: Arc<Mutex<DriverStats>>,
}

impl Driver {
    pub(crate) fn new(
        config: DriverConfig,
        replica: Arc<Replica>,
        group: Group,
        mail: mpsc::Receiver<Mail>,
        stats: Arc<Mutex<DriverStats>>,
    ) -> Self {
        Self {
            config,
            replica,
            group,
            mail,
            owning: None,
            paths: Paths::default(),
            opening: None,
            taken_on: TakenOn::default(),
            told: Told::default(),
            early: Vec::new(),
            proposer: Proposer::default(),
            refused_until: Monotonic::default(),
            followers: Followers::default(),
            leadership: Leadership::default(),
            quiet: false,
            stats,
        }
    }

    /// Runs until the mailbox is closed.
    pub(crate) async fn run(mut self) {
        let mut leadership = self.group.watch();
        let mut incarnation = self.config.incarnation.clone();
        let mut quiet = self.config.quiet.clone();
        let mut ways = self.config.network.gossip_ways();
        leadership.mark_changed();
        self.control_changed();
        let mut letters = Vec::new();
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = leadership.borrow_and_update().clone();
                    self.leadership_changed(now);
                }
                // What is told from here on might not get into the log before the node stops.
                Ok(_) = quiet.wait_for(|quiet| *quiet), if !self.quiet => {
                    self.quiet = true;
                }
                () = self.replica.placed.notified() => self.control_changed(),
                // The network keeps the sender.
                Ok(()) = ways.changed() => self.ways_changed(&ways.borrow_and_update()),
                changed = incarnation.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.control_changed();
                }
                () = self.replica.bell.notified() => self.applied(),
                result = self.proposer.settled() => self.proposed(result),
                count = self.mail.recv_many(&mut letters, MAIL_BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for letter in letters.drain(..) {
                        self.letter(letter);
                    }
                }
                () = sleep_until(&self.config.clock, deadline) => {}
            }
            self.pump();
        }
    }

    fn leads(&self) -> bool {
        self.leadership.role == Role::Leader
    }

    fn leader(&self) -> Option<NodeId> {
        self.leadership.leader.map(|leader| leader.node)
    }

    fn leadership_changed(&mut self, leadership: Leadership) {
        let before = self.leader();
        self.leadership = leadership;
        if !self.leads() {
            self.proposer.clear();
        }
        self.tell_coordinator();
        if self.leader() != before {
            let ways = self.config.network.gossip_ways();
            let opening = |leader| ways.borrow().opening_to(leader);
            self.opening = self.leader().and_then(opening);
            self.path_changed();
        }
    }

    /// Sends again what was lost with the way to the coordinator, once that is open again.
    fn ways_changed(&mut self, ways: &Ways) {
        let Some(leader) = self.leader() else { return };
        let opening = ways.opening_to(leader);
        let before = std::mem::replace(&mut self.opening, opening);
        if opening.is_some() && opening != before {
            self.path_changed();
        }
    }

    /// Takes the straight way to the coordinator from here on, for what is under way, too.
    fn path_changed(&mut self) {
        let now = self.config.clock.now();
        self.paths.reset(now.monotonic);
        if let Some(owning) = &mut self.owning {
            owning.path_changed(now);
        }
    }

    /// Tells the owner whether the coordinator is in its region (R12).
    fn tell_coordinator(&mut self) {
        let control = self.config.control.borrow().clone();
        let here = self.leader().and_then(|leader| control.node(leader));
        let here = here.is_some_and(|leader| leader.region == self.config.region);
        if let Some(owning) = &mut self.owning {
            owning.coordinator_here(self.config.clock.now(), here);
        }
    }

    /// Takes up or lays down ownership as the control group says, and tells who is alive.
    fn control_changed(&mut self) {
        let control = self.config.control.borrow().clone();
        let incarnation = *self.config.incarnation.borrow();
        let (region, node) = (self.config.region.clone(), self.config.node);
        let appointed = control.owner(&region, self.replica.id);
        let ours = appointed.filter(|owner| {
            // R4: nobody acts under a fence of an earlier life.
            owner.node == node && owner.incarnation == incarnation && incarnation.0 > 0
        });
        let held = self.owning.as_ref().map(Owning::fence);
        let fence = ours.map(|owner| owner.fence);
        if held != fence {
            self.owning = fence.map(|fence| {
                let era = control
                    .facts()
                    .map_or_else(Default::default, |facts| facts.era);
                let owner = OwnerRef {
                    region: region.clone(),
                    fence,
                };
                tracing::debug!(target: "region", shard = self.replica.id.0, %fence, "owning");
                let config = (self.config.owner, self.config.gossip);
                let tails = self.told.tails(self.replica.read().mark(&region));
                let claim = Claim {
                    owner,
                    node,
                    incarnation,
                    tails,
                };
                Owning::begin(config, era, self.replica.id, claim)
            });
            self.tell_coordinator();
        }
        if let Some(owning) = &mut self.owning {
            let live = control
                .nodes()
                .iter()
                .filter(|(_, other)| other.is_live() && other.region == region);
            let live = live.map(|(id, other)| (*id, other.incarnation)).collect();
            let now = self.config.clock.now();
            owning.gateways(now, live);
            let fence = owning.fence();
            for update in self.early.extract_if(.., |update| update.fence == fence) {
                owning.update(now, update);
            }
        }
        let still_early = |fence| appointed.is_none_or(|owner| owner.fence <= fence);
        self.early.retain(|update| still_early(update.fence));
    }

    fn applied(&mut self) {
        let replica = Arc::clone(&self.replica);
        let shard = replica.read();
        self.take_applied(&shard);
    }

    /// Carries on what was applied up to the state `shard`, which cannot change meanwhile.
    fn take_applied(&mut self, shard: &Shard) {
        let now = self.config.clock.now();
        let mut woken = false;
        for item in self.replica.take_applied() {
            match item {
                AppliedItem::Entry(index, logged) => {
                    let input = logged.map_or_else(
                        || FeedInput::Advanced(Position::end_of(index)),
                        |logged| {
                            note_told(&self.config.clock, &logged);
                            if self.owning.is_some() {
                                let events = logged.events.iter().map(|told| &told.event);
                                self.config.relay.activated(self.replica.id, events);
                            }
                            FeedInput::Logged(logged)
                        },
                    );
                    woken |= self.feed(input);
                }
                AppliedItem::Jumped(start) => {
                    if self.owning.is_some() {
                        self.config.relay.post(RelayMail::Jumped(self.replica.id));
                    }
                    woken |= self.feed(FeedInput::Jumped(start));
                }
            }
        }
        if woken {
            self.replica.wake();
        }
        let mark = shard.mark(&self.config.region);
        self.told.logged(mark);
        if let Some(owning) = &mut self.owning {
            // Once a fence has claimed, only its own batches change what the log says of its region,
            // and there are none before this: so it is the base, whatever was applied since, and
            // whether an entry brought the claim or a snapshot that holds it.
            if mark.fence == owning.fence() && !mark.ended && !owning.is_claimed() {
                let (shard_id, fence) = (self.replica.id.0, mark.fence);
                tracing::debug!(target: "region", shard = shard_id, %fence, "claimed");
                owning.claimed(now, shard.base(&self.config.region));
            }
            owning.applied(now, mark);
        }
    }

    /// Steps the feed, and those of followers; returns whether its subscribers have something to
    /// read.
    fn feed(&mut self, input: FeedInput) -> bool {
        self.followers.pass_on(&input);
        let mut effects = Vec::new();
        self.replica
            .feed()
            .step(self.config.clock.now(), input, &mut effects);
        effects
            .iter()
            .any(|effect| matches!(effect, FeedEffect::Wake))
    }

    fn proposed(&mut self, result: Result<(), ProposeError>) {
        if result.is_err() {
            self.refused_until = self.config.clock.monotonic().after(REFUSED_PAUSE);
        }
        match result {
            Ok(()) => {}
            Err(ProposeError::NotLeader { .. }) => self.proposer.clear(),
            Err(error) => {
                // Whoever asked for it asks again; what is applied twice is refused the second time.
                let shard = self.replica.id.0;
                tracing::debug!(target: "coordinator", shard, %error, "a proposal failed");
            }
        }
    }

    fn letter(&mut self, letter: Mail) {
        let now = self.config.clock.now();
        match letter {
            Mail::Update(update) => self.update(now, update),
            Mail::Follow(follow) => self.begin_following(follow),
            Mail::Parcel(parcel) => self.parcel(now, parcel),
        }
    }

    /// Hears a gateway, unless the node is about to stop: it tells the next owner what this one
    /// does not acknowledge. A gateway may have heard of the owner before this driver: what it tells
    /// waits for that, as nothing of a stream counts without its beginning.
    fn update(&mut self, now: Now, update: GatewayUpdate) {
        if self.quiet {
            return;
        }
        let is_early =
            |owning: Option<&Owning>| owning.is_none_or(|owning| owning.fence() < update.fence);
        if is_early(self.owning.as_ref()) {
            self.control_changed();
        }
        match &mut self.owning {
            Some(owning) if owning.fence() >= update.fence => owning.update(now, update),
            _ if self.early.len() < EARLY_MAX => self.early.push(update),
            _ => telemetry::mail_dropped(),
        }
    }

    fn parcel(&mut self, now: Now, parcel: Parcel) {
        let command = match parcel.body {
            ParcelBody::Update(update) => return self.update(now, update),
            ParcelBody::Early(owner, transition) => {
                if owner.region == self.config.region {
                    let era = self.era();
                    let event = early_event(era, self.replica.id, &owner, &transition);
                    self.tell(event);
                }
                return;
            }
            ParcelBody::Logged(mark) => return self.logged_elsewhere(now, &mark),
            // Given to the gateway where it arrived.
            ParcelBody::Ack(_) => return,
            ParcelBody::Claim(claim) => Command::Claim(claim),
            ParcelBody::Batch(batch) => Command::Batch(batch),
            ParcelBody::Settled(owner) => Command::Settled(owner),
            ParcelBody::ExpireRegion(owner) => Command::ExpireRegion(owner),
        };
        if self.leads() {
            self.proposer.push(command);
        } else if parcel.take_on {
            self.take_on(now, command);
        }
        // Else its owner tries again elsewhere.
    }

    /// Takes an owner's command on to the coordinator (R18).
    fn take_on(&mut self, now: Now, command: Command) {
        let Some(leader) = self.leader() else { return };
        let Some((owner, body)) = told(command) else {
            return;
        };
        self.taken_on.note(now.monotonic, owner);
        self.send(leader, body);
    }

    /// Tells owners whose commands are taken on what the log has of them.
    fn tell_owners(&mut self, now: Monotonic) {
        let replica = Arc::clone(&self.replica);
        let news = self
            .taken_on
            .news(now, |region| replica.read().mark(region));
        for mark in news {
            let control = self.config.control.borrow().clone();
            let owner = control.owner(&mark.owner.region, self.replica.id);
            if let Some(owner) = owner.filter(|owner| owner.fence == mark.owner.fence) {
                self.send(owner.node, ParcelBody::Logged(mark));
            }
        }
    }

    /// Takes note of what another replica's log has of this owner: what is committed there is
    /// committed. Only its claim must have been applied here, where its base comes from.
    fn logged_elsewhere(&mut self, now: Now, mark: &LoggedMark) {
        let OwnerRef { region, fence } = &mark.owner;
        let claimed = self.replica.read().mark(&self.config.region).fence == *fence;
        if let (true, Some(owning)) = (claimed && *region == self.config.region, &mut self.owning) {
            let mark = RegionMark {
                fence: *fence,
                sequence: mark.sequence,
                number: mark.number,
                ended: false,
                settled: mark.settled,
            };
            owning.applied(now, mark);
        }
    }

    /// Lets another node follow the feed from here on.
    fn begin_following(&mut self, follow: Follow) {
        let replica = Arc::clone(&self.replica);
        let shard = replica.read();
        // The feed is told everything that the start speaks of, the follower nothing of it.
        self.take_applied(&shard);
        let start = Replica::feed_start(&shard, &follow.region);
        self.followers.begin(follow, start);
    }

    fn era(&self) -> headcount_model::Era {
        self.config
            .control
            .borrow()
            .facts()
            .map_or_else(Default::default, |facts| facts.era)
    }

    /// Tells an event of the local region ahead of the log.
    fn tell(&mut self, event: Event) {
        note_early(&self.config.clock, &event);
        let replica = Arc::clone(&self.replica);
        let shard = replica.read();
        // The feed judges by the log's state, so it has to be told all of it first.
        self.take_applied(&shard);
        if let Some((owner, transition)) = transition_of(&event) {
            let mark = shard.mark(&owner.region);
            self.told.keep(owner.fence, transition, mark);
        }
        let logged = shard
            .regional(&self.config.region, &event.channel)
            .is_some();
        if self.feed(FeedInput::Early { event, logged }) {
            replica.wake();
        }
    }

    /// Carries out everything that is due.
    fn pump(&mut self) {
        let now = self.config.clock.now();
        let mut duties = Vec::new();
        if let Some(owning) = &mut self.owning {
            let again = owning.pump(now, self.quiet, &mut duties);
            if again {
                let (shard, fence) = (self.replica.id.0, owning.fence());
                tracing::debug!(target: "gossip", shard, %fence, "sends again what is not applied");
                let patience = self.config.gossip.resend_after;
                self.paths.unacknowledged(now.monotonic, patience);
            }
        }
        for duty in duties {
            self.duty(duty);
        }
        if self.leads() {
            self.lead();
        }
        self.tell_owners(now.monotonic);
        let stats = DriverStats {
            owns: self.owning.is_some(),
            leads: self.leads(),
            quiet: self.quiet,
            mail: self.mail.len(),
            outbox: self.owning.as_ref().map(Owning::stats).unwrap_or_default(),
        };
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    fn duty(&mut self, duty: Duty) {
        match duty {
            Duty::Propose(command) => self.propose(command),
            Duty::Acknowledge(node, ack) if node == self.config.node => {
                self.config.gateway.input(GatewayInput::Ack {
                    shard: self.replica.id,
                    ack,
                });
            }
            Duty::Acknowledge(node, ack) => self.send(node, ParcelBody::Ack(ack)),
            Duty::Tell(transition, event) => {
                self.tell(event);
                let fence = self.owning.as_ref().map_or(Fence(0), Owning::fence);
                let owner = OwnerRef {
                    region: self.config.region.clone(),
                    fence,
                };
                let control = self.config.control.borrow().clone();
                // Those who do not hold the shard follow somebody who does.
                let holders = control.group(GroupId::Shard(self.replica.id)).into_iter();
                let holders = holders.flat_map(|group| group.replicas.values());
                for node in holders.map(|replica| replica.node) {
                    let theirs = control
                        .node(node)
                        .is_some_and(|node| node.is_live() && node.region == owner.region);
                    if theirs && node != self.config.node {
                        self.send(node, ParcelBody::Early(owner.clone(), transition.clone()));
                    }
                }
            }
        }
    }

    /// Brings an owner's command to the coordinator, wherever it is.
    fn propose(&mut self, command: Command) {
        if self.leads() {
            self.proposer.push(command);
            return;
        }
        let Some((_, body)) = told(command) else {
            return;
        };
        let control = self.config.control.borrow().clone();
        let group = control.group(GroupId::Shard(self.replica.id)).into_iter();
        let replicas = group.flat_map(|group| group.replicas.values());
        let others = replicas.map(|replica| replica.node);
        let others = others.filter(|other| *other != self.config.node);
        let now = self.config.clock.monotonic();
        match self.paths.choose(now, self.leader(), others) {
            Some(Way::Straight(leader)) => self.send(leader, body),
            Some(Way::Through(other)) => self.send_parcel(other, true, body),
            None => {}
        }
    }

    fn send(&self, to: NodeId, body: ParcelBody) {
        self.send_parcel(to, false, body);
    }

    fn send_parcel(&self, to: NodeId, take_on: bool, body: ParcelBody) {
        let shard = self.replica.id;
        let parcel = Parcel {
            shard,
            take_on,
            body,
        };
        // Lost parcels are sent again by whoever needs them to arrive.
        if let Err(error) = self.config.network.tell(to, parcel) {
            tracing::trace!(target: "gossip", shard = shard.0, %to, %error, "a parcel was not sent");
        }
    }

    /// What only the coordinator does: pacing, expiries, ticks, and proposing.
    fn lead(&mut self) {
        if self.is_refused() {
            return;
        }
        let shard = self.replica.read();
        let stamp = shard.clamp(self.config.clock.wall(), self.replica.since_last_apply());
        let mut commands = Vec::new();
        if self.proposer.is_idle() {
            let control = self.config.control.borrow().clone();
            let pacing = control.pacing();
            if pacing.version > shard.pacing().version {
                commands.push(Command::Configure(pacing));
            }
            if let Some(owner) = shard.expiring() {
                commands.push(Command::ExpireRegion(owner));
            }
            for (region, fence) in control.voids(self.replica.id) {
                let mark = shard.mark(region);
                if mark.fence < fence || mark.fence == fence && !mark.ended {
                    let owner = OwnerRef {
                        region: region.clone(),
                        fence,
                    };
                    commands.push(Command::ExpireRegion(owner));
                }
            }
            if shard.next_due().is_some_and(|due| due <= stamp) {
                commands.push(Command::Tick);
            }
        }
        drop(shard);
        for command in commands {
            self.proposer.push(command);
        }
        self.proposer
            .propose(&self.group, &self.config.region, stamp);
    }

    /// Returns whether a proposal failed a moment ago.
    fn is_refused(&self) -> bool {
        self.config.clock.monotonic() < self.refused_until
    }

    /// Returns when something is due that nothing else will wake the task for.
    fn next_deadline(&self) -> Option<Monotonic> {
        let quiet = self.quiet;
        let owning = self.owning.as_ref();
        let owning = owning.and_then(|owning| owning.next_deadline(quiet));
        if self.leads() && self.is_refused() {
            return owning.into_iter().chain([self.refused_until]).min();
        }
        // While something is in flight its end wakes the task.
        let ticks = self.leads() && self.proposer.is_idle();
        let tick = ticks.then(|| self.replica.read().next_due()).flatten();
        let tick = tick.map(|due| self.at_stamp(due));
        owning.into_iter().chain(tick).min()
    }

    /// Returns when this leader's stamps reach `due`.
    fn at_stamp(&self, due: Timestamp) -> Monotonic {
        let shard = self.replica.read();
        let stamp = shard.clamp(self.config.clock.wall(), self.replica.since_last_apply());
        let wait = Duration::from_millis(due.0.saturating_sub(stamp.0));
        self.config.clock.monotonic().after(wait)
    }
}

/// Returns a command as one node tells it to another, and whose it is; only owners' are told.
fn told(command: Command) -> Option<(OwnerRef, ParcelBody)> {
    Some(match command {
        Command::Claim(claim) => (claim.owner.clone(), ParcelBody::Claim(claim)),
        Command::Batch(batch) => (batch.owner.clone(), ParcelBody::Batch(batch)),
        Command::Settled(owner) => (owner.clone(), ParcelBody::Settled(owner)),
        Command::ExpireRegion(owner) => (owner.clone(), ParcelBody::ExpireRegion(owner)),
        Command::Configure(_) | Command::Tick => return None,
    })
}

async fn sleep_until(clock: &Clock, deadline: Option<Monotonic>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
        None => std::future::pending().await,
    }
}

/// Tells metrics how long after their cause events of the log are told.
pub(crate) fn note_told(clock: &Clock, logged: &Logged) {
    let wall = clock.wall();
    for event in &logged.events {
        let delay = Duration::from_millis(wall.0.saturating_sub(event.event.at.0));
        telemetry::event_told(event.event.kind, delay);
    }
}

/// Tells metrics how long after its cause an event is told ahead of the log.
pub(crate) fn note_early(clock: &Clock, event: &Event) {
    let delay = clock.wall().0.saturating_sub(event.at.0);
    telemetry::event_early(event.kind, Duration::from_millis(delay));
}
