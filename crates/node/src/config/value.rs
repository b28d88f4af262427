//! The kinds of values that settings have: how each is written in TOML, read and printed.

use std::fmt;
use std::time::Duration;

use headcount_model::control::PIN_SHARDS_DEFAULT;
use toml::Value as Toml;

/// A value of a setting.
pub(super) trait Value: Clone + PartialEq {
    /// What is expected, for people.
    const EXPECTED: &'static str;
    /// Whether it is written as a TOML string, so that text from the environment or a flag needs no
    /// quotes even if it looks like something else.
    const TEXTUAL: bool;

    /// Reads it; `None` if it is not what [`Self::EXPECTED`] says.
    fn read(value: &Toml) -> Option<Self>;

    /// Writes it, so that [`Self::read`] gives it back.
    fn write(&self) -> Toml;

    /// Whether it must not be printed.
    fn is_secret(&self) -> bool {
        false
    }
}

/// A span of time that people write: `"5ms"`, `"1m 30s"`.
impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as \"50ms\", \"5s\" or \"1day\"";
    const TEXTUAL: bool = true;

    fn read(value: &Toml) -> Option<Self> {
        let text = value.as_str()?;
        if text == "0" {
            Some(Self::ZERO)
        } else {
            humantime::parse_duration(text).ok()
        }
    }

    fn write(&self) -> Toml {
        Toml::String(humantime::format_duration(*self).to_string())
    }
}

/// A number of bytes that people write: `"64MiB"`, or a bare number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Bytes {
    /// Returns so many KiB.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Returns so many MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Returns so many GiB.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// Returns the number for what is counted in memory; the highest, if it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(&str, u32)| self.0.trailing_zeros() >= *shift && self.0 > 0;
        let (unit, shift) = BYTE_UNITS.iter().find(whole).unwrap_or(&("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl Value for Bytes {
    const EXPECTED: &'static str = "a number of bytes such as \"64KiB\", \"1GiB\" or 4096";
    const TEXTUAL: bool = false;

    fn read(value: &Toml) -> Option<Self> {
        if let Some(number) = value.as_integer() {
            return number.try_into().ok().map(Self);
        }
        let text = value.as_str()?.trim();
        let (number, shift) = BYTE_UNITS
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
        let number: u64 = number.trim_end().parse().ok()?;
        number.checked_mul(1 << shift).map(Self)
    }

    fn write(&self) -> Toml {
        Toml::String(self.to_string())
    }
}

/// Text that is masked wherever settings are printed. Empty means that there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text; `None` if it is empty. Whoever asks must not print it.
    #[must_use]
    pub fn expose(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "SecretText()"
        } else {
            "SecretText(***)"
        })
    }
}

impl Value for SecretText {
    const EXPECTED: &'static str = "a text";
    const TEXTUAL: bool = true;

    fn read(value: &Toml) -> Option<Self> {
        value.as_str().map(Self::new)
    }

    fn write(&self) -> Toml {
        Toml::String(self.0.clone())
    }

    fn is_secret(&self) -> bool {
        !self.0.is_empty()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "a text";
    const TEXTUAL: bool = true;

    fn read(value: &Toml) -> Option<Self> {
        value.as_str().map(Self::from)
    }

    fn write(&self) -> Toml {
        Toml::String(self.clone())
    }
}

impl Value for Vec<String> {
    const EXPECTED: &'static str = "a list of texts such as [\"a\", \"b\"]";
    const TEXTUAL: bool = false;

    fn read(value: &Toml) -> Option<Self> {
        value.as_array()?.iter().map(String::read).collect()
    }

    fn write(&self) -> Toml {
        Toml::Array(self.iter().map(Value::write).collect())
    }
}

/// Pins as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Pins(pub Vec<RawPin>);

/// A pin as it was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPin {
    /// How the channels' names begin.
    pub prefix: String,
    /// The region where their coordinators are.
    pub home: String,
    /// How many shards they are divided into.
    #[serde(default = "pin_shards")]
    pub shards: u32,
}

fn pin_shards() -> u32 {
    PIN_SHARDS_DEFAULT
}

impl Value for Pins {
    const EXPECTED: &'static str =
        "a list of pins such as [{ prefix = \"eu:\", home = \"eu-west-1\", shards = 4 }]";
    const TEXTUAL: bool = false;

    fn read(value: &Toml) -> Option<Self> {
        value.clone().try_into().ok()
    }

    fn write(&self) -> Toml {
        let pins = self.0.iter().map(|pin| {
            let mut table = toml::Table::new();
            table.insert("prefix".to_owned(), pin.prefix.clone().into());
            table.insert("home".to_owned(), pin.home.clone().into());
            table.insert("shards".to_owned(), i64::from(pin.shards).into());
            Toml::Table(table)
        });
        Toml::Array(pins.collect())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    const TEXTUAL: Self = false;

    fn read(value: &Toml) -> Option<Self> {
        value.as_bool()
    }

    fn write(&self) -> Toml {
        Toml::Boolean(*self)
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {
        $(impl Value for $type {
            const EXPECTED: &'static str = "a whole number";
            const TEXTUAL: bool = false;

            fn read(value: &Toml) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }

            fn write(&self) -> Toml {
                Toml::Integer((*self).try_into().unwrap_or(i64::MAX))
            }
        })*
    };
}

whole_numbers!(u32, u64, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back_as_they_were_written() {
        for bytes in [0, 1, 1023, 1024, 64 << 20, 3 << 30, (3 << 30) + 1, 1 << 40] {
            assert_eq!(Bytes::read(&Bytes(bytes).write()), Some(Bytes(bytes)));
        }
        for millis in [0, 5, 999, 90_000, 86_400_000] {
            let span = Duration::from_millis(millis);
            assert_eq!(Duration::read(&span.write()), Some(span));
        }
        assert_eq!(usize::read(&7_usize.write()), Some(7));
        let list = vec!["a:1".to_owned(), "b".to_owned()];
        assert_eq!(Vec::read(&list.write()), Some(list));
    }

    #[test]
    fn what_people_write_is_understood_and_nonsense_is_not() {
        let text = |text: &str| Toml::String(text.to_owned());
        assert_eq!(Bytes::read(&text("4 MiB")), Some(Bytes::mib(4)));
        assert_eq!(Bytes(1 << 20).to_string(), "1MiB");
        assert_eq!(Bytes::read(&Toml::Integer(-1)), None);
        assert_eq!(Bytes::read(&text("20000000TiB")), None);
        assert_eq!(Duration::read(&text("0")), Some(Duration::ZERO));
        assert_eq!(Duration::read(&Toml::Integer(5)), None, "5 of what?");
        assert_eq!(u32::read(&Toml::Integer(-5)), None);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", SecretText::new("hush")), "SecretText(***)");
        assert_eq!(SecretText::default().expose(), None);
    }
}
