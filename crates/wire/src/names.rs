//! Channels told once and referred to by number after that.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use headcount_model::{ChannelKey, Occupancy};

use crate::error::{WireError, named};
use crate::proto::storage::v1::ChannelName;

/// Most names that a table holds between resets; what one costs is bounded by its length.
pub const NAMES_MAX: usize = 65_536;

/// Gives channels the numbers by which a message refers to them.
pub(crate) trait Numbers<'a> {
    /// Returns the number of a channel, noting its name to be told if it is new.
    fn number(&mut self, channel: &'a ChannelKey) -> u32;
}

impl Numbers<'_> for NameWriter {
    fn number(&mut self, channel: &ChannelKey) -> u32 {
        Self::number(self, channel)
    }
}

/// The writing side of a table of names.
#[derive(Debug, Default)]
pub struct NameWriter {
    numbers: HashMap<ChannelKey, u32, RandomState>,
    last_app: String,
    /// Names that are not told yet.
    fresh: Vec<ChannelName>,
}

impl NameWriter {
    /// Returns the number of a channel, noting its name to be told if it is new.
    pub fn number(&mut self, channel: &ChannelKey) -> u32 {
        if let Some(number) = self.numbers.get(channel) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).expect("far fewer names than 2^32");
        self.numbers.insert(channel.clone(), number);
        let app = channel.app.as_str();
        let repeated = self.last_app == app;
        self.fresh.push(ChannelName {
            app: if repeated {
                String::new()
            } else {
                app.to_owned()
            },
            name: channel.name.as_str().to_owned(),
        });
        if !repeated {
            app.clone_into(&mut self.last_app);
        }
        number
    }

    /// Returns the names to be told since the last call.
    pub fn take_fresh(&mut self) -> Vec<ChannelName> {
        std::mem::take(&mut self.fresh)
    }

    /// Returns whether the table is so full that it should be reset before the next message.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= NAMES_MAX / 2
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The reading side of a table of names.
#[derive(Debug, Default)]
pub struct NameReader {
    names: Vec<ChannelKey>,
}

impl NameReader {
    /// Adds names in the order in which they were told.
    ///
    /// # Errors
    /// [`WireError`] if one breaks its rules, the first lacks its app, or there are too many.
    pub fn add(&mut self, names: Vec<ChannelName>) -> Result<(), WireError> {
        for name in names {
            self.add_one(&name.app, &name.name)?;
        }
        Ok(())
    }

    /// Adds a name; no app means that of the name before.
    pub(crate) fn add_one(&mut self, app: &str, name: &str) -> Result<(), WireError> {
        if self.names.len() == NAMES_MAX {
            let value = NAMES_MAX as u64 + 1;
            return Err(WireError::Range {
                field: "names",
                value,
            });
        }
        let key = match (app, self.names.last()) {
            ("", Some(last)) => {
                let name = headcount_model::ChannelName::new(name);
                ChannelKey {
                    app: last.app.clone(),
                    name: name.map_err(named("names.name"))?,
                }
            }
            ("", None) => return Err(WireError::Missing("names.app")),
            (app, _) => ChannelKey::new(app, name).map_err(named("names"))?,
        };
        self.names.push(key);
        Ok(())
    }

    /// Returns the channel with a number.
    ///
    /// # Errors
    /// [`WireError::Range`] if no such name was told.
    pub fn channel(&self, number: u32) -> Result<ChannelKey, WireError> {
        let known = self.names.get(number as usize).cloned();
        known.ok_or(WireError::Range {
            field: "channel",
            value: u64::from(number),
        })
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.names.clear();
    }
}

/// Returns counts without their trailing zeros.
pub(crate) fn put_counts(occupancy: &Occupancy) -> Vec<u32> {
    occupancy.counts()[..used_counts(occupancy)].to_vec()
}

/// Returns how many counts there are before the trailing zeros.
pub(crate) fn used_counts(occupancy: &Occupancy) -> usize {
    let last = occupancy.counts().iter().rposition(|count| *count > 0);
    last.map_or(0, |last| last + 1)
}

/// Reads counts; what was left out is zero.
pub(crate) fn take_counts(counts: &[u32]) -> Result<Occupancy, WireError> {
    let mut all = [0; 8];
    let places = all.get_mut(..counts.len());
    let value = counts.len() as u64;
    let places = places.ok_or(WireError::Range {
        field: "counts",
        value,
    })?;
    places.copy_from_slice(counts);
    Ok(Occupancy::from_counts(all))
}
