//! The gateway's task: sessions of edges go in, updates to regional owners come out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headcount_gateway::{Effect, Gateway, Input, StreamId};
use headcount_model::{
    AppId, Fence, GatewayUpdate, Incarnation, Monotonic, NodeId, Refusal, RegionName, ReportAck,
    ReportItem, SessionError, ShardId, Stage, Welcome,
};
use headcount_placement::Control;
use headcount_rpc::peers::{Network, Ways};
use headcount_wire::{Parcel, ParcelBody};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::shard::Mail;
use crate::shards::Shards;
use crate::telemetry;

/// Inputs that may wait for the gateway. Each stream has at most two under way, each shard a window
/// of acknowledgements; a stream waits when it is full.
const INPUTS_MAX: usize = 16_384;

/// Most inputs that are taken before their consequences are carried out.
const INPUTS_BATCH: usize = 256;

/// What the gateway tells a stream.
#[derive(Debug)]
pub(crate) enum Answer {
    Welcome(Welcome),
    Ack(ReportAck),
    Close(SessionError),
}

/// The way to the gateway. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct GatewayHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inputs: mpsc::Sender<Input>,
    streams: Mutex<Streams>,
    requests: Mutex<Requests>,
}

/// What realtime clients of this node wait for. Each connection has at most one request under way.
#[derive(Debug, Default)]
struct Requests {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Vec<Refusal>>>,
    /// Those who wait until owners have heard what counts.
    settling: BTreeMap<u64, oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Streams {
    last: u64,
    open: BTreeMap<StreamId, mpsc::UnboundedSender<Answer>>,
}

impl GatewayHandle {
    /// Makes the handle and the other end of its queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        let shared = Shared {
            inputs,
            streams: Mutex::default(),
            requests: Mutex::default(),
        };
        (Self(Arc::new(shared)), receiver)
    }

    /// Says something that must not wait; dropped if the gateway is too far behind, after which its
    /// own deadlines repair what is missing.
    pub(crate) fn input(&self, input: Input) {
        if self.0.inputs.try_send(input).is_err() {
            telemetry::mail_dropped();
        }
    }

    /// Says something in its turn; false if the node has stopped.
    pub(crate) async fn say(&self, input: Input) -> bool {
        self.0.inputs.send(input).await.is_ok()
    }

    /// Registers a stream. Its answers are bounded by what it asks: one for each batch, of which
    /// the next comes only after the answer, and a last one.
    pub(crate) fn open_stream(&self) -> (StreamId, mpsc::UnboundedReceiver<Answer>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut streams = self.streams();
        streams.last += 1;
        let stream = StreamId(streams.last);
        streams.open.insert(stream, sender);
        (stream, receiver)
    }

    /// Forgets a stream whose task has ended.
    pub(crate) fn forget_stream(&self, stream: StreamId) {
        self.streams().open.remove(&stream);
    }

    /// Says that a stream broke. Never lost: a session whose break is not heard would count for
    /// ever.
    pub(crate) fn broken(&self, stream: StreamId) {
        self.insist(Input::Broken { stream });
    }

    /// Counts what realtime clients of this node did, in their turn; returns what was refused, or
    /// nothing if the node has stopped.
    pub(crate) async fn clients(&self, app: AppId, items: Vec<ReportItem>) -> Vec<Refusal> {
        let (sender, answer) = oneshot::channel();
        let request = self.request(Some(sender));
        let said = self.say(Input::Clients {
            request,
            app,
            items,
        });
        if said.await {
            answer.await.unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// Counts what realtime clients of this node did and nothing can refuse. Never lost.
    pub(crate) fn clients_left(&self, app: AppId, items: Vec<ReportItem>) {
        let request = self.request(None);
        self.insist(Input::Clients {
            request,
            app,
            items,
        });
    }

    /// Waits until the owners that are reachable have acknowledged what counts by now.
    pub(crate) async fn settled(&self) {
        let (sender, settled) = oneshot::channel();
        let request = self.request(None);
        self.requests().settling.insert(request, sender);
        if self.say(Input::Settle { request }).await {
            // The gateway ends with the node.
            let _ended = settled.await.is_err();
        }
    }

    fn request(&self, sender: Option<oneshot::Sender<Vec<Refusal>>>) -> u64 {
        let mut requests = self.requests();
        requests.last += 1;
        let request = requests.last;
        if let Some(sender) = sender {
            requests.waiting.insert(request, sender);
        }
        request
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.0
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something that must neither wait nor be lost.
    fn insist(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(input)) = self.0.inputs.try_send(input) {
            let inputs = self.0.inputs.clone();
            tokio::spawn(async move { inputs.send(input).await });
        }
    }

    fn answer(&self, stream: StreamId, answer: Answer) {
        let mut streams = self.streams();
        let last = matches!(answer, Answer::Close(_));
        if let Some(sender) = streams.open.get(&stream) {
            // A stream whose task has ended does not read.
            drop(sender.send(answer));
        }
        if last {
            streams.open.remove(&stream);
        }
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.0
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the gateway's task works with.
pub(crate) struct GatewayTask {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) shards: Shards,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) incarnation: watch::Receiver<Incarnation>,
    pub(crate) handle: GatewayHandle,
    pub(crate) inputs: mpsc::Receiver<Input>,
}

impl GatewayTask {
    /// Runs until every handle is gone.
    pub(crate) async fn run(mut self, mut gateway: Gateway) {
        let mut owners: BTreeMap<ShardId, (NodeId, Fence)> = BTreeMap::new();
        let mut ways = self.network.gossip_ways();
        let mut openings = BTreeMap::new();
        let mut effects = Vec::new();
        let mut inputs = Vec::new();
        let mut incarnation = *self.incarnation.borrow_and_update();
        self.control.mark_changed();
        let mut moves = self.shards.watch_moves();
        let mut gauges = Gauges::new();
        let mut ticks = tokio::time::interval(SAMPLE);
        loop {
            let deadline = gateway.next_deadline();
            tokio::select! {
                biased;
                changed = self.control.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.owners_changed(&mut owners, &mut inputs);
                }
                // The node keeps the sender.
                Ok(()) = moves.changed() => self.owners_changed(&mut owners, &mut inputs),
                // As does the network.
                Ok(()) = ways.changed() => {
                    ways_changed(&ways.borrow_and_update(), &mut openings, &owners, &mut inputs);
                }
                changed = self.incarnation.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *self.incarnation.borrow_and_update();
                    if now != incarnation {
                        incarnation = now;
                        inputs.push(Input::Reborn { incarnation });
                    }
                }
                count = self.inputs.recv_many(&mut inputs, INPUTS_BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = sleep_until(&self.clock, deadline) => {}
                _ = ticks.tick() => gauges.set(&gateway),
            }
            let now = self.clock.now();
            for input in inputs.drain(..) {
                gateway.step(now, input, &mut effects);
            }
            if gateway
                .next_deadline()
                .is_some_and(|at| at <= now.monotonic)
            {
                gateway.on_deadline(now, &mut effects);
            }
            for effect in effects.drain(..) {
                self.carry_out(&owners, effect);
            }
        }
    }

    /// Tells the gateway which owners are new, or gone. One on this node is there once the shard is:
    /// what is told before would be lost, and told again only when its acknowledgement is overdue.
    fn owners_changed(
        &mut self,
        owners: &mut BTreeMap<ShardId, (NodeId, Fence)>,
        inputs: &mut Vec<Input>,
    ) {
        let control = self.control.borrow_and_update().clone();
        for shard in control.shards() {
            let known = owners.get(&shard).copied();
            let owner = control.owner(&self.region, shard);
            let is_there = |node| node != self.node || self.shards.all().contains_key(&shard);
            let owner = owner.filter(|owner| is_there(owner.node));
            let owner = owner.map(|owner| (owner.node, owner.fence));
            if owner == known {
                continue;
            }
            match owner {
                Some((node, fence)) => {
                    owners.insert(shard, (node, fence));
                    inputs.push(Input::Owner { shard, fence });
                }
                None => {
                    if let Some((_, fence)) = owners.remove(&shard) {
                        inputs.push(Input::OwnerLost { shard, fence });
                    }
                }
            }
        }
    }

    fn carry_out(&self, owners: &BTreeMap<ShardId, (NodeId, Fence)>, effect: Effect) {
        match effect {
            Effect::Welcome { stream, welcome } => {
                self.handle.answer(stream, Answer::Welcome(welcome));
            }
            Effect::Ack { stream, ack } => self.handle.answer(stream, Answer::Ack(ack)),
            Effect::Close { stream, error } => self.handle.answer(stream, Answer::Close(error)),
            Effect::ClientsAck { request, refusals } => {
                if let Some(waiting) = self.handle.requests().waiting.remove(&request) {
                    // Whoever went away does not read.
                    drop(waiting.send(refusals));
                }
            }
            Effect::Settled { request } => {
                if let Some(waiting) = self.handle.requests().settling.remove(&request) {
                    // Whoever has given up does not read.
                    let _given_up = waiting.send(()).is_err();
                }
            }
            Effect::Send { shard, update } => self.send(owners, shard, update),
        }
    }

    fn send(
        &self,
        owners: &BTreeMap<ShardId, (NodeId, Fence)>,
        shard: ShardId,
        update: GatewayUpdate,
    ) {
        telemetry::update_sent(update.items.len());
        let Some((owner, _)) = owners
            .get(&shard)
            .filter(|(_, fence)| *fence == update.fence)
        else {
            return;
        };
        if *owner == self.node {
            if let Some(hosted) = self.shards.get(shard) {
                hosted.mailbox.post(Mail::Update(update));
            }
            return;
        }
        let parcel = Parcel {
            shard,
            take_on: false,
            body: ParcelBody::Update(update),
        };
        // What is lost here is told anew when the way is open again, or when the gateway misses the
        // acknowledgement.
        if let Err(error) = self.network.tell(*owner, parcel) {
            tracing::debug!(target: "gateway", shard = shard.0, %owner, %error, "not sent");
        }
    }
}

