//! Typed access to the fields of a frame, a message or a presence item.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::error::FrameError;
use crate::limits::{PARAMS_MAX, TEXT_BYTES_MAX};
use crate::tree::Value;

/// The fields of one map. Null is the same as absent: ably-python sends nulls.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    entries: &'a [(Cow<'a, str>, Value<'a>)],
    place: Place,
}

/// Where in the frame the map is; made to text only when something is wrong.
#[derive(Clone, Copy)]
enum Place {
    Frame,
    Field(&'static str),
    Item(&'static str, usize),
}

impl<'a> Fields<'a> {
    /// Takes a whole frame.
    pub(crate) fn of_frame(value: &'a Value<'a>) -> Result<Self, FrameError> {
        Self::of(value, Place::Frame)
    }

    fn of(value: &'a Value<'a>, place: Place) -> Result<Self, FrameError> {
        match value {
            Value::Map(entries) => Ok(Self { entries, place }),
            _ => Err(FrameError::WrongType {
                field: match place {
                    Place::Frame => "the frame".to_owned(),
                    Place::Field(name) => name.to_owned(),
                    Place::Item(name, index) => format!("{name}[{index}]"),
                },
                wanted: "an object",
            }),
        }
    }

    /// Returns a field's full name, for an error; a client's own name for it is cut short.
    pub(crate) fn name_of(&self, name: &str) -> String {
        match self.place {
            Place::Frame => name.to_owned(),
            Place::Field(outer) => format!("{outer}.{name:.64}"),
            Place::Item(outer, index) => format!("{outer}[{index}].{name}"),
        }
    }

    /// Returns a field's value.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value<'a>> {
        let (_, value) = self.entries.iter().rev().find(|(key, _)| key == name)?;
        (*value != Value::Null).then_some(value)
    }

    /// Returns the error of a field that must be there.
    pub(crate) fn missing(&self, name: &str) -> FrameError {
        FrameError::Missing {
            field: self.name_of(name),
        }
    }

    fn wrong_type(&self, name: &str, wanted: &'static str) -> FrameError {
        FrameError::WrongType {
            field: self.name_of(name),
            wanted,
        }
    }

    /// Checks a length that a field has, or comes to have.
    pub(crate) fn check_length(
        &self,
        name: &str,
        bytes: usize,
        max: usize,
    ) -> Result<(), FrameError> {
        if bytes <= max {
            return Ok(());
        }
        Err(FrameError::TooLong {
            field: self.name_of(name),
            bytes,
            max,
        })
    }

    /// Returns a text of at most `max` bytes.
    pub(crate) fn text_within(&self, name: &str, max: usize) -> Result<Option<String>, FrameError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => {
                self.check_length(name, text.len(), max)?;
                Ok(Some(text.to_string()))
            }
            Some(_) => Err(self.wrong_type(name, "text")),
        }
    }

    /// Returns a text of at most [`TEXT_BYTES_MAX`].
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, FrameError> {
        self.text_within(name, TEXT_BYTES_MAX)
    }

    /// Returns a whole number that is not negative.
    pub(crate) fn unsigned(&self, name: &str) -> Result<Option<u64>, FrameError> {
        self.get(name)
            .map(|value| {
                value
                    .as_unsigned()
                    .ok_or_else(|| self.wrong_type(name, "a whole number, not negative"))
            })
            .transpose()
    }

    /// Returns the map in a field.
    pub(crate) fn inner(&self, name: &'static str) -> Result<Option<Self>, FrameError> {
        self.get(name)
            .map(|value| Self::of(value, Place::Field(name)))
            .transpose()
    }

    /// Reads each map of the list in a field; an absent list is empty.
    pub(crate) fn items<T>(
        &self,
        name: &'static str,
        max: usize,
        read: impl Fn(&Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let items = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::List(items)) => items,
            Some(_) => return Err(self.wrong_type(name, "a list")),
        };
        self.check_count(name, items.len(), max)?;
        Self::each(name, items, read)
    }

    /// Reads each map of a list that is not in a field, or the one map that stands for it.
    pub(crate) fn listed<T>(
        name: &'static str,
        value: &'a Value<'a>,
        max: usize,
        read: impl Fn(&Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        match value {
            Value::List(items) => {
                check_count(name, items.len(), max)?;
                Self::each(name, items, read)
            }
            one => Self::each(name, std::slice::from_ref(one), read),
        }
    }

    fn each<T>(
        name: &'static str,
        items: &'a [Value<'a>],
        read: impl Fn(&Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let places = (0..).map(|index| Place::Item(name, index));
        let read = |(item, place)| read(&Self::of(item, place)?);
        items.iter().zip(places).map(read).collect()
    }

    /// Returns the params of an ATTACH. Numbers and booleans are as good as their texts.
    pub(crate) fn params(&self) -> Result<BTreeMap<String, String>, FrameError> {
        let mut params = BTreeMap::new();
        let Some(inner) = self.inner("params")? else {
            return Ok(params);
        };
        self.check_count("params", inner.entries.len(), PARAMS_MAX)?;
        for (name, value) in inner.entries {
            let value = match value {
                Value::Null => continue,
                Value::Text(text) => text.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Unsigned(number) => number.to_string(),
                Value::Negative(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
                    return Err(inner.wrong_type(name, "text, a number or a boolean"));
                }
            };
            inner.check_length(name, name.len().max(value.len()), TEXT_BYTES_MAX)?;
            params.insert(name.to_string(), value);
        }
        Ok(params)
    }

    fn check_count(&self, name: &str, count: usize, max: usize) -> Result<(), FrameError> {
        check_count(&self.name_of(name), count, max)
    }
}

fn check_count(field: &str, count: usize, max: usize) -> Result<(), FrameError> {
    if count <= max {
        return Ok(());
    }
    Err(FrameError::TooMany {
        field: field.to_owned(),
        count,
        max,
    })
}
