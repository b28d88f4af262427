//! The one time of a world, and the wall clocks of its machines.
//!
//! A node reads its wall clock through a plain function, so that which machine is running must be
//! known apart from it: a world runs in one thread, one machine at a time.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where wall clocks begin: some day in 2026.
const EPOCH: Duration = Duration::from_secs(1_790_000_000);

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

/// Returns how long the world has been running.
#[must_use]
pub fn now() -> Duration {
    NOW.get()
}

pub(crate) fn set_now(now: Duration) {
    NOW.set(now);
}

/// Says by how many milliseconds the wall clock of the machine that runs now is ahead.
pub(crate) fn set_ahead(ahead_ms: i64) {
    AHEAD.set(ahead_ms);
}

/// Reads the wall clock of the machine that runs now.
#[must_use]
pub fn wall() -> SystemTime {
    let ahead = AHEAD.get();
    let true_time = UNIX_EPOCH + EPOCH + now();
    let by = Duration::from_millis(ahead.unsigned_abs());
    if ahead < 0 {
        true_time - by
    } else {
        true_time + by
    }
}
