//! The README's table of crates is the directory `crates/`, and its fenced test command is CI's.

use std::collections::BTreeSet;

use crate::rules::links::fenced;
use crate::{Fault, Tree};

const README: &str = "README.md";
/// The command by which a newcomer runs all tests, and by which CI does.
const TEST_COMMAND: &str = "make test";

/// Checks the README, if there is one.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let Some(text) = tree.text(README) else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    if !fenced(text).any(|(_, inside, line)| inside && line.trim().starts_with(TEST_COMMAND)) {
        let what = format!("must show `{TEST_COMMAND}` in a fenced block: it is what CI runs");
        faults.push(Fault::new(README, 0, what));
    }
    let listed = listed_crates(text);
    if listed.is_empty() {
        return faults;
    }
    let present: BTreeSet<&str> = tree.packages("crates").into_iter().collect();
    for name in present
        .iter()
        .filter(|name| !listed.iter().any(|(_, listed)| listed == *name))
    {
        faults.push(Fault::new(
            README,
            listed[0].0,
            format!("the crate table misses `{name}`"),
        ));
    }
    for (line, name) in listed.iter().filter(|(_, name)| !present.contains(name)) {
        faults.push(Fault::new(
            README,
            *line,
            format!("the crate table lists `{name}`, which does not exist"),
        ));
    }
    faults
}

/// The first names in backticks in the column headed "crate": (line from 1, name).
fn listed_crates(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let is_crate = |cell: &&str| cell.eq_ignore_ascii_case("crate");
    let mut column = None;
    for (line, _, content) in fenced(text).filter(|(_, inside, _)| !inside) {
        if !content.trim_start().starts_with('|') {
            column = None;
            continue;
        }
        let cells: Vec<&str> = content
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        match column {
            None => column = Some(cells.iter().position(is_crate)),
            Some(Some(index)) => {
                let cell = cells.get(index).copied().unwrap_or_default();
                found.extend(cell.split('`').nth(1).map(|name| (line, name)));
            }
            Some(None) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(table: &str) -> usize {
        let readme = format!("```sh\nmake test\n```\n{table}");
        let files = [
            ("README.md", readme.as_str()),
            ("crates/model/Cargo.toml", ""),
            ("crates/feed/Cargo.toml", ""),
        ];
        check(&Tree::of(&files)).len()
    }

    #[test]
    fn a_true_table_passes() {
        assert_eq!(
            faults(
                "| crate | what |\n|---|---|\n| [`model`](crates/model) | words |\n\
                 | `feed` | `x` |\n"
            ),
            0
        );
        assert_eq!(faults("| word | meaning |\n|---|---|\n| `none` | y |\n"), 0);
    }

    #[test]
    fn missing_and_dead_crates_are_refused() {
        assert_eq!(faults("| crate |\n|---|\n| `model` |\n"), 1);
        assert_eq!(
            faults("| crate |\n|---|\n| `model` |\n| `feed` |\n| `sim` |\n"),
            1
        );
    }

    #[test]
    fn the_test_command_must_be_shown() {
        assert_eq!(check(&Tree::of(&[("README.md", "make test\n")])).len(), 1);
    }
}
