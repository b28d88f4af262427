//! What an app may do on a node: its limits, what is left of them, and what whoever reaches one is
//! told.
//!
//! Rates are the node's: each node counts what its own clients do. Only a channel's rates count
//! what other nodes relay, too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use headcount_model::{AppId, Bucket, Monotonic, Rate};
use headcount_realtime::{Broadcast, Content, ProtocolError};

use crate::telemetry;

/// What one app may do on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppLimits {
    /// Most connections, those without a transport included; above it, 40111.
    pub connections_max: usize,
    /// New connections; above it, 80021.
    pub connects: Rate,
    /// Channels that come into use on the node; above it, 90021, and clients try again.
    pub channels: Rate,
    /// Messages and presence changes of all clients together; above it, 42917.
    pub messages: Rate,
    /// Requests over HTTP; above it, 42918.
    pub requests: Rate,
    /// Most channels that a connection may be attached to; above it, 90010.
    pub connection_channels_max: usize,
    /// Messages and presence changes of a connection; above it, 42911.
    pub connection_messages: Rate,
    /// Messages of a channel that is no metachannel; above it, 42913.
    pub channel_messages: Rate,
    /// Bytes of those messages; above it, 42914.
    pub channel_bytes: Rate,
    /// Most members of a channel's presence set; above it, 91003.
    pub channel_members_max: usize,
    /// Largest sum of the messages of a frame, in bytes; above it, they are refused with 40009.
    pub message_bytes_max: usize,
}

impl Default for AppLimits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connects: Rate::over(2, 2_500),
            channels: Rate::over(2, 10_000),
            messages: Rate::over(2, 100_000),
            requests: Rate::over(2, 10_000),
            connection_channels_max: 200,
            connection_messages: Rate::over(4, 50),
            channel_messages: Rate::over(4, 50),
            channel_bytes: Rate::over(4, 1 << 20),
            channel_members_max: 20_000,
            message_bytes_max: 262_144,
        }
    }
}

/// A rate that clients can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    ConnectionMessages,
    ConnectionFrames,
    ChannelMessages,
    ChannelBytes,
    AppMessages,
    AppRequests,
    AppChannels,
    AppConnects,
    NodeConnects,
}

/// What is known about a [`Limit`].
struct Row {
    code: u32,
    /// What it is called in `api_rejected_total`.
    reason: &'static str,
    /// What it is called in messages, as the contract has it.
    metric: &'static str,
    /// What there was more of than so many in a second.
    what: &'static str,
}

impl Limit {
    fn row(self) -> Row {
        let row = |code, reason, metric, what| Row {
            code,
            reason,
            metric,
            what,
        };
        match self {
            Self::ConnectionMessages => row(
                42911,
                "message_rate",
                "connection.inboundRate",
                "messages of the connection",
            ),
            Self::ConnectionFrames => row(
                42924,
                "frame_rate",
                "connection.inboundRate",
                "frames of the connection",
            ),
            Self::ChannelMessages => row(
                42913,
                "channel_message_rate",
                "channel.maxRate",
                "messages on the channel",
            ),
            Self::ChannelBytes => row(
                42914,
                "channel_byte_rate",
                "channel.maxBandwidth",
                "bytes of messages on the channel",
            ),
            Self::AppMessages => row(
                42917,
                "app_message_rate",
                "messages.maxRate",
                "messages of the app on this node",
            ),
            Self::AppRequests => row(
                42918,
                "app_request_rate",
                "apiRequests.maxRate",
                "requests of the app on this node",
            ),
            Self::AppChannels => row(
                90021,
                "app_channel_rate",
                "channels.maxRate",
                "new channels of the app on this node",
            ),
            Self::AppConnects => row(
                80021,
                "app_connect_rate",
                "connections.maxRate",
                "new connections of the app on this node",
            ),
            Self::NodeConnects => row(
                80021,
                "connect_rate",
                "connections.maxRate",
                "new connections of this node",
            ),
        }
    }

    /// Notes that somebody has reached it.
    pub(crate) fn exceeded(self, rate: Rate) -> Exceeded {
        telemetry::rejected(self.row().reason);
        Exceeded { limit: self, rate }
    }
}

/// A rate that somebody has reached, and is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    limit: Limit,
    rate: Rate,
}

impl Exceeded {
    pub(crate) fn code(self) -> u32 {
        self.limit.row().code
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, row) = (self.rate, self.limit.row());
        let (what, metric) = (row.what, row.metric);
        let Rate { per_second, burst } = rate;
        write!(
            f,
            "more than {per_second} {what} in a second, or {burst} at once (metric = {metric}); try \
             again later, with less"
        )
    }
}

