//! The task of one connection, through all of its transports to its end.
//!
//! ```text
//! connect ──▶ served by a transport ──lost──▶ parked ──grace──▶ dormant ──window──▶ over
//!                    ▲                           │                 │
//!                    └────────── resume ─────────┴─────────────────┘
//! ```
//!
//! A parked connection counts; a dormant one does not, but can still be resumed. One that is *held*
//! counts neither, as long as another node may count what its client had there ([`handover`]).
//! Whatever ends a connection, its attachments and members leave with it.
//!
//! [`handover`]: super::handover

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use headcount_access::{ClientIdRule, Credential, Presented, authenticate};
use headcount_model::{AppId, Bucket, ConnectionId};
use headcount_realtime::{ClientFrame, ConnectionDetails, ProtocolError, ServerFrame};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::Core;
use super::attachments::Attachments;
use super::handover::{self, Held};
use super::mailbox::{Mailbox, Release, Released};
use super::registry::{Key, Names};
use super::transport::{Broken, Incoming, Transport};
use crate::limits::{Limit, Quota};
use crate::server::{Phase, until};
use crate::telemetry;

/// How long before its end a token is asked to be renewed; one that lives shorter, when half of the
/// time that it had here is over.
const RENEWAL: Duration = Duration::from_secs(30);

/// From this version of the protocol on, clients attach their channels again after a resume; older
/// ones expect to be attached still.
const REATTACHING_VERSION: u8 = 2;

/// One connection.
pub(crate) struct Connection {
    pub(crate) realtime: Arc<Core>,
    pub(crate) names: Names,
    /// The same name as the gateway's.
    pub(crate) id: ConnectionId,
    pub(crate) app: AppId,
    /// What the app has left of its limits.
    pub(crate) quota: Arc<Quota>,
    pub(crate) credential: Credential,
    pub(crate) identity: ClientIdRule,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) attachments: Attachments,
    pub(crate) echo: bool,
    /// What carries it, or did last.
    carrier: &'static str,
    pub(crate) inbound: Bucket,
    frames: Bucket,
    renewal: Option<Renewal>,
    /// Whether the client was asked for another credential, as this one is to be revoked.
    warned: bool,
    /// How long its members stay after a drop, if not as long as it counts.
    remain_present_for: Option<Duration>,
    /// Whether its members were told to have left, as it was away for too long.
    pub(super) absent: bool,
    /// Whether nothing of it counts, as it was away for too long.
    dormant: bool,
    /// Until when nothing of it counts, as another node may count what its client had there.
    pub(super) held: Option<Held>,
}

/// When something is to be done about a token that ends.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    /// When the client is asked for another one; none once it was.
    ask: Option<Instant>,
    /// When it ends.
    end: Instant,
}

impl Renewal {
    /// Looks at a credential that is taken up now.
    fn of(credential: &Credential, now_ms: u64) -> Option<Self> {
        let expires_at_ms = credential.expires_at_ms()?;
        let left = Duration::from_millis(expires_at_ms.saturating_sub(now_ms));
        let wait = left.saturating_sub(RENEWAL).max(left / 2);
        let now = Instant::now();
        Some(Self {
            ask: Some(now + wait),
            end: now + left,
        })
    }
}

/// How a transport's service ends.
enum End {
    /// The transport is gone; the client may come back.
    Lost,
    /// The client has come back over another transport.
    Replaced(Box<Transport>),
    /// The connection is over; what the client is still told.
    Over(ServerFrame),
    /// As `Lost`, but the client is told why.
    Dropped(ProtocolError),
    /// The client has gone on at another node, which waits for the end.
    Moved(oneshot::Sender<Released>),
}

/// How a connection's time without a transport ends.
enum Parked {
    /// The client has come back.
    Back(Box<Transport>),
    /// It has not.
    Over,
    /// It has gone on at another node, which waits for the end.
    Moved(oneshot::Sender<Released>),
}

impl From<Broken> for End {
    fn from(_: Broken) -> Self {
        Self::Lost
    }
}

