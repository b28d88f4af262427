//! What the owners of this region told ahead of the log, until the log has it: what the next owner
//! brings into the log before anything of its own (R3).
//!
//! Every node of the region that holds the shard is told, so whichever of them owns it next knows.

use std::collections::BTreeMap;

use headcount_coordinator::RegionMark;
use headcount_model::{Fence, Tail, Transition};

/// Most transitions that are kept. A region that is cut off for long tells more; its owner has them
/// all, and what its successor does not know is put right at its settling.
const TOLD_MAX: usize = 16_384;

/// About how many bytes a claim's tails may have: far below what an entry may.
const TAIL_BYTES_MAX: usize = 256 << 10;

/// Transitions that were told and are not known to be logged, by fence and number.
#[derive(Debug, Default)]
pub(super) struct Told {
    by_fence: BTreeMap<Fence, BTreeMap<u64, Transition>>,
    count: usize,
}

impl Told {
    /// Keeps a transition that was told, unless the log is past it.
    pub(super) fn keep(&mut self, fence: Fence, transition: Transition, mark: RegionMark) {
        let past = fence < mark.fence || fence == mark.fence && transition.number <= mark.number;
        if past || self.count == TOLD_MAX {
            return;
        }
        let run = self.by_fence.entry(fence).or_default();
        self.count += usize::from(run.insert(transition.number, transition).is_none());
    }

    /// Drops what the log is past.
    pub(super) fn logged(&mut self, mark: RegionMark) {
        if self.count == 0 {
            return;
        }
        self.by_fence = self.by_fence.split_off(&mark.fence);
        if let Some(run) = self.by_fence.get_mut(&mark.fence) {
            *run = run.split_off(&(mark.number + 1));
        }
        self.by_fence.retain(|_, run| !run.is_empty());
        self.count = self.by_fence.values().map(BTreeMap::len).sum();
    }

    /// Returns the runs that follow what the log has, for a claim; cut where they are too long.
    pub(super) fn tails(&mut self, mark: RegionMark) -> Vec<Tail> {
        self.logged(mark);
        let mut bytes = 0;
        let tails = self.by_fence.iter().map(|(fence, run)| {
            let last = if *fence == mark.fence { mark.number } else { 0 };
            let follows = (last + 1..)
                .zip(run)
                .take_while(|(next, (number, transition))| {
                    bytes += transition.channel.app.as_str().len()
                        + transition.channel.name.as_str().len()
                        + 48;
                    next == *number && bytes <= TAIL_BYTES_MAX
                });
            Tail {
                fence: *fence,
                transitions: follows.map(|(_, (_, told))| told.clone()).collect(),
            }
        });
        tails.filter(|tail| !tail.transitions.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{ChannelKey, Occupancy, Timestamp};

    fn transition(number: u64) -> Transition {
        Transition {
            number,
            channel: ChannelKey::new("dev", "room").unwrap(),
            active: number % 2 == 1,
            occupancy: Occupancy::ZERO,
            at: Timestamp(number),
            is_global_master: false,
        }
    }

    fn mark(fence: u64, number: u64) -> RegionMark {
        RegionMark {
            fence: Fence(fence),
            number,
            ..RegionMark::default()
        }
    }

    fn numbers(told: &mut Told, mark: RegionMark) -> Vec<(u64, Vec<u64>)> {
        let tails = told.tails(mark).into_iter();
        tails
            .map(|tail| {
                let numbers = tail.transitions.iter().map(|told| told.number);
                (tail.fence.0, numbers.collect())
            })
            .collect()
    }

    #[test]
    fn a_tail_follows_the_log_without_holes() {
        let mut told = Told::default();
        for number in [1, 2, 3, 4, 6] {
            told.keep(Fence(7), transition(number), mark(7, 0));
        }
        assert_eq!(numbers(&mut told, mark(7, 2)), [(7, vec![3, 4])]);
        assert_eq!(numbers(&mut told, mark(7, 4)), []);
        assert_eq!(numbers(&mut told, mark(7, 5)), [(7, vec![6])]);
    }

    #[test]
    fn what_the_log_is_past_is_forgotten() {
        let mut told = Told::default();
        told.keep(Fence(6), transition(1), mark(7, 3));
        told.keep(Fence(7), transition(3), mark(7, 3));
        assert_eq!(told.count, 0);
        told.keep(Fence(7), transition(4), mark(7, 3));
        told.keep(Fence(8), transition(1), mark(7, 3));
        assert_eq!(numbers(&mut told, mark(7, 3)), [(7, vec![4]), (8, vec![1])]);
        assert_eq!(numbers(&mut told, mark(8, 0)), [(8, vec![1])]);
        told.logged(mark(8, 1));
        assert_eq!(told.count, 0);
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut told = Told::default();
        for number in 1..=2 * TOLD_MAX as u64 {
            told.keep(Fence(1), transition(number), mark(1, 0));
        }
        assert_eq!(told.count, TOLD_MAX);
        let [(_, run)] = numbers(&mut told, mark(1, 0)).try_into().unwrap();
        assert!(
            run.len() > 1_000 && run.len() * 48 < TAIL_BYTES_MAX,
            "{}",
            run.len()
        );
    }
}
