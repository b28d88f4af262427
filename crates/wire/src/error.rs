//! What is wrong with a message.

use headcount_model::NameError;

/// A message that cannot be taken as what it should be; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are no protobuf message of the kind.
    #[error("{what} cannot be decoded: {reason}")]
    Decode {
        /// The message.
        what: &'static str,
        /// What prost said.
        reason: String,
    },
    /// A field that must be set is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A name breaks its rules.
    #[error("{field}: {source}")]
    Name {
        /// The field.
        field: &'static str,
        /// Which rule.
        source: NameError,
    },
    /// A number is outside its bounds.
    #[error("{field} is {value}, which is out of bounds")]
    Range {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Written in a format of another release.
    #[error("{what} has format {format}, this release knows {known}")]
    Format {
        /// The message.
        what: &'static str,
        /// Its format.
        format: u32,
        /// Ours.
        known: u32,
    },
    /// Values contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Adds the field to a name's error.
pub(crate) fn named(field: &'static str) -> impl FnOnce(NameError) -> WireError {
    move |source| WireError::Name { field, source }
}

/// Returns what an optional message field holds.
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(field))
}
