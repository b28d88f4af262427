//! Waiting for a condition, with a deadline and a reason.

use std::time::Duration;

use tokio::time::Instant;

/// Longest wait for what must happen in a healthy cluster. Far above what it takes, since slow
/// machines are no fault of the cluster's.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for something that moves, however it moves.
const MOVING: Duration = Duration::from_secs(100);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `look` finds what it looks for, and returns that.
///
/// # Panics
/// After [`PATIENCE`], with `why` and what `look` missed last.
pub async fn wait_until<T>(why: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    wait(why, look, false).await
}

/// Does the same, but as long as something moves: [`PATIENCE`] is over what is missing, so that
/// what consists of hundreds of steps may take its time on a starved machine.
///
/// # Panics
/// When the same was missing for [`PATIENCE`], or anything for 100 s.
pub(crate) async fn wait_while_moving<T>(
    why: &str,
    look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    wait(why, look, true).await
}

async fn wait<T>(
    why: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
    moving_is_fine: bool,
) -> T {
    let begun = Instant::now();
    let mut start = begun;
    let mut before = None;
    loop {
        // One look may hang as well, so the deadline is over both.
        let left = PATIENCE.saturating_sub(start.elapsed());
        let looked = tokio::time::timeout(left.max(LOOK), look()).await;
        let missing = match looked {
            Ok(Ok(found)) => return found,
            Ok(Err(missing)) => missing,
            Err(_) => "the look itself did not end".to_owned(),
        };
        let moves = moving_is_fine && begun.elapsed() < MOVING;
        if moves && before.as_ref() != Some(&missing) {
            (start, before) = (Instant::now(), Some(missing.clone()));
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {why}: {missing}"
        );
        // allow-sleep: polls a condition that has a deadline
        tokio::time::sleep(LOOK).await;
    }
}
