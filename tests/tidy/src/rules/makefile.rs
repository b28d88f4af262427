//! The Makefile is the only front door: every target explains itself, and every `make` command that
//! a document tells exists.

use std::collections::BTreeSet;

use crate::rules::links::fenced;
use crate::{Fault, Tree};

/// Checks the Makefile against itself and against the documents.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let makefile = tree.text("Makefile").unwrap_or_default();
    let mut targets = BTreeSet::new();
    for (index, line) in makefile.lines().enumerate() {
        let Some(name) = target(line) else { continue };
        if !line.contains(" ## ") && !targets.contains(name) {
            let what = format!("target `{name}` needs a `## comment` that says what it does");
            faults.push(Fault::new("Makefile", index + 1, what));
        }
        targets.insert(name);
    }
    for (path, text) in tree.texts(".md") {
        for (line, command) in commands(text) {
            let words = command.split_whitespace().skip(1);
            for word in words.take_while(|word| !word.starts_with(['#', '&', '|', ';', '>'])) {
                if !word.contains('=') && !word.starts_with('-') && !targets.contains(word) {
                    let what = format!("`make {word}`: the Makefile has no such target");
                    faults.push(Fault::new(path, line, what));
                }
            }
        }
    }
    faults
}

/// The target that `line` of a Makefile defines, if it does; names with `.`, `/`, `%` or `$` are
/// files or settings.
fn target(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!name.is_empty() && name.chars().all(plain) && !rest.starts_with('=')).then_some(name)
}

/// Commands that start with `make`, in fenced blocks or alone in backticks: (line from 1, command).
fn commands(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, inside, content) in fenced(text) {
        let trimmed = content.trim_start().trim_start_matches("$ ");
        if inside && trimmed.starts_with("make ") {
            found.push((line, trimmed));
        }
        for span in content.split('`').skip(1).step_by(2).filter(|_| !inside) {
            if span.starts_with("make ") {
                found.push((line, span));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(makefile: &str, document: &str) -> usize {
        check(&Tree::of(&[
            ("Makefile", makefile),
            ("README.md", document),
        ]))
        .len()
    }

    #[test]
    fn explained_targets_pass() {
        let makefile =
            "X := 1\n.PHONY: test\ntest: build ## Runs the tests\n\tcargo test\nbuild: ## Builds\n";
        assert_eq!(
            faults(
                makefile,
                "`make test`\n```sh\nmake build test SEED=1 # all\n```\nmake do\n"
            ),
            0
        );
    }

    #[test]
    fn an_unexplained_target_is_refused() {
        assert_eq!(faults("test:\n\tcargo test\n", ""), 1);
    }

    #[test]
    fn a_command_without_target_is_refused() {
        assert_eq!(faults("test: ## Tests\n", "```\nmake tset\n```\n"), 1);
        assert_eq!(faults("test: ## Tests\n", "Run `make tset`.\n"), 1);
    }
}
