//! A frame's bytes as values, before anybody knows what they mean.
//!
//! Both formats end in the same tree, so that the rules of the protocol are written once. It borrows
//! from the frame where it can, and is bounded in depth and in number of values.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use crate::error::FrameError;
use crate::format::Format;
use crate::limits::{DEPTH_MAX, VALUES_MAX};

/// A value of either format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// MessagePack only. Text that is not UTF-8 is taken as bytes, too.
    Bytes(Cow<'a, [u8]>),
    List(Vec<Self>),
    Map(Entries<'a>),
}

/// The entries of a map in the order sent; of a repeated key the last one counts.
pub(crate) type Entries<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

impl<'a> Value<'a> {
    /// Reads all of `bytes`, which come from a client, as one value.
    pub(crate) fn read(format: Format, bytes: &'a [u8]) -> Result<Self, FrameError> {
        Self::read_within(format, bytes, DEPTH_MAX, VALUES_MAX)
    }

    /// Reads all of `bytes` as one value of such a depth and so many values inside at most.
    pub(crate) fn read_within(
        format: Format,
        bytes: &'a [u8],
        depth_max: usize,
        values_max: usize,
    ) -> Result<Self, FrameError> {
        let bounds = Bounds {
            depth_max,
            values_max,
            values_left: Cell::new(values_max),
            crossed: Cell::new(None),
        };
        let seed = Seed {
            bounds: &bounds,
            depth: 0,
        };
        let read = match format {
            Format::Json => read_json(seed, bytes),
            Format::MessagePack => read_message_pack(seed, bytes),
        };
        read.map_err(|reason| match bounds.crossed.take() {
            Some(error) => error,
            None => FrameError::Malformed { format, reason },
        })
    }

    /// Returns the number, if it is a whole one that is not negative; some clients send floats.
    pub(crate) fn as_unsigned(&self) -> Option<u64> {
        /// Beyond it a float no longer tells neighbouring integers apart.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        match *self {
            Self::Unsigned(number) => Some(number),
            Self::Float(number) if number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number) => {
                Some(number as u64)
            }
            _ => None,
        }
    }

    /// Returns the value as JSON, or `None` if there are bytes in it, which JSON does not have.
    pub(crate) fn to_json(&self) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Unsigned(number) => Json::Number((*number).into()),
            Self::Negative(number) => Json::Number((*number).into()),
            // JSON has no NaN and no infinity; every encoder of it writes null.
            Self::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
            Self::Text(text) => Json::String(text.to_string()),
            Self::Bytes(_) => return None,
            Self::List(items) => {
                Json::Array(items.iter().map(Self::to_json).collect::<Option<_>>()?)
            }
            Self::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, value)| Some((key.to_string(), value.to_json()?)))
                    .collect::<Option<_>>()?,
            ),
        })
    }
}

fn read_json<'a>(seed: Seed<'_>, bytes: &'a [u8]) -> Result<Value<'a>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = seed.deserialize(&mut deserializer);
    read.and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| error.to_string())
}

fn read_message_pack<'a>(seed: Seed<'_>, bytes: &'a [u8]) -> Result<Value<'a>, String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = seed
        .deserialize(&mut deserializer)
        .map_err(|error| error.to_string())?;
    match <()>::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value), // nothing is left
        Ok(()) | Err(_) => Err("trailing bytes".to_owned()),
    }
}

/// What a frame may still use up, and the bound that it has crossed: serde's errors are texts, so
/// the fact is kept beside them.
struct Bounds {
    depth_max: usize,
    values_max: usize,
    values_left: Cell<usize>,
    crossed: Cell<Option<FrameError>>,
}

/// Reads one value at a depth.
#[derive(Clone, Copy)]
struct Seed<'b> {
    bounds: &'b Bounds,
    depth: usize,
}

