//! Every package says what it is, takes its dependencies' versions from the root and obeys the
//! workspace's lints; the lock file names no other source than the public index.

use toml::{Table, Value};

use crate::{Fault, Tree};

/// The only source that a locked package may name.
const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// The sections of a manifest that name dependencies.
const SECTIONS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks the manifests of all packages and the lock file.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts("/Cargo.toml") {
        let manifest: Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                faults.push(Fault::new(path, 0, format!("does not parse: {error}")));
                continue;
            }
        };
        check_manifest(path, &manifest, &mut faults);
    }
    for (index, line) in tree
        .text("Cargo.lock")
        .unwrap_or_default()
        .lines()
        .enumerate()
    {
        if line.starts_with("source = ") && line != format!("source = \"{INDEX}\"") {
            faults.push(Fault::new(
                "Cargo.lock",
                index + 1,
                format!("{line}: only {INDEX} may be a source"),
            ));
        }
    }
    faults
}

/// The dependencies that `manifest` names in any section: (section, package name, specification).
pub(crate) fn dependencies(manifest: &Table) -> Vec<(&'static str, String, &Value)> {
    let targets = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flatten();
    let tables = std::iter::once(manifest).chain(targets.filter_map(|(_, value)| value.as_table()));
    let mut found = Vec::new();
    for table in tables {
        for section in SECTIONS {
            for (key, value) in table
                .get(*section)
                .and_then(Value::as_table)
                .into_iter()
                .flatten()
            {
                let renamed = value.get("package").and_then(Value::as_str);
                found.push((*section, renamed.unwrap_or(key).to_owned(), value));
            }
        }
    }
    found
}

fn check_manifest(path: &str, manifest: &Table, faults: &mut Vec<Fault>) {
    let package = manifest.get("package");
    if package
        .and_then(|package| package.get("description"))
        .and_then(Value::as_str)
        .is_none()
    {
        faults.push(Fault::new(path, 0, "needs a `description` of one line"));
    }
    let lints = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"));
    if lints.and_then(Value::as_bool) != Some(true) {
        faults.push(Fault::new(path, 0, "needs `[lints] workspace = true`"));
    }
    for (section, name, value) in dependencies(manifest) {
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            let what = format!(
                "[{section}] {name}: write the version once, in the root's \
                 `[workspace.dependencies]`, and `{name}.workspace = true` here"
            );
            faults.push(Fault::new(path, 0, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"headcount-model\"\ndescription = \"words\"\n\
        [dependencies]\nserde.workspace = true\n[lints]\nworkspace = true\n";

    #[test]
    fn a_good_manifest_passes() {
        assert_eq!(check(&Tree::of(&[("crates/model/Cargo.toml", GOOD)])), []);
    }

    #[test]
    fn a_version_of_its_own_is_refused() {
        let bad = GOOD.replace("serde.workspace = true", "serde = \"1\"");
        let faults = check(&Tree::of(&[("crates/model/Cargo.toml", &bad)]));
        assert!(
            faults.len() == 1 && faults[0].what.contains("serde"),
            "{faults:?}"
        );
    }

    #[test]
    fn missing_lints_and_description_are_refused() {
        let faults = check(&Tree::of(&[(
            "crates/model/Cargo.toml",
            "[package]\nname = \"x\"\n",
        )]));
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_foreign_source_in_the_lock_file_is_refused() {
        let lock = "source = \"git+https://example.org/x\"\n";
        assert_eq!(check(&Tree::of(&[("Cargo.lock", lock)])).len(), 1);
        let lock = format!("source = \"{INDEX}\"\n");
        assert_eq!(check(&Tree::of(&[("Cargo.lock", &lock)])), []);
    }
}
