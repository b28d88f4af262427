//! Pages of enumeration: parameters, cursors and links.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headcount_model::{CHANNEL_BYTES_MAX, ChannelName};

use crate::percent;
use crate::problem::Problem;
use crate::query::Query;
use crate::version::Version;

/// Items of a page that does not say how many it wants (`contract.md` section 3.2).
const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
const LIMIT_MAX: usize = 1000;

/// First byte of a cursor; another one is from a release that this one does not know.
const CURSOR_VERSION: u8 = 1;

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
    /// Parameters that have no effect on the page's content, but on how the next one is read.
    kept: Vec<(&'static str, String)>,
}

impl ListParams {
    /// Reads the parameters of `GET /channels`.
    ///
    /// # Errors
    /// [`Problem::Parameter`] (40003), or [`Problem::ListCursor`] (40011).
    pub(crate) fn parse(query: &Query, version: Version) -> Result<Self, Problem> {
        let refuse = |name, reason| Err(Problem::Parameter { name, reason });
        let limit = match query.get("limit").map(str::parse::<usize>) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => limit,
            Some(_) => return refuse("limit", "it must be a number from 1 to 1000"),
        };
        let prefix = query.get("prefix").unwrap_or("").to_owned();
        if prefix.len() > CHANNEL_BYTES_MAX {
            return refuse("prefix", "it is longer than any channel's name");
        }
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
        let kept = ["format", "v"]
            .into_iter()
            .filter_map(|name| Some((name, query.given(name)?.to_owned())))
            .collect();
        Ok(Self {
            limit,
            prefix,
            by,
            after,
            kept,
        })
    }

    /// Returns the values of the `Link` headers: `first`, `current` and, where the walk goes on
    /// after a name, `next`. Clients take the query alone from them, so each repeats everything
    /// that defines the page; credentials are not repeated (`contract.md` section 3.3).
    pub(crate) fn links(&self, next: Option<&ChannelName>) -> Vec<String> {
        let link = |relation: &str, after: Option<&ChannelName>| {
            format!("<{}>; rel=\"{relation}\"", self.target(after))
        };
        let mut links = vec![link("first", None), link("current", self.after.as_ref())];
        if next.is_some() {
            links.push(link("next", next));
        }
        links
    }

    fn target(&self, after: Option<&ChannelName>) -> String {
        let mut target = format!("./channels?by={}&limit={}", self.by.as_str(), self.limit);
        let mut push = |name: &str, value: &str| {
            target.push('&');
            target.push_str(name);
            target.push('=');
            target.push_str(&percent::encode(value));
        };
        if !self.prefix.is_empty() {
            push("prefix", &self.prefix);
        }
        for (name, value) in &self.kept {
            push(name, value);
        }
        if let Some(after) = after {
            push("cursor", &write_cursor(after, &self.prefix));
        }
        target
    }
}

/// Makes the cursor of the page that begins after a name: opaque to clients, and good on any node,
/// since the walk is sorted and a name is all that there is to remember.
fn write_cursor(after: &ChannelName, prefix: &str) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(&check(after.as_str(), prefix).to_le_bytes());
    bytes.extend_from_slice(after.as_str().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor back.
///
/// # Errors
/// [`Problem::ListCursor`] if it is damaged or belongs to a walk with another prefix.
fn read_cursor(token: &str, prefix: &str) -> Result<ChannelName, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (sum, name) = rest.split_first_chunk::<4>()?;
        let name = ChannelName::new(std::str::from_utf8(name).ok()?).ok()?;
        let fits = *version == CURSOR_VERSION
            && name.as_str().starts_with(prefix)
            && u32::from_le_bytes(*sum) == check(name.as_str(), prefix);
        fits.then_some(name)
    };
    read().ok_or(Problem::ListCursor)
}

/// FNV-1a over both texts: guards against tokens cut, altered or mixed up by accident. Forging one
/// gains nothing, as the app comes from the credential.
fn check(name: &str, prefix: &str) -> u32 {
    let bytes = prefix.bytes().chain([0]).chain(name.bytes());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn cursors_belong_to_their_prefix() {
        let token = write_cursor(&ChannelName::new("room:1").unwrap(), "room:");
        assert!(read_cursor(&token, "room:").is_ok());
        assert!(read_cursor(&token, "").is_err());
        assert!(read_cursor(&token, "rooms").is_err());
        assert!(read_cursor(&format!("{token}="), "room:").is_err());
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
        fn altered_cursors_are_refused(name in "[a-z]{1,12}", at in any::<prop::sample::Index>()) {
            let mut token = write_cursor(&ChannelName::new(&name).unwrap(), "").into_bytes();
            let at = at.index(token.len());
            token[at] = if token[at] == b'Q' { b'R' } else { b'Q' };
            let token = String::from_utf8(token).unwrap();
            prop_assert!(read_cursor(&token, "").is_err());
        }

        #[test]
        fn no_query_makes_it_panic(query in ".*") {
            if let Ok(query) = Query::parse(&query) {
                drop(ListParams::parse(&query, Version::UNTOLD));
            }
        }
    }
}
