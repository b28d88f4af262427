//! Resource patterns of capabilities: matching, covering, intersecting (contract §4.5).

use std::fmt;

use crate::name::{NameFault, Parts};

/// A resource as a capability names it: `[qualifier]` and `:`-separated segments.
///
/// `*` stands for a whole segment; as the last segment it stands for any number of further ones,
/// none included, so that `foo:*` matches `foo`, `foo:a` and `foo:a:b`. `foo*` is a literal.
/// Patterns are closed under intersection: two patterns have one pattern, or none, in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    qualifier: Qualifier,
    /// The segments before a trailing `*`. If `open` is false, the last one is a literal.
    segments: Vec<Segment>,
    /// Ends in `*`.
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Qualifier {
    /// Normal channels only.
    None,
    /// `[*]`: everything, qualified or not.
    Any,
    /// `[meta]`, `[queue]`, …: only what has the same qualifier.
    Word(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Any,
    Literal(Box<str>),
}

impl Segment {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => **literal == *segment,
        }
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, segment) | (segment, Self::Any) => Some(segment.clone()),
            (one, two) => (one == two).then(|| one.clone()),
        }
    }
}

impl Qualifier {
    fn matches(&self, qualifier: Option<&str>) -> bool {
        match self {
            Self::None => qualifier.is_none(),
            Self::Any => true,
            Self::Word(word) => qualifier == Some(&**word),
        }
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, qualifier) | (qualifier, Self::Any) => Some(qualifier.clone()),
            (one, two) => (one == two).then(|| one.clone()),
        }
    }
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, NameFault> {
        let parts = Parts::split(text)?;
        let qualifier = match parts.qualifier {
            None => Qualifier::None,
            Some("*") => Qualifier::Any,
            Some(word) => Qualifier::Word(word.into()),
        };
        let mut segments: Vec<_> = parts
            .base
            .split(':')
            .map(|segment| match segment {
                "*" => Segment::Any,
                literal => Segment::Literal(literal.into()),
            })
            .collect();
        let open = segments.last() == Some(&Segment::Any);
        if open {
            segments.pop();
        }
        Ok(Self {
            qualifier,
            segments,
            open,
        })
    }

    /// True if the pattern matches the name with these parts.
    pub(crate) fn matches(&self, name: &Parts<'_>) -> bool {
        if !self.qualifier.matches(name.qualifier) {
            return false;
        }
        let mut rest = name.base.split(':');
        for segment in &self.segments {
            if !rest.next().is_some_and(|text| segment.matches(text)) {
                return false;
            }
        }
        self.open || rest.next().is_none()
    }

    /// True if the pattern matches every name that begins with the prefix. Without parts the
    /// prefix ends inside a qualifier, and only `[*]*` will do.
    pub(crate) fn covers_prefix(&self, prefix: Option<&Parts<'_>>) -> bool {
        if !self.open {
            return false;
        }
        let (base, qualified) = match prefix {
            Some(parts) => (parts.base, self.qualifier.matches(parts.qualifier)),
            None => ("", self.qualifier == Qualifier::Any),
        };
        // The prefix's last segment may go on, so only a wildcard is sure to match it.
        let mut complete = base.split(':').peekable();
        qualified
            && self
                .segments
                .iter()
                .all(|segment| match (complete.next(), complete.peek()) {
                    (Some(text), Some(_)) => segment.matches(text),
                    (Some(_), None) => *segment == Segment::Any,
                    (None, _) => false,
                })
    }

    /// The pattern of what both match.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        let qualifier = self.qualifier.intersection(&other.qualifier)?;
        let (short, long) = if self.segments.len() <= other.segments.len() {
            (self, other)
        } else {
            (other, self)
        };
        if short.segments.len() < long.segments.len() && !short.open {
            return None;
        }
        let mut segments = Vec::with_capacity(long.segments.len());
        for (one, two) in short.segments.iter().zip(&long.segments) {
            segments.push(one.intersection(two)?);
        }
        segments.extend_from_slice(&long.segments[short.segments.len()..]);
        // Of two patterns of one length the closed one decides: its last segment is a literal.
        let open = long.open && short.open;
        Some(Self {
            qualifier,
            segments,
            open,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.qualifier {
            Qualifier::None => {}
            Qualifier::Any => f.write_str("[*]")?,
            Qualifier::Word(word) => write!(f, "[{word}]")?,
        }
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            f.write_str(match segment {
                Segment::Any => "*",
                Segment::Literal(literal) => literal,
            })?;
        }
        if self.open {
            f.write_str(if self.segments.is_empty() { "*" } else { ":*" })?;
        }
        Ok(())
    }
}