impl std::error::Error for Exceeded {}

impl From<Exceeded> for ProtocolError {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(exceeded.code(), 429, exceeded.to_string())
    }
}

/// What an app has left of its limits. One for each app that is at work on the node; connections
/// and channels hold theirs, so that nobody looks it up for a message.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) limits: AppLimits,
    /// Held for some arithmetic, never across an await or another lock.
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    connects: Bucket,
    channels: Bucket,
    messages: Bucket,
    requests: Bucket,
}

impl Quota {
    pub(crate) fn new(limits: AppLimits) -> Self {
        Self {
            limits,
            left: Mutex::default(),
        }
    }

    /// Takes a request.
    pub(crate) fn request(&self, now: Monotonic) -> Result<(), Exceeded> {
        let rate = self.limits.requests;
        let took = self.left().requests.take(rate, 1, now);
        took.then_some(())
            .ok_or_else(|| Limit::AppRequests.exceeded(rate))
    }

    /// Takes a new connection, if that fits into the node's own rate, too.
    pub(crate) fn connect(
        &self,
        of_node: &Mutex<Bucket>,
        node_rate: Rate,
        now: Monotonic,
    ) -> Result<(), Exceeded> {
        let rate = self.limits.connects;
        let mut of_node = of_node.lock().unwrap_or_else(PoisonError::into_inner);
        if !of_node.fits(node_rate, 1, now) {
            return Err(Limit::NodeConnects.exceeded(node_rate));
        }
        if !self.left().connects.take(rate, 1, now) {
            return Err(Limit::AppConnects.exceeded(rate));
        }
        let _fits = of_node.take(node_rate, 1, now);
        Ok(())
    }

    /// Takes a channel that comes into use on the node.
    pub(crate) fn open_channel(&self, now: Monotonic) -> Result<(), Exceeded> {
        self.say(0, true, now)
    }

    /// Takes messages or presence changes, and a channel if they are the first on it.
    pub(crate) fn say(&self, count: u64, opens: bool, now: Monotonic) -> Result<(), Exceeded> {
        let AppLimits {
            channels, messages, ..
        } = self.limits;
        let mut left = self.left();
        if opens && !left.channels.fits(channels, 1, now) {
            return Err(Limit::AppChannels.exceeded(channels));
        }
        if !left.messages.take(messages, count, now) {
            return Err(Limit::AppMessages.exceeded(messages));
        }
        if opens {
            let _fits = left.channels.take(channels, 1, now);
        }
        Ok(())
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The quotas of all apps. As many as there are apps with keys, since nobody else gets as far.
#[derive(Debug)]
pub(crate) struct Quotas {
    usual: AppLimits,
    special: BTreeMap<AppId, AppLimits>,
    at_work: RwLock<HashMap<AppId, Arc<Quota>>>,
}

impl Quotas {
    /// Makes them: what is usual, and what is special of some apps.
    pub(crate) fn new(usual: AppLimits, special: BTreeMap<AppId, AppLimits>) -> Self {
        Self {
            usual,
            special,
            at_work: RwLock::default(),
        }
    }

    /// Returns an app's. For requests and connections; not for each message.
    pub(crate) fn of(&self, app: &AppId) -> Arc<Quota> {
        let at_work = self.at_work.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = at_work.get(app) {
            return Arc::clone(quota);
        }
        drop(at_work);
        let limits = self.special.get(app).copied().unwrap_or(self.usual);
        let mut at_work = self.at_work.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Quota::new(limits));
        Arc::clone(at_work.entry(app.clone()).or_insert_with(fresh))
    }
}

/// What a publish takes of a channel's rates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    messages: u64,
    bytes: u64,
}

impl Load {
    /// Weighs messages; presence changes are not among what a channel's rates bound.
    pub(crate) fn of(broadcast: &Broadcast) -> Self {
        match broadcast.content() {
            Content::Messages(messages) => Self {
                messages: messages.len() as u64,
                bytes: messages.iter().map(|one| one.size() as u64).sum(),
            },
            Content::Presence(_) => Self {
                messages: 0,
                bytes: 0,
            },
        }
    }
}

/// What was said on a channel lately. Lives with the channel, under its lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    messages: Bucket,
    bytes: Bucket,
}