impl Connection {
    /// Makes a connection and registers it; refused if there are too many.
    pub(crate) fn open(
        realtime: &Arc<Core>,
        app: AppId,
        quota: Arc<Quota>,
        transport: &Transport,
        identity: ClientIdRule,
    ) -> Result<Self, ProtocolError> {
        let names = Names::draw(&*realtime.ports.entropy);
        let mailbox = Arc::default();
        let app_max = quota.limits.connections_max;
        if !realtime.registry.add(&names, &app, &mailbox, app_max) {
            telemetry::rejected("app_connections");
            let message = format!("the app has {app_max} connections on this node already");
            return Err(ProtocolError::new(40111, 403, message));
        }
        // After that, so that whoever drains and sees nobody registered knows that nobody will be.
        if *realtime.phase.borrow() >= Phase::Draining {
            realtime.registry.remove(&names.id);
            return Err(draining());
        }
        Ok(Self {
            realtime: Arc::clone(realtime),
            id: ConnectionId::new(&names.id).expect("names of connections are short and printable"),
            names,
            app,
            quota,
            credential: transport.credential.clone(),
            identity,
            mailbox,
            attachments: Attachments::default(),
            echo: transport.query.echo,
            carrier: transport.name(),
            inbound: Bucket::default(),
            frames: Bucket::default(),
            renewal: Renewal::of(&transport.credential, realtime.ports.clock.wall().0),
            warned: false,
            remain_present_for: remain_present_for(transport),
            absent: false,
            dormant: false,
            held: None,
        })
    }

    /// Has the connection ended that the client had at another node. If that is in the same sums,
    /// this one does not count until then; at the latest when the old one has lost its client and
    /// had its grace, whatever its node says.
    pub(crate) fn come_from(&mut self, key: Key, transport: &Transport) {
        let noticed = 3 * self.heartbeat_interval(transport);
        let patience = noticed + self.realtime.config.grace;
        self.held = handover::begin(&self.realtime, &self.app, key, &self.identity, patience);
    }

    /// Lives until the connection is over.
    pub(crate) async fn run(
        mut self,
        mut transport: Box<Transport>,
        mut error: Option<ProtocolError>,
    ) {
        let _entered = telemetry::realtime_connections.enter();
        self.tell_lifecycle("connection.opened", None);
        let (last, reason, moved) = loop {
            match self.serve(&mut transport, error.take()).await {
                End::Over(last) => break (Some((transport, last)), "closed", None),
                End::Moved(answer) => {
                    let message = "the connection goes on at another node";
                    let error = ProtocolError::new(80003, 400, message);
                    let last = ServerFrame::Disconnected { error };
                    break (Some((transport, last)), "moved", Some(answer));
                }
                End::Replaced(next) => {
                    transport = next;
                    continue;
                }
                End::Dropped(why) => {
                    let frame = ServerFrame::Disconnected { error: why };
                    transport.finish(frame).await;
                }
                End::Lost => drop(transport),
            }
            telemetry::realtime_drops_total.count(1);
            match self.park().await {
                Parked::Back(next) => transport = next,
                Parked::Over => break (None, "timed out", None),
                Parked::Moved(answer) => break (None, "moved", Some(answer)),
            }
        };
        Box::pin(self.leave(reason, moved)).await;
        // Nothing counts any more, however long the client takes to hear of it.
        if let Some((transport, frame)) = last {
            transport.finish(frame).await;
        }
    }

    /// Ends everything that the connection had. Resumes that come too late find nothing.
    async fn leave(mut self, reason: &'static str, moved: Option<oneshot::Sender<Released>>) {
        self.detach_all();
        let (app, id) = (self.app.clone(), self.id.clone());
        self.realtime.ports.counting.forget(app, id);
        // Only now, as what nobody finds counts no more.
        self.realtime.registry.remove(&self.names.id);
        let late = self.mailbox.close();
        let late_release = late.release.map(|release| release.answer);
        for answer in moved.into_iter().chain(late_release) {
            // Whoever has given up does not read.
            let _given_up = answer.send(Released::Ended).is_err();
        }
        self.tell_lifecycle("connection.closed", Some(reason));
        for late in late.resumes {
            let error = ProtocolError::new(80008, 400, "the connection has just ended");
            late.finish(ServerFrame::Disconnected { error }).await;
        }
    }

    /// Waits for the client to come back, and lets what counts go when that takes too long.
    async fn park(&mut self) -> Parked {
        let lost_at = Instant::now();
        self.mailbox.pause(true);
        self.attachments.pause();
        let config = Arc::clone(&self.realtime.config);
        let gone = lost_at + config.resume_window;
        let mut phase = self.realtime.phase();
        loop {
            let grace = config.grace.min(config.resume_window);
            let dormant = lost_at + grace;
            let absent = lost_at + self.remain_present_for.unwrap_or(grace).min(grace);
            let mailbox = Arc::clone(&self.mailbox);
            tokio::select! {
                () = mailbox.news() => {
                    let mail = self.mailbox.take();
                    for transport in mail.resumes {
                        if let Some(transport) = self.take_up(transport).await {
                            return Parked::Back(transport);
                        }
                    }
                    if let Some(answer) = mail.release.and_then(|release| self.let_go(release)) {
                        return Parked::Moved(answer);
                    }
                }
                () = handover::let_count(&mut self.held), if self.held.is_some() => {
                    self.held = None;
                    if !self.dormant {
                        // What is refused now is refused again when the client attaches.
                        let _refused = self.count_all().await;
                    }
                }
                () = tokio::time::sleep_until(absent), if !self.absent => self.uncount_members(),
                () = tokio::time::sleep_until(dormant), if !self.dormant => self.sleep(),
                () = tokio::time::sleep_until(gone) => return Parked::Over,
                () = until(&mut phase, Phase::Draining) => return Parked::Over,
            }
        }
    }

