//! The error object of the wire.

use headcount_access::AccessError;
use serde::Serialize;

use crate::error::FrameError;

/// Protocol error: what a client is told went wrong, on a channel or on its connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message} ({code})")]
pub struct ProtocolError {
    /// The contract's code (§3.7).
    pub code: u32,
    /// The HTTP status that goes with it; clients decide by it whether another host may do better.
    pub status_code: u16,
    /// What is wrong and what would be right, in words.
    pub message: String,
    /// Where more is written about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
}

impl ProtocolError {
    /// Returns an error without a link.
    #[must_use]
    pub fn new(code: u32, status_code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            status_code,
            message: message.into(),
            href: None,
        }
    }

    /// Returns a 40003: the parameter's value is not among those that it may have.
    pub(crate) fn bad_param(param: &str, value: &str, remedy: &str) -> Self {
        const VALUE_CHARS_MAX: usize = 128;
        let value: String = value.chars().take(VALUE_CHARS_MAX).collect();
        let message = format!("invalid value {value:?} of {param}: {remedy}");
        Self::new(40003, 400, message)
    }
}

impl From<FrameError> for ProtocolError {
    fn from(error: FrameError) -> Self {
        Self::new(error.code(), error.status(), error.to_string())
    }
}

impl From<AccessError> for ProtocolError {
    fn from(error: AccessError) -> Self {
        Self::new(error.code(), error.status(), error.to_string())
    }
}
