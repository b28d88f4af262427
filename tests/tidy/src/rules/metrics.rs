//! Metrics are declared in one file per crate, `telemetry.rs`, so that names, kinds and help texts
//! can be read side by side and no string is typed twice.

use crate::rust::{code_only, uses};
use crate::{Fault, Tree};

/// Macros that create a metric or describe one.
const MACROS: &[&str] = &[
    "counter",
    "gauge",
    "histogram",
    "describe_counter",
    "describe_gauge",
    "describe_histogram",
];

/// Checks that metrics' macros are called in `telemetry.rs` only.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree
        .texts(".rs")
        .filter(|(path, _)| !path.ends_with("/telemetry.rs"))
    {
        let code = code_only(text);
        for name in MACROS {
            for line in uses(&code, name, "!") {
                let what = format!(
                    "`{name}!` belongs in the crate's `telemetry.rs`; call a function of it here"
                );
                faults.push(Fault::new(path, line, what));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_live_in_telemetry() {
        let code = "fn f() { metrics::counter!(\"feed_events_total\").increment(1); }\n";
        assert_eq!(
            check(&Tree::of(&[("crates/node/src/telemetry.rs", code)])),
            []
        );
        assert_eq!(
            check(&Tree::of(&[("crates/node/src/tasks.rs", code)])).len(),
            1
        );
        assert_eq!(
            check(&Tree::of(&[("crates/node/src/tasks.rs", "// counter!\n")])),
            []
        );
    }
}
