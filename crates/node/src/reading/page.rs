//! Pages of channels, merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use headcount_api::ports::{ListItem, ListQuery};
use headcount_coordinator::Shard;
use headcount_model::{ChannelName, ChannelStatus, RegionName};

/// A page of some shards' channels, ascending by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) items: Vec<ListItem>,
    /// Whether there are greater names; then there is at least one item.
    pub(crate) more: bool,
}

impl Page {
    /// Reads a page of shards, each with its coordinator's region.
    pub(crate) fn read(shards: &[(&Shard, RegionName)], query: &ListQuery) -> Self {
        let after = query.after.as_ref().map(|after| after.as_str());
        let mut walks: Vec<_> = shards
            .iter()
            .map(|(shard, _)| shard.list(query.app.as_str(), &query.prefix, after))
            .collect();
        let mut heads = BinaryHeap::new();
        let mut values = Vec::with_capacity(walks.len());
        for (at, walk) in walks.iter_mut().enumerate() {
            values.push(walk.next().map(|(name, status)| {
                heads.push(Reverse((name.as_str(), at)));
                (name, status)
            }));
        }
        let mut items = Vec::with_capacity(query.limit.min(1_000));
        while items.len() < query.limit
            && let Some(Reverse((_, at))) = heads.pop()
        {
            let Some((name, status)) = values[at].take() else {
                continue;
            };
            let value = query.with_values.then(|| {
                let status = ChannelStatus::new(true, status.occupancy);
                (status, shards[at].1.clone())
            });
            items.push(ListItem {
                name: name.clone(),
                value,
            });
            values[at] = walks[at].next();
            if let Some((name, _)) = &values[at] {
                heads.push(Reverse((name.as_str(), at)));
            }
        }
        let more = !heads.is_empty();
        Self { items, more }
    }

    /// Returns the name after which the next page begins, if there is one.
    pub(crate) fn next(&self) -> Option<ChannelName> {
        let last = self.items.last().filter(|_| self.more)?;
        Some(last.name.clone())
    }
}

/// Merges pages of different shards that answer the same question into one of at most `limit`
/// items. No name is left out: what lies beyond the end of a page that has more is left for later.
pub(crate) fn merge(pages: Vec<Page>, limit: usize) -> Page {
    let ends = pages.iter().filter_map(Page::next);
    let end = ends.min();
    let mut more = end.is_some();
    let mut items: Vec<ListItem> = pages.into_iter().flat_map(|page| page.items).collect();
    items.sort_unstable_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    let beyond = |item: &ListItem| {
        end.as_ref()
            .is_some_and(|end| item.name.as_str() > end.as_str())
    };
    let within = items.partition_point(|item| !beyond(item)).min(limit);
    more |= within < items.len();
    items.truncate(within);
    Page { items, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], more: bool) -> Page {
        let items = names.iter().map(|name| ListItem {
            name: ChannelName::new(name).unwrap(),
            value: None,
        });
        Page {
            items: items.collect(),
            more,
        }
    }

    #[test]
    fn pages_are_merged_by_name() {
        let merged = merge(vec![page(&["a", "d"], false), page(&["b", "c"], false)], 10);
        assert_eq!(merged, page(&["a", "b", "c", "d"], false));
        assert_eq!(merged.next(), None);
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_page() {
        let merged = merge(vec![page(&["a", "d"], false), page(&["b", "c"], false)], 3);
        assert_eq!(merged, page(&["a", "b", "c"], true));
        assert_eq!(merged.next().unwrap().as_str(), "c");
    }

    #[test]
    fn nothing_is_passed_over_behind_a_page_that_has_more() {
        let pages = vec![page(&["a", "b"], true), page(&["c", "d"], false)];
        assert_eq!(merge(pages, 10), page(&["a", "b"], true));
        let pages = vec![page(&["a", "x"], true), page(&["c", "y"], true)];
        assert_eq!(merge(pages, 10), page(&["a", "c", "x"], true));
    }
}
