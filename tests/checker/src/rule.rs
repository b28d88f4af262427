//! The invariants by their numbers.

use std::fmt;

/// Rule: an invariant that a run must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// C1: after healing and a bounded quiet time, everything everywhere equals what is attached.
    Convergence,
    /// C2: what died does not count once its time is over.
    NoGhosts,
    /// C3: what lives on healthy ways is not taken away.
    NoFalseVoid,
    /// C4: opened and closed alternate, as do a region's active and inactive, and these nest.
    Alternation,
    /// C5: nothing is told twice, and the same id has the same body everywhere.
    ExactlyOnce,
    /// C6: the log has no holes, and a watcher misses nothing of it, resumed or not.
    Contiguity,
    /// C7: each transition has a cause in what was done.
    Justification,
    /// C10: what was told, or acknowledged, is on the disks of a majority.
    Durability,
    /// C12: strong reads and writes have an order that explains them.
    Linearizability,
    /// C13: a session's reads do not go back.
    SessionOrder,
    /// C16: counts are what is attached, never more.
    Conservation,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 11] = [
        Self::Convergence,
        Self::NoGhosts,
        Self::NoFalseVoid,
        Self::Alternation,
        Self::ExactlyOnce,
        Self::Contiguity,
        Self::Justification,
        Self::Durability,
        Self::Linearizability,
        Self::SessionOrder,
        Self::Conservation,
    ];

    /// Returns the rule's number and name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Convergence => "C1 convergence",
            Self::NoGhosts => "C2 no ghosts",
            Self::NoFalseVoid => "C3 no false void",
            Self::Alternation => "C4 alternation",
            Self::ExactlyOnce => "C5 exactly once",
            Self::Contiguity => "C6 contiguity",
            Self::Justification => "C7 justification",
            Self::Durability => "C10 durability",
            Self::Linearizability => "C12 linearizability",
            Self::SessionOrder => "C13 session order",
            Self::Conservation => "C16 conservation",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Fault: a rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule.
    pub rule: Rule,
    /// What happened.
    pub what: String,
}

impl Fault {
    /// Says that a rule was broken.
    #[must_use]
    pub fn new(rule: Rule, what: impl Into<String>) -> Self {
        Self {
            rule,
            what: what.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}