/// Tells the gateway which owners' ways were opened since it was told last. What was sent to them
/// before may be lost.
fn ways_changed(
    ways: &Ways,
    openings: &mut BTreeMap<NodeId, u64>,
    owners: &BTreeMap<ShardId, (NodeId, Fence)>,
    inputs: &mut Vec<Input>,
) {
    let before = std::mem::replace(openings, ways.openings().collect());
    let is_new = |node| {
        let opening = openings.get(&node);
        opening.is_some() && opening != before.get(&node)
    };
    let reached = owners.iter().filter(|(_, (node, _))| is_new(*node));
    inputs.extend(reached.map(|(&shard, &(_, fence))| Input::WayReopened { shard, fence }));
}

/// How often gauges are set.
const SAMPLE: Duration = Duration::from_secs(1);

/// The gateway's gauges.
struct Gauges {
    sessions: telemetry::Share,
    attachments: telemetry::Share,
    dirty: telemetry::Share,
}

impl Gauges {
    fn new() -> Self {
        Self {
            sessions: telemetry::sessions(),
            attachments: telemetry::attachments(),
            dirty: telemetry::registers_dirty(),
        }
    }

    fn set(&mut self, gateway: &Gateway) {
        let stats = gateway.stats();
        self.sessions.set(stats.sessions);
        self.attachments.set(stats.entries);
        self.dirty.set(stats.queued);
    }
}

async fn sleep_until(clock: &Clock, deadline: Option<Monotonic>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
        None => std::future::pending().await,
    }
}
