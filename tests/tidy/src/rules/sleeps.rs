//! Tests wait for a condition with a deadline; they do not sleep and hope.
//!
//! Where a sleep is right (polling inside `wait_until`, or a time that must pass for nothing to
//! happen), the line itself or the one above carries `// allow-sleep: reason`.

use crate::rust::{code_only, is_test_file, tests_start, uses};
use crate::{Fault, Tree};

/// What the comment that permits a sleep starts with; a reason follows it.
const MARK: &str = "allow-sleep: ";
/// Shortest reason, in bytes, that can be one.
const REASON_BYTES_MIN: usize = 15;

/// Checks test code in Rust, Python and JavaScript.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts("") {
        let (code, from) = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs") => {
                let code = code_only(text);
                let from = if is_test_file(path) {
                    0
                } else {
                    tests_start(&code)
                };
                (code, from)
            }
            Some("py" | "sh") if is_test_file(path) => (text.to_owned(), 0),
            _ => continue,
        };
        let lines: Vec<&str> = text.lines().collect();
        let calls = ["sleep", "sleep_until"]
            .iter()
            .flat_map(|name| uses(&code, name, "("));
        for line in calls.filter(|line| *line > from) {
            let here = lines[line - 1];
            let above = if line >= 2 { lines[line - 2] } else { "" };
            let defined = here.contains("fn sleep");
            if !defined && !is_permitted(here) && !is_permitted(above) {
                let what =
                    "sleeps: wait for a condition with a deadline, or say `// allow-sleep: reason`";
                faults.push(Fault::new(path, line, what));
            }
        }
    }
    faults
}

fn is_permitted(line: &str) -> bool {
    line.split_once(MARK)
        .is_some_and(|(_, reason)| reason.trim().len() >= REASON_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn a_sleep_in_a_test_is_refused() {
        assert_eq!(
            faults(
                "crates/feed/tests/main.rs",
                "fn t() { std::thread::sleep(x); }\n"
            ),
            1
        );
        assert_eq!(
            faults("tests/cluster/src/lib.rs", "tokio::time::sleep(x).await;\n"),
            1
        );
        assert_eq!(
            faults(
                "crates/a/src/b.rs",
                "#[cfg(test)]\nmod tests {\n sleep(x);\n}\n"
            ),
            1
        );
        assert_eq!(faults("tests/clients/edge.py", "time.sleep(1)\n"), 1);
    }

    #[test]
    fn a_sleep_in_a_shell_is_its_own_affair() {
        assert_eq!(
            faults(
                "crates/a/src/b.rs",
                "fn f() { sleep(x); }\n#[cfg(test)]\nmod tests {}\n"
            ),
            0
        );
    }

    #[test]
    fn a_reason_permits_it_and_an_empty_one_does_not() {
        let path = "crates/feed/tests/main.rs";
        assert_eq!(
            faults(
                path,
                "// allow-sleep: polling inside wait_until\nsleep(x);\n"
            ),
            0
        );
        assert_eq!(
            faults(
                path,
                "sleep(x); // allow-sleep: nothing may happen meanwhile\n"
            ),
            0
        );
        assert_eq!(faults(path, "sleep(x); // allow-sleep: \n"), 1);
    }
}
