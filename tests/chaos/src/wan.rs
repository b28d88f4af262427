//! An emulated WAN: what becomes of a packet between two hosts, decided from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Quality: what one direction between two hosts is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quality {
    /// How long a packet takes at least.
    pub(crate) delay: Duration,
    /// How much longer it may take.
    pub(crate) jitter: Duration,
    /// How many of a hundred packets are lost.
    pub(crate) loss_percent: u32,
    /// How many of a hundred come twice.
    pub(crate) twice_percent: u32,
    /// How many of a hundred take half as long again, so that later ones overtake them.
    pub(crate) overtaken_percent: u32,
    /// How many bytes enter it in a second; without a bound if 0. What would wait longer than
    /// [`QUEUE`] is lost.
    pub(crate) bytes_per_second: u64,
    /// Whether nothing comes through.
    pub(crate) cut: bool,
}

/// How long packets wait at most before a narrow way, as in a router's queue.
const QUEUE: Duration = Duration::from_millis(300);

/// Fate: what becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives at this moment, and once more if there is a second one.
    Arrives(Duration, Option<Duration>),
    /// It arrives at this moment, after others that were sent later.
    Overtaken(Duration),
    /// Chance took it.
    Lost,
    /// There was no room for it before a narrow way.
    Crowded,
    /// The way is cut.
    Cut,
}

/// Way: one direction between two hosts, with its own chance, so that the same seed does the same to
/// the same packets of this way whatever happens on others.
#[derive(Debug)]
pub(crate) struct Way {
    rng: StdRng,
    /// When the last packet arrives: none overtakes it, as on most real paths, unless it is to be.
    last: Duration,
    /// Until when what was sent enters it.
    busy: Duration,
}

impl Way {
    /// Makes a way from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            last: Duration::ZERO,
            busy: Duration::ZERO,
        }
    }

    /// Decides what becomes of a packet of so many bytes that is sent now.
    pub(crate) fn send(&mut self, quality: &Quality, now: Duration, bytes: usize) -> Fate {
        if quality.cut {
            return Fate::Cut;
        }
        if self.percent(quality.loss_percent) {
            return Fate::Lost;
        }
        let now = match quality.bytes_per_second {
            0 => now,
            rate => {
                let enters = now.max(self.busy);
                if enters > now + QUEUE {
                    return Fate::Crowded;
                }
                self.busy = enters + Duration::from_micros(bytes as u64 * 1_000_000 / rate);
                self.busy
            }
        };
        if self.percent(quality.overtaken_percent) {
            return Fate::Overtaken(self.last.max(now + quality.delay) + quality.delay / 2);
        }
        let first = self.arrival(quality, now);
        let second = self.percent(quality.twice_percent);
        let second = second.then(|| self.arrival(quality, now));
        Fate::Arrives(first, second)
    }

    fn percent(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    fn arrival(&mut self, quality: &Quality, now: Duration) -> Duration {
        let mut at = now + quality.delay;
        if !quality.jitter.is_zero() {
            at += self.rng.random_range(Duration::ZERO..=quality.jitter);
        }
        self.last = self.last.max(at);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_take_their_time_and_keep_their_order() {
        let quality = Quality {
            delay: 40 * MS,
            jitter: 20 * MS,
            ..Quality::default()
        };
        let mut way = Way::new(1);
        let mut last = Duration::ZERO;
        for sent in 0..1_000 {
            let Fate::Arrives(at, None) = way.send(&quality, sent * MS, 100) else {
                panic!("nothing is lost or doubled");
            };
            assert!(
                at >= last && at >= (sent + 40) * MS,
                "{at:?} after {last:?}"
            );
            assert!(at <= (sent + 60) * MS, "{at:?}");
            last = at;
        }
    }

    #[test]
    fn loss_and_doubling_are_as_often_as_wanted_and_a_cut_passes_nothing() {
        let quality = Quality {
            loss_percent: 15,
            twice_percent: 5,
            ..Quality::default()
        };
        let mut way = Way::new(7);
        let fates: Vec<Fate> = (0..10_000).map(|_| way.send(&quality, MS, 100)).collect();
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let twice = |fate: &&Fate| matches!(fate, Fate::Arrives(_, Some(_)));
        let twice = fates.iter().filter(twice).count();
        assert!((1_300..1_700).contains(&lost), "{lost}");
        assert!((320..530).contains(&twice), "{twice}");
        let cut = Quality {
            cut: true,
            ..quality
        };
        assert_eq!(way.send(&cut, MS, 100), Fate::Cut);
    }

    #[test]
    fn what_is_overtaken_comes_after_later_ones_and_holds_nothing_up() {
        let quality = Quality {
            delay: 40 * MS,
            overtaken_percent: 5,
            ..Quality::default()
        };
        let mut way = Way::new(3);
        let mut overtaken = 0;
        for sent in 0..1_000 {
            match way.send(&quality, sent * MS, 100) {
                Fate::Arrives(at, None) => assert_eq!(at, (sent + 40) * MS),
                Fate::Overtaken(at) => {
                    assert!(at >= (sent + 59) * MS, "{at:?}");
                    overtaken += 1;
                }
                fate => panic!("{fate:?}"),
            }
        }
        assert!((20..90).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn a_narrow_way_takes_its_rate_and_loses_what_would_wait_too_long() {
        let quality = Quality {
            bytes_per_second: 100_000,
            ..Quality::default()
        };
        let mut way = Way::new(3);
        // Ten times as much as fits, for a second.
        let fates: Vec<Fate> = (0..1_000)
            .map(|sent| way.send(&quality, sent * MS, 1_000))
            .collect();
        let passed = fates.iter().filter_map(|fate| match fate {
            Fate::Arrives(at, None) => Some(*at),
            _ => None,
        });
        let passed: Vec<Duration> = passed.collect();
        // A second's worth, and what the queue holds.
        assert!((125..=135).contains(&passed.len()), "{}", passed.len());
        assert!(passed.is_sorted());
        assert!(fates.contains(&Fate::Crowded));
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let quality = Quality {
            jitter: 9 * MS,
            loss_percent: 30,
            ..Quality::default()
        };
        let fates = |seed| {
            let mut way = Way::new(seed);
            (0..100)
                .map(|at| way.send(&quality, at * MS, 100))
                .collect::<Vec<_>>()
        };
        assert_eq!(fates(3), fates(3));
        assert_ne!(fates(3), fates(4));
    }
}
