//! Where this node's watchers read each shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use headcount_consensus::store::Journal;
use headcount_feed::{Fetch, Page, ShardFeed};
use headcount_model::{Era, Logged, Position, ShardId};
use headcount_rpc::read::{JournalAsk, JournalReply};
use headcount_wire::decode_logged;
use tokio::sync::watch;

use crate::reading::{Elsewhere, read_journal};
use crate::shard::Replica;
use crate::shards::Shards;

/// A shard that this node follows.
#[derive(Debug)]
pub(crate) struct Followed {
    feed: Mutex<ShardFeed>,
}

impl Followed {
    pub(super) fn new(feed: ShardFeed) -> Self {
        let feed = Mutex::new(feed);
        Self { feed }
    }

    pub(crate) fn feed(&self) -> MutexGuard<'_, ShardFeed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a shard's events are read.
pub(crate) enum Source {
    /// From the feed of this node's replica.
    Hosted(Arc<Replica>),
    /// From a feed that a holder tells what it tells its own.
    Followed(Arc<Followed>),
}

impl Source {
    pub(crate) fn feed(&self) -> MutexGuard<'_, ShardFeed> {
        match self {
            Self::Hosted(replica) => replica.feed(),
            Self::Followed(followed) => followed.feed(),
        }
    }
}

/// The feeds of all shards. A cheap handle.
#[derive(Clone)]
pub(crate) struct Feeds(Arc<Inner>);

struct Inner {
    era: Era,
    shards: Shards,
    journal: Journal,
    elsewhere: Elsewhere,
    followed: RwLock<BTreeMap<ShardId, Arc<Followed>>>,
    /// Raised with each shard that begins to be followed.
    begun: watch::Sender<u64>,
    /// How many watch.
    interest: watch::Sender<usize>,
}

/// Keeps shards followed until it is dropped.
pub(crate) struct Interest(Feeds);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.change_interest(|interest| *interest -= 1);
    }
}

impl Feeds {
    pub(crate) fn new(era: Era, shards: Shards, journal: Journal, elsewhere: Elsewhere) -> Self {
        Self(Arc::new(Inner {
            era,
            shards,
            journal,
            elsewhere,
            followed: RwLock::default(),
            begun: watch::Sender::new(0),
            interest: watch::Sender::new(0),
        }))
    }

    pub(crate) fn era(&self) -> Era {
        self.0.era
    }

    pub(crate) fn shards(&self) -> &Shards {
        &self.0.shards
    }

    pub(super) fn elsewhere(&self) -> &Elsewhere {
        &self.0.elsewhere
    }

    /// Returns where a shard is read, if it is read anywhere. What came from here before
    /// [`Shards::moves`] last rose may be another feed.
    pub(crate) fn source(&self, shard: ShardId) -> Option<Source> {
        if let Some(hosted) = self.0.shards.serving(shard) {
            return Some(Source::Hosted(hosted.replica));
        }
        let followed = self.0.followed.read();
        let followed = followed.unwrap_or_else(PoisonError::into_inner);
        followed.get(&shard).cloned().map(Source::Followed)
    }

    /// Has the shards that are not held here followed from now on.
    pub(crate) fn join(&self) -> Interest {
        self.change_interest(|interest| *interest += 1);
        Interest(self.clone())
    }

    fn change_interest(&self, change: impl FnOnce(&mut usize)) {
        self.0.interest.send_if_modified(|interest| {
            let before = *interest;
            change(interest);
            (before == 0) != (*interest == 0)
        });
    }

    /// Returns what tells when the first watcher comes and the last one goes.
    pub(super) fn interest(&self) -> watch::Receiver<usize> {
        self.0.interest.subscribe()
    }

