//! How settings are declared: one macro turns a table of keys into types, defaults, reading,
//! printing and documentation, so that none of them can say something else than the others.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use super::fault::Fault;
use super::layers::Layers;
use super::value::Value;

/// What is to be known about one setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KeyDoc {
    /// Its name inside its section.
    pub key: &'static str,
    /// What it means, what it bounds, and what happens when it is too low or too high.
    pub about: String,
    /// What may be written.
    pub expected: &'static str,
    /// The default, as it is written in TOML.
    pub default: String,
    /// The lowest and highest value, as they are written in TOML.
    pub range: Option<(String, String)>,
}

/// What is to be known about one section.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SectionDoc {
    /// Its name.
    pub section: &'static str,
    /// What it is about.
    pub about: String,
    /// Its settings.
    pub keys: Vec<KeyDoc>,
}

/// Joins the lines of a documentation comment as they stand.
pub(super) fn lines(lines: &[&str]) -> String {
    let trimmed: Vec<&str> = lines
        .iter()
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    trimmed.join("\n")
}

/// Describes one setting.
pub(super) fn describe<T: Value>(
    key: &'static str,
    about: &[&str],
    default: &T,
    range: Option<&RangeInclusive<T>>,
) -> KeyDoc {
    KeyDoc {
        key,
        about: lines(about),
        expected: T::EXPECTED,
        default: default.write().to_string(),
        range: range.map(|range| {
            (
                range.start().write().to_string(),
                range.end().write().to_string(),
            )
        }),
    }
}

/// Takes one setting out of the layers: what was written, or `base` with a fault if that is wrong.
pub(super) fn take<T: Value>(
    layers: &mut Layers,
    faults: &mut Vec<Fault>,
    (section, key): (&'static str, &'static str),
    base: &T,
    check: impl FnOnce(&T) -> Option<String>,
) -> T {
    let Some(written) = layers.take(section, key) else {
        return base.clone();
    };
    let value = match written.text {
        Some(text) if T::TEXTUAL && !written.value.is_str() => toml::Value::String(text),
        _ => written.value,
    };
    let result = match T::read(&value) {
        Some(value) => check(&value).map_or(Ok(value), Err),
        None => Err(format!("expected {}, found {value}", T::EXPECTED)),
    };
    let key = format!("{section}.{key}");
    result.unwrap_or_else(|what| {
        let what = if base.is_secret() {
            format!("expected {}", T::EXPECTED)
        } else {
            what
        };
        faults.push(Fault {
            key,
            origin: written.origin,
            what,
        });
        base.clone()
    })
}

/// Says what is wrong with a value outside of its range.
pub(super) fn outside<T: Value + PartialOrd + Debug>(
    value: &T,
    range: &RangeInclusive<T>,
) -> Option<String> {
    let (low, high) = (range.start().write(), range.end().write());
    let what = || format!("must be from {low} to {high}, found {}", value.write());
    (!range.contains(value)).then(what)
}

/// Declares the sections: each key with its documentation, type, default and, where there is one,
/// its range.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr $(, $range:expr)?; )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )+ }
                }
            }

            impl $Section {
                pub(super) fn read(self, layers: &mut Layers, faults: &mut Vec<Fault>) -> Self {
                    const SECTION: &str = stringify!($section);
                    Self {
                        $( $key: {
                            let check = |value: &$type| {
                                let _: &$type = value;
                                None$(.or(outside(value, &($range))))?
                            };
                            take(layers, faults, (SECTION, stringify!($key)), &self.$key, check)
                        }, )+
                    }
                }

                fn write(&self, secrets: Secrets) -> toml::Table {
                    let mut table = toml::Table::new();
                    $( table.insert(stringify!($key).to_owned(), secrets.show(&self.$key)); )+
                    table
                }

                fn describe() -> SectionDoc {
                    let default = Self::default();
                    SectionDoc {
                        section: stringify!($section),
                        about: lines(&[$($about),+]),
                        keys: vec![$({
                            let range: Option<std::ops::RangeInclusive<$type>> =
                                None$(.or(Some($range)))?;
                            let about = &[$($doc),+];
                            describe(stringify!($key), about, &default.$key, range.as_ref())
                        }),+],
                    }
                }
            }
        )+

        /// Everything as it was written, each value of the right kind and in its range, not yet
        /// compared with the others.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct RawConfig {
            $( $(#[doc = $about])+ pub $section: $Section, )+
            /// The tenants and their keys.
            pub app: Vec<RawApp>,
        }

        impl RawConfig {
            /// Takes every setting out of the layers; where none is written, `self` stays.
            pub(super) fn read_sections(
                self,
                layers: &mut Layers,
                faults: &mut Vec<Fault>,
            ) -> Self {
                Self { $( $section: self.$section.read(layers, faults), )+ app: self.app }
            }

            fn write_sections(&self, secrets: Secrets) -> toml::Table {
                let mut table = toml::Table::new();
                $( table.insert(
                    stringify!($section).to_owned(),
                    toml::Value::Table(self.$section.write(secrets)),
                ); )+
                table
            }
        }

        /// Returns the documentation of all sections, in the order in which they are read best.
        #[must_use]
        pub fn section_docs() -> Vec<SectionDoc> {
            vec![$( $Section::describe() ),+]
        }
    };
}

pub(super) use sections;
