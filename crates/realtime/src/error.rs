//! Why a client's frame cannot be taken.

use crate::format::Format;

/// What is wrong with a frame, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is longer than CONNECTED has announced.
    #[error("the frame has {bytes} bytes, at most {max} are allowed; send several frames")]
    FrameTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// The messages are larger than CONNECTED has announced.
    #[error(
        "the {field} have {bytes} bytes together, at most {max} are allowed; send less at once"
    )]
    MessagesTooLarge {
        /// `messages` or `presence`.
        field: &'static str,
        /// The sum of their sizes.
        bytes: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// The bytes are not of the connection's format.
    #[error("the frame is not valid {format}, the format of this connection: {reason}")]
    Malformed {
        /// The format of the connection.
        format: Format,
        /// What the decoder says.
        reason: String,
    },
    /// Lists and maps are nested too deeply.
    #[error("the frame is nested deeper than {max} levels; flatten it, or send it as text")]
    TooDeep {
        /// The bound, inclusive.
        max: usize,
    },
    /// The frame has too many values.
    #[error("the frame has more than {max} values; send several frames, or nested data as text")]
    TooManyValues {
        /// The bound, inclusive.
        max: usize,
    },
    /// A field must be there and is not.
    #[error("the frame needs the field {field}")]
    Missing {
        /// The field, such as `presence[3].action`.
        field: String,
    },
    /// A field has a value of another type than its own.
    #[error("{field} must be {wanted}")]
    WrongType {
        /// The field, such as `messages[3].name`.
        field: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// A list or map has too many items.
    #[error("{field} has {count} items, at most {max} are allowed; send several frames")]
    TooMany {
        /// The field.
        field: String,
        /// How many there are.
        count: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// A text is too long.
    #[error("{field} has {bytes} bytes, at most {max} are allowed; shorten it")]
    TooLong {
        /// The field.
        field: String,
        /// Its length.
        bytes: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// A number that the protocol does not have, or not for clients.
    #[error("{field} is {value}; {remedy}")]
    UnknownNumber {
        /// The field.
        field: String,
        /// Its value.
        value: u64,
        /// What it may be.
        remedy: &'static str,
    },
    /// The data of a message is nothing that a message can carry.
    #[error("{field} must be text, binary, or JSON in a list or map without binary in it")]
    UnusableData {
        /// The field.
        field: String,
    },
}

impl FrameError {
    /// The contract's error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Missing { .. } | Self::WrongType { .. } | Self::TooMany { .. } => 40000,
            Self::Malformed { .. } | Self::TooDeep { .. } | Self::TooManyValues { .. } => 40001,
            Self::TooLong { .. } | Self::UnknownNumber { .. } => 40003,
            Self::FrameTooLarge { .. } | Self::MessagesTooLarge { .. } => 40009,
            Self::UnusableData { .. } => 40013,
        }
    }

    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::FrameTooLarge { .. } | Self::MessagesTooLarge { .. } => 413,
            Self::Missing { .. }
            | Self::WrongType { .. }
            | Self::TooMany { .. }
            | Self::Malformed { .. }
            | Self::TooDeep { .. }
            | Self::TooManyValues { .. }
            | Self::TooLong { .. }
            | Self::UnknownNumber { .. }
            | Self::UnusableData { .. } => 400,
        }
    }
}