    /// Judges whether the connection may be ended for somebody who has gone on at another node:
    /// whoever could resume it here. Returns whom to tell; else has told them why not.
    fn let_go(&self, release: Release) -> Option<oneshot::Sender<Released>> {
        let Release { identity, answer } = release;
        let own = match &self.identity {
            ClientIdRule::Fixed(id) => Some(id.as_str()),
            ClientIdRule::Any | ClientIdRule::Anonymous => None,
        };
        let why_not = if identity.narrow(own).is_err() {
            Released::Foreign
        } else if self.held.is_some() {
            Released::Held
        } else {
            return Some(answer);
        };
        // Whoever has given up does not read.
        let _given_up = answer.send(why_not).is_err();
        None
    }

    /// Takes up a new transport, if it is the same client's.
    async fn take_up(&mut self, transport: Box<Transport>) -> Option<Box<Transport>> {
        let credential = &transport.credential;
        let named = transport.query.client_id.as_deref();
        let identity = credential
            .takes_over(&self.credential, &self.identity)
            .and_then(|identity| identity.narrow(named));
        match identity {
            Ok(identity) => {
                self.identity = identity;
                self.take_credential(credential.clone());
                self.echo = transport.query.echo;
                self.carrier = transport.name();
                self.mailbox.pause(false);
                self.remain_present_for = remain_present_for(&transport);
                if std::mem::take(&mut self.dormant) || self.absent {
                    self.wake().await;
                }
                telemetry::realtime_resumes_total.count(1);
                Some(transport)
            }
            Err(error) => {
                // In a task of its own: whoever has the connection does not wait for it.
                let (channel, error) = (None, error.into());
                tokio::spawn(transport.finish(ServerFrame::Error { channel, error }));
                None
            }
        }
    }

    fn take_credential(&mut self, credential: Credential) {
        let now_ms = self.realtime.ports.clock.wall().0;
        self.renewal = Renewal::of(&credential, now_ms);
        self.warned = false;
        self.credential = credential;
    }

    /// Lets nothing of the connection count any more.
    fn sleep(&mut self) {
        self.dormant = true;
        self.members_leave();
        let (app, id) = (self.app.clone(), self.id.clone());
        self.realtime.ports.counting.forget(app, id);
    }

