//! How often something may happen: buckets of tokens that are told what time it is.

use crate::time::Monotonic;

/// Parts of a token: in a nanosecond as many parts come back as tokens do in a second, so that
/// nothing is ever rounded.
const PARTS: u64 = 1_000_000_000;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times a second in the long run.
    pub per_second: u32,
    /// Times at once after a quiet while. 0 counts as 1.
    pub burst: u32,
}

impl Rate {
    /// Returns so many times a second, and as often at once as in a number of seconds.
    #[must_use]
    pub const fn over(seconds: u32, per_second: u32) -> Self {
        Self {
            per_second,
            burst: per_second.saturating_mul(seconds),
        }
    }

    fn burst_parts(self) -> u64 {
        u64::from(self.burst.max(1)) * PARTS
    }
}

/// What was taken of a [`Rate`] and has not come back yet; full at first. Of any span of time, no
/// more is taken in it than the burst and what the rate gives in the span.
///
/// Two numbers without a clock, a lock or an allocation: it lives in whatever it bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// What was missing at `at_ns`, in parts of a token.
    missing: u64,
    at_ns: u64,
}

impl Bucket {
    /// Whether so much could be taken at once.
    #[must_use]
    pub fn fits(&self, rate: Rate, count: u64, now: Monotonic) -> bool {
        self.with(rate, count, now).missing <= rate.burst_parts()
    }

    /// Takes so much at once; or nothing, and returns false, if there is not as much left.
    #[must_use]
    pub fn take(&mut self, rate: Rate, count: u64, now: Monotonic) -> bool {
        let taken = self.with(rate, count, now);
        let fits = taken.missing <= rate.burst_parts();
        if fits {
            *self = taken;
        }
        fits
    }

    /// Takes so much, or as much as there is: for what has happened already.
    pub fn drain(&mut self, rate: Rate, count: u64, now: Monotonic) {
        *self = self.with(rate, count, now);
        self.missing = self.missing.min(rate.burst_parts());
    }

    fn with(self, rate: Rate, count: u64, now: Monotonic) -> Self {
        let now_ns = u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX);
        let elapsed = now_ns.saturating_sub(self.at_ns);
        let back = elapsed.saturating_mul(u64::from(rate.per_second));
        let wanted = count.saturating_mul(PARTS);
        Self {
            missing: self.missing.saturating_sub(back).saturating_add(wanted),
            at_ns: now_ns.max(self.at_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate::over(2, 50);

    fn at(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(RATE, 99, at(7)) && bucket.take(RATE, 1, at(7)));
        assert!(!bucket.take(RATE, 1, at(7)));
        let taken = (0..100).filter(|_| bucket.take(RATE, 1, at(1_007)));
        assert_eq!(taken.count(), 50);
    }

    #[test]
    fn quiet_fills_it_no_further_than_the_burst() {
        let mut bucket = Bucket::default();
        bucket.drain(RATE, 1_000, at(0));
        let taken = (0..1_000).filter(|_| bucket.take(RATE, 1, at(3_600_000)));
        assert_eq!(taken.count(), 100);
    }

    #[test]
    fn numbers_beyond_all_bounds_are_refused_and_harm_nothing() {
        let largest = Rate::over(u32::MAX, u32::MAX);
        let mut bucket = Bucket::default();
        for now in [at(0), at(u64::MAX), at(5)] {
            assert!(!bucket.take(largest, u64::MAX, now));
            assert!(bucket.take(largest, 1, now), "{now:?}");
        }
        let nothing = Rate {
            per_second: 0,
            burst: 0,
        };
        let mut bucket = Bucket::default();
        assert!(bucket.take(nothing, 1, at(0)) && !bucket.take(nothing, 1, at(u64::MAX)));
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        let per_second = prop_oneof![1..=50_u32, 1..=2_000_000_u32];
        let burst = prop_oneof![1..=20_u32, 1..=5_000_u32];
        (per_second, burst).prop_map(rate)
    }

    /// Waits in nanoseconds, and how much is wanted after each.
    fn wishes() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let wait = prop_oneof![Just(0), 0..=5_000_000_u64, 0..=3_000_000_000_u64];
        let count = prop_oneof![1..=3_u64, 0..=6_000_u64];
        prop::collection::vec((wait, count), 1..60)
    }

    proptest! {
        #[test]
        fn no_span_has_more_than_the_burst_and_its_rate(rate in rates(), wishes in wishes()) {
            let mut bucket = Bucket::default();
            let mut now_ns = 0;
            let mut granted = Vec::new();
            for (wait, count) in wishes {
                now_ns += wait;
                let before = bucket;
                let now = Monotonic(Duration::from_nanos(now_ns));
                let fits = bucket.fits(rate, count, now);
                prop_assert_eq!(bucket.take(rate, count, now), fits);
                if fits {
                    granted.push((now_ns, count));
                } else {
                    prop_assert_eq!(bucket, before, "what is refused costs nothing");
                }
                // And whatever is left, as far as that can be told.
                let rest = (0..100).take_while(|_| bucket.take(rate, 1, now)).count();
                granted.push((now_ns, rest as u64));
            }
            for (first, (begin, _)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (end, count) in &granted[first..] {
                    sum += u128::from(*count);
                    let earned = u128::from(end - begin) * u128::from(rate.per_second);
                    let most = u128::from(rate.burst) * u128::from(PARTS) + earned;
                    prop_assert!(sum * u128::from(PARTS) <= most, "{} from {} to {}", sum, begin, end);
                }
            }
        }

        #[test]
        fn whoever_waits_for_what_he_wants_gets_it(
            rate in rates(), wishes in wishes(), drained in any::<bool>()
        ) {
            let mut bucket = Bucket::default();
            let mut now_ns: u64 = 0;
            for (wait, count) in wishes {
                now_ns += wait;
                let now = Monotonic(Duration::from_nanos(now_ns));
                if drained {
                    bucket.drain(rate, count, now);
                } else {
                    let _either = bucket.take(rate, count, now);
                }
                let count = count.min(u64::from(rate.burst));
                now_ns += (count * PARTS).div_ceil(u64::from(rate.per_second));
                let later = Monotonic(Duration::from_nanos(now_ns));
                prop_assert!(bucket.take(rate, count, later), "{} after as long as it takes", count);
            }
        }
    }
}
