//! What a watcher asks for and is given, whichever surface it came by (gRPC, SSE, metachannel).

use std::sync::Arc;

use crate::{AppId, ChannelKey, CursorError, Event, EventKind, Position, RegionName, ShardId};

/// Event kinds: a set of [`EventKind`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKinds(u8);

impl EventKinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);

    /// Returns whether `kind` is in the set.
    #[must_use]
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Returns whether a kind that speaks of one region is in the set.
    #[must_use]
    pub fn any_regional(self) -> bool {
        self.contains(EventKind::RegionActive) || self.contains(EventKind::RegionInactive)
    }

    /// Returns whether no kind is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

impl Default for EventKinds {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(
            kinds
                .into_iter()
                .fold(0, |bits, kind| bits | (1 << kind as u8)),
        )
    }
}

/// Watch filter: which events a watcher wants. A cursor is resumed with the filter that it was
/// given under; another one is safe, but may be told less about transitions that were under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchFilter {
    /// The tenant whose channels are watched; `None` means every tenant and is for operators only.
    pub app: Option<AppId>,
    /// Channels whose names begin with this text, byte for byte; empty for all.
    pub prefix: String,
    /// Which kinds.
    pub kinds: EventKinds,
}

impl WatchFilter {
    /// Returns whether the filter wants `event`.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.kinds.contains(event.kind) && self.covers(&event.channel)
    }

    /// Returns whether `channel` is among the watched ones.
    #[must_use]
    pub fn covers(&self, channel: &ChannelKey) -> bool {
        self.app.as_ref().is_none_or(|app| *app == channel.app)
            && channel.name.as_str().starts_with(&self.prefix)
    }
}

/// Watch event: an event as every watcher of a node shares it, so that it is encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The shard that it belongs to.
    pub shard: ShardId,
    /// Where the log has it; `None` for a transition told ahead of the log and for a correction.
    pub position: Option<Position>,
    /// The event.
    pub event: Event,
}

/// Watch item: one thing that a watcher is told, in order.
///
/// Order holds per channel: events of different shards are interleaved as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Events, at least one.
    Events {
        /// In the order in which they are to be believed.
        events: Vec<Arc<WatchEvent>>,
        /// The resume point after the last of them, a token of [`crate::Cursor`].
        cursor: String,
    },
    /// Events are missing, never silently: what follows continues after `from`. To re-sync,
    /// enumerate the shard's (or the region's) present state by REST after reading this; what
    /// follows carries absolute states, so applying it on top of the enumeration ends right.
    Gap {
        /// The shard that lost events.
        shard: ShardId,
        /// If only one region's transitions are in doubt, that region; else everything is.
        region: Option<RegionName>,
        /// Events continue after this position.
        from: Position,
        /// The resume point after the gap.
        cursor: String,
    },
    /// Nothing happened that the filter wants, but the resume point moved.
    Position {
        /// The resume point.
        cursor: String,
    },
    /// The last item: the node ends the watch, which can be resumed here or elsewhere.
    End {
        /// Why.
        reason: WatchEnd,
        /// The resume point.
        cursor: String,
    },
}

/// Watch end: why a node ended a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchEnd {
    /// The watcher did not read fast enough, even with occupancy rolled up.
    TooSlow,
    /// The node is draining or no longer holds a shard that is watched: resume on another node.
    Moved,
    /// Missing events could not be read: resume later or on another node.
    Unavailable,
}

impl WatchEnd {
    /// Returns the name used on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Moved => "moved",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a watch did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The cursor is no cursor of this cluster.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The cursor names a shard that the cluster does not have.
    #[error("the cursor names shard {shard}, the cluster has {shards}: it is from another cluster")]
    UnknownShard {
        /// The shard.
        shard: ShardId,
        /// How many shards the cluster has, numbered from 0.
        shards: u32,
    },
    /// The node already serves as many watchers as it may.
    #[error("the node serves {max} watchers already: watch through another node")]
    TooManyWatchers {
        /// The bound.
        max: usize,
    },
    /// The node cannot serve watchers at present.
    #[error("the node cannot serve watchers now: {0}")]
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Era, EventId, Occupancy, Timestamp};

    fn event(app: &str, name: &str, kind: EventKind) -> Event {
        Event {
            id: EventId::Log {
                era: Era(1),
                shard: ShardId(2),
                position: Position::default(),
            },
            kind,
            channel: ChannelKey::new(app, name).unwrap(),
            at: Timestamp(0),
            region: RegionName::new("eu-west-1").unwrap(),
            is_global_master: true,
            active: true,
            occupancy: Occupancy::ZERO,
        }
    }

    #[test]
    fn every_part_of_a_filter_counts() {
        let filter = WatchFilter {
            app: Some(AppId::new("dev").unwrap()),
            prefix: "room:".into(),
            kinds: [EventKind::Opened, EventKind::RegionActive]
                .into_iter()
                .collect(),
        };
        assert!(filter.matches(&event("dev", "room:1", EventKind::Opened)));
        assert!(!filter.matches(&event("dev", "room:1", EventKind::Closed)));
        assert!(!filter.matches(&event("dev", "lobby", EventKind::Opened)));
        assert!(!filter.matches(&event("other", "room:1", EventKind::Opened)));
        let all = WatchFilter::default();
        assert!(
            EventKind::ALL
                .iter()
                .all(|kind| all.matches(&event("x", "y", *kind)))
        );
    }
}
