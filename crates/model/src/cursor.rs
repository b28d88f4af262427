//! Where a subscriber is, as an opaque token that any node in any region understands (R10).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::varint::{put_str, put_u64, take_str, take_u32, take_u64};
use crate::{ChannelKey, Era, Fence, Position, RegionName, ShardId};

/// Most told-but-unlogged transitions that a cursor lists for a shard; more set the overflow flag.
pub const TOLD_MAX: usize = 64;

/// First byte of a decoded token; another one is from a release that this one does not know.
const VERSION: u8 = 1;

/// Told: an early transition that a subscriber was told and the log did not bring yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Its number under the mark's fence.
    pub number: u64,
    /// The channel.
    pub channel: ChannelKey,
    /// What it was told to have become.
    pub active: bool,
}

/// Early mark: how far a subscriber was told a region's transitions ahead of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyMark {
    /// The region that it followed early.
    pub region: RegionName,
    /// The fence that the numbers belong to.
    pub fence: Fence,
    /// Every transition up to this number was told.
    pub number: u64,
    /// Those of them that the log had not brought, ascending; at most [`TOLD_MAX`].
    pub told: Vec<Told>,
    /// True if there were more than the list holds.
    pub overflow: bool,
}

/// A cursor's place in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardCursor {
    /// Every event of the log up to and including this position was told.
    pub log: Position,
    /// What was told ahead of the log.
    pub early: Option<EarlyMark>,
}

/// Cursor: a subscriber's resume point, one position per shard that it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The era that the positions belong to.
    pub era: Era,
    /// Positions by shard; a shard that is missing starts at its present end.
    pub shards: BTreeMap<ShardId, ShardCursor>,
}

/// A token that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not base64url, cut short, or altered.
    #[error("the cursor is damaged: pass a cursor exactly as it was received")]
    Damaged,
    /// Written by a release that this one does not know.
    #[error("the cursor has version {0}, this node knows version {VERSION}")]
    Version(u8),
}

impl Cursor {
    /// Returns the cursor as URL-safe text.
    #[must_use]
    pub fn to_token(&self) -> String {
        let mut out = vec![VERSION];
        put_u64(&mut out, u64::from(self.era.0));
        put_u64(&mut out, self.shards.len() as u64);
        for (shard, cursor) in &self.shards {
            put_u64(&mut out, u64::from(shard.0));
            put_u64(&mut out, cursor.log.index);
            put_u64(&mut out, u64::from(cursor.log.ordinal.wrapping_add(1)));
            match &cursor.early {
                None => out.push(0),
                Some(mark) => put_mark(&mut out, mark),
            }
        }
        let check = fletcher(&out);
        out.extend_from_slice(&check.to_le_bytes());
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads a token that [`Cursor::to_token`] made.
    ///
    /// # Errors
    /// [`CursorError`] if the text is anything else.
    pub fn from_token(token: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| CursorError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(CursorError::Damaged)?;
        if fletcher(body) != u32::from_le_bytes(*check) {
            return Err(CursorError::Damaged);
        }
        let (version, mut input) = body.split_first().ok_or(CursorError::Damaged)?;
        if *version != VERSION {
            return Err(CursorError::Version(*version));
        }
        take_cursor(&mut input)
            .filter(|_| input.is_empty())
            .ok_or(CursorError::Damaged)
    }
}

/// Appends an early mark: a tag, then its fields.
fn put_mark(out: &mut Vec<u8>, mark: &EarlyMark) {
    out.push(if mark.overflow { 2 } else { 1 });
    put_str(out, mark.region.as_str());
    put_u64(out, mark.fence.0);
    put_u64(out, mark.number);
    put_u64(out, mark.told.len() as u64);
    for told in &mark.told {
        put_u64(out, told.number);
        put_str(out, told.channel.app.as_str());
        put_str(out, told.channel.name.as_str());
        out.push(u8::from(told.active));
    }
}

/// Reads what follows the version byte.
fn take_cursor(input: &mut &[u8]) -> Option<Cursor> {
    let era = Era(take_u32(input)?);
    let count = take_u64(input)?;
    let mut shards = BTreeMap::new();
    for _ in 0..count {
        let shard = ShardId(take_u32(input)?);
        let index = take_u64(input)?;
        let ordinal = take_u32(input)?.wrapping_sub(1);
        let early = take_mark(input)?;
        shards.insert(
            shard,
            ShardCursor {
                log: Position { index, ordinal },
                early,
            },
        );
    }
    Some(Cursor { era, shards })
}

/// Reads an early mark; the outer `None` is damage, the inner one absence.
fn take_mark(input: &mut &[u8]) -> Option<Option<EarlyMark>> {
    let tag = take_u64(input)?;
    if tag == 0 {
        return Some(None);
    }
    let region = RegionName::new(take_str(input)?).ok()?;
    let fence = Fence(take_u64(input)?);
    let number = take_u64(input)?;
    let count = usize::try_from(take_u64(input)?)
        .ok()
        .filter(|count| *count <= TOLD_MAX)?;
    let mut told = Vec::with_capacity(count);
    for _ in 0..count {
        let number = take_u64(input)?;
        let app = take_str(input)?;
        let channel = ChannelKey::new(app, take_str(input)?).ok()?;
        told.push(Told {
            number,
            channel,
            active: take_u64(input)? == 1,
        });
    }
    (tag <= 2).then_some(Some(EarlyMark {
        region,
        fence,
        number,
        told,
        overflow: tag == 2,
    }))
}

/// Fletcher's checksum over bytes: guards against tokens cut or altered by accident.
fn fletcher(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    (b << 16) | a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursors() -> impl Strategy<Value = Cursor> {
        let told =
            (any::<u64>(), "[a-z:]{0,8}", any::<bool>()).prop_map(|(number, name, active)| {
                let channel = ChannelKey::new("app", &format!("c{name}")).unwrap();
                Told {
                    number,
                    channel,
                    active,
                }
            });
        let told = proptest::collection::vec(told, 0..4);
        let mark = (any::<u64>(), any::<u64>(), told, any::<bool>()).prop_map(
            |(fence, number, told, overflow)| EarlyMark {
                region: RegionName::new("eu-west-1").unwrap(),
                fence: Fence(fence),
                number,
                told,
                overflow,
            },
        );
        let shard = (any::<u64>(), any::<u32>(), proptest::option::of(mark)).prop_map(
            |(index, ordinal, early)| ShardCursor {
                log: Position { index, ordinal },
                early,
            },
        );
        let shards = proptest::collection::btree_map((0..64_u32).prop_map(ShardId), shard, 0..6);
        (any::<u32>(), shards).prop_map(|(era, shards)| Cursor {
            era: Era(era),
            shards,
        })
    }

    proptest! {
        #[test]
        fn tokens_survive(cursor in cursors()) {
            prop_assert_eq!(Cursor::from_token(&cursor.to_token()), Ok(cursor));
        }

        #[test]
        fn altered_tokens_are_refused(cursor in cursors(), at in any::<prop::sample::Index>()) {
            let mut token = cursor.to_token().into_bytes();
            let at = at.index(token.len());
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            let token = String::from_utf8(token).unwrap();
            prop_assert!(Cursor::from_token(&token).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            prop_assert!(Cursor::from_token(&text).is_err());
        }
    }
}
