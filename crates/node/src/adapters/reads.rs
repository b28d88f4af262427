//! What other nodes read here, of the shards that this node holds.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use headcount_api::ports::{ListQuery, ReadError as ApiError, ReadLevel};
use headcount_consensus::store::Journal;
use headcount_model::ShardId;
use headcount_rpc::read::{
    Basis, FollowAsk, FollowBatches, FollowItem, FollowStart, HistoryAsk, HistoryReply, JournalAsk,
    JournalReply, ListAsk, ListReply, ListedChannel, ReadError, ReadPort, RegionStanding,
    ShardStanding, StatusAsk, StatusReply,
};
use tokio::sync::{mpsc, oneshot};

use crate::reading::{Here, JOURNAL_TIMEOUT, PastHere, read_journal};
use crate::shard::{FOLLOW_ITEMS_MAX, Follow, Mail};
use crate::shards::Hosted;

/// Most items of a followed feed that share a message.
const BATCH_MAX: usize = 128;

/// Answers other nodes.
pub(crate) struct NodeReads {
    pub(crate) here: Here,
    pub(crate) journal: Journal,
    pub(crate) past: PastHere,
}

fn unavailable(reason: String) -> ReadError {
    ReadError::Unavailable(reason)
}

/// What another node is told of a read without an answer.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it maps errors, which come by value"
)]
fn refused(error: ApiError) -> ReadError {
    match error {
        ApiError::NoQuorum => ReadError::NoQuorum,
        ApiError::TimedOut { .. } => ReadError::TimedOut,
        ApiError::Unavailable { .. } | ApiError::Overloaded { .. } | ApiError::Internal { .. } => {
            unavailable(error.to_string())
        }
    }
}

impl NodeReads {
    fn hosted(&self, shard: ShardId) -> Result<Hosted, ReadError> {
        let shards = self
            .here
            .shards()
            .map_err(|error| unavailable(error.to_string()))?;
        let hosted = shards.serving(shard);
        hosted.ok_or_else(|| unavailable(format!("shard {shard} is not here")))
    }

    fn basis(&self, age: std::time::Duration) -> Basis {
        Basis {
            age,
            unheard: self.here.unheard(),
        }
    }

    async fn read_status(&self, ask: StatusAsk) -> Result<StatusReply, ReadError> {
        let hosted = self.hosted(ask.shard)?;
        let level = if ask.strong {
            ReadLevel::Strong
        } else {
            ReadLevel::Local
        };
        let read = self.here.status(ask.shard, &hosted, &ask.channel, level);
        let read = read.await.map_err(refused)?;
        Ok(StatusReply {
            status: read.status,
            coordinator: read.coordinator,
            basis: Basis {
                age: read.freshness.age,
                unheard: read.freshness.unheard,
            },
        })
    }

    fn read_list(&self, ask: ListAsk) -> Result<ListReply, ReadError> {
        let shards = ask.shards.iter().map(|shard| self.hosted(*shard));
        let shards = shards.collect::<Result<Vec<Hosted>, ReadError>>()?;
        let query = ListQuery {
            app: ask.app,
            prefix: ask.prefix,
            after: ask.after,
            limit: ask.limit,
            with_values: ask.with_values,
        };
        let (page, age) = self.here.list(&shards, &query);
        let items = page.items.into_iter().map(|item| ListedChannel {
            name: item.name,
            value: item.value,
        });
        Ok(ListReply {
            items: items.collect(),
            more: page.more,
            basis: self.basis(age),
        })
    }

    /// Reads the journal up to where the replica is, at least up to what was asked for.
    async fn read_journal(
        &self,
        hosted: &Hosted,
        ask: JournalAsk,
    ) -> Result<JournalReply, ReadError> {
        let caught_up = hosted.group.wait_applied(ask.applied, JOURNAL_TIMEOUT);
        caught_up
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        // Everything that is applied by now is in the journal.
        let (journal, applied) = (self.journal.clone(), hosted.replica.read().applied());
        let read = move || read_journal(&journal, ask.shard, ask.after, applied);
        let read = self.journal.offload(read).await;
        let read = read.map_err(|error| unavailable(error.to_string()))?;
        read.map_err(unavailable)
    }

    async fn read_history(&self, ask: HistoryAsk) -> Result<HistoryReply, ReadError> {
        for shard in &ask.shards {
            self.hosted(*shard)?;
        }
        self.past.answer(ask).await.map_err(refused)
    }

    async fn begin_following(
        &self,
        ask: FollowAsk,
    ) -> Result<(FollowStart, FollowBatches), ReadError> {
        let hosted = self.hosted(ask.shard)?;
        let (items, told) = mpsc::channel(FOLLOW_ITEMS_MAX);
        let (begun, begins) = oneshot::channel();
        let region = ask.region;
        hosted.mailbox.post(Mail::Follow(Follow {
            region,
            items,
            begun,
        }));
        let busy = |_| unavailable("the shard's driver is too busy".to_owned());
        let begins = begins.await.map_err(busy)?;
        let index = begins.position.index;
        let missed = match ask.after {
            Some(after) if after < index => {
                let ask = JournalAsk {
                    shard: ask.shard,
                    after: Some(after),
                    applied: index,
                };
                missed(self.read_journal(&hosted, ask).await?, after, index)
            }
            Some(_) => Some(Vec::new()),
            None => None,
        };
        let start = FollowStart {
            index,
            fence: begins.fence,
            number: begins.number,
            expired: begins.expired,
            resumed: missed.is_some(),
        };
        let first = missed.filter(|missed| !missed.is_empty());
        let telling = Telling {
            told,
            reached: index,
            judged_from: ask.after.unwrap_or(0),
        };
        let first = stream::iter(first);
        Ok((start, first.chain(telling.into_batches()).boxed()))
    }
}

