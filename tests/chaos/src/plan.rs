//! What is broken when: drawn from a seed before the run.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Kind: a way in which something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A node is killed and started again soon.
    Kill,
    /// The node that leads the control group is killed, and stays down past its lease.
    KillLeader,
    /// All nodes of a region are killed, and stay down past their leases.
    KillRegion,
    /// All nodes are killed at once and started again.
    KillAll,
    /// A node stops for a moment that its lease survives.
    Pause,
    /// An owner of a shard stops past its lease, and goes on as if nothing had happened.
    PauseOwner,
    /// The node that leads the control group does so.
    PauseLeader,
    /// A node runs every other moment only, as on a starved machine.
    Stutter,
    /// A region is cut off from the others.
    CutRegion,
    /// A region hears the others, and they do not hear it.
    CutOneWay,
    /// Two regions do not reach each other, the third reaches both.
    CutBridge,
    /// The node that leads the control group is cut off from all others.
    CutLeader,
    /// A region is cut off and joined again several times a second.
    Flap,
    /// Packets are lost everywhere.
    Loss,
    /// Regions are 300 ms apart, with jitter, and packets come twice or too late now and then.
    Distance,
    /// Little passes between nodes of different regions at a time.
    Narrow,
    /// A node's wall clock steps by up to an hour, and back.
    ClockStep,
    /// A node's syncs fail.
    SyncError,
    /// A node's disk is full.
    DiskFull,
    /// A node has less memory than it uses.
    Squeeze,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 20] = [
        Self::Kill,
        Self::KillLeader,
        Self::KillRegion,
        Self::KillAll,
        Self::Pause,
        Self::PauseOwner,
        Self::PauseLeader,
        Self::Stutter,
        Self::CutRegion,
        Self::CutOneWay,
        Self::CutBridge,
        Self::CutLeader,
        Self::Flap,
        Self::Loss,
        Self::Distance,
        Self::Narrow,
        Self::ClockStep,
        Self::SyncError,
        Self::DiskFull,
        Self::Squeeze,
    ];

    /// Returns what it is called.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill leader",
            Self::KillRegion => "kill region",
            Self::KillAll => "kill all",
            Self::Pause => "pause",
            Self::PauseOwner => "pause owner",
            Self::PauseLeader => "pause leader",
            Self::Stutter => "stutter",
            Self::CutRegion => "cut region",
            Self::CutOneWay => "cut one way",
            Self::CutBridge => "cut bridge",
            Self::CutLeader => "cut leader",
            Self::Flap => "flap",
            Self::Loss => "loss",
            Self::Distance => "distance",
            Self::Narrow => "narrow",
            Self::ClockStep => "clock step",
            Self::SyncError => "sync error",
            Self::DiskFull => "disk full",
            Self::Squeeze => "squeeze",
        }
    }

    /// Returns how long it lasts: from and to, with the lease as the measure of most.
    fn lasts(self, lease: Duration) -> (Duration, Duration) {
        match self {
            Self::Kill | Self::KillAll => (lease / 6, lease / 2),
            Self::Pause => (lease / 6, lease / 3),
            Self::KillLeader | Self::KillRegion => (lease * 3 / 2, lease * 3),
            Self::PauseOwner | Self::PauseLeader => (lease * 5 / 4, lease * 2),
            Self::CutRegion | Self::CutOneWay | Self::CutBridge | Self::CutLeader => {
                (lease, lease * 4)
            }
            Self::Stutter
            | Self::Flap
            | Self::Loss
            | Self::Distance
            | Self::Narrow
            | Self::ClockStep => (lease * 2, lease * 4),
            Self::SyncError | Self::DiskFull | Self::Squeeze => (lease, lease * 2),
        }
    }
}

/// Strike: something that is broken for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    /// When, from the beginning of the safety phase.
    pub(crate) at: Duration,
    /// How.
    pub(crate) kind: Kind,
    /// For how long.
    pub(crate) lasts: Duration,
    /// By what the victim and the strength are chosen.
    pub(crate) dice: u32,
}

/// Draws strikes for a phase of some length: rounds of one to three at once, each followed by a
/// calm of at most a third of the round. Each kind of `kinds` comes once before any comes again.
pub(crate) fn draw(seed: u64, kinds: &[Kind], lease: Duration, length: Duration) -> Vec<Strike> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck: Vec<Kind> = Vec::new();
    let mut strikes = Vec::new();
    let mut at = Duration::from_secs(1);
    while !kinds.is_empty() {
        let mut end = at;
        let mut round: Vec<Strike> = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            if deck.is_empty() {
                deck = kinds.to_vec();
                deck.shuffle(&mut rng);
            }
            let Some(place) = deck.iter().rposition(|kind| fits(&round, *kind)) else {
                break;
            };
            let kind = deck.remove(place);
            let (from, to) = kind.lasts(lease);
            let begin = at + rng.random_range(Duration::ZERO..=lease / 2);
            let lasts = rng.random_range(from..=to);
            end = end.max(begin + lasts);
            let dice = rng.random();
            round.push(Strike {
                at: begin,
                kind,
                lasts,
                dice,
            });
        }
        if end > length {
            break;
        }
        let calm = (end - at).mul_f64(rng.random_range(0.1..0.35));
        at = end + calm;
        strikes.append(&mut round);
    }
    strikes.sort_by_key(|strike| strike.at);
    strikes
}

/// Returns whether something else may break in a round: ways are changed by one at a time, and
/// where many nodes are gone no other node is left to choose.
fn fits(round: &[Strike], kind: Kind) -> bool {
    let among = |kinds: &[Kind]| {
        let others = round.iter().any(|strike| kinds.contains(&strike.kind));
        others && kinds.contains(&kind)
    };
    let ways = [
        Kind::CutRegion,
        Kind::CutOneWay,
        Kind::CutBridge,
        Kind::CutLeader,
        Kind::Flap,
        Kind::Loss,
        Kind::Distance,
        Kind::Narrow,
    ];
    let many = [Kind::KillAll, Kind::KillRegion];
    let leader = [Kind::KillLeader, Kind::PauseLeader];
    let is_way = ways.contains(&kind);
    let crowded = many.contains(&kind) || round.iter().any(|strike| many.contains(&strike.kind));
    let nodes = !is_way && round.iter().any(|strike| !ways.contains(&strike.kind));
    !(among(&ways) || among(&leader) || (crowded && nodes))
}

#[cfg(test)]
mod tests {
    use headcount_checker::Spans;

    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    #[test]
    fn most_of_the_time_something_is_broken_and_every_kind_comes() {
        for seed in 0..50 {
            let length = Duration::from_secs(240);
            let strikes = draw(seed, &Kind::ALL, LEASE, length);
            let spans = strikes
                .iter()
                .map(|strike| (strike.at, strike.at + strike.lasts));
            let spans = Spans::new(spans);
            let broken: Duration = spans.spans().iter().map(|(from, to)| *to - *from).sum();
            assert!(broken > length.mul_f64(0.6), "seed {seed}: {broken:?}");
            assert!(
                strikes
                    .iter()
                    .all(|strike| strike.at + strike.lasts <= length)
            );
            for kind in Kind::ALL {
                let comes = strikes.iter().any(|strike| strike.kind == kind);
                assert!(comes, "seed {seed}: no {}", kind.as_str());
            }
        }
    }

    #[test]
    fn the_same_seed_breaks_the_same() {
        let length = Duration::from_secs(60);
        let draw = |seed| draw(seed, &Kind::ALL, LEASE, length);
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        assert_eq!(super::draw(5, &[], LEASE, length), []);
    }
}
