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

    /// R13: an owner refuses the words of a node's earlier lives.
    LaterLife,
    /// R13: an owner refuses the words of a life whose lease has ended.
    LapsedRefused,
    /// R13: an owner takes only words that were meant for its fence.
    OwnFence,
    /// R13: an owner refuses what comes on an older stream.
    LaterStream,
    /// R13: an owner takes only the next word of a stream.
    NextInStream,
    /// R13: what is not acknowledged in time is told anew.
    UntilAcknowledged,
    /// R13: a new stream tells the whole set.
    WholeSet,
    /// R13: what a stream did not mention up to its end mark is zero.
    AbsentIsZero,
    /// R9 and R13: a gateway is complete at its stream's end mark, not before.
    EndMark,

    /// R8: a newer session does not count beside the older one.
    OneCounts,
    /// R8: a newer session replaces the older one only once its set is complete.
    SwapWhenWhole,
    /// R8: an older session that is told again after a complete newer one is ignored.
    StaleSession,
    /// R8, where the text was silent: one session counts also if a newer one, not complete, was
    /// heard before the older.
    OneCountsInAnyOrder,
    /// R8 and R13, where the text was silent: a complete session that a whole set did not mention is
    /// over, like a channel that it did not mention.
    AbsentIsOver,
    /// R8: an edge goes on only with the last session that it was welcomed to.
    ResumeLast,
    /// R8: a direct client that moved counts at the new node only when the old one has let go.
    HandOver,
    /// R8, where the text was silent: the old node has let go when the owner knows it.
    HandOverHeard,

    /// R17: with its first interest a region tells the others, and pulls.
    InterestTold,
    /// R17: a told interest is held until the log agrees.
    InterestHeld,
    /// R17, where the text was silent: when the log activates a channel in a region, the others
    /// tell it the version of their set.
    ActivationVersion,
    /// R17: changes that do not lead from the known version are not applied, but pulled.
    Gap,
    /// R17: a new fence triggers a pull, and its versions are not those of the fence before.
    NewFence,
    /// R17: what comes from below the highest fence heard is ignored.
    OlderRelay,
    /// R17: a region's expiry drops its members.
    ExpiryDrops,
    /// R17: what carries an expired fence is ignored.
    ExpiredVoid,
    /// R17, where the text was silent: a new owner's set is told when all its gateways told theirs.
    Gather,
    /// R17, where the text was silent: a new owner shows its gateways a set when others' have come.
    PullFirst,
    /// R17: of several states of a member, the one with the highest message serial is shown.
    Newness,

    /// R4: a restarted process registers a life of its own.
    LifePerProcess,
    /// R4: a new life ends the ownerships of the one before.
    StartEndsLife,
    /// R4: a lease that is lost names the life that lost it.
    LostNamesLife,
    /// R5: a new leader allows a full lease from its own election.
    FullLease,
    /// R5: a node counts its lease from when it asked, not from the answer.
    FromAsking,
    /// R5: a node whose lease is over by its own clock stops to act.
    StopInTime,
    /// R5, where the text was silent: a leader whom no majority hears any more renews nothing.
    LeaderHeard,
    /// R5, where the text was silent: what a leader decided is never proposed under a later one.
    OwnLeadership,
    /// R5, where the text was silent: a lease that was proposed as lost is not renewed.
    LostIsLost,
}

impl Rule {
    /// Every rule, in the order of the design's page.
    pub const ALL: [Self; 65] = [
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
        Self::LaterLife,
        Self::LapsedRefused,
        Self::OwnFence,
        Self::LaterStream,
        Self::NextInStream,
        Self::UntilAcknowledged,
        Self::WholeSet,
        Self::AbsentIsZero,
        Self::EndMark,
        Self::OneCounts,
        Self::SwapWhenWhole,
        Self::StaleSession,
        Self::OneCountsInAnyOrder,
        Self::AbsentIsOver,
        Self::ResumeLast,
        Self::HandOver,
        Self::HandOverHeard,
        Self::InterestTold,
        Self::InterestHeld,
        Self::ActivationVersion,
        Self::Gap,
        Self::NewFence,
        Self::OlderRelay,
        Self::ExpiryDrops,
        Self::ExpiredVoid,
        Self::Gather,
        Self::PullFirst,
        Self::Newness,
        Self::LifePerProcess,
        Self::StartEndsLife,
        Self::LostNamesLife,
        Self::FullLease,
        Self::FromAsking,
        Self::StopInTime,
        Self::LeaderHeard,
        Self::OwnLeadership,
        Self::LostIsLost,
    ];
}

/// The rules that a run keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bit `rule as u128` is set where the rule is left out.
    without: u128,
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
            self.without |= 1 << *rule as u128;
        }
        self
    }

    /// Whether the rule is kept.
    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.without & (1 << rule as u128) == 0
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
