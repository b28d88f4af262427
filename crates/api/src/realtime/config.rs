//! The settings of the realtime protocol: every bound with its reason.

use std::time::Duration;

use super::mailbox::Capacity;
use super::rates::Rate;

/// The settings of realtime connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeConfig {
    /// Most connections of this node, those without a transport included; above it, a client is
    /// told 40111 and to try elsewhere. Bounds memory, about 10 kB each.
    pub connections_max: usize,
    /// Most connections of one app on this node; above it, 40111.
    pub app_connections_max: usize,
    /// New connections of this node in a second; above it, 80021. Keeps a storm from starving
    /// those who are connected.
    pub connect_rate: Rate,
    /// Most channels that a connection may be attached to; above it, 90010.
    pub channels_max: usize,
    /// Messages and presence changes that a connection may send; above it, they are refused with
    /// 42911.
    pub inbound_rate: Rate,
    /// Frames of any kind that a connection may send; above it, it is ended with 42924.
    pub frame_rate: Rate,
    /// Longest frame of a client, in bytes; above it, the connection is ended with 40009.
    pub frame_bytes_max: usize,
    /// Largest sum of the messages of a frame, in bytes; above it, they are refused with 40009.
    pub message_bytes_max: usize,
    /// Most members of a channel's presence set; above it, 91003.
    pub members_max: usize,
    /// How long a connection that was dropped goes on counting, and its members stay.
    pub grace: Duration,
    /// How long after a drop a client may resume.
    pub resume_window: Duration,
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
        let rate = |per_second, burst| Rate { per_second, burst };
        Self {
            connections_max: 20_000,
            app_connections_max: 20_000,
            connect_rate: rate(2_500, 5_000),
            channels_max: 200,
            inbound_rate: rate(50, 200),
            frame_rate: rate(2_000, 4_000),
            frame_bytes_max: 524_288,
            message_bytes_max: 262_144,
            members_max: 20_000,
            grace: Duration::from_secs(15),
            resume_window: Duration::from_secs(120),
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
    /// How much may wait for a connection.
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity {
            deliveries: self.outbound_max,
            bytes: self.outbound_bytes_max,
        }
    }
}
