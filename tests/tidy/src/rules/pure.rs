//! Pure crates cannot name what would make them impure: no runtime, no network, no clock, no
//! randomness, no log line, no metric; and clippy denies the ambient sources at their root.

use crate::rules::manifests::dependencies;
use crate::{Fault, Tree};

/// The crates in which the product's promises live.
pub(crate) const PURE: &[&str] = &[
    "model",
    "access",
    "realtime",
    "gateway",
    "region",
    "gossip",
    "coordinator",
    "feed",
    "placement",
    "relay",
];

/// Dependencies that do I/O, keep time, draw randomness or observe; a trailing `*` is any ending.
const FORBIDDEN: &[&str] = &[
    "tokio*",
    "tonic*",
    "axum*",
    "openraft*",
    "fjall*",
    "hyper*",
    "http",
    "reqwest*",
    "futures*",
    "async*",
    "rand",
    "getrandom",
    "fastrand",
    "tracing*",
    "log",
    "metrics*",
    "chrono",
    "time",
    "anyhow",
];

/// The line that every pure crate has below its documentation.
const DENY: &str = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";

/// Checks the manifest and the root of every pure crate.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in PURE
        .iter()
        .filter(|name| tree.exists(&format!("crates/{name}")))
    {
        let path = format!("crates/{name}/Cargo.toml");
        let manifest: toml::Table = tree
            .text(&path)
            .unwrap_or_default()
            .parse()
            .unwrap_or_default();
        for (section, dependency, _) in dependencies(&manifest) {
            if FORBIDDEN
                .iter()
                .any(|pattern| matches(pattern, &dependency))
            {
                let what = format!(
                    "[{section}] {dependency}: `{name}` is pure; what needs this belongs in a shell"
                );
                faults.push(Fault::new(&path, 0, what));
            }
        }
        let root = format!("crates/{name}/src/lib.rs");
        if !tree
            .text(&root)
            .unwrap_or_default()
            .lines()
            .any(|line| line == DENY)
        {
            faults.push(Fault::new(&root, 0, format!("needs the line `{DENY}`")));
        }
    }
    for (path, text) in tree.texts(".rs") {
        let pure = PURE
            .iter()
            .any(|name| path.starts_with(&format!("crates/{name}/src/")));
        for (index, line) in text.lines().enumerate().filter(|_| pure) {
            let eased = line.contains("allow(") || line.contains("expect(");
            if eased && line.contains("clippy::disallowed_") {
                faults.push(Fault::new(
                    path,
                    index + 1,
                    "a pure crate allows no ambient source",
                ));
            }
        }
    }
    faults
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(name == pattern, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(dependency: &str, root: &str) -> Vec<Fault> {
        let manifest = format!("[dependencies]\n{dependency}.workspace = true\n");
        check(&Tree::of(&[
            ("crates/feed/Cargo.toml", &manifest),
            ("crates/feed/src/lib.rs", root),
        ]))
    }

    #[test]
    fn a_pure_crate_passes() {
        assert_eq!(faults("thiserror", &format!("//! Feed.\n{DENY}\n")), []);
    }

    #[test]
    fn a_runtime_in_the_manifest_is_refused() {
        let root = format!("//! Feed.\n{DENY}\n");
        assert_eq!(faults("tokio", &root).len(), 1);
        assert_eq!(faults("openraft-rt-tokio", &root).len(), 1);
        assert_eq!(faults("rand", &root).len(), 1);
    }

    #[test]
    fn the_root_must_deny_ambient_sources() {
        assert_eq!(faults("thiserror", "//! Feed.\n").len(), 1);
        let eased = format!("{DENY}\n#![allow(clippy::disallowed_types, reason = \"no\")]\n");
        assert_eq!(faults("thiserror", &eased).len(), 1);
    }
}
