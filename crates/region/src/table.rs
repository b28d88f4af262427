//! What each source has registered on each channel, and what of it was published.

use headcount_model::{Monotonic, Occupancy};
use smallvec::SmallVec;

use crate::sources::{SourceIndex, SourceKey, Sources};

/// One source's counts on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) source: SourceIndex,
    /// Low bits of the number of the stream that said it last: what a complete stream did not
    /// mention is gone.
    pub(crate) stream: u32,
    pub(crate) occupancy: Occupancy,
}

/// A channel that is active in the region, or registered by somebody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channel {
    pub(crate) registered: SmallVec<[Registered; 1]>,
    /// What the log or a transition says of the region; zero while inactive.
    pub(crate) published: Occupancy,
    pub(crate) active: bool,
    /// When it goes inactive unless somebody comes back.
    pub(crate) inactive_at: Option<Monotonic>,
}

impl Channel {
    /// Sets one source's counts; zero takes them out.
    pub(crate) fn register(&mut self, registered: Registered) {
        let at = self
            .registered
            .iter()
            .position(|old| old.source == registered.source);
        match at {
            Some(at) if registered.occupancy.is_zero() => {
                self.registered.swap_remove(at);
            }
            Some(at) => self.registered[at] = registered,
            None if registered.occupancy.is_zero() => {}
            None => self.registered.push(registered),
        }
    }

    /// Returns the sum of the channel's sources.
    ///
    /// Direct clients of an earlier life of a node may be among those of its present life, so of
    /// the two only the larger counts, category by category.
    pub(crate) fn sum(&self, sources: &Sources) -> Occupancy {
        let counted = self
            .registered
            .iter()
            .filter(|entry| sources.get(entry.source).counted);
        let mut sum = Occupancy::ZERO;
        for entry in counted {
            let source = sources.get(entry.source);
            let resumed = match source.key {
                SourceKey::Clients(node, incarnation) => {
                    let later = self.registered.iter().filter(|other| {
                        matches!(sources.get(other.source).key, SourceKey::Clients(n, i)
                            if n == node && i > incarnation)
                    });
                    later.map(|other| other.occupancy).sum()
                }
                SourceKey::Session(..) => Occupancy::ZERO,
            };
            sum = sum.plus(entry.occupancy.minus(resumed));
        }
        sum
    }

    /// Returns whether nothing is known of the channel any more.
    pub(crate) fn is_idle(&self) -> bool {
        !self.active && self.registered.is_empty()
    }
}
