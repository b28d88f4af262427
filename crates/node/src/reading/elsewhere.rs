//! Reads of shards that this node does not hold, asked of those that do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use headcount_api::ports::{
    Freshness, ListItem, ListQuery, ReadError, ReadLevel, Source, StatusRead,
};
use headcount_model::{ChannelKey, NodeId, RegionName, ShardId};
use headcount_placement::Control;
use headcount_rpc::peers::Network;
use headcount_rpc::read::{
    Basis, HistoryAsk, HistoryReply, JournalAsk, JournalReply, ListAsk, ReadClient,
    ReadError as CallError, ShardStanding, StatusAsk,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::here::JOURNAL_TIMEOUT;
use super::holders::{Holder, holders};
use super::page::Page;
use crate::telemetry;

/// How long a read may take in all, and how long one holder may take for it. A strong read has all
/// the time for one holder, which itself waits for the coordinator.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait before the holders are looked for again, if none of them answered: a shard may be moving.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks holders. A cheap handle.
#[derive(Clone)]
pub(crate) struct Elsewhere {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) network: Network,
    pub(crate) client: ReadClient,
}

impl Elsewhere {
    /// Returns who can be asked for a shard: those to whom there is a connection first, among them
    /// the nearest.
    pub(crate) fn holders(&self, shard: ShardId) -> Vec<Holder> {
        let control = self.control.borrow().clone();
        let mut holders = holders(&control, self.node, &self.region, shard);
        holders.sort_by_key(|holder| (Reverse(self.is_connected(holder)), *holder));
        holders
    }

    /// Returns whether there is a connection to a holder, as far as is known.
    pub(crate) fn is_connected(&self, holder: &Holder) -> bool {
        self.network.is_connected(holder.node)
    }

    fn source(&self, node: NodeId) -> Source {
        let control = self.control.borrow().clone();
        let region = control.node(node).map(|node| node.region.clone());
        Source {
            region: region.unwrap_or_else(|| self.region.clone()),
            node,
        }
    }

