//! Taking the path of a channel's resource apart.

use std::borrow::Cow;

use headcount_access::{AccessError, QualifiedName};
use headcount_model::{AppId, ChannelKey, ChannelName};

use crate::percent;
use crate::problem::Problem;

/// Where the names of channels begin in a path.
const PREFIX: &str = "/channels/";

/// What of a channel a path means, besides the channel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Its messages.
    Messages,
    /// The same, under another name.
    History,
    /// Its members.
    Presence,
    /// What happened to them.
    PresenceHistory,
}

/// What a path below `/channels/` may end with; the longer before its end.
const VERBS: [(&str, Verb); 4] = [
    ("/presence/history", Verb::PresenceHistory),
    ("/messages", Verb::Messages),
    ("/history", Verb::History),
    ("/presence", Verb::Presence),
];

/// The raw path of a channel's resource: a name, and what of the channel is meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChannelPath<'a> {
    /// Still percent-encoded, or not: a client sends `/` and brackets as they are.
    name: &'a str,
    /// What of the channel, or `None` for the channel itself.
    pub(crate) verb: Option<Verb>,
}

impl<'a> ChannelPath<'a> {
    /// Cuts a raw path. The name is everything between `/channels/` and a known verb at the end,
    /// so that it may hold slashes that a client did not encode (`contract.md` section 3.1).
    pub(crate) fn parse(path: &'a str) -> Self {
        let rest = path.strip_prefix(PREFIX).unwrap_or("");
        let cut = VERBS.into_iter().find_map(|(end, verb)| {
            rest.strip_suffix(end)
                .filter(|name| !name.is_empty())
                .map(|name| (name, verb))
        });
        match cut {
            Some((name, verb)) => Self {
                name,
                verb: Some(verb),
            },
            None => Self {
                name: rest,
                verb: None,
            },
        }
    }

    /// Decodes the name.
    ///
    /// # Errors
    /// [`Problem::MalformedName`] if its percent-encoding is broken.
    pub(crate) fn name(&self) -> Result<String, Problem> {
        percent::decode(self.name, false).ok_or(Problem::MalformedName)
    }
}

/// A channel as a path names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Channel<'a> {
    /// One that edges and clients attach to.
    Normal(ChannelKey),
    /// One that the cluster writes, with its `[meta]`.
    Meta(Cow<'a, str>),
}

impl<'a> Channel<'a> {
    /// Reads a decoded name, and drops the params of its qualifier.
    ///
    /// # Errors
    /// A [`Problem`] with code 40010 if it is not a channel's name.
    pub(crate) fn parse(app: AppId, name: &'a str) -> Result<Self, Problem> {
        let qualified = QualifiedName::parse(name).map_err(|fault| {
            Problem::Access(AccessError::InvalidChannelName {
                name: name.chars().take(64).collect(),
                fault,
            })
        })?;
        let base = ChannelName::new(qualified.base()).map_err(Problem::Name)?;
        Ok(if qualified.is_metachannel() {
            Self::Meta(qualified.channel())
        } else {
            Self::Normal(ChannelKey { app, name: base })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(path: &str) -> (String, Option<Verb>) {
        let parsed = ChannelPath::parse(path);
        (parsed.name().unwrap(), parsed.verb)
    }

    #[test]
    fn names_reach_to_the_verb() {
        for (path, name, verb) in [
            ("/channels/room:1", "room:1", None),
            ("/channels/a/b/c", "a/b/c", None),
            ("/channels/a%2Fmessages", "a/messages", None),
            ("/channels/a/messages", "a", Some(Verb::Messages)),
            ("/channels/a/history", "a", Some(Verb::History)),
            (
                "/channels/a/presence/history",
                "a",
                Some(Verb::PresenceHistory),
            ),
            ("/channels/a/b/presence", "a/b", Some(Verb::Presence)),
            ("/channels/messages", "messages", None),
            ("/channels//presence", "/presence", None),
            (
                "/channels/presence/history",
                "presence",
                Some(Verb::History),
            ),
            ("/channels/[meta]log%20x/y", "[meta]log x/y", None),
            ("/channels/%5Bmeta%5Dlog", "[meta]log", None),
            ("/channels/a+b", "a+b", None),
            ("/channels/", "", None),
        ] {
            assert_eq!(cut(path), (name.to_owned(), verb), "{path}");
        }
        assert!(ChannelPath::parse("/channels/%ff").name().is_err());
    }

    #[test]
    fn qualifiers_are_dropped_and_metachannels_known() {
        let app = || AppId::new("dev").unwrap();
        let normal = |name: &str| Channel::Normal(ChannelKey::new("dev", name).unwrap());
        let parse = |name| Channel::parse(app(), name);
        assert_eq!(parse("[?rewind=1]room").unwrap(), normal("room"));
        assert_eq!(parse("room[1]").unwrap(), normal("room[1]"));
        assert_eq!(
            parse("[meta?x=1]log").unwrap(),
            Channel::Meta("[meta]log".into())
        );
        for bad in [
            "",
            "[",
            "[foo]x",
            "[meta]",
            "[meta][meta]x",
            ":x",
            "a\nb",
            "[meta]:x",
            "[?a]",
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), 40010, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/channels/.*") {
            if let Ok(name) = ChannelPath::parse(&path).name() {
                drop(Channel::parse(AppId::new("dev").unwrap(), &name));
            }
        }

        #[test]
        fn encoded_names_survive(name in "\\PC{1,40}") {
            let path = format!("/channels/{}", percent::encode(&name));
            prop_assert_eq!(cut(&path), (name, None));
        }
    }
}
