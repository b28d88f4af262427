//! Every crate and every file says in its first lines what it is.

use crate::{Fault, Tree};

/// Fewest lines of documentation at the root of a crate below `crates/`: what it owns, where it
/// stands in the flow, its main types, what it does not do.
const CRATE_LINES_MIN: usize = 5;

/// Checks that every Rust file starts with `//!`, and every crate root with more than a title.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts(".rs") {
        let documented = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .count();
        if documented == 0 {
            faults.push(Fault::new(
                path,
                1,
                "starts without module documentation (`//! …`)",
            ));
        } else if is_crate_root(path) && documented < CRATE_LINES_MIN {
            let what = format!(
                "has {documented} lines of crate documentation, needs at least {CRATE_LINES_MIN}"
            );
            faults.push(Fault::new(path, 1, what));
        }
    }
    faults
}

fn is_crate_root(path: &str) -> bool {
    let inner = path
        .strip_prefix("crates/")
        .and_then(|rest| rest.split_once('/'));
    inner.is_some_and(|(_, file)| file == "src/lib.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_files_pass() {
        let root = "//! Title.\n//!\n//! a\n//! b\n//! c\nfn f() {}\n";
        let tree = Tree::of(&[
            ("crates/feed/src/lib.rs", root),
            ("crates/feed/src/a.rs", "//! A.\n"),
        ]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn undocumented_files_are_refused() {
        assert_eq!(
            check(&Tree::of(&[("crates/feed/src/a.rs", "fn f() {}\n")])).len(),
            1
        );
        assert_eq!(check(&Tree::of(&[("crates/feed/src/a.rs", "")])).len(), 1);
        assert_eq!(
            check(&Tree::of(&[("crates/feed/src/a.rs", "// A.\n")])).len(),
            1
        );
    }

    #[test]
    fn a_bare_title_is_too_little_for_a_crate() {
        assert_eq!(
            check(&Tree::of(&[("crates/feed/src/lib.rs", "//! Feed.\n")])).len(),
            1
        );
    }
}