impl Seed<'_> {
    /// Returns the seed of what a list or map holds.
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        let max = self.bounds.depth_max;
        if depth > max {
            return Err(self.cross(FrameError::TooDeep { max }));
        }
        Ok(Self { depth, ..self })
    }

    fn cross<E: serde::de::Error>(self, error: FrameError) -> E {
        let text = E::custom(&error);
        self.bounds.crossed.set(Some(error));
        text
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        let Some(left) = self.bounds.values_left.get().checked_sub(1) else {
            let max = self.bounds.values_max;
            return Err(self.cross(FrameError::TooManyValues { max }));
        };
        self.bounds.values_left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that the protocol has")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Owned(bytes.to_owned())))
    }

    // No capacity is reserved: a list's length is only what the frame claims.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let seed = self.inside()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        let seed = self.inside()?;
        let mut map = Vec::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            map.push((key, entries.next_value_seed(seed)?));
        }
        Ok(Value::Map(map))
    }
}

/// Reads a map's key, borrowed if it can be, which `Cow`'s own implementation does not do.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Value<'_>, FrameError> {
        Value::read(Format::Json, text.as_bytes())
    }

    fn message_pack(bytes: &[u8]) -> Result<Value<'_>, FrameError> {
        Value::read(Format::MessagePack, bytes)
    }

    #[test]
    fn depth_is_bounded_in_both_formats() {
        let at = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(json(&at(DEPTH_MAX)).is_ok());
        let too_deep = Err(FrameError::TooDeep { max: DEPTH_MAX });
        assert_eq!(json(&at(DEPTH_MAX + 1)), too_deep);
        assert_eq!(json(&at(200_000)), too_deep);
        assert_eq!(message_pack(&vec![0x91; 200_000]), too_deep);
        let maps = [0x81, 0xa1, b'k'].repeat(200_000);
        assert_eq!(message_pack(&maps), too_deep);
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(json(&list(VALUES_MAX)).is_ok());
        let too_many = Err(FrameError::TooManyValues { max: VALUES_MAX });
        assert_eq!(json(&list(VALUES_MAX + 1)), too_many);
    }

    #[test]
    fn claimed_lengths_allocate_nothing() {
        // A list, a map, a text and bytes of 4 GiB each, all but absent.
        for marker in [0xdd, 0xdf, 0xdb, 0xc6] {
            let claim = [marker, 0xff, 0xff, 0xff, 0xff, 0xc0];
            assert!(matches!(
                message_pack(&claim),
                Err(FrameError::Malformed { .. })
            ));
        }
    }

    #[test]
    fn integers_of_any_width_are_the_same() {
        let wide = [
            &[0x05][..],
            &[0xcc, 5],
            &[0xcd, 0, 5],
            &[0xce, 0, 0, 0, 5],
            &[0xcf, 0, 0, 0, 0, 0, 0, 0, 5],
            &[0xd0, 5],
            &[0xd3, 0, 0, 0, 0, 0, 0, 0, 5],
            &[0xca, 0x40, 0xa0, 0, 0],
        ];
        for bytes in wide {
            assert_eq!(message_pack(bytes).unwrap().as_unsigned(), Some(5));
        }
        assert_eq!(json("5.0").unwrap().as_unsigned(), Some(5));
        for none in ["-1", "5.5", "1e300", "\"5\"", "null"] {
            assert_eq!(json(none).unwrap().as_unsigned(), None);
        }
    }

    #[test]
    fn what_is_left_over_is_refused() {
        assert!(json("{}{}").is_err());
        assert!(message_pack(&[0x80, 0xc0]).is_err());
        assert!(message_pack(&[0x80, 0xc1]).is_err());
        assert!(message_pack(&[]).is_err());
    }

    #[test]
    fn extension_types_and_other_keys_are_refused() {
        assert!(message_pack(&[0xd4, 1, 0]).is_err());
        assert!(message_pack(&[0x81, 1, 0xc0]).is_err());
    }
}
