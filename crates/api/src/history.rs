//! Pages of what happened on a channel: parameters, cursors and links.

use headcount_model::{HistoryPoint, Position, ShardId, Timestamp};

use crate::links::{self, Walk, seal, unseal};
use crate::problem::Problem;
use crate::query::Query;

/// What a request asks of a channel's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryParams {
    /// Most items.
    pub(crate) limit: usize,
    /// Only what happened at this time or later.
    pub(crate) start: Option<Timestamp>,
    /// Only what happened at this time or earlier.
    pub(crate) end: Option<Timestamp>,
    /// Whether the newest come first.
    pub(crate) backwards: bool,
    /// Where the page begins, as the source of the history has put it.
    after: Option<Vec<u8>>,
    /// What cursors belong to.
    scope: String,
    walk: Walk,
}

/// An item of a channel's memory, by which a page goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// When it was accepted.
    pub(crate) at: u64,
    /// Its id, which is its own.
    pub(crate) id: String,
}

impl HistoryParams {
    /// Reads the parameters of a history of `channel` at a path that ends with `word`.
    ///
    /// # Errors
    /// [`Problem::Parameter`] (40003), or [`Problem::HistoryCursor`] (40011).
    pub(crate) fn parse(query: &Query, word: &'static str, channel: &str) -> Result<Self, Problem> {
        let refuse = |name, reason| Err(Problem::Parameter { name, reason });
        let limit = links::limit(query)?;
        let time = |name| match query.given(name).map(str::parse) {
            None => Ok(None),
            Some(Ok(at)) => Ok(Some(Timestamp(at))),
            Some(Err(_)) => refuse(name, "it must be a number of milliseconds since the epoch"),
        };
        let (start, end) = (time("start")?, time("end")?);
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(Problem::Parameter {
                name: "start",
                reason: "it must not be after the end",
            });
        }
        let (backwards, direction) = match query.given("direction") {
            None | Some("backwards") => (true, "backwards"),
            Some("forwards") => (false, "forwards"),
            Some(_) => {
                return Err(Problem::Parameter {
                    name: "direction",
                    reason: "it must be backwards or forwards",
                });
            }
        };
        let scope = format!("{direction}/{word}/{channel}");
        let after = query.given("cursor").map(|token| unseal(&scope, token));
        let after = after.map(|after| after.ok_or(Problem::HistoryCursor));
        let mut written = vec![
            ("direction", direction.to_owned()),
            ("limit", limit.to_string()),
        ];
        let kept = ["start", "end", "from_serial"].into_iter();
        written.extend(kept.filter_map(|name| Some((name, query.given(name)?.to_owned()))));
        Ok(Self {
            limit,
            start,
            end,
            backwards,
            after: after.transpose()?,
            scope,
            walk: Walk::new(word, written, query),
        })
    }

    /// Returns the values of the `Link` headers, with `next` where there is more.
    fn links(&self, next: Option<&[u8]>) -> Vec<String> {
        let cursor = |content: &[u8]| seal(&self.scope, content);
        let (current, next) = (self.after.as_deref().map(cursor), next.map(cursor));
        self.walk.links(current.as_deref(), next.as_deref())
    }

    /// Returns where a page of lifecycle events begins.
    ///
    /// # Errors
    /// [`Problem::HistoryCursor`] if the cursor is none of these.
    pub(crate) fn after_point(&self) -> Result<Option<HistoryPoint>, Problem> {
        let point = |content: &Vec<u8>| read_point(content).ok_or(Problem::HistoryCursor);
        self.after.as_ref().map(point).transpose()
    }

    /// Returns the links of a page of lifecycle events.
    pub(crate) fn links_to_point(&self, next: Option<HistoryPoint>) -> Vec<String> {
        self.links(next.map(write_point).as_deref())
    }

    /// Cuts the page out of all that a channel remembers, oldest first, and returns it with its
    /// links. A page goes on after an item that was forgotten meanwhile, as far as there is
    /// anything left.
    ///
    /// # Errors
    /// [`Problem::HistoryCursor`] if the cursor is of another kind.
    pub(crate) fn cut<T>(
        &self,
        mut items: Vec<T>,
        place: impl Fn(&T) -> Place,
    ) -> Result<(Vec<T>, Vec<String>), Problem> {
        let after = self.after.as_deref().map(read_place);
        let after = after.map(|after| after.ok_or(Problem::HistoryCursor));
        let after = after.transpose()?;
        items.retain(|item| {
            let at = Timestamp(place(item).at);
            self.start.is_none_or(|start| at >= start) && self.end.is_none_or(|end| at <= end)
        });
        // Stable: those of one moment stay as they came.
        items.sort_by_key(|item| place(item).at);
        if self.backwards {
            items.reverse();
        }
        if let Some(after) = after {
            let known = items.iter().position(|item| place(item) == after);
            match known {
                Some(at) => drop(items.drain(..=at)),
                None if self.backwards => items.retain(|item| place(item).at < after.at),
                None => items.retain(|item| place(item).at >= after.at),
            }
        }
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(place);
        let links = self.links(next.map(|next| write_place(&next)).as_deref());
        Ok((items, links))
    }
}

fn write_place(place: &Place) -> Vec<u8> {
    [&place.at.to_le_bytes(), place.id.as_bytes()].concat()
}

