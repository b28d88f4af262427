//! Words that say nothing or say something else than the glossary, and work left for later.

use crate::rust::{code_only, definitions, uses, words};
use crate::{Fault, Tree};

/// Banned in every name.
const EMPTY: &[&str] = &[
    "manager", "managers", "helper", "helpers", "util", "utils", "misc",
];
/// Banned as the whole name of a module and as the last word of a type.
const VAGUE: &[&str] = &["common", "data", "info"];
/// Banned in types, since the glossary has another word: (banned, wanted).
const GLOSSARY: &[(&str, &str)] = &[
    ("topic", "channel"),
    ("room", "channel"),
    ("bus", "feed"),
    ("master", "coordinator"),
    ("primary", "coordinator"),
    ("slave", "replica"),
    ("uuid", "id"),
    ("webhook", "integration, delivery or target"),
];
/// Marks of unfinished work, banned in every text.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
/// Macros of unfinished work.
const MACROS: &[&str] = &["todo", "unimplemented"];

/// This package spells out the words that it bans.
fn is_exempt(path: &str) -> bool {
    path.starts_with("tests/tidy/") || path == "Cargo.lock" || path == "LICENSE"
}

/// Checks names in Rust sources, and marks of unfinished work everywhere.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts("").filter(|(path, _)| !is_exempt(path)) {
        for mark in MARKS {
            for (index, line) in text.lines().enumerate() {
                let mut parts = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                if parts.any(|word| word == *mark) {
                    let what = format!("{mark} does not merge: do it, or file it as an issue");
                    faults.push(Fault::new(path, index + 1, what));
                }
            }
        }
        if path.ends_with(".rs") {
            check_rust(path, &code_only(text), &mut faults);
        }
    }
    faults
}

fn check_rust(path: &str, code: &str, faults: &mut Vec<Fault>) {
    let lines: Vec<&str> = code.lines().collect();
    for (line, keyword, name) in definitions(code) {
        if keyword == "type" && lines[line - 1].starts_with(' ') {
            continue; // an associated type is named by its trait, which may be somebody else's
        }
        let words = words(name);
        let is_type = !matches!(keyword, "fn" | "mod");
        let last = words.last().map_or("", String::as_str);
        let banned = words
            .iter()
            .map(String::as_str)
            .find(|word| EMPTY.contains(word))
            .or_else(|| {
                let vague =
                    (is_type || (keyword == "mod" && words.len() == 1)) && VAGUE.contains(&last);
                vague.then_some(last)
            });
        if let Some(word) = banned {
            let what = format!("{keyword} `{name}`: \"{word}\" says nothing; name what it does");
            faults.push(Fault::new(path, line, what));
        }
        for (word, wanted) in GLOSSARY
            .iter()
            .filter(|(word, _)| is_type && words.iter().any(|w| w == word))
        {
            let what =
                format!("{keyword} `{name}`: the glossary says \"{wanted}\", not \"{word}\"");
            faults.push(Fault::new(path, line, what));
        }
    }
    for name in MACROS {
        for line in uses(code, name, "!") {
            faults.push(Fault::new(path, line, format!("`{name}!` does not merge")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(code: &str) -> usize {
        check(&Tree::of(&[("crates/feed/src/lib.rs", code)])).len()
    }

    #[test]
    fn telling_names_pass() {
        assert_eq!(
            faults(
                "struct DataDir; fn info() {} fn data() {} mod topics_told {} // a helper\n\
                 \x20   type SnapshotData = u8;\n"
            ),
            0
        );
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        for code in [
            "struct LeaseManager;",
            "fn string_util() {}",
            "mod utils {}",
            "mod common;",
            "pub(crate) enum ShardInfo {}",
            "trait Helper {}",
            "type Topic = u8;",
        ] {
            assert_eq!(faults(code), 1, "{code}");
        }
    }

    #[test]
    fn unfinished_work_is_refused() {
        assert_eq!(faults("// TODO: later\n"), 1);
        assert_eq!(faults("fn f() { todo!() }\n"), 1);
        assert_eq!(faults("fn f() { unimplemented!(\"x\") }\n"), 1);
        assert_eq!(check(&Tree::of(&[("README.md", "FIXME\n")])).len(), 1);
        assert_eq!(faults("fn f() { let x = \"a\"; } // mastodon\n"), 0);
    }
}
