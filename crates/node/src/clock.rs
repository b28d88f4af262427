//! The clocks that the node hands to its stages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headcount_model::{Monotonic, Now, Timestamp};
use tokio::time::Instant;

/// The node's clocks: one that never steps, from the node's start, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    wall: fn() -> SystemTime,
}

impl Clock {
    /// Starts the clock that never steps, beside a wall clock.
    #[must_use]
    pub(crate) fn start(wall: fn() -> SystemTime) -> Self {
        Self {
            start: Instant::now(),
            wall,
        }
    }

    /// Returns both times.
    #[must_use]
    pub(crate) fn now(&self) -> Now {
        Now {
            monotonic: self.monotonic(),
            wall: self.wall(),
        }
    }

    /// Returns the time on the clock that never steps.
    #[must_use]
    pub(crate) fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    /// Returns when the clock that never steps will show `at`.
    #[must_use]
    pub(crate) fn instant(&self, at: Monotonic) -> Instant {
        self.start + at.0
    }

    /// Returns the wall clock's time; the epoch, should it stand before that.
    #[must_use]
    pub(crate) fn wall(&self) -> Timestamp {
        let since = (self.wall)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
