//! Pauses between attempts to connect.

use std::time::Duration;

/// Pauses that double up to a bound, each between half and the whole of its length.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    /// State of SplitMix64.
    random: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self {
            min,
            max,
            failures: 0,
            random: seed,
        }
    }

    /// Forgets the failures: the next attempt goes without a pause.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait before the next attempt; nothing before the first.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = doublings else {
            return Duration::ZERO;
        };
        let factor = 2_u32.saturating_pow(doublings);
        let whole = self.min.saturating_mul(factor).min(self.max);
        let share = f64::from(self.draw()) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// Draws a number by SplitMix64.
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_their_bound() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        assert_eq!(backoff.next_pause(), Duration::ZERO);
        for whole in [100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis) {
            let pause = backoff.next_pause();
            assert!(
                (whole / 2..=whole).contains(&pause),
                "{pause:?} of {whole:?}"
            );
        }
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::ZERO);
        let mut same = Backoff::new(min, max, 7);
        let mut other = Backoff::new(min, max, 8);
        let (first, second) = (same.next_pause(), other.next_pause());
        assert_eq!(first, second);
        assert_ne!(same.next_pause(), other.next_pause());
    }
}
