//! Readers that were taken back in time (C13).

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::{Fault, Rule};

/// Seen: what a session saw of a subject, by something that only grows: a position in the log, a
/// moment of knowledge, the counts of a channel that nobody leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen<V> {
    /// The session: one reader at one replica, as long as that lives.
    pub session: String,
    /// What was read.
    pub subject: String,
    /// How far it was.
    pub version: V,
}

/// Returns where a session saw less than it had seen before. What is given is in the order in
/// which each session saw it.
pub fn backward<'a, V: Ord + Debug + 'a>(
    seen: impl IntoIterator<Item = &'a Seen<V>>,
) -> Vec<Fault> {
    let mut newest: BTreeMap<(&str, &str), &V> = BTreeMap::new();
    let mut faults = Vec::new();
    for seen in seen {
        let Seen {
            session,
            subject,
            version,
        } = seen;
        let newest = newest.entry((session, subject)).or_insert(version);
        if version < *newest {
            let what = format!("{session} saw {subject} at {newest:?} and then at {version:?}");
            faults.push(Fault::new(Rule::SessionOrder, what));
        }
        *newest = version.max(*newest);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(session: &str, subject: &str, version: u64) -> Seen<u64> {
        let (session, subject) = (session.to_owned(), subject.to_owned());
        Seen {
            session,
            subject,
            version,
        }
    }

    #[test]
    fn each_session_goes_forward_by_itself() {
        let reads = [
            seen("a", "x", 1),
            seen("a", "y", 5),
            seen("b", "x", 0),
            seen("a", "x", 1),
            seen("a", "x", 2),
        ];
        assert_eq!(backward(&reads), []);
    }

    #[test]
    fn a_session_that_goes_back_is_found_each_time() {
        let reads = [
            seen("a", "x", 3),
            seen("a", "x", 1),
            seen("a", "x", 2),
            seen("a", "x", 3),
        ];
        let faults = backward(&reads);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.rule == Rule::SessionOrder));
    }
}
