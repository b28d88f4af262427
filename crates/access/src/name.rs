//! Taking apart a channel name as a client wrote it: qualifier, params, base name.

use std::borrow::Cow;

use crate::encoding::percent_decode;

/// The most params that one qualifier may carry. Clients send one to three.
pub const NAME_PARAMS_MAX: usize = 16;

/// Why a name's qualifier, or the name as a whole, cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// There is no name, or none behind the qualifier.
    #[error("the name is empty")]
    Empty,
    /// A `[` at the start has no `]`.
    #[error("the qualifier has no closing bracket")]
    UnclosedQualifier,
    /// The qualifier is empty, unknown, or holds something else than letters, digits, `_`, `-`.
    #[error("the qualifier is not known")]
    UnknownQualifier,
    /// A second bracket follows the qualifier. Accepting it would let `[?rewind=1][meta]log` pass
    /// for a normal channel.
    #[error("a name has one qualifier at most")]
    SecondQualifier,
    /// The params are too many, or their percent-encoding is broken.
    #[error("the params in the qualifier are malformed")]
    MalformedParams,
}

/// Name and value, percent-decoded.
type Param<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A channel as clients write it, such as `room:1`, `[meta]log`, `[?occupancy=metrics]room:1` or
/// `[meta?rewind=1]log`, taken apart.
///
/// Only the qualifier is judged here; whether the base name is a valid channel name is the model's
/// business. A base name is never empty and never begins with `[`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualifiedName<'a> {
    metachannel: bool,
    base: &'a str,
    params: Vec<Param<'a>>,
}

impl<'a> QualifiedName<'a> {
    /// Reads a channel name. The only qualifier that a channel may have is `meta`.
    ///
    /// # Errors
    /// Says what is wrong with the qualifier; on the wire that is 40010 with status 400.
    pub fn parse(text: &'a str) -> Result<Self, NameFault> {
        let parts = Parts::split(text)?;
        let metachannel = match parts.qualifier {
            None => false,
            Some("meta") => true,
            Some(_) => return Err(NameFault::UnknownQualifier),
        };
        let params = match parts.query {
            None | Some("") => Vec::new(),
            Some(query) => parse_params(query)?,
        };
        Ok(Self {
            metachannel,
            base: parts.base,
            params,
        })
    }

    /// True for `[meta]…`.
    pub fn is_metachannel(&self) -> bool {
        self.metachannel
    }

    /// The name behind the qualifier: `log` of `[meta?rewind=1]log`.
    pub fn base(&self) -> &'a str {
        self.base
    }

    /// The channel's own name, without params: `[meta]log`, `room:1`. It is what capabilities are
    /// matched with and what identifies the channel.
    pub fn channel(&self) -> Cow<'a, str> {
        if self.metachannel {
            Cow::Owned(format!("[meta]{}", self.base))
        } else {
            Cow::Borrowed(self.base)
        }
    }

    /// The params of the qualifier in the order written, percent-decoded; a param without `=` has
    /// an empty value. At most [`NAME_PARAMS_MAX`].
    pub fn params(&self) -> &[(Cow<'a, str>, Cow<'a, str>)] {
        &self.params
    }

    /// The value of a param; if it is repeated, the last one counts.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    }
}

fn parse_params(query: &str) -> Result<Vec<Param<'_>>, NameFault> {
    let mut params = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if params.len() == NAME_PARAMS_MAX {
            return Err(NameFault::MalformedParams);
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode(name).ok_or(NameFault::MalformedParams)?;
        let value = percent_decode(value).ok_or(NameFault::MalformedParams)?;
        params.push((name, value));
    }
    Ok(params)
}

/// A name cut at its brackets, nothing decoded or copied. Shared by concrete names and by the
/// patterns of capabilities, so that both strip params in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// `meta` of `[meta?rewind=1]log`; `*` only makes sense in a pattern.
    pub(crate) qualifier: Option<&'a str>,
    pub(crate) query: Option<&'a str>,
    pub(crate) base: &'a str,
}

impl<'a> Parts<'a> {
    pub(crate) fn split(text: &'a str) -> Result<Self, NameFault> {
        let parts = Self::split_prefix(text)?;
        if parts.base.is_empty() {
            return Err(NameFault::Empty);
        }
        Ok(parts)
    }

    /// As [`Parts::split`], but nothing need follow the qualifier: for prefixes of names.
    pub(crate) fn split_prefix(text: &'a str) -> Result<Self, NameFault> {
        let Some(rest) = text.strip_prefix('[') else {
            return Ok(Self {
                qualifier: None,
                query: None,
                base: text,
            });
        };
        let (inside, base) = rest.split_once(']').ok_or(NameFault::UnclosedQualifier)?;
        let (qualifier, query) = match inside.split_once('?') {
            Some((qualifier, query)) => (qualifier, Some(query)),
            None => (inside, None),
        };
        let qualifier = match (qualifier, query) {
            ("", Some(_)) => None,
            ("*", _) => Some("*"),
            (word, _) if is_word(word) => Some(word),
            _ => return Err(NameFault::UnknownQualifier),
        };
        if base.starts_with('[') {
            return Err(NameFault::SecondQualifier);
        }
        Ok(Self {
            qualifier,
            query,
            base,
        })
    }
}

/// True for a non-empty run of ASCII letters, digits, `_` and `-`.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
