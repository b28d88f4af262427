//! How a command fails: what is told, and with which code the process ends.

use headcount_node::config::ConfigError;
use serde_json::json;

use crate::output::{Output, complain};

/// The exit code of what was asked for wrongly (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A flag is missing or wrong; says which, and what would be right.
    #[error("{0}")]
    Usage(String),
    /// The configuration is faulty; says everything that is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It did not work.
    #[error("{}", with_causes(.0))]
    Failed(anyhow::Error),
    /// Whoever read the output has enough.
    #[error("nobody reads the output any more")]
    NobodyReads,
}

impl Failure {
    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::Failed(error.into())
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage(what.into())
    }

    /// Returns the process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => USAGE,
            Self::Failed(_) => 1,
            Self::NobodyReads => 0,
        }
    }

    /// Tells the failure on the standard error output, as one line of JSON if programs read.
    pub(crate) fn report(&self, output: Output) {
        let kind = match self {
            Self::Usage(_) => "usage",
            Self::Config(_) => "config",
            Self::Failed(_) => "failed",
            Self::NobodyReads => return,
        };
        if output.is_json() {
            let error = json!({ "error": { "kind": kind, "message": self.to_string() } });
            complain(&error.to_string());
        } else {
            complain(&format!("error: {self}"));
        }
    }
}

/// Says what went wrong and why, leaving out causes that an error has told in its own words.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen: {source}")]
    struct Bind {
        source: std::io::Error,
    }

    #[test]
    fn causes_are_told_once() {
        let bind = Bind {
            source: std::io::Error::other("taken"),
        };
        let failure = Failure::Failed(anyhow::Error::from(bind).context("no start"));
        assert_eq!(failure.to_string(), "no start: cannot listen: taken");
        assert_eq!(failure.code(), 1);
    }
}
