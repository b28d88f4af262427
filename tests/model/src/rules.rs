//! The rules of the protocol as switches, so that each can be left out.

use std::fmt;

/// One duty of `design.md` §9 that the model can do without, to see what breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// R1: an owner claims its fence in the log, and only the claimed fence is accepted.
    Claim,
    /// R1: an owner reads its base at its claim's position and emits nothing before.
    ClaimWait,
    /// R1: feeds pass on early transitions only after the claim of their fence.
    FeedWait,
    /// R2: a batch applies only if its sequence follows the mark.
    Sequence,
    /// R2: a transition applies only if its number follows the last one.
    Numbers,
    /// R2: a numbered batch never changes.
    FixedBatches,
    /// R2: a register travels with its channel's latest transition or after it.
    RegisterOrder,
    /// R3: the owner logs the end of its adoption, and feeds void what never reached the log.
    Settling,
    /// R3: a claim carries the transitions that gateways were told and the log lacks.
    Tail,
    /// R4: a restarted process gets a fence of its own.
    Incarnations,
    /// R5: an expiry is a no-op where a higher fence has claimed.
    ExpiryGuard,
    /// R5: an expiry's first chunk ends the fence.
    ExpiryEndsFence,
    /// R5, where the text was silent: an expiry also refuses a later claim of an expired fence.
    ExpiryFloor,
    /// R3 and R5, where the text was silent: an expiry's end settles like an owner's `Settled`.
    ExpirySettles,
    /// R6: each regional event is followed directly by the global one that it causes.
    Nesting,
    /// R9: adoption lasts until every gateway's set is complete, and emits no inactive.
    AdoptionWait,
    /// R9: while adopting, a register is the largest of the log's and every sum so far.
    AdoptionKeep,
    /// R9: while adopting nothing goes inactive, not even what went active meanwhile.
    AdoptionHold,
    /// R9: a restarted gateway's set is complete only after its clients could come back.
    Recovery,
    /// R9: a set that is not complete adds and takes nothing away, also below a live owner.
    KeepIncomplete,
    /// R10: an early transition is passed on only if its number follows the cursor's mark.
    EarlyInOrder,
    /// R10: a cursor remembers what was told and is not logged.
    CursorUnlogged,
    /// R10: what was told is judged against the log overlaid with the told-but-unlogged.
    Overlay,
    /// R10: a cursor that overflowed under a fence that ended is told a gap and re-synced.
    OverflowGap,
    /// R11: transitions come only from the owner's own state machine.
    OneSource,
    /// R12: apply copies a transition's body unchanged.
    SameBody,
    /// R12, where the text was silent: applying a transition sets the register to its counts.
    TransitionCounts,
    /// R13: a gateway ignores owners below the highest fence that it heard.
    IgnoreOlder,
}

impl Rule {
    /// Every rule, in the order of the design's page.
    pub const ALL: [Self; 28] = [
        Self::Claim,
        Self::ClaimWait,
        Self::FeedWait,
        Self::Sequence,
        Self::Numbers,
        Self::FixedBatches,
        Self::RegisterOrder,
        Self::Settling,
        Self::Tail,
        Self::Incarnations,
        Self::ExpiryGuard,
        Self::ExpiryEndsFence,
        Self::ExpiryFloor,
        Self::ExpirySettles,
        Self::Nesting,
        Self::AdoptionWait,
        Self::AdoptionKeep,
        Self::AdoptionHold,
        Self::Recovery,
        Self::KeepIncomplete,
        Self::EarlyInOrder,
        Self::CursorUnlogged,
        Self::Overlay,
        Self::OverflowGap,
        Self::OneSource,
        Self::SameBody,
        Self::TransitionCounts,
        Self::IgnoreOlder,
    ];
}

/// The rules that a run keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bit `rule as u32` is set where the rule is left out.
    without: u32,
}

impl Rules {
    /// All rules kept.
    #[must_use]
    pub const fn all() -> Self {
        Self { without: 0 }
    }

    /// The same rules without these.
    #[must_use]
    pub fn without(mut self, rules: &[Rule]) -> Self {
        for rule in rules {
            self.without |= 1 << *rule as u32;
        }
        self
    }

    /// Whether the rule is kept.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.without & (1 << rule as u32) == 0
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left_out: Vec<Rule> = Rule::ALL
            .into_iter()
            .filter(|rule| !self.has(*rule))
            .collect();
        if left_out.is_empty() {
            write!(f, "all")
        } else {
            write!(f, "without {left_out:?}")
        }
    }
}