    /// Waits until every shard is read somewhere; returns the count of moves at which that is so.
    ///
    /// # Errors
    /// The shard that is read nowhere, when the time is over.
    pub(crate) async fn wait_complete(&self, timeout: Duration) -> Result<u64, ShardId> {
        let (mut begun, mut moved) = (self.0.begun.subscribe(), self.0.shards.watch_moves());
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            begun.mark_unchanged();
            let moves = *moved.borrow_and_update();
            let mut all = (0..self.0.shards.count()).map(ShardId);
            let missing = all.find(|shard| self.source(*shard).is_none());
            let Some(shard) = missing else {
                return Ok(moves);
            };
            tokio::select! {
                _ = begun.changed() => {}
                _ = moved.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Err(shard),
            }
        }
    }

    pub(super) fn begin(&self, shard: ShardId, followed: Arc<Followed>) {
        self.write().insert(shard, followed);
        self.0.begun.send_modify(|begun| *begun += 1);
    }

    /// Forgets the feed of a shard that is not followed any more.
    pub(super) fn end(&self, shard: ShardId) {
        self.write().remove(&shard);
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ShardId, Arc<Followed>>> {
        let followed = self.0.followed.write();
        followed.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a stretch of a shard's journal, wherever it is.
    ///
    /// # Errors
    /// Why it cannot be read, `None` if the shard is read nowhere any more.
    pub(crate) async fn page(&self, fetch: Fetch) -> Result<Page, Option<String>> {
        let Fetch { shard, after } = fetch;
        let ask = |applied: u64| JournalAsk {
            shard,
            after: index_before(after),
            applied,
        };
        let reply = match self.source(shard).ok_or(None)? {
            Source::Followed(followed) => {
                let applied = followed.feed().position().index;
                let read = self.read_there(ask(applied)).await?;
                read.ok_or_else(|| Some("no live node holds it".to_owned()))?
            }
            Source::Hosted(replica) => {
                // Everything that is applied by now is in the journal.
                let ask = ask(replica.read().applied());
                let here = self.read_here(ask).await?;
                if here.first <= ask.after.map_or(0, |after| after + 1) {
                    here
                } else {
                    // What a snapshot brought came without its journal (R14); another holder may
                    // have kept it. If none of the living has, nobody keeps it any more.
                    let there = self.read_there(ask).await?;
                    there
                        .filter(|there| there.first < here.first)
                        .unwrap_or(here)
                }
            }
        };
        page_of(self.0.era, shard, &reply).map_err(Some)
    }

    async fn read_there(&self, ask: JournalAsk) -> Result<Option<JournalReply>, Option<String>> {
        let read = self.0.elsewhere.journal(ask).await;
        read.map_err(|error| Some(error.to_string()))
    }

    async fn read_here(&self, ask: JournalAsk) -> Result<JournalReply, Option<String>> {
        let journal = self.0.journal.clone();
        let read = move || read_journal(&journal, ask.shard, ask.after, ask.applied);
        let read = self.0.journal.offload(read).await;
        let read = read.map_err(|error| Some(error.to_string()))?;
        read.map_err(Some)
    }
}

/// Returns the index after which a page is to be read that speaks of everything after `position`:
/// the entry that holds the position belongs to the page, unless the position is its end.
fn index_before(position: Position) -> Option<u64> {
    if position == Position::end_of(position.index) {
        Some(position.index)
    } else {
        position.index.checked_sub(1)
    }
}

fn page_of(era: Era, shard: ShardId, reply: &JournalReply) -> Result<Page, String> {
    let entries = reply.records.iter().map(|record| {
        decode_logged(era, shard, record.index, &record.entry).map_err(|error| error.to_string())
    });
    let entries = entries.collect::<Result<Vec<Logged>, _>>()?;
    let oldest = reply
        .first
        .checked_sub(1)
        .map_or(Position::START, Position::end_of);
    Ok(Page {
        oldest,
        entries,
        through: Position::end_of(reply.through),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_with_the_entry_that_was_told_by_half() {
        let within = Position {
            index: 7,
            ordinal: 3,
        };
        assert_eq!(index_before(within), Some(6));
        assert_eq!(index_before(Position::end_of(7)), Some(7));
        assert_eq!(index_before(Position::START), None);
    }

    #[test]
    fn a_page_says_how_far_back_the_journal_goes() {
        let reply = |first| JournalReply {
            first,
            records: Vec::new(),
            through: 9,
        };
        let page = |first| page_of(Era(0), ShardId(1), &reply(first)).unwrap();
        assert_eq!(page(0).oldest, Position::START);
        assert_eq!(page(5).oldest, Position::end_of(4));
        assert_eq!(page(5).through, Position::end_of(9));
    }
}