    /// Asks one holder after the other until one answers; returns which, with its answer.
    async fn ask<T, F, Asked>(
        &self,
        shard: ShardId,
        (within, each): (Duration, Duration),
        ask: F,
    ) -> Result<(NodeId, T), ReadError>
    where
        F: Fn(NodeId, Duration) -> Asked,
        Asked: Future<Output = Result<T, CallError>>,
    {
        let deadline = Instant::now() + within;
        let mut last = "no live node holds it".to_owned();
        loop {
            for holder in self.holders(shard) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ReadError::TimedOut { after: within });
                }
                match ask(holder.node, left.min(each)).await {
                    Ok(answer) => return Ok((holder.node, answer)),
                    Err(CallError::NoQuorum) => return Err(ReadError::NoQuorum),
                    Err(error) => last = format!("node {}: {error}", holder.node),
                }
            }
            if Instant::now() + PAUSE >= deadline {
                let reason = format!("shard {shard}: {last}");
                return Err(ReadError::Unavailable { reason });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads a channel's state from a holder of its shard. A strong read is strong there: the
    /// holder asks for the read index after it was asked itself.
    pub(crate) async fn status(
        &self,
        shard: ShardId,
        channel: ChannelKey,
        level: ReadLevel,
    ) -> Result<StatusRead, ReadError> {
        let strong = level == ReadLevel::Strong;
        let each = if strong { READ_TIMEOUT } else { TRY_TIMEOUT };
        let asked = StatusAsk {
            shard,
            channel,
            strong,
        };
        telemetry::read_forwarded();
        let begun = Instant::now();
        let ask = |node, within| self.client.status(node, &asked, within);
        let (node, reply) = self.ask(shard, (READ_TIMEOUT, each), ask).await?;
        let age = if strong {
            Duration::ZERO
        } else {
            // It may have waited on the way for as long.
            reply.basis.age + begun.elapsed()
        };
        Ok(StatusRead {
            status: reply.status,
            coordinator: reply.coordinator,
            freshness: Freshness {
                source: self.source(node),
                age,
                unheard: reply.basis.unheard,
            },
        })
    }

    /// Asks for shards, each holder once for all that it serves, until all are answered for;
    /// returns the answers, each with who gave it and how long that took.
    async fn gather<T, Asked>(
        &self,
        shards: BTreeSet<ShardId>,
        each: Duration,
        ask: impl Fn(NodeId, Vec<ShardId>, Duration) -> Asked,
    ) -> Result<Vec<(NodeId, Duration, T)>, ReadError>
    where
        Asked: Future<Output = Result<T, CallError>>,
    {
        let deadline = Instant::now() + READ_TIMEOUT;
        let (mut answers, mut missing) = (Vec::with_capacity(4), shards);
        // Who failed is passed over until everybody has.
        let mut failed = BTreeSet::new();
        let mut last = "no live node holds it".to_owned();
        while let Some(first) = missing.first().copied() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!("shard {first}: {last}");
                return Err(ReadError::Unavailable { reason });
            }
            let mut groups: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
            for shard in &missing {
                let mut holders = self.holders(*shard).into_iter();
                if let Some(holder) = holders.find(|holder| !failed.contains(&holder.node)) {
                    groups.entry(holder.node).or_default().push(*shard);
                }
            }
            if groups.is_empty() {
                failed.clear();
                tokio::time::sleep(PAUSE.min(left)).await;
                continue;
            }
            let begun = Instant::now();
            let asked = groups.into_iter().map(|(node, shards)| {
                telemetry::read_forwarded();
                let asked = ask(node, shards.clone(), left.min(each));
                async move { (node, shards, asked.await) }
            });
            for (node, shards, reply) in join_all(asked).await {
                match reply {
                    Ok(reply) => {
                        missing.retain(|shard| !shards.contains(shard));
                        answers.push((node, begun.elapsed(), reply));
                    }
                    Err(error) => {
                        last = format!("node {node}: {error}");
                        failed.insert(node);
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Reads a page of channels in shards.
    pub(crate) async fn list(
        &self,
        shards: BTreeSet<ShardId>,
        query: &ListQuery,
    ) -> Result<Vec<(Page, Basis)>, ReadError> {
        let ask = |node, shards, within| self.list_of(node, shards, query, within);
        let answers = self.gather(shards, TRY_TIMEOUT, ask).await?;
        let pages = answers.into_iter().map(|(_, took, (page, mut basis))| {
            basis.age += took;
            (page, basis)
        });
        Ok(pages.collect())
    }

    async fn list_of(
        &self,
        node: NodeId,
        shards: Vec<ShardId>,
        query: &ListQuery,
        within: Duration,
    ) -> Result<(Page, Basis), CallError> {
        let ask = ListAsk {
            shards,
            app: query.app.clone(),
            prefix: query.prefix.clone(),
            after: query.after.clone(),
            limit: query.limit,
            with_values: query.with_values,
        };
        let reply = self.client.list(node, &ask, within).await?;
        let items = reply.items.into_iter().map(|listed| ListItem {
            name: listed.name,
            value: listed.value,
        });
        let page = Page {
            items: items.collect(),
            more: reply.more,
        };
        Ok((page, reply.basis))
    }

    /// Reads events of the past in shards; returns the answers with who gave them.
    pub(crate) async fn history(
        &self,
        shards: BTreeSet<ShardId>,
        ask: &HistoryAsk,
    ) -> Result<Vec<(NodeId, HistoryReply)>, ReadError> {
        let ask = |node, shards, within| self.history_of(node, shards, ask, within);
        let answers = self.gather(shards, READ_TIMEOUT, ask).await?;
        let replies = answers.into_iter().map(|(node, _, reply)| (node, reply));
        Ok(replies.collect())
    }

    async fn history_of(
        &self,
        node: NodeId,
        shards: Vec<ShardId>,
        ask: &HistoryAsk,
        within: Duration,
    ) -> Result<HistoryReply, CallError> {
        let ask = HistoryAsk {
            shards,
            ..ask.clone()
        };
        self.client.history(node, &ask, within).await
    }

    /// Asks one more holder for each shard of which nobody asked has what is wanted, with those
    /// who were; leaves in `missing` what is still lacking. Whoever cannot be reached is left out:
    /// what is known is an answer too.
    pub(crate) async fn complement(
        &self,
        missing: &mut BTreeMap<ShardId, BTreeSet<NodeId>>,
        ask: &HistoryAsk,
    ) -> Vec<HistoryReply> {
        let mut groups: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        missing.retain(|shard, asked| {
            let mut holders = self.holders(*shard).into_iter();
            let Some(holder) = holders.find(|holder| !asked.contains(&holder.node)) else {
                return false;
            };
            asked.insert(holder.node);
            groups.entry(holder.node).or_default().push(*shard);
            true
        });
        let asked = groups.into_iter().map(|(node, shards)| async move {
            telemetry::read_forwarded();
            let reply = self
                .history_of(node, shards.clone(), ask, TRY_TIMEOUT)
                .await;
            (shards, reply)
        });
        let mut replies = Vec::new();
        for (shards, reply) in join_all(asked).await {
            let Ok(reply) = reply else {
                continue;
            };
            missing.retain(|shard, _| !shards.contains(shard) || reply.lacking.contains(shard));
            replies.push(reply);
        }
        replies
    }

    /// Reads a stretch of a shard's journal. If the nearest holder's begins after what is wanted,
    /// the others are asked too, and the one that goes back furthest answers; `None` if no other
    /// live node holds the shard.
    ///
    /// # Errors
    /// If nobody has what is wanted, and a live holder did not answer: it may have kept it.
    pub(crate) async fn journal(&self, ask: JournalAsk) -> Result<Option<JournalReply>, ReadError> {
        let wanted = ask.after.map_or(0, |after| after + 1);
        let deadline = Instant::now() + JOURNAL_TIMEOUT;
        let mut best: Option<JournalReply> = None;
        let mut silent = None;
        for holder in self.holders(ask.shard) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .client
                .journal(holder.node, &ask, left.min(TRY_TIMEOUT))
                .await
            {
                Ok(reply) if reply.first <= wanted => return Ok(Some(reply)),
                Ok(reply) => {
                    if best.as_ref().is_none_or(|best| reply.first < best.first) {
                        best = Some(reply);
                    }
                }
                Err(error) => silent = Some(format!("node {}: {error}", holder.node)),
            }
        }
        match silent {
            Some(silent) => Err(ReadError::Unavailable {
                reason: format!("shard {}: {silent}", ask.shard),
            }),
            None => Ok(best),
        }
    }

    /// Returns what holders know of shards; those of which nobody says anything are left out.
    pub(crate) async fn describe(&self, shards: &BTreeSet<ShardId>) -> Vec<ShardStanding> {
        let mut groups: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for shard in shards {
            if let Some(holder) = self.holders(*shard).first() {
                groups.entry(holder.node).or_default().push(*shard);
            }
        }
        let asked = groups.iter().map(|(node, shards)| async move {
            let described = self.client.describe(*node, shards, TRY_TIMEOUT).await;
            described.unwrap_or_else(|error| {
                tracing::debug!(target: "node", %node, %error, "not described");
                Vec::new()
            })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