impl Flow {
    /// Takes a publish of the channel's rates and of its app's, or nothing of either.
    pub(crate) fn publish(
        &mut self,
        quota: &Quota,
        load: Load,
        opens: bool,
        now: Monotonic,
    ) -> Result<(), Exceeded> {
        let limits = &quota.limits;
        let (messages, bytes) = (limits.channel_messages, limits.channel_bytes);
        if !self.messages.fits(messages, load.messages, now) {
            return Err(Limit::ChannelMessages.exceeded(messages));
        }
        if !self.bytes.fits(bytes, load.bytes, now) {
            return Err(Limit::ChannelBytes.exceeded(bytes));
        }
        quota.say(load.messages, opens, now)?;
        self.relayed(limits, load, now);
        Ok(())
    }

    /// Counts what another node has let pass.
    pub(crate) fn relayed(&mut self, limits: &AppLimits, load: Load, now: Monotonic) {
        self.messages
            .drain(limits.channel_messages, load.messages, now);
        self.bytes.drain(limits.channel_bytes, load.bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Monotonic = Monotonic(Duration::ZERO);
    const ONE: Load = Load {
        messages: 1,
        bytes: 10,
    };

    fn once() -> Rate {
        Rate::over(1, 1)
    }

    fn code(outcome: Result<(), Exceeded>) -> u32 {
        outcome.map_or_else(Exceeded::code, |()| 0)
    }

    #[test]
    fn a_publish_that_one_limit_refuses_costs_nothing_of_the_others() {
        let quota = Quota::new(AppLimits {
            messages: Rate::over(1, 2),
            channels: once(),
            channel_messages: once(),
            ..AppLimits::default()
        });
        let (mut first, mut second) = (Flow::default(), Flow::default());
        assert_eq!(code(first.publish(&quota, ONE, true, NOW)), 0);
        assert_eq!(code(first.publish(&quota, ONE, false, NOW)), 42913);
        // A second new channel may not be; the channel and the app have not paid for that.
        assert_eq!(code(second.publish(&quota, ONE, true, NOW)), 90021);
        assert_eq!(code(second.publish(&quota, ONE, false, NOW)), 0);
        let mut third = Flow::default();
        assert_eq!(code(third.publish(&quota, ONE, false, NOW)), 42917);
        let later = NOW.after(Duration::from_millis(500));
        assert_eq!(code(third.publish(&quota, ONE, false, later)), 0);
    }

    #[test]
    fn bytes_are_bounded_whatever_they_are_bytes_of() {
        let quota = Quota::new(AppLimits {
            channel_bytes: Rate::over(2, 10),
            ..AppLimits::default()
        });
        let mut flow = Flow::default();
        assert_eq!(code(flow.publish(&quota, ONE, false, NOW)), 0);
        let large = Load {
            messages: 1,
            bytes: 11,
        };
        assert_eq!(code(flow.publish(&quota, large, false, NOW)), 42914);
        assert_eq!(code(flow.publish(&quota, ONE, false, NOW)), 0);
    }

    #[test]
    fn what_other_nodes_let_pass_counts_on_the_channel_alone() {
        let quota = Quota::new(AppLimits {
            messages: once(),
            channel_messages: Rate::over(1, 2),
            ..AppLimits::default()
        });
        let mut flow = Flow::default();
        flow.relayed(&quota.limits, ONE, NOW);
        flow.relayed(&quota.limits, ONE, NOW);
        assert_eq!(code(flow.publish(&quota, ONE, false, NOW)), 42913);
        assert_eq!(code(Flow::default().publish(&quota, ONE, false, NOW)), 0);
    }

    #[test]
    fn new_connections_are_bounded_by_app_and_by_node() {
        let of_node = Mutex::default();
        let node_rate = Rate::over(1, 2);
        let quotas = Quotas::new(
            AppLimits {
                connects: once(),
                ..AppLimits::default()
            },
            BTreeMap::from([(AppId::new("free").unwrap(), AppLimits::default())]),
        );
        let quota = |app| quotas.of(&AppId::new(app).unwrap());
        let connect = |app| code(quota(app).connect(&of_node, node_rate, NOW));
        assert_eq!((connect("a"), connect("a")), (0, 80021));
        // The refused one cost the node nothing.
        assert_eq!((connect("free"), connect("b")), (0, 80021));
        let of_node = Mutex::default();
        assert_eq!(code(quota("b").connect(&of_node, node_rate, NOW)), 0);
    }

    #[test]
    fn messages_say_which_limit_it_is() {
        let told: ProtocolError = Limit::ChannelMessages.exceeded(Rate::over(4, 50)).into();
        assert_eq!((told.code, told.status_code), (42913, 429));
        let begin = "more than 50 messages on the channel in a second, or 200 at once";
        assert!(told.message.starts_with(begin), "{told:?}");
        assert!(
            told.message.contains("(metric = channel.maxRate)"),
            "{told:?}"
        );
    }
}
