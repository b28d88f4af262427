//! Pages of enumeration: parameters, cursors and links.

use headcount_model::{CHANNEL_BYTES_MAX, ChannelName};

use crate::links::{self, Walk, seal, unseal};
use crate::problem::Problem;
use crate::query::Query;
use crate::version::Version;

/// What a page holds of each channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Names.
    Id,
    /// Whole `ChannelDetails`.
    Value,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Value => "value",
        }
    }
}

/// What a request asks of enumeration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListParams {
    /// Most items.
    pub(crate) limit: usize,
    /// Beginning of the names; empty for all.
    pub(crate) prefix: String,
    /// What of each channel.
    pub(crate) by: By,
    /// The name after which the page begins.
    pub(crate) after: Option<ChannelName>,
    walk: Walk,
}

impl ListParams {
    /// Reads the parameters of `GET /channels`.
    ///
    /// # Errors
    /// [`Problem::Parameter`] (40003), or [`Problem::ListCursor`] (40011).
    pub(crate) fn parse(query: &Query, version: Version) -> Result<Self, Problem> {
        let refuse = |name, reason| Err(Problem::Parameter { name, reason });
        let limit = links::limit(query)?;
        let prefix = prefix(query)?;
        let by = match query.given("by") {
            None if version.lists_values() => By::Value,
            None | Some("id") => By::Id,
            Some("value") => By::Value,
            Some(_) => return refuse("by", "it must be id or value"),
        };
        if matches!(query.given("consistency"), Some(level) if level != "local") {
            return refuse("consistency", "a list can only be local");
        }
        let after = query
            .given("cursor")
            .map(|token| read_cursor(token, &prefix))
            .transpose()?;
        let mut written = vec![("by", by.as_str().to_owned()), ("limit", limit.to_string())];
        if !prefix.is_empty() {
            written.push(("prefix", prefix.clone()));
        }
        Ok(Self {
            limit,
            prefix,
            by,
            after,
            walk: Walk::new("channels", written, query),
        })
    }

    /// Returns the values of the `Link` headers, with `next` where the walk goes on after a name.
    pub(crate) fn links(&self, next: Option<&ChannelName>) -> Vec<String> {
        let cursor = |name: &ChannelName| write_cursor(name, &self.prefix);
        let (current, next) = (self.after.as_ref().map(cursor), next.map(cursor));
        self.walk.links(current.as_deref(), next.as_deref())
    }
}

/// Reads `prefix`, by which lists and event streams choose channels; none means all.
pub(crate) fn prefix(query: &Query) -> Result<String, Problem> {
    let prefix = query.get("prefix").unwrap_or("");
    if prefix.len() > CHANNEL_BYTES_MAX {
        return Err(Problem::Parameter {
            name: "prefix",
            reason: "it is longer than any channel's name",
        });
    }
    Ok(prefix.to_owned())
}

/// Makes the cursor of the page that begins after a name: good on any node, since the walk is
/// sorted and a name is all that there is to remember.
fn write_cursor(after: &ChannelName, prefix: &str) -> String {
    seal(prefix, after.as_str().as_bytes())
}

/// Reads a cursor back.
///
/// # Errors
/// [`Problem::ListCursor`] if it is damaged or belongs to a walk with another prefix.
fn read_cursor(token: &str, prefix: &str) -> Result<ChannelName, Problem> {
    let read = || {
        let name = String::from_utf8(unseal(prefix, token)?).ok()?;
        let name = ChannelName::new(&name).ok()?;
        name.as_str().starts_with(prefix).then_some(name)
    };
    read().ok_or(Problem::ListCursor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::percent;
    use proptest::prelude::*;

    fn parse(query: &str, version: &str) -> Result<ListParams, Problem> {
        ListParams::parse(
            &Query::parse(query).unwrap(),
            Version::parse(version).unwrap(),
        )
    }

    /// The query of a link, as ably-js takes it out: it splits the header at commas and wants
    /// `./word?query`.
    fn query_of(link: &str) -> (&str, &str) {
        assert!(!link.contains(','), "{link}");
        let (target, relation) = link.split_once(">; rel=\"").unwrap();
        let query = target.strip_prefix("<./channels?").unwrap();
        (relation.strip_suffix('"').unwrap(), query)
    }

    #[test]
    fn defaults_follow_the_version() {
        assert_eq!(parse("", "2").unwrap().by, By::Value);
        assert_eq!(parse("", "1.2").unwrap().by, By::Value);
        assert_eq!(parse("", "3").unwrap().by, By::Id);
        assert_eq!(parse("by=value", "6").unwrap().by, By::Value);
        assert_eq!(parse("by=id", "2").unwrap().by, By::Id);
        assert_eq!(parse("", "2").unwrap().limit, 100);
    }

    #[test]
    fn bad_values_name_their_parameter() {
        for (query, name, code) in [
            ("limit=0", "limit", 40003),
            ("limit=1001", "limit", 40003),
            ("limit=x", "limit", 40003),
            ("limit=", "limit", 40003),
            ("limit=-1", "limit", 40003),
            ("limit=99999999999999999999", "limit", 40003),
            ("by=name", "by", 40003),
            ("consistency=strong", "consistency", 40003),
            ("cursor=x", "cursor", 40011),
            ("cursor=%F0%9F%92%A9", "cursor", 40011),
        ] {
            let problem = parse(query, "2").unwrap_err();
            assert_eq!(problem.code(), code, "{query}");
            assert!(problem.message().contains(name), "{problem}");
        }
        let long = format!("prefix={}", "x".repeat(2049));
        assert_eq!(parse(&long, "2").unwrap_err().code(), 40003);
        assert!(parse("limit=1000&consistency=local&unknown=1", "2").is_ok());
    }

    #[test]
    fn links_keep_what_defines_the_page() {
        let params = parse(
            "limit=2&prefix=a%20b&format=msgpack&v=3&key=dev.k:secret",
            "3",
        )
        .unwrap();
        let next = ChannelName::new("a b,c").unwrap();
        let links = params.links(Some(&next));
        let parsed: Vec<_> = links.iter().map(|link| query_of(link)).collect();
        let base = "by=id&limit=2&prefix=a%20b&format=msgpack&v=3";
        assert_eq!(parsed[0], ("first", base));
        assert_eq!(parsed[1], ("current", base));
        assert_eq!(parsed[2].0, "next");
        assert!(parsed[2].1.starts_with(&format!("{base}&cursor=")));
        assert_eq!(params.links(None).len(), 2);
    }

    proptest! {
        #[test]
        fn following_a_link_asks_for_the_same_with_a_cursor(
            prefix in "\\PC{0,8}", rest in "\\PC{1,8}", limit in 1..1000_usize, value in any::<bool>(),
        ) {
            let name = format!("{prefix}{rest}");
            prop_assume!(ChannelName::new(&name).is_ok());
            let name = ChannelName::new(&name).unwrap();
            let by = if value { "value" } else { "id" };
            let query = format!("by={by}&limit={limit}&prefix={}", percent::encode(&prefix));
            let first = parse(&query, "3").unwrap();
            let links = first.links(Some(&name));
            let next = parse(query_of(&links[2]).1, "3").unwrap();
            prop_assert_eq!(&next, &ListParams { after: Some(name), ..first.clone() });
            let again = parse(query_of(&next.links(None)[0]).1, "3").unwrap();
            prop_assert_eq!(again, first);
        }

        #[test]
        fn no_query_makes_it_panic(query in ".*") {
            if let Ok(query) = Query::parse(&query) {
                drop(ListParams::parse(&query, Version::UNTOLD));
            }
        }
    }
}
