//! How old the knowledge of a replica is that does not lead.

use std::time::Duration;

use tokio::time::Instant;

/// Knowledge: up to which moment a replica knows everything. That a leader was heard is not enough:
/// a replica that was cut off hears it again at once, and has its whole absence still to apply.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Knowledge {
    /// Everything that was committed at this moment is applied. None before any leader was heard
    /// in this life: what is on disk may be of any age, or nothing.
    reached: Option<Instant>,
    /// What a leader first said since then.
    told: Option<Told>,
}

/// What a leader said.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When it was heard.
    at: Instant,
    /// Up to which moment it counts.
    up_to: Instant,
    /// The last entry that was committed by then.
    committed: u64,
}

/// How often at most it is looked whether what was told is applied, while leaders go on telling.
const LOOK: Duration = Duration::from_millis(20);

impl Knowledge {
    /// Hears that everything that was committed up to a moment is what is before an entry, and it.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        up_to: Instant,
        committed: u64,
        applied: impl FnOnce() -> Option<u64>,
    ) {
        if self.told.is_some_and(|told| now - told.at >= LOOK) {
            self.settle(applied());
        }
        self.told.get_or_insert(Told {
            at: now,
            up_to,
            committed,
        });
    }

    /// Returns how old the knowledge is, with everything applied up to an entry, if that is known.
    pub(crate) fn age(&mut self, now: Instant, applied: Option<u64>) -> Option<Duration> {
        self.settle(applied);
        self.reached.map(|reached| now - reached)
    }

    fn settle(&mut self, applied: Option<u64>) {
        if let Some(told) = self.told
            && applied >= Some(told.committed)
        {
            // The word of a later leader may count up to an earlier moment.
            self.reached = self.reached.max(Some(told.up_to));
            self.told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_heard_counts_once_it_is_applied() {
        let start = Instant::now();
        let mut knowledge = Knowledge::default();
        knowledge.hear(start + SECOND, start + SECOND, 7, || Some(7));
        let mut age = |at: Instant, applied| knowledge.age(at, Some(applied));
        assert_eq!(
            age(start + SECOND * 2, 6),
            None,
            "it lacks what a leader has"
        );
        assert_eq!(age(start + SECOND * 2, 7), Some(SECOND));

        // It was cut off for ten seconds, is told of what it missed, and applies it bit by bit.
        let healed = start + SECOND * 11;
        knowledge.hear(healed, healed, 90, || Some(7));
        assert_eq!(knowledge.age(healed, Some(7)), Some(SECOND * 10));
        knowledge.hear(healed + SECOND, healed + SECOND, 95, || Some(60));
        let mut age = |applied| knowledge.age(healed + SECOND, Some(applied));
        assert_eq!(age(60), Some(SECOND * 11));
        assert_eq!(age(90), Some(SECOND));
    }

    #[test]
    fn what_counts_up_to_an_earlier_moment_makes_nobody_older_or_younger() {
        let start = Instant::now();
        let mut knowledge = Knowledge::default();
        // Who led before, and has heard no quorum for two seconds.
        let heard = start + SECOND * 3;
        knowledge.hear(heard, start + SECOND, 7, || Some(7));
        assert_eq!(knowledge.age(heard, Some(7)), Some(SECOND * 2));
        knowledge.hear(heard + SECOND, start, 8, || Some(8));
        assert_eq!(knowledge.age(heard + SECOND, Some(8)), Some(SECOND * 3));
    }

    #[test]
    fn who_is_told_all_the_time_and_keeps_up_is_young_although_never_asked() {
        let start = Instant::now();
        let mut knowledge = Knowledge::default();
        for turn in 1..=1_000_u32 {
            let at = start + turn * Duration::from_millis(5);
            knowledge.hear(at, at, u64::from(turn), || Some(u64::from(turn) - 1));
        }
        let age = knowledge.age(start + 5 * SECOND, Some(1_000));
        assert!(age <= Some(2 * LOOK) && age.is_some(), "{age:?}");
    }
}
