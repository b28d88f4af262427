//! What was lost and no client could be told, until it is written to `[meta]log`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use headcount_model::AppId;

use super::LOG;
use super::hub::Place;
use crate::telemetry;

/// Loss: what can be lost without a client that could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Messages that waited for the channel's regional owner, too long or with too many others.
    Unsent,
    /// Messages for which a queue of the relay had no room.
    Crowded,
    /// Members elsewhere for which a channel had no room.
    Members,
    /// Channels that are not relayed, as the node relays as many as it may.
    Channels,
    /// Messages forgotten before their time, as all channels together remember too much.
    Memory,
}

impl Loss {
    /// The metric's reason.
    fn reason(self) -> &'static str {
        match self {
            Self::Unsent => "relay_unsent",
            Self::Crowded => "relay_crowded",
            Self::Members => "relay_members",
            Self::Channels => "relay_channels",
            Self::Memory => "memory_total",
        }
    }

    /// The source after which the log's message is named.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Members => "channel.presence",
            Self::Unsent | Self::Crowded | Self::Channels | Self::Memory => "channel.message",
        }
    }

    /// The error's code and status.
    pub(super) fn code(self) -> (u32, u16) {
        match self {
            Self::Unsent => (50003, 503),
            Self::Members => (91003, 400),
            Self::Crowded | Self::Channels | Self::Memory => (42910, 429),
        }
    }

    /// What happened and what may be done.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Unsent => {
                "messages were not relayed: no owner of their shard was reached in this region in time"
            }
            Self::Crowded => {
                "messages were not relayed: they came faster than nodes took them; publish fewer, \
                 or spread them over more channels"
            }
            Self::Members => {
                "members of other nodes are not shown: the channel has as many as it may \
                 (realtime.members_max)"
            }
            Self::Channels => {
                "channels are not relayed: this node has attachments to as many of their shard as \
                 it may; spread clients over more nodes"
            }
            Self::Memory => {
                "messages were forgotten early: this node's channels remember as much as they may"
            }
        }
    }
}

/// What was lost of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The first channel.
    pub(super) channel: std::sync::Arc<str>,
    /// How much, on all channels of the app.
    pub(super) count: u64,
}

/// What was lost since it was last told: by app and kind, so that it stays small.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<BTreeMap<(AppId, Loss), Lost>>);

impl Losses {
    /// Notes a loss. Waits for nobody, so it may be called wherever something is lost.
    pub(super) fn note(&self, place: &Place, loss: Loss, count: u64) {
        telemetry::lost(loss.reason(), count);
        if &*place.name == LOG {
            // Telling that something of the log was lost would lose more.
            return;
        }
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Lost {
            channel: place.name.clone(),
            count: 0,
        };
        let lost = losses
            .entry((place.app.clone(), loss))
            .or_insert_with(fresh);
        lost.count += count;
    }

    /// Takes what was noted.
    pub(super) fn take(&self) -> BTreeMap<(AppId, Loss), Lost> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_add_up_for_each_app_and_those_of_the_log_are_not_told() {
        let losses = Losses::default();
        let place = |app: &str, name: &str| Place {
            app: AppId::new(app).unwrap(),
            name: name.into(),
        };
        losses.note(&place("dev", "a"), Loss::Crowded, 2);
        losses.note(&place("dev", "b"), Loss::Crowded, 3);
        losses.note(&place("dev", "b"), Loss::Members, 1);
        losses.note(&place("other", "c"), Loss::Crowded, 1);
        losses.note(&place("dev", LOG), Loss::Unsent, 1);
        let taken = losses.take().into_iter();
        let taken: Vec<_> = taken
            .map(|((app, loss), lost)| {
                (app.to_string(), loss, lost.channel.to_string(), lost.count)
            })
            .collect();
        let expected = [
            ("dev", Loss::Crowded, "a", 5),
            ("dev", Loss::Members, "b", 1),
            ("other", Loss::Crowded, "c", 1),
        ];
        let expected = expected
            .map(|(app, loss, channel, count)| (app.to_owned(), loss, channel.to_owned(), count));
        assert_eq!(taken, expected);
        assert!(losses.take().is_empty(), "nothing is told twice");
    }
}
