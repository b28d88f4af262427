//! Up to which moment a leader's word counts, by the clock of the replica that hears it.
//!
//! A leader says what is committed, but what it says may have been on its way for long, and another
//! may lead since. So a replica says a moment of its own clock with each reply, and the leader
//! repeats the latest, with how long after it, by the leader's clock, it sent what a quorum
//! acknowledged last. Until then nobody else can have committed anything.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_wire::proto::consensus::v1::Freshness;
use tokio::time::Instant;

/// How long the moment of a replica that says nothing more is kept.
const KEPT: Duration = Duration::from_secs(60);

/// The clock of one replica in one life, and the moments that others said to it.
#[derive(Debug)]
pub(crate) struct Hearing {
    start: Instant,
    /// What the clock shows at the start: random, so that no moment of an earlier life is taken for
    /// one of this.
    base: u64,
    /// The latest moment that each replica said, and when it came.
    said: BTreeMap<u64, (u64, Instant)>,
}

impl Hearing {
    pub(crate) fn new(start: Instant, base: u64) -> Self {
        Self {
            start,
            base,
            said: BTreeMap::new(),
        }
    }

    /// Returns what the clock shows.
    pub(crate) fn moment(&self, now: Instant) -> u64 {
        self.base.wrapping_add(millis(now - self.start))
    }

    /// Hears what another replica's clock shows.
    pub(crate) fn note(&mut self, now: Instant, replica: u64, moment: u64) {
        if self.said.insert(replica, (moment, now)).is_none() {
            self.said.retain(|_, (_, at)| now - *at < KEPT);
        }
    }

    /// Returns what the leader says to a replica, if a quorum acknowledged so long ago what was sent
    /// then; nothing to a replica whose clock is not known.
    pub(crate) fn freshness(
        &self,
        now: Instant,
        replica: u64,
        acknowledged: Duration,
    ) -> Option<Freshness> {
        let (moment, at) = *self.said.get(&replica)?;
        let acknowledged = i64::try_from(millis(acknowledged)).unwrap_or(i64::MAX);
        let since = i64::try_from(millis(now - at)).unwrap_or(i64::MAX);
        Some(Freshness {
            moment,
            // A millisecond more than it was, for what is cut off of both.
            after_ms: since.saturating_sub(acknowledged).saturating_sub(1),
        })
    }

    /// Returns the moment up to which the leader's word counts; nothing if it is not of this life.
    pub(crate) fn up_to(&self, now: Instant, said: &Freshness) -> Option<Instant> {
        let moment = Duration::from_millis(said.moment.wrapping_sub(self.base));
        if moment > now - self.start {
            return None;
        }
        let moment = self.start + moment;
        let after = Duration::from_millis(said.after_ms.unsigned_abs());
        let up_to = if said.after_ms < 0 {
            moment.checked_sub(after)
        } else {
            moment.checked_add(after)
        };
        Some(up_to?.min(now))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A leader and a replica whose clocks began at other times, and the time of both beginnings.
    fn both() -> (Hearing, Hearing, Instant) {
        let start = Instant::now();
        let replica = Hearing::new(start + ms(7), u64::MAX - 50);
        (Hearing::new(start, 900), replica, start + ms(7))
    }

    #[test]
    fn the_word_of_a_leader_counts_up_to_what_a_quorum_acknowledged() {
        let (mut leader, replica, start) = both();
        let at = |millis| start + ms(millis);
        assert_eq!(leader.freshness(at(100), 3, ms(0)), None, "never heard of");
        // Said at 100, heard at 140; a quorum acknowledged what was sent at 480 or 120.
        leader.note(at(140), 3, replica.moment(at(100)));
        let up_to = |acknowledged, heard| {
            let said = leader.freshness(at(500), 3, acknowledged).unwrap();
            replica.up_to(heard, &said).unwrap()
        };
        assert_eq!(up_to(ms(20), at(540)), at(100 + 340 - 1));
        assert_eq!(up_to(ms(380), at(540)), at(100 - 20 - 1));
        // However long it was on its way.
        assert_eq!(up_to(ms(20), at(9_000)), at(439));
    }

    #[test]
    fn moments_of_another_life_count_for_nothing() {
        let (mut leader, before, start) = both();
        leader.note(start + ms(10), 3, before.moment(start + ms(5)));
        let said = leader.freshness(start + ms(20), 3, ms(0)).unwrap();
        let replica = Hearing::new(start + ms(15), 12);
        assert_eq!(replica.up_to(start + ms(30), &said), None);
    }

    #[test]
    fn who_says_nothing_more_is_forgotten() {
        let (mut leader, _, start) = both();
        leader.note(start, 3, 1);
        leader.note(start + KEPT, 4, 1);
        assert_eq!(leader.freshness(start + KEPT, 3, ms(0)), None);
        assert!(leader.freshness(start + KEPT, 4, ms(0)).is_some());
    }

    #[test]
    fn odd_numbers_are_no_harm() {
        let (_, replica, start) = both();
        for after_ms in [i64::MIN, -1, 0, i64::MAX] {
            let moment = replica.moment(start);
            let said = Freshness { moment, after_ms };
            let up_to = replica.up_to(start + ms(1), &said);
            assert!(up_to.is_none_or(|up_to| up_to <= start + ms(1)));
        }
    }
}
