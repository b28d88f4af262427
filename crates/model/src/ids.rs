//! Names and numbers that identify things.

use std::fmt;
use std::sync::Arc;

use crate::limits::{APP_BYTES_MAX, CHANNEL_BYTES_MAX, ID_BYTES_MAX, REGION_BYTES_MAX};

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("{what} is empty")]
    Empty {
        /// What kind of name it is.
        what: &'static str,
    },
    /// The name is longer than its bound.
    #[error("{what} has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// What kind of name it is.
        what: &'static str,
        /// Its length in bytes of UTF-8.
        bytes: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// The name holds a character that it may not hold at that place.
    #[error("{what} has {character:?} at byte {at}, which is not allowed there")]
    Character {
        /// What kind of name it is.
        what: &'static str,
        /// The offending character.
        character: char,
        /// Its byte offset.
        at: usize,
    },
}

/// Checks length only.
fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > max {
        return Err(NameError::TooLong {
            what,
            bytes: text.len(),
            max,
        });
    }
    Ok(())
}

/// Returns whether there are only characters from the space to the tilde, eight at a time: nearly all
/// names are of these, and names come by the million.
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // A high bit where a byte is below the space, above the tilde, or no ASCII. What is carried from
    // byte to byte comes only from one that is told by itself.
    let faults = |word: u64| word.wrapping_sub(ONES * 0x20) | word | word.wrapping_add(ONES);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        found |= faults(u64::from_le_bytes(*word));
    }
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    (found | faults(u64::from_le_bytes(last))) & HIGH == 0
}

/// Checks length, and that every character is an ASCII letter, digit, `-`, `_` or one of `extra`.
fn check_plain(what: &'static str, text: &str, max: usize, extra: &str) -> Result<(), NameError> {
    check_length(what, text, max)?;
    for (at, character) in text.char_indices() {
        let plain = character.is_ascii_alphanumeric() || "-_".contains(character);
        if !plain && !extra.contains(character) {
            return Err(NameError::Character {
                what,
                character,
                at,
            });
        }
    }
    Ok(())
}

/// Checks length, and that no character is a control character.
fn check_printable(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    check_length(what, text, max)?;
    if is_plain(text.as_bytes()) {
        return Ok(());
    }
    match text
        .char_indices()
        .find(|(_, character)| character.is_control())
    {
        Some((at, character)) => Err(NameError::Character {
            what,
            character,
            at,
        }),
        None => Ok(()),
    }
}

/// Checks a channel name by the rules of `contract.md` section 8.
fn check_channel(text: &str) -> Result<(), NameError> {
    const WHAT: &str = "channel name";
    check_length(WHAT, text, CHANNEL_BYTES_MAX)?;
    if is_plain(text.as_bytes()) && !matches!(text.as_bytes()[0], b'[' | b':' | b',' | b' ') {
        return Ok(());
    }
    for (at, character) in text.char_indices() {
        let line_break = matches!(
            character,
            '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        let bad_start =
            at == 0 && (matches!(character, '[' | ':' | ',') || character.is_ascii_whitespace());
        if line_break || bad_start {
            return Err(NameError::Character {
                what: WHAT,
                character,
                at,
            });
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            /// [`NameError`] says which rule the text breaks, and where.
            pub fn new(text: &str) -> Result<Self, NameError> {
                Self::check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// Checks whether `text` is such a name, without taking it.
            ///
            /// # Errors
            /// As [`new`](Self::new).
            pub fn check(text: &str) -> Result<(), NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)
            }

            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// App: a tenant; channels are named inside it. 1 to 64 of `A-Z a-z 0-9 - _`.
    AppId,
    |text| check_plain("app id", text, APP_BYTES_MAX, "")
);
name!(
    /// Channel name: a named pub/sub channel inside its app, without any qualifier. 1 to 2048
    /// bytes of UTF-8, case-sensitive, never normalised; no line breaks, and not beginning with
    /// `[`, `:`, `,` or white space (`contract.md` section 8).
    ChannelName,
    check_channel
);
name!(
    /// Region: a named failure domain with at least one node. 1 to 64 of `A-Z a-z 0-9 - _`.
    RegionName,
    |text| check_plain("region name", text, REGION_BYTES_MAX, "")
);
name!(
    /// Edge: somebody else's server that holds client connections and reports attachments.
    EdgeId,
    |text| check_printable("edge id", text, ID_BYTES_MAX)
);
name!(
    /// Connection: a client session, named by its edge and unique inside it.
    ConnectionId,
    |text| check_printable("connection id", text, ID_BYTES_MAX)
);
name!(
    /// Member: what a connection entered into a channel's presence set, usually a client id.
    MemberId,
    |text| check_printable("member id", text, ID_BYTES_MAX)
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// Node id: one member process of the cluster, for its whole life over restarts. From 1.
    NodeId(u64)
);
number!(
    /// Incarnation: which life of a node or edge this is; grows with each restart (R4). From 1.
    Incarnation(u64)
);
number!(
    /// Fence: an ever increasing number handed out by the control group with ownership; whatever
    /// carries an older one is ignored. From 1; 0 means that nothing was ever claimed.
    Fence(u64)
);
number!(
    /// Replica id: one copy of a shard on a node, as raft knows it; never used twice (R4).
    ReplicaId(u64)
);
number!(
    /// Shard: a fixed slice of the channel space, one raft group; see [`crate::shard_of`].
    ShardId(u32)
);
number!(
    /// Era: raised only when an operator recovers a cluster that lost its quorum (R20).
    Era(u32)
);

/// Channel key: a channel inside its app; orders by app, then by name bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    /// The tenant.
    pub app: AppId,
    /// The channel's name inside the tenant.
    pub name: ChannelName,
}

impl ChannelKey {
    /// Checks both parts and puts them together.
    ///
    /// # Errors
    /// [`NameError`] of the first part that is refused.
    pub fn new(app: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            app: AppId::new(app)?,
            name: ChannelName::new(name)?,
        })
    }
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_follow_the_contract() {
        for good in [
            "a",
            "room:42",
            "ünïcode 💬",
            "a[b",
            "trailing ",
            "\u{202e}x",
            "a,b",
            "::",
        ] {
            let expected = !good.starts_with(':');
            assert_eq!(ChannelName::new(good).is_ok(), expected, "{good:?}");
        }
        for bad in [
            "",
            ":x",
            "[meta]log",
            ",x",
            " x",
            "\tx",
            "a\nb",
            "a\u{2028}b",
            "a\u{85}",
        ] {
            assert!(ChannelName::new(bad).is_err(), "{bad:?}");
        }
        assert!(ChannelName::new(&"x".repeat(2048)).is_ok());
        assert_eq!(
            ChannelName::new(&"x".repeat(2049)),
            Err(NameError::TooLong {
                what: "channel name",
                bytes: 2049,
                max: 2048
            })
        );
    }

    #[test]
    fn plain_bytes_are_found_at_every_place() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'~'; length];
                    bytes[at] = byte;
                    assert_eq!(is_plain(&bytes), (b' '..=b'~').contains(&byte), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn plain_names_refuse_separators() {
        assert!(RegionName::new("eu-west-1").is_ok());
        assert!(RegionName::new("eu.west").is_err());
        assert!(AppId::new("a b").is_err());
    }
}