fn read_place(content: &[u8]) -> Option<Place> {
    let (at, id) = content.split_first_chunk::<8>()?;
    Some(Place {
        at: u64::from_le_bytes(*at),
        id: String::from_utf8(id.to_vec()).ok()?,
    })
}

fn write_point(point: HistoryPoint) -> Vec<u8> {
    let HistoryPoint {
        at,
        shard,
        position: Position { index, ordinal },
    } = point;
    [
        &at.0.to_le_bytes()[..],
        &index.to_le_bytes(),
        &shard.0.to_le_bytes(),
        &ordinal.to_le_bytes(),
    ]
    .concat()
}

fn read_point(content: &[u8]) -> Option<HistoryPoint> {
    let (at, rest) = content.split_first_chunk::<8>()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let (shard, rest) = rest.split_first_chunk::<4>()?;
    let ordinal = rest.try_into().ok()?;
    Some(HistoryPoint {
        at: Timestamp(u64::from_le_bytes(*at)),
        shard: ShardId(u32::from_le_bytes(*shard)),
        position: Position {
            index: u64::from_le_bytes(*index),
            ordinal: u32::from_le_bytes(ordinal),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(query: &str) -> Result<HistoryParams, Problem> {
        HistoryParams::parse(&Query::parse(query).unwrap(), "messages", "room")
    }

    fn place(item: &(u64, &str)) -> Place {
        Place {
            at: item.0,
            id: item.1.to_owned(),
        }
    }

    fn query_of<'a>(links: &'a [String], relation: &str) -> Option<&'a str> {
        let end = format!(">; rel=\"{relation}\"");
        let link = links.iter().find_map(|link| link.strip_suffix(&end))?;
        link.strip_prefix("<./messages?")
    }

    /// Walks from a query to the end.
    fn walk(items: &[(u64, &'static str)], query: &str) -> Vec<&'static str> {
        let (mut query, mut all) = (query.to_owned(), Vec::new());
        loop {
            let (page, links) = parse(&query).unwrap().cut(items.to_vec(), place).unwrap();
            all.extend(page.iter().map(|(_, id)| *id));
            match query_of(&links, "next") {
                Some(next) => query = next.to_owned(),
                None => return all,
            }
        }
    }

    const ITEMS: [(u64, &str); 5] = [(1, "a"), (3, "c"), (2, "b"), (3, "d"), (4, "e")];

    #[test]
    fn a_walk_sees_everything_once() {
        for limit in 1..=6 {
            let backwards = walk(&ITEMS, &format!("limit={limit}"));
            assert_eq!(backwards, ["e", "d", "c", "b", "a"]);
            let forwards = walk(&ITEMS, &format!("limit={limit}&direction=forwards"));
            assert_eq!(forwards, ["a", "b", "c", "d", "e"]);
        }
        assert_eq!(walk(&ITEMS, "limit=1&start=2&end=3"), ["d", "c", "b"]);
    }

    #[test]
    fn a_walk_goes_on_after_what_was_forgotten() {
        let (_, links) = parse("limit=2&direction=forwards")
            .unwrap()
            .cut(ITEMS.to_vec(), place)
            .unwrap();
        let next = query_of(&links, "next").unwrap();
        assert_eq!(walk(&ITEMS[3..], next), ["d", "e"]);
        let (_, links) = parse("limit=2")
            .unwrap()
            .cut(ITEMS.to_vec(), place)
            .unwrap();
        let next = query_of(&links, "next").unwrap();
        assert!(walk(&ITEMS[4..], next).is_empty());
    }

    #[test]
    fn bad_values_name_their_parameter() {
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("start=x", "start"),
            ("end=-1", "end"),
            ("start=2&end=1", "start"),
            ("direction=up", "direction"),
        ] {
            let problem = parse(query).unwrap_err();
            assert_eq!(problem.code(), 40003, "{query}");
            assert!(problem.message().contains(name), "{problem}");
        }
        assert_eq!(parse("cursor=x").unwrap_err().code(), 40011);
    }

    #[test]
    fn a_cursor_belongs_to_its_channel_and_direction() {
        let params = parse("limit=1").unwrap();
        let (_, links) = params.cut(ITEMS.to_vec(), place).unwrap();
        let next = query_of(&links, "next").unwrap();
        assert!(parse(next).is_ok());
        let other = next.replace("backwards", "forwards");
        assert_eq!(parse(&other).unwrap_err().code(), 40011);
        let query = Query::parse(next).unwrap();
        let elsewhere = HistoryParams::parse(&query, "messages", "other");
        assert_eq!(elsewhere.unwrap_err().code(), 40011);
    }

    proptest! {
        #[test]
        fn a_point_comes_back_from_its_link(at: u64, shard: u32, index: u64, ordinal: u32) {
            let position = Position { index, ordinal };
            let point = HistoryPoint { at: Timestamp(at), shard: ShardId(shard), position };
            let links = parse("start=1").unwrap().links_to_point(Some(point));
            let next = parse(query_of(&links, "next").unwrap()).unwrap();
            prop_assert_eq!(next.after_point().unwrap(), Some(point));
            prop_assert_eq!(next.start, Some(Timestamp(1)));
        }
    }
}
