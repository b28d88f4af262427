//! Reads of this node's own replicas.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headcount_api::ports::{Freshness, ListQuery, ReadError, ReadLevel, Source, StatusRead};
use headcount_consensus::store::Journal;
use headcount_model::{ChannelKey, ChannelStatus, NodeId, RegionName, ShardId};
use headcount_placement::{Control, GroupId};
use headcount_rpc::peers::Network;
use headcount_rpc::read::{JournalReply, Record};
use tokio::sync::watch;

use super::page::Page;
use crate::control::ControlHandle;
use crate::shards::{Hosted, Shards};

/// How long a strong read may take.
const STRONG_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a journal may take to reach what is asked of it, and to be read.
pub(crate) const JOURNAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Journal records, and about how many of their bytes, that are read at a time.
const PAGE_ITEMS: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// Reads this node's replicas. A cheap handle.
#[derive(Clone)]
pub(crate) struct Here {
    pub(crate) source: Source,
    /// Known once the node has a cluster.
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) handle: ControlHandle,
    pub(crate) network: Network,
}

impl Here {
    pub(crate) fn shards(&self) -> Result<Shards, ReadError> {
        let shards = self.shards.borrow().clone();
        shards.ok_or_else(|| ReadError::Unavailable {
            reason: "this node has not joined a cluster".to_owned(),
        })
    }

    /// Returns the regions of which this node hears nothing.
    pub(crate) fn unheard(&self) -> Vec<RegionName> {
        let control = self.control.borrow().clone();
        let live = || control.nodes().iter().filter(|(_, node)| node.is_live());
        let is_heard = |id: NodeId| id == self.source.node || self.network.is_connected(id);
        let mut unheard = BTreeSet::new();
        // Each read asks, and mostly there is none.
        for (_, silent) in live().filter(|(id, _)| !is_heard(**id)) {
            let speaks = live().any(|(id, node)| node.region == silent.region && is_heard(*id));
            if !speaks {
                unheard.insert(silent.region.clone());
            }
        }
        unheard.into_iter().collect()
    }

    /// Returns what an answer of replicas this old rests on.
    pub(crate) fn freshness(&self, age: Duration) -> Freshness {
        Freshness {
            source: self.source.clone(),
            age,
            unheard: self.unheard(),
        }
    }

    fn coordinator(&self, hosted: &Hosted) -> RegionName {
        let control = self.control.borrow().clone();
        let leader = hosted.leader().and_then(|leader| control.node(leader));
        leader.map_or_else(
            || self.source.region.clone(),
            |leader| leader.region.clone(),
        )
    }

    /// Reads a channel's state from the replica of its shard.
    pub(crate) async fn status(
        &self,
        shard: ShardId,
        hosted: &Hosted,
        channel: &ChannelKey,
        level: ReadLevel,
    ) -> Result<StatusRead, ReadError> {
        match level {
            ReadLevel::Local => Ok(self.status_now(hosted, channel)),
            ReadLevel::Strong => {
                self.catch_up(shard, hosted).await?;
                Ok(self.status_of(hosted, channel, Duration::ZERO))
            }
        }
    }

    /// Reads a channel's state from the replica of its shard as it is, with its age.
    pub(crate) fn status_now(&self, hosted: &Hosted, channel: &ChannelKey) -> StatusRead {
        // Before the state, which is at least as young.
        let age = hosted.age();
        self.status_of(hosted, channel, age)
    }

    fn status_of(&self, hosted: &Hosted, channel: &ChannelKey, age: Duration) -> StatusRead {
        let occupancy = hosted.replica.read().occupancy(channel);
        StatusRead {
            status: ChannelStatus::new(occupancy.is_some(), occupancy.unwrap_or_default()),
            coordinator: self.coordinator(hosted),
            freshness: self.freshness(age),
        }
    }

    /// Waits until the replica has applied everything that was acknowledged before now.
    async fn catch_up(&self, shard: ShardId, hosted: &Hosted) -> Result<(), ReadError> {
        let reading = async {
            let index = self
                .handle
                .read_index(GroupId::Shard(shard), &hosted.group)
                .await?;
            let waited = hosted.group.wait_applied(index, STRONG_TIMEOUT).await;
            waited.map_err(|error| ReadError::Unavailable {
                reason: error.to_string(),
            })
        };
        let timed_out = ReadError::TimedOut {
            after: STRONG_TIMEOUT,
        };
        tokio::time::timeout(STRONG_TIMEOUT, reading)
            .await
            .map_err(|_| timed_out)?
    }

    /// Reads a page of channels from replicas; returns it with the oldest replica's age.
    pub(crate) fn list(&self, hosted: &[Hosted], query: &ListQuery) -> (Page, Duration) {
        let guards: Vec<_> = hosted.iter().map(|hosted| hosted.replica.read()).collect();
        let shards = guards.iter().zip(hosted);
        let shards: Vec<_> = shards
            .map(|(shard, hosted)| (&**shard, self.coordinator(hosted)))
            .collect();
        let page = Page::read(&shards, query);
        let age = hosted.iter().map(Hosted::age).max();
        (page, age.unwrap_or_default())
    }
}

/// Reads a page of a shard's journal after a log index, which must hold everything up to `applied`.
/// May block for a few reads of files.
pub(crate) fn read_journal(
    journal: &Journal,
    shard: ShardId,
    after: Option<u64>,
    applied: u64,
) -> Result<JournalReply, String> {
    let page = journal.read(u64::from(shard.0), after, PAGE_ITEMS, PAGE_BYTES);
    let page = page.map_err(|error| error.to_string())?;
    let records = page.items.into_iter().map(|item| Record {
        index: item.index,
        entry: item.payload,
    });
    let records: Vec<Record> = records.collect();
    let last = records.last().map_or(0, |last| last.index);
    let more = page.range.last.is_some_and(|end| end > last);
    let through = if more && !records.is_empty() {
        last
    } else {
        applied.max(last)
    };
    Ok(JournalReply {
        first: page.range.first,
        records,
        through,
    })
}