    /// Serves the client over one transport.
    async fn serve(&mut self, transport: &mut Transport, error: Option<ProtocolError>) -> End {
        match self.serving(transport, error).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn serving(
        &mut self,
        transport: &mut Transport,
        error: Option<ProtocolError>,
    ) -> Result<End, End> {
        let every = self.heartbeat_interval(transport);
        transport.send(&self.connected(every, error)).await?;
        let version = transport.query.version.unwrap_or(REATTACHING_VERSION);
        if version < REATTACHING_VERSION {
            self.replay_all(transport).await?;
        }
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut phase = self.realtime.phase();
        let mut revoked = self.realtime.ports.access.revoked();
        revoked.mark_changed();
        loop {
            let mailbox = Arc::clone(&self.mailbox);
            let renewal = self
                .renewal
                .map(|renewal| renewal.ask.unwrap_or(renewal.end));
            tokio::select! {
                incoming = transport.next() => {
                    heard = Instant::now();
                    match incoming {
                        Incoming::Payload(payload) => {
                            if let Some(end) = self.payload(transport, &payload).await? {
                                return Ok(end);
                            }
                        }
                        Incoming::Alive => {}
                        Incoming::TooLarge => return Ok(End::Over(self.too_large())),
                        Incoming::Gone => return Ok(End::Lost),
                    }
                }
                () = mailbox.news() => {
                    if let Some(end) = self.mail(transport).await? {
                        return Ok(end);
                    }
                }
                () = handover::let_count(&mut self.held), if self.held.is_some() => {
                    self.held = None;
                    self.begin_to_count(transport).await?;
                }
                item = self.attachments.watches.next(), if !self.attachments.watches.is_empty() => {
                    if let Some((attachment, item)) = item {
                        self.told(transport, attachment, item).await?;
                    }
                }
                _ = ticks.tick() => {
                    if heard.elapsed() > 2 * every {
                        telemetry::rejected("silent");
                        return Ok(End::Lost);
                    }
                    if let Err(error) = self.realtime.ports.access.check(&self.credential) {
                        return Ok(End::Dropped(error.into()));
                    }
                    if transport.query.heartbeats {
                        transport.feed(&ServerFrame::Heartbeat { id: None }).await?;
                    }
                    if !transport.ping().await? {
                        heard = Instant::now();
                    }
                }
                Ok(()) = revoked.changed() => {
                    let access = &self.realtime.ports.access;
                    if let Err(error) = access.check(&self.credential) {
                        return Ok(End::Dropped(error.into()));
                    }
                    if !self.warned && access.is_announced(&self.credential) {
                        self.warned = true;
                        transport.send(&ServerFrame::Auth).await?;
                    }
                }
                () = sleep_until(renewal) => {
                    if let Some(renewal) = &mut self.renewal
                        && renewal.ask.take().is_some()
                    {
                        transport.send(&ServerFrame::Auth).await?;
                        continue;
                    }
                    let now_ms = self.realtime.ports.clock.wall().0;
                    if let Err(error) = self.credential.check_expiry(now_ms) {
                        return Ok(End::Dropped(error.into()));
                    }
                    // The wall clock was set back meanwhile.
                    self.renewal = Renewal::of(&self.credential, now_ms);
                }
                () = until(&mut phase, Phase::Draining) => {
                    let error = draining();
                    return Ok(End::Over(ServerFrame::Disconnected { error }));
                }
            }
        }
    }

    /// How often signs of life are sent: as the client wishes, else as usual.
    fn heartbeat_interval(&self, transport: &Transport) -> Duration {
        let wish = transport.query.heartbeat_interval_ms;
        wish.map_or(
            self.realtime.config.heartbeat_interval,
            Duration::from_millis,
        )
    }

    fn connected(&self, heartbeat: Duration, error: Option<ProtocolError>) -> ServerFrame {
        let (config, limits) = (&self.realtime.config, &self.quota.limits);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let source = &self.realtime.ports.source;
        ServerFrame::Connected {
            connection_id: self.names.id.to_string(),
            details: Box::new(ConnectionDetails {
                client_id: self.identity.announced().map(str::to_owned),
                connection_key: self.names.key(source.node),
                max_message_size: limits.message_bytes_max as u64,
                max_frame_size: config.frame_bytes_max as u64,
                max_inbound_rate: u64::from(limits.connection_messages.per_second),
                connection_state_ttl_ms: ms(config.resume_window),
                max_idle_interval_ms: ms(heartbeat),
                server_id: format!("{}.{}", source.region, source.node),
                site_code: Some(source.region.to_string()),
            }),
            error,
        }
    }

    /// The last word to a client of which a frame was so large that it was not even read.
    fn too_large(&self) -> ServerFrame {
        let max = self.realtime.config.frame_bytes_max;
        let message = format!("a frame has at most {max} bytes (maxFrameSize)");
        ServerFrame::Error {
            channel: None,
            error: ProtocolError::new(40009, 413, message),
        }
    }

    /// Does what a frame asks for.
    async fn payload(
        &mut self,
        transport: &mut Transport,
        payload: &[u8],
    ) -> Result<Option<End>, Broken> {
        let rate = self.realtime.config.frame_rate;
        if !self.frames.take(rate, 1, self.realtime.hub.monotonic()) {
            let frame = ServerFrame::Error {
                channel: None,
                error: Limit::ConnectionFrames.exceeded(rate).into(),
            };
            return Ok(Some(End::Over(frame)));
        }
        let limits = self.realtime.limits(&self.quota.limits);
        let frame = match ClientFrame::decode(transport.query.format, payload, &limits) {
            Ok(frame) => frame,
            Err(refused) => {
                telemetry::frame_refused(&refused.error);
                let reply = refused.reply();
                if matches!(&reply, ServerFrame::Error { channel: None, .. }) {
                    return Ok(Some(End::Over(reply)));
                }
                transport.send(&reply).await?;
                return Ok(None);
            }
        };
        match frame {
            ClientFrame::Heartbeat { id } => {
                if id.is_some() {
                    transport.feed(&ServerFrame::Heartbeat { id }).await?;
                }
            }
            ClientFrame::Close => return Ok(Some(End::Over(ServerFrame::Closed))),
            ClientFrame::Disconnect => return Ok(Some(End::Lost)),
            ClientFrame::Attach {
                channel,
                channel_serial,
                params,
                flags,
            } => {
                let serial = channel_serial.as_deref();
                self.attach(transport, &channel, serial, &params, flags)
                    .await?;
            }
            ClientFrame::Detach { channel } => self.detach(transport, &channel).await?,
            ClientFrame::Presence {
                channel,
                msg_serial,
                items,
            } => {
                let outcome = self.change_presence(&channel, msg_serial, items).await;
                let results = outcome.map(|()| Vec::new());
                transport.feed(&acknowledge(msg_serial, results)).await?;
            }
            ClientFrame::Message {
                channel,
                msg_serial,
                messages,
            } => {
                let outcome = self.publish(&channel, msg_serial, messages).await;
                let results = outcome.map(|result| vec![result]);
                transport.feed(&acknowledge(msg_serial, results)).await?;
            }
            ClientFrame::Sync { channel, .. } => self.sync(transport, &channel).await?,
            ClientFrame::Auth { access_token } => {
                if let Some(end) = self.renew(transport, &access_token).await? {
                    return Ok(Some(end));
                }
            }
            ClientFrame::Unknown { msg_serial, .. } => {
                if let Some(msg_serial) = msg_serial {
                    let error = ProtocolError::new(
                        40000,
                        400,
                        "this service does not carry objects or annotations",
                    );
                    transport.feed(&acknowledge(msg_serial, Err(error))).await?;
                }
            }
        }
        transport.flush().await?;
        Ok(None)
    }

    /// Takes a new token, and lets go what it does not permit.
    async fn renew(
        &mut self,
        transport: &mut Transport,
        token: &str,
    ) -> Result<Option<End>, Broken> {
        let ports = &self.realtime.ports;
        let now_ms = ports.clock.wall().0;
        let judged = authenticate(&ports.access.apps(), Presented::TokenParam(token), now_ms)
            .and_then(|credential| {
                ports.access.check(&credential)?;
                let identity = credential.takes_over(&self.credential, &self.identity)?;
                Ok((credential, identity))
            });
        let (credential, identity) = match judged {
            Ok(judged) => judged,
            Err(error) => return Ok(Some(End::Dropped(error.into()))),
        };
        self.take_credential(credential);
        self.identity = identity;
        let every = self.heartbeat_interval(transport);
        transport.feed(&self.connected(every, None)).await?;
        self.repermit(transport).await?;
        Ok(None)
    }

    /// Sends what others left.
    async fn mail(&mut self, transport: &mut Transport) -> Result<Option<End>, Broken> {
        let mail = self.mailbox.take();
        for next in mail.resumes {
            // The client came back before its old transport was found to be gone.
            if let Some(next) = self.take_up(next).await {
                self.attachments.pause();
                return Ok(Some(End::Replaced(next)));
            }
        }
        if let Some(answer) = mail.release.and_then(|release| self.let_go(release)) {
            return Ok(Some(End::Moved(answer)));
        }
        for delivery in mail.deliveries {
            self.deliver(transport, delivery).await?;
        }
        for (attachment, occupancy) in mail.occupancy {
            self.tell_occupancy(transport, attachment, &occupancy)
                .await?;
        }
        for attachment in mail.lagging {
            self.shed(transport, attachment).await?;
        }
        transport.flush().await?;
        Ok(None)
    }

    /// Tells `[meta]connection.lifecycle`.
    fn tell_lifecycle(&self, name: &'static str, reason: Option<&str>) {
        let client_id = match &self.identity {
            ClientIdRule::Fixed(id) => Some(id.as_str()),
            ClientIdRule::Any | ClientIdRule::Anonymous => None,
        };
        self.realtime.tell_connection(
            &self.app,
            name,
            &self.names.id,
            self.carrier,
            client_id,
            reason,
        );
    }
}

/// The answer to a frame that waits to be acknowledged.
fn acknowledge(
    msg_serial: u64,
    outcome: Result<Vec<headcount_realtime::PublishResult>, ProtocolError>,
) -> ServerFrame {
    match outcome {
        Ok(results) => ServerFrame::Ack {
            msg_serial,
            count: 1,
            results,
        },
        Err(error) => {
            telemetry::told(error.code);
            ServerFrame::Nack {
                msg_serial,
                count: 1,
                error,
            }
        }
    }
}

/// What a client is told of a node that takes nobody any more.
pub(super) fn draining() -> ProtocolError {
    ProtocolError::new(80003, 503, "this node shuts down: connect to another")
}

/// How long members stay after a drop, as the client wishes.
fn remain_present_for(transport: &Transport) -> Option<Duration> {
    let wish = transport.query.remain_present_for_ms;
    wish.map(Duration::from_millis)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
