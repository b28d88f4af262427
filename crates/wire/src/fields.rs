//! The fields of a message as they stand in its bytes, for what is read without the generated types.

use crate::error::WireError;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes; no field of ours.
    Fixed,
}

/// The fields of a message, in order, each with its number.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    /// What it is said to be in errors.
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline]
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Returns the error of a message that is none.
    #[cold]
    pub(crate) fn malformed<R: ToString + ?Sized>(what: &'static str, reason: &R) -> WireError {
        WireError::Decode {
            what,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let key = self.varint()?;
        let key = u32::try_from(key);
        let key = key.map_err(|_| Self::malformed(self.what, "a field number is too high"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(Self::malformed(self.what, "a field has the number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.split(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?);
                Value::Bytes(self.split(length.unwrap_or(usize::MAX))?)
            }
            5 => self.split(4).map(|_| Value::Fixed)?,
            _ => {
                let what = "a field has a type that is not used";
                return Err(Self::malformed(self.what, what));
            }
        };
        Ok((number, value))
    }

    #[inline]
    fn split(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let Some((field, rest)) = self.rest.split_at_checked(length) else {
            return Err(Self::malformed(
                self.what,
                "it ends in the middle of a field",
            ));
        };
        self.rest = rest;
        Ok(field)
    }

    /// Takes a number off the front.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        // Nearly all of them: keys, and the lengths of names and of small messages.
        if let [byte @ ..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if at == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Self::malformed(self.what, "a number does not end"))
    }
}
