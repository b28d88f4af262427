//! Owners whose commands this node takes on to the coordinator, and what they are told in return
//! (R18).
//!
//! An owner that does not reach the coordinator does not get the log from it either, so its own
//! replica cannot show it what was applied. Whoever takes its commands on shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_coordinator::RegionMark;
use headcount_model::{Fence, Monotonic, OwnerRef, RegionName};
use headcount_wire::LoggedMark;

/// How long an owner is told after the last command that it had taken on.
const TOLD_FOR: Duration = Duration::from_secs(30);

/// The owners, at most one a region.
#[derive(Debug, Default)]
pub(super) struct TakenOn(BTreeMap<RegionName, Taken>);

#[derive(Debug)]
struct Taken {
    fence: Fence,
    until: Monotonic,
    told: Option<RegionMark>,
}

impl TakenOn {
    /// Notes that a command of `owner` is taken on. What it was told is told again, since it may
    /// not have arrived.
    pub(super) fn note(&mut self, now: Monotonic, owner: OwnerRef) {
        let taken = Taken {
            fence: owner.fence,
            until: now.after(TOLD_FOR),
            told: None,
        };
        self.0.insert(owner.region, taken);
    }

    /// Returns what owners are to be told, where `mark` is how far the log is with a region.
    pub(super) fn news(
        &mut self,
        now: Monotonic,
        mark: impl Fn(&RegionName) -> RegionMark,
    ) -> Vec<LoggedMark> {
        self.0.retain(|_, taken| now < taken.until);
        let mut news = Vec::new();
        for (region, taken) in &mut self.0 {
            let mark = mark(region);
            if mark.fence != taken.fence || taken.told == Some(mark) {
                continue;
            }
            taken.told = Some(mark);
            let owner = OwnerRef {
                region: region.clone(),
                fence: mark.fence,
            };
            news.push(LoggedMark {
                owner,
                sequence: mark.sequence,
                number: mark.number,
                settled: mark.settled,
            });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_each_mark_of_its_fence_once_and_for_a_while() {
        let mut taken_on = TakenOn::default();
        let region = RegionName::new("eu").unwrap();
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        let mark = |fence, sequence| RegionMark {
            fence: Fence(fence),
            sequence,
            ..RegionMark::default()
        };
        let told = |taken_on: &mut TakenOn, seconds, mark| {
            let news = taken_on.news(at(seconds), |_| mark);
            news.iter().map(|mark| mark.sequence).collect::<Vec<_>>()
        };
        let nothing: [u64; 0] = [];
        assert_eq!(told(&mut taken_on, 1, mark(7, 1)), nothing);
        let owner = OwnerRef {
            region,
            fence: Fence(7),
        };
        taken_on.note(at(1), owner.clone());
        assert_eq!(told(&mut taken_on, 1, mark(6, 9)), nothing);
        assert_eq!(told(&mut taken_on, 1, mark(7, 1)), [1]);
        assert_eq!(told(&mut taken_on, 2, mark(7, 1)), nothing);
        assert_eq!(told(&mut taken_on, 3, mark(7, 4)), [4]);
        taken_on.note(at(4), owner);
        assert_eq!(told(&mut taken_on, 4, mark(7, 4)), [4]);
        assert_eq!(told(&mut taken_on, 34, mark(7, 5)), nothing);
    }
}