/// Returns what a follower that knows everything up to `after` missed up to `index`, if one page of
/// the journal holds all of it.
fn missed(page: JournalReply, after: u64, index: u64) -> Option<Vec<FollowItem>> {
    if page.first > after + 1 || page.through < index {
        return None;
    }
    let records = page.records.into_iter();
    // Later ones come with what the feed is told from here on.
    let records = records.take_while(|record| record.index <= index);
    let end = FollowItem::Advanced(index);
    Some(records.map(FollowItem::Record).chain([end]).collect())
}

/// A follower's side of a feed.
struct Telling {
    told: mpsc::Receiver<FollowItem>,
    /// The log index up to which the follower was told.
    reached: u64,
    /// The log index that the follower has reached by itself: what the replica said of channels
    /// before that is no word to judge early transitions by.
    judged_from: u64,
}

impl Telling {
    fn into_batches(self) -> BoxStream<'static, Vec<FollowItem>> {
        stream::unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Option<(Vec<FollowItem>, Self)> {
        let mut items = Vec::new();
        if self.told.recv_many(&mut items, BATCH_MAX).await == 0 {
            return None;
        }
        items.retain(|item| match item {
            FollowItem::Record(record) => {
                self.reached = record.index;
                true
            }
            FollowItem::Advanced(index) => {
                self.reached = *index;
                true
            }
            FollowItem::Early(_) => self.reached >= self.judged_from,
        });
        Some((items, self))
    }
}

impl ReadPort for NodeReads {
    fn status(&self, ask: StatusAsk) -> BoxFuture<'_, Result<StatusReply, ReadError>> {
        self.read_status(ask).boxed()
    }

    fn list(&self, ask: ListAsk) -> Result<ListReply, ReadError> {
        self.read_list(ask)
    }

    fn journal(&self, ask: JournalAsk) -> BoxFuture<'_, Result<JournalReply, ReadError>> {
        async move { self.read_journal(&self.hosted(ask.shard)?, ask).await }.boxed()
    }

    fn history(&self, ask: HistoryAsk) -> BoxFuture<'_, Result<HistoryReply, ReadError>> {
        self.read_history(ask).boxed()
    }

    fn follow(
        &self,
        ask: FollowAsk,
    ) -> BoxFuture<'_, Result<(FollowStart, FollowBatches), ReadError>> {
        self.begin_following(ask).boxed()
    }

    fn describe(&self, shards: &[ShardId]) -> Vec<ShardStanding> {
        let held = shards
            .iter()
            .filter_map(|shard| Some((*shard, self.hosted(*shard).ok()?)));
        held.map(|(shard, hosted)| standing(shard, &hosted))
            .collect()
    }
}

fn standing(shard: ShardId, hosted: &Hosted) -> ShardStanding {
    let leadership = hosted.group.leadership();
    let state = hosted.replica.read();
    let regions = state.marks().map(|(region, mark)| RegionStanding {
        region: region.clone(),
        fence: mark.fence,
        settled: mark.settled,
    });
    ShardStanding {
        shard,
        leader: leadership.leader.map(|leader| leader.node),
        term: leadership.epoch.map_or(0, |epoch| epoch.term),
        regions: regions.collect(),
        channels: state.channels() as u64,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use headcount_rpc::read::Record;

    use super::*;

    fn record(index: u64) -> Record {
        Record {
            index,
            entry: Bytes::new(),
        }
    }

    fn page(first: u64, indexes: &[u64], through: u64) -> JournalReply {
        JournalReply {
            first,
            records: indexes.iter().copied().map(record).collect(),
            through,
        }
    }

    #[test]
    fn a_follower_resumes_if_one_page_holds_what_it_missed() {
        let items = [
            FollowItem::Record(record(5)),
            FollowItem::Record(record(7)),
            FollowItem::Advanced(8),
        ];
        assert_eq!(missed(page(0, &[5, 7], 8), 4, 8), Some(items.to_vec()));
        assert_eq!(missed(page(5, &[5, 7, 9], 9), 4, 8), Some(items.to_vec()));
        assert_eq!(missed(page(6, &[7], 8), 4, 8), None, "a hole");
        assert_eq!(missed(page(0, &[5, 6], 6), 4, 8), None, "too much");
    }

    #[tokio::test]
    async fn early_transitions_wait_until_the_holder_has_caught_up_with_the_follower() {
        let (items, told) = mpsc::channel(8);
        let early = || {
            let owner = headcount_model::OwnerRef {
                region: headcount_model::RegionName::new("eu").unwrap(),
                fence: headcount_model::Fence(1),
            };
            let transition = headcount_model::Transition {
                number: 1,
                channel: headcount_model::ChannelKey::new("dev", "room").unwrap(),
                active: true,
                occupancy: headcount_model::Occupancy::ZERO,
                at: headcount_model::Timestamp(0),
                is_global_master: false,
            };
            FollowItem::Early(Box::new(headcount_rpc::read::Early {
                owner,
                transition,
                logged: false,
            }))
        };
        for item in [
            early(),
            FollowItem::Advanced(8),
            early(),
            FollowItem::Record(record(9)),
        ] {
            items.send(item).await.unwrap();
        }
        drop(items);
        let telling = |told| Telling {
            told,
            reached: 7,
            judged_from: 8,
        };
        let batches: Vec<_> = telling(told).into_batches().collect().await;
        let wanted = vec![
            FollowItem::Advanced(8),
            early(),
            FollowItem::Record(record(9)),
        ];
        assert_eq!(batches, [wanted]);
    }
}
