//! Nodes that follow a shard's feed: they are told whatever the feed is told, in the same order.

use headcount_feed::{Input, Start};
use headcount_model::RegionName;
use headcount_rpc::read::{Early, FollowItem, Record};
use headcount_wire::encode_logged;
use tokio::sync::{mpsc, oneshot};

use super::owning::transition_of;
use crate::telemetry;

/// Items that may wait for one follower. Who is slower than that begins anew, with what it missed
/// read from the journal.
pub(crate) const FOLLOW_ITEMS_MAX: usize = 1_024;

/// Somebody who wants to follow.
#[derive(Debug)]
pub(crate) struct Follow {
    /// The region for which it follows.
    pub(crate) region: RegionName,
    /// Where it is told what the feed is told.
    pub(crate) items: mpsc::Sender<FollowItem>,
    /// Where it is told once where it begins.
    pub(crate) begun: oneshot::Sender<Start>,
}

/// Everybody who follows.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<(RegionName, mpsc::Sender<FollowItem>)>);

impl Followers {
    /// Takes a follower up, which is told everything after `start`.
    pub(super) fn begin(&mut self, follow: Follow, start: Start) {
        self.0.retain(|(_, items)| !items.is_closed());
        if follow.begun.send(start).is_ok() {
            self.0.push((follow.region, follow.items));
        }
    }

    /// Passes on what the feed is told. Followers that are too slow are dropped, and so are all of
    /// them when entries are missing here: they begin anew.
    pub(super) fn pass_on(&mut self, input: &Input) {
        if self.0.is_empty() {
            return;
        }
        let (item, of) = match input {
            Input::Logged(logged) => {
                let (index, entry) = (logged.index, encode_logged(logged));
                (FollowItem::Record(Record { index, entry }), None)
            }
            Input::Advanced(position) => (FollowItem::Advanced(position.index), None),
            Input::Early { event, logged } => {
                let Some((owner, transition)) = transition_of(event) else {
                    return;
                };
                let early = Early {
                    owner,
                    transition,
                    logged: *logged,
                };
                (FollowItem::Early(Box::new(early)), Some(&event.region))
            }
            Input::Jumped(_) => {
                self.0.clear();
                return;
            }
        };
        self.0.retain(|(region, items)| {
            if of.is_some_and(|of| of != region) {
                return true;
            }
            let sent = items.try_send(item.clone());
            if let Err(mpsc::error::TrySendError::Full(_)) = sent {
                telemetry::follower_dropped();
            }
            sent.is_ok()
        });
    }
}
