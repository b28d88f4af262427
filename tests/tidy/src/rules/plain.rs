//! Files are small and plain: below 1 MiB, no trailing blanks, one newline at the end, and no Rust
//! line much wider than the formatter makes it, which leaves what holds a long literal unformatted.

use crate::{Fault, Tree};

/// Largest file that may be tracked; larger ones are generated or downloaded when needed.
const BYTES_MAX: u64 = 1024 * 1024;

/// Widest line of Rust, in characters: what `.rustfmt.toml` says, and some grace for literals.
const WIDTH_MAX: usize = 120;

/// Checks sizes of all files and blanks of all texts.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, file) in tree.files() {
        if file.bytes >= BYTES_MAX {
            faults.push(Fault::new(
                path,
                0,
                format!("has {} bytes; below {BYTES_MAX} is allowed", file.bytes),
            ));
        }
        let Some(text) = file.text.as_deref() else {
            continue;
        };
        for (index, line) in text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                faults.push(Fault::new(path, index + 1, "ends with blanks"));
            }
            if path.ends_with(".rs") && line.chars().count() > WIDTH_MAX {
                let what = format!("is wider than {WIDTH_MAX}: break the literal with `\\`");
                faults.push(Fault::new(path, index + 1, what));
            }
        }
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            faults.push(Fault::new(
                path,
                text.lines().count(),
                "must end with exactly one newline",
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        check(&Tree::of(&[("a.txt", text)])).len()
    }

    #[test]
    fn plain_texts_pass() {
        assert_eq!(faults("a\n\nb\n"), 0);
        assert_eq!(faults(""), 0);
    }

    #[test]
    fn blanks_and_bad_endings_are_refused() {
        for text in ["a \n", "a\t\n", "a\r\n", "a", "a\n\n"] {
            assert_eq!(faults(text), 1, "{text:?}");
        }
    }

    #[test]
    fn a_wide_line_of_rust_is_refused() {
        let wide = format!("// {}\n", "é".repeat(118));
        assert_eq!(
            check(&Tree::of(&[("a.rs", &wide), ("a.md", &wide)])).len(),
            1
        );
        assert_eq!(
            check(&Tree::of(&[("a.rs", &wide.replacen('é', "", 1))])),
            []
        );
    }

    #[test]
    fn a_large_file_is_refused() {
        assert_eq!(faults(&"abcdefg\n".repeat(1024 * 1024 / 8)), 1);
    }
}
