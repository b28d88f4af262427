//! How often something may happen: a bucket of tokens, without a clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times a second in the long run.
    pub per_second: u32,
    /// Times at once after a quiet while; at least 1.
    pub burst: u32,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// When the bucket would be full if nothing more were taken; the whole state (GCRA).
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `count` at once, or nothing; false if there are not as many left.
    pub(crate) fn take(&mut self, rate: Rate, count: u32, now: Instant) -> bool {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.max(now) + each * count;
        let fits = full_at.duration_since(now) <= each * rate.burst.max(1);
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 50,
        burst: 100,
    };

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        assert!(bucket.take(RATE, 99, start));
        assert!(bucket.take(RATE, 1, start));
        assert!(!bucket.take(RATE, 1, start));
        let later = start + Duration::from_secs(1);
        let taken = (0..100).filter(|_| bucket.take(RATE, 1, later)).count();
        assert_eq!(taken, 50);
    }

    #[test]
    fn quiet_fills_it_no_further_than_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let later = start + Duration::from_secs(3600);
        let taken = (0..1000).filter(|_| bucket.take(RATE, 1, later)).count();
        assert_eq!(taken, 100);
    }
}
