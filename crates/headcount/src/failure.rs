//! How a command fails: what is told, and with which code the process ends.

use headcount_node::config::ConfigError;

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
    #[error("{0:#}")]
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

    /// Tells the failure on the standard error output.
    pub(crate) fn report(&self) {
        if !matches!(self, Self::NobodyReads) {
            crate::output::complain(&format!("error: {self}"));
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
