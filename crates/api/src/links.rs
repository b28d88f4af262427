//! What pages have in common: their size, opaque cursors, and `Link` headers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};

use crate::percent;
use crate::problem::Problem;
use crate::query::Query;

/// Items of a page that does not say how many it wants (`contract.md` section 3.2).
const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
const LIMIT_MAX: usize = 1000;

/// First byte of a cursor; another one is from a release that this one does not know.
const CURSOR_VERSION: u8 = 1;

/// Reads how many items a page may have.
///
/// # Errors
/// [`Problem::Parameter`] (40003).
pub(crate) fn limit(query: &Query) -> Result<usize, Problem> {
    match query.get("limit").map(str::parse::<usize>) {
        None => Ok(LIMIT_DEFAULT),
        Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::Parameter {
            name: "limit",
            reason: "it must be a number from 1 to 1000",
        }),
    }
}

/// A resource that is read page by page, as its links name it. Clients take the query alone from a
/// link, so it holds everything that defines the page; credentials are not repeated
/// (`contract.md` section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The last segment of the path: an official client takes no more than one.
    word: &'static str,
    query: Vec<(&'static str, String)>,
}

impl Walk {
    /// Begins with these parameters, and what of the request is not about the page's content, but
    /// about how it is read.
    pub(crate) fn new(
        word: &'static str,
        mut query: Vec<(&'static str, String)>,
        request: &Query,
    ) -> Self {
        let kept = ["format", "v"].into_iter();
        query.extend(kept.filter_map(|name| Some((name, request.given(name)?.to_owned()))));
        Self { word, query }
    }

    /// Returns the values of the `Link` headers: `first`, `current` and, where the walk goes on,
    /// `next`.
    pub(crate) fn links(&self, current: Option<&str>, next: Option<&str>) -> Vec<String> {
        let link = |relation: &str, cursor: Option<&str>| {
            format!("<{}>; rel=\"{relation}\"", self.target(cursor))
        };
        let mut links = vec![link("first", None), link("current", current)];
        if next.is_some() {
            links.push(link("next", next));
        }
        links
    }

    fn target(&self, cursor: Option<&str>) -> String {
        let cursor = cursor.map(|cursor| ("cursor", cursor));
        let query = self.query.iter().map(|(name, value)| (*name, &**value));
        let pairs = query.chain(cursor);
        let pairs = pairs.map(|(name, value)| format!("{name}={}", percent::encode(value)));
        format!("./{}?{}", self.word, pairs.collect::<Vec<_>>().join("&"))
    }
}

/// Writes `Link` headers, one for each link: a client misreads links that are joined.
pub(crate) fn tell_links(headers: &mut HeaderMap, links: &[String]) {
    for link in links {
        let value = HeaderValue::from_str(link).expect("links are percent-encoded");
        headers.append(header::LINK, value);
    }
}

/// Makes a cursor of what a walk has to remember: opaque to clients, and good on any node for which
/// the content is. It belongs to a scope, such as a walk's prefix.
pub(crate) fn seal(scope: &str, content: &[u8]) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(&check(scope, content).to_le_bytes());
    bytes.extend_from_slice(content);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor back; `None` if it is damaged or of another scope.
pub(crate) fn unseal(scope: &str, token: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (version, rest) = bytes.split_first()?;
    let (sum, content) = rest.split_first_chunk::<4>()?;
    let fits = *version == CURSOR_VERSION && u32::from_le_bytes(*sum) == check(scope, content);
    fits.then(|| content.to_vec())
}

/// FNV-1a over both: guards against tokens cut, altered or mixed up by accident. Forging one gains
/// nothing, as the app comes from the credential.
fn check(scope: &str, content: &[u8]) -> u32 {
    let bytes = scope.bytes().chain([0]).chain(content.iter().copied());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cursors_belong_to_their_scope() {
        let token = seal("room:", b"room:1");
        assert_eq!(unseal("room:", &token).unwrap(), b"room:1");
        assert_eq!(unseal("", &token), None);
        assert_eq!(unseal("rooms", &token), None);
        assert_eq!(unseal("room:", &format!("{token}=")), None);
    }

    #[test]
    fn links_have_no_comma_and_one_segment() {
        let request = Query::parse("format=msgpack&key=a.b:c").unwrap();
        let walk = Walk::new("messages", vec![("limit", "2".into())], &request);
        let links = walk.links(Some("a,b"), Some("c d"));
        let wanted = [
            "<./messages?limit=2&format=msgpack>; rel=\"first\"",
            "<./messages?limit=2&format=msgpack&cursor=a%2Cb>; rel=\"current\"",
            "<./messages?limit=2&format=msgpack&cursor=c%20d>; rel=\"next\"",
        ];
        assert_eq!(links, wanted);
        assert_eq!(walk.links(None, None).len(), 2);
    }

    proptest! {
        #[test]
        fn altered_cursors_are_refused(name in "[a-z]{1,12}", at in any::<prop::sample::Index>()) {
            let mut token = seal("", name.as_bytes()).into_bytes();
            let at = at.index(token.len());
            token[at] = if token[at] == b'Q' { b'R' } else { b'Q' };
            let token = String::from_utf8(token).unwrap();
            prop_assert_eq!(unseal("", &token), None);
        }
    }
}
