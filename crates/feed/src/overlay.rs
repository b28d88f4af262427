//! What the feed told of its region ahead of the log, over what the log says.

use std::collections::BTreeMap;

use headcount_model::ChannelKey;

use crate::log::Correction;

/// One channel whose latest transition was told and is not logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chain {
    /// Number of the latest told transition.
    last: u64,
    /// The state that it told.
    told: bool,
    /// The state that the log says.
    logged: bool,
}

/// Overlay: the channels of one fence that were told more than the log says. One entry a channel,
/// however often it changed, so that a region that is cut off for long costs bounded memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    chains: BTreeMap<ChannelKey, Chain>,
    by_last: BTreeMap<u64, ChannelKey>,
}

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.chains.len()
    }

    /// What was last told of the channel, if the log has not confirmed it.
    pub(crate) fn told(&self, channel: &ChannelKey) -> Option<bool> {
        self.chains.get(channel).map(|chain| chain.told)
    }

    /// What the log says of the channel, if it was told otherwise or more.
    pub(crate) fn logged(&self, channel: &ChannelKey) -> Option<bool> {
        self.chains.get(channel).map(|chain| chain.logged)
    }

    /// Notes a transition that is told now. The first one of a channel flips what the log says:
    /// transitions come from the owner's state machine, whose base is the log (R11).
    pub(crate) fn tell(&mut self, number: u64, channel: &ChannelKey, active: bool) {
        let chain = self.chains.entry(channel.clone()).or_insert(Chain {
            last: number,
            told: active,
            logged: !active,
        });
        self.by_last.remove(&chain.last);
        chain.last = number;
        chain.told = active;
        self.by_last.insert(number, channel.clone());
    }

    /// Notes the log's copy of a told transition.
    pub(crate) fn copy(&mut self, number: u64, channel: &ChannelKey, active: bool) {
        if let Some(chain) = self.chains.get_mut(channel) {
            chain.logged = active;
            if chain.last <= number {
                self.remove(channel);
            }
        }
    }

    /// Notes that the log says something of the channel that was not told under this fence, and
    /// returns whether it is news. Whatever was told of the channel is superseded by it.
    pub(crate) fn supersede(&mut self, channel: &ChannelKey, active: bool) -> bool {
        self.remove(channel)
            .is_none_or(|chain| chain.told != active)
    }

    /// Notes that every number up to `mark` is consumed, and returns what the channels of those
    /// that left no copy must be told.
    pub(crate) fn consume(&mut self, mark: u64) -> Vec<(ChannelKey, Correction)> {
        let later = self.by_last.split_off(&mark.saturating_add(1));
        let gone = std::mem::replace(&mut self.by_last, later);
        self.resolve(gone)
    }

    /// Notes that nothing more of the fence will be logged, and returns what must be told.
    pub(crate) fn end(&mut self) -> Vec<(ChannelKey, Correction)> {
        let gone = std::mem::take(&mut self.by_last);
        self.resolve(gone)
    }

    fn remove(&mut self, channel: &ChannelKey) -> Option<Chain> {
        let chain = self.chains.remove(channel)?;
        self.by_last.remove(&chain.last);
        Some(chain)
    }

    fn resolve(&mut self, gone: BTreeMap<u64, ChannelKey>) -> Vec<(ChannelKey, Correction)> {
        let mut corrections = Vec::new();
        for channel in gone.into_values() {
            let chain = self
                .chains
                .remove(&channel)
                .expect("I1: both maps hold the same channels");
            if chain.told != chain.logged {
                corrections.push((
                    channel,
                    Correction {
                        number: chain.last,
                        active: chain.logged,
                    },
                ));
            }
        }
        corrections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelKey {
        ChannelKey::new("app", name).unwrap()
    }

    #[test]
    fn a_pair_that_was_dropped_needs_no_correction() {
        let mut overlay = Overlay::default();
        overlay.tell(1, &channel("a"), true);
        overlay.tell(2, &channel("a"), false);
        assert_eq!(overlay.consume(2), vec![]);
        assert!(overlay.is_empty());
    }

    #[test]
    fn what_was_told_last_and_never_logged_is_corrected_to_the_log() {
        let mut overlay = Overlay::default();
        overlay.tell(1, &channel("a"), true);
        overlay.tell(2, &channel("b"), false);
        overlay.tell(3, &channel("a"), false);
        overlay.copy(1, &channel("a"), true);
        let corrections = overlay.end();
        assert_eq!(
            corrections,
            vec![
                (
                    channel("b"),
                    Correction {
                        number: 2,
                        active: true
                    }
                ),
                (
                    channel("a"),
                    Correction {
                        number: 3,
                        active: true
                    }
                ),
            ]
        );
    }

    #[test]
    fn what_the_log_says_otherwise_supersedes() {
        let mut overlay = Overlay::default();
        overlay.tell(1, &channel("a"), false);
        assert!(!overlay.supersede(&channel("a"), false), "told already");
        assert!(overlay.supersede(&channel("a"), true));
        assert_eq!(overlay.end(), vec![]);
    }
}
