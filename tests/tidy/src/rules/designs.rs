//! A `DESIGN.md` answers the same questions in the same order, in 80 to 200 lines.

use crate::{Fault, Tree};

/// The second-level headings of a design document; more words may follow each.
const HEADINGS: &[&str] = &[
    "Purpose",
    "Not the obvious approach, because",
    "Data flow",
    "State and invariants",
    "Failures",
    "Limits",
    "Rejected alternatives",
];
/// Shorter than this, it answers too little; longer, nobody reads it.
const LINES: std::ops::RangeInclusive<usize> = 40..=220;

/// Checks every `DESIGN.md`.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts("DESIGN.md") {
        let headings: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        let agrees = headings.len() == HEADINGS.len()
            && headings
                .iter()
                .zip(HEADINGS)
                .all(|(heading, wanted)| heading.starts_with(wanted));
        if !agrees {
            let what = format!("has the headings {headings:?}, must have {HEADINGS:?}");
            faults.push(Fault::new(path, 0, what));
        }
        let lines = text.lines().count();
        if !LINES.contains(&lines) {
            faults.push(Fault::new(
                path,
                0,
                format!("has {lines} lines, must have {LINES:?}"),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(headings: &[&str], filler: usize) -> usize {
        let mut text: String = headings
            .iter()
            .map(|heading| format!("## {heading}\n"))
            .collect();
        text.push_str(&"words\n".repeat(filler));
        check(&Tree::of(&[("crates/feed/DESIGN.md", &text)])).len()
    }

    #[test]
    fn the_fixed_headings_pass() {
        assert_eq!(faults(HEADINGS, 80), 0);
    }

    #[test]
    fn missing_moved_and_further_headings_are_refused() {
        assert_eq!(faults(&HEADINGS[1..], 80), 1);
        let mut moved = HEADINGS.to_vec();
        moved.swap(0, 1);
        assert_eq!(faults(&moved, 80), 1);
        assert_eq!(faults(&[HEADINGS, &["Notes"]].concat(), 80), 1);
    }

    #[test]
    fn a_stub_is_refused() {
        assert_eq!(faults(HEADINGS, 3), 1);
    }
}
