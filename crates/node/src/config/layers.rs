//! The layers that settings come from, each over the one before: file, environment, flags.

use std::collections::BTreeMap;

use toml::Value as Toml;

use super::fault::{Fault, Origin};

/// The beginning of the names of environment variables that are settings.
pub const VARIABLE_PREFIX: &str = "HEADCOUNT__";

/// The environment of the process, or what a test puts in its place.
pub trait Environment {
    /// Returns all variables, as (name, value).
    fn variables(&self) -> Vec<(String, String)>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self) -> Vec<(String, String)> {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((
                    name.into_string().ok()?,
                    value.to_string_lossy().into_owned(),
                ))
            })
            .collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variables(&self) -> Vec<(String, String)> {
        self.clone().into_iter().collect()
    }
}

/// One setting as somebody wrote it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) value: Toml,
    /// What the environment or a flag says, before it was taken for TOML.
    pub(super) text: Option<String>,
    pub(super) origin: Origin,
}

/// What all layers say, the later ones over the earlier.
#[derive(Debug, Default)]
pub(super) struct Layers {
    settings: BTreeMap<(String, String), Written>,
    /// `[[app]]` of the last layer that has any.
    pub(super) apps: Option<(Toml, Origin)>,
    /// Where what was taken came from.
    origins: BTreeMap<(String, String), Origin>,
}

impl Layers {
    /// Makes one layer of what stands in a table in the manner of a section.
    pub(super) fn of_section(section: &str, table: &toml::Table, origin: &Origin) -> Self {
        let settings = table.iter().map(|(key, value)| {
            let written = Written {
                value: value.clone(),
                text: None,
                origin: origin.clone(),
            };
            ((section.to_owned(), key.clone()), written)
        });
        Self {
            settings: settings.collect(),
            ..Self::default()
        }
    }

    /// Adds a file of TOML.
    pub(super) fn add_file(&mut self, name: &str, text: &str, faults: &mut Vec<Fault>) {
        let origin = Origin::File(name.to_owned());
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let error: toml::de::Error = error;
                let what = error.to_string().trim_end().replace('\n', "\n    ");
                return faults.push(Fault {
                    key: "the file".to_owned(),
                    origin,
                    what,
                });
            }
        };
        for (section, value) in table {
            match value {
                // Nothing but pins of the section is written.
                value @ Toml::Array(_) if section == "placement" => {
                    let written = Written {
                        value,
                        text: None,
                        origin: origin.clone(),
                    };
                    self.settings.insert((section, "pins".to_owned()), written);
                }
                value if section == "app" => self.apps = Some((value, origin.clone())),
                Toml::Table(keys) => {
                    for (key, value) in keys {
                        let written = Written {
                            value,
                            text: None,
                            origin: origin.clone(),
                        };
                        self.settings.insert((section.clone(), key), written);
                    }
                }
                _ => faults.push(Fault {
                    key: section.clone(),
                    origin: origin.clone(),
                    what: format!("expected a section [{section}]; settings stand in sections"),
                }),
            }
        }
    }

    /// Adds those variables whose names begin with [`VARIABLE_PREFIX`].
    pub(super) fn add_environment(
        &mut self,
        environment: &dyn Environment,
        faults: &mut Vec<Fault>,
    ) {
        for (name, text) in environment.variables() {
            if let Some(path) = name.strip_prefix(VARIABLE_PREFIX) {
                let path = path.to_lowercase().replacen("__", ".", 1);
                self.add_text(&path, text, Origin::Environment(name.clone()), faults);
            }
        }
    }

    /// Adds flags `section.key=value`.
    pub(super) fn add_flags(&mut self, flags: &[String], faults: &mut Vec<Fault>) {
        for flag in flags {
            match flag.split_once('=') {
                Some((path, text)) => {
                    self.add_text(path.trim(), text.to_owned(), Origin::Flag, faults);
                }
                None => faults.push(Fault {
                    key: flag.clone(),
                    origin: Origin::Flag,
                    what: "expected section.key=value".to_owned(),
                }),
            }
        }
    }

    fn add_text(&mut self, path: &str, text: String, origin: Origin, faults: &mut Vec<Fault>) {
        let value = parse_value(&text);
        if path == "app" {
            self.apps = Some((value, origin));
        } else if let Some((section, key)) = path.split_once('.') {
            let written = Written {
                value,
                text: Some(text),
                origin,
            };
            self.settings
                .insert((section.to_owned(), key.to_owned()), written);
        } else {
            let what = "names no setting: expected section.key".to_owned();
            faults.push(Fault {
                key: path.to_owned(),
                origin,
                what,
            });
        }
    }

    /// Takes what was written for a setting.
    pub(super) fn take(&mut self, section: &str, key: &str) -> Option<Written> {
        let path = (section.to_owned(), key.to_owned());
        let written = self.settings.remove(&path)?;
        self.origins.insert(path, written.origin.clone());
        Some(written)
    }

    /// Returns where a setting that was taken came from.
    pub(super) fn origin(&self, section: &str, key: &str) -> Origin {
        let path = (section.to_owned(), key.to_owned());
        self.origins.get(&path).cloned().unwrap_or(Origin::Default)
    }

    /// Returns what nobody took.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&str, &str, &Origin)> {
        self.settings
            .iter()
            .map(|((section, key), written)| (section.as_str(), key.as_str(), &written.origin))
    }
}

/// Reads a value in TOML's syntax; what is not TOML is a plain text.
fn parse_value(text: &str) -> Toml {
    let document = format!("value = {text}");
    let parsed = document.parse::<toml::Table>().ok();
    // A text with a line break could smuggle in a second key.
    let alone = parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    alone.unwrap_or_else(|| Toml::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_or_else_plain_text() {
        assert_eq!(parse_value("7"), Toml::Integer(7));
        assert_eq!(parse_value("\"7\""), Toml::String("7".to_owned()));
        assert_eq!(
            parse_value("us-east-1"),
            Toml::String("us-east-1".to_owned())
        );
        assert_eq!(parse_value(""), Toml::String(String::new()));
        assert_eq!(parse_value("1\nb = 2"), Toml::String("1\nb = 2".to_owned()));
        assert!(parse_value("[\"a:1\"]").is_array());
    }

    #[test]
    fn only_variables_with_the_prefix_are_settings() {
        let mut layers = Layers::default();
        let mut faults = Vec::new();
        let variables = [
            ("HEADCOUNT_SERVER", "x"),
            ("HEADCOUNT__NODE__DATA_DIR", "y"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        layers.add_environment(&BTreeMap::from(variables), &mut faults);
        assert!(faults.is_empty());
        assert_eq!(
            layers.rest().map(|rest| rest.1).collect::<Vec<_>>(),
            ["data_dir"]
        );
    }
}
