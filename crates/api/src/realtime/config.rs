//! The settings of the realtime protocol: every bound with its reason.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_model::{AppId, Rate};

use super::mailbox::Capacity;
use crate::limits::AppLimits;

/// The settings of realtime connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeConfig {
    /// Most connections of this node, those without a transport included; above it, a client is
    /// told 40111 and to try elsewhere. Bounds memory, about 10 kB each.
    pub connections_max: usize,
    /// New connections of this node in a second; above it, 80021. Keeps a storm from starving
    /// those who are connected.
    pub connect_rate: Rate,
    /// What an app may do; requests over HTTP included.
    pub limits: AppLimits,
    /// What apps may do for which something else holds.
    pub app_limits: BTreeMap<AppId, AppLimits>,
    /// Frames of any kind that a connection may send; above it, it is ended with 42924.
    pub frame_rate: Rate,
    /// Longest frame of a client, in bytes; above it, the connection is ended with 40009.
    pub frame_bytes_max: usize,
    /// How long a connection that was dropped goes on counting, and its members stay.
    pub grace: Duration,
    /// How long after a drop a client may resume.
    pub resume_window: Duration,
    /// Most hand-overs that are under way at a time: of clients that resume here what was another
    /// node's connection, and of which that node has not said yet that it has ended. Further ones
    /// count at once, beside the old connection until its grace is over. Bounds memory, about 1 kB
    /// each.
    pub handovers_max: usize,
    /// How often a quiet connection shows that it lives. A client of which nothing comes for twice
    /// as long is taken for gone.
    pub heartbeat_interval: Duration,
    /// How long a channel remembers its messages for rewinding and resuming.
    pub memory: Duration,
    /// Most messages that a channel remembers.
    pub memory_messages_max: usize,
    /// Most bytes that a channel remembers.
    pub memory_bytes_max: usize,
    /// Most bytes that all channels of the node remember together; above it a channel that takes a
    /// message forgets those before.
    pub memory_total_max: usize,
    /// Deliveries that may wait for a connection; above it, the channel is detached with 80020 and
    /// can be attached again where it was.
    pub outbound_max: usize,
    /// Bytes of deliveries that may wait for a connection.
    pub outbound_bytes_max: usize,
}

impl Default for RealtimeConfig {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connect_rate: Rate::over(2, 2_500),
            limits: AppLimits::default(),
            app_limits: BTreeMap::new(),
            frame_rate: Rate::over(2, 2_000),
            frame_bytes_max: 524_288,
            grace: Duration::from_secs(15),
            resume_window: Duration::from_secs(120),
            handovers_max: 20_000,
            heartbeat_interval: Duration::from_secs(15),
            memory: Duration::from_secs(120),
            memory_messages_max: 1_000,
            memory_bytes_max: 4 << 20,
            memory_total_max: 256 << 20,
            outbound_max: 1_024,
            outbound_bytes_max: 4 << 20,
        }
    }
}

impl RealtimeConfig {
    /// Returns the most members that a presence set of any app may have.
    #[must_use]
    pub fn members_max(&self) -> usize {
        let apps = self.app_limits.values().chain([&self.limits]);
        apps.map(|limits| limits.channel_members_max)
            .max()
            .unwrap_or_default()
    }

    /// How much may wait for a connection.
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity {
            deliveries: self.outbound_max,
            bytes: self.outbound_bytes_max,
        }
    }
}
