//! No forgotten file: every Rust file is declared as a module by its parent, and the integration
//! tests of a package are one binary, `tests/main.rs`, with modules.

use crate::rust::code_only;
use crate::{Fault, Tree};

/// What a package is told whose tests cargo does not build.
const NEVER_RUN: &str =
    "`autotests = false` without `[[test]] name = \"main\"`: tests/main.rs is never run";
/// What a package is told whose test modules are binaries, too.
const RUN_TWICE: &str = "needs `autotests = false` and `[[test]] name = \"main\"`: every module of \
     tests/main.rs would be a binary, too";

/// Checks all Rust files of all packages.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, _) in tree.texts(".rs") {
        let Some((package, inner)) = split(tree, path) else {
            continue;
        };
        let Some((root, module)) = inner.split_once('/') else {
            continue;
        }; // build.rs
        if !matches!(root, "src" | "tests") || is_root(root, module) {
            continue;
        }
        let (directory, name) = name_of(module);
        let parents = parents_of(root, directory);
        let declared = parents.iter().any(|parent| {
            let text = tree.text(&format!("{package}/{parent}"));
            text.is_some_and(|text| declares(text, name))
        });
        if !declared {
            let what = format!(
                "is not compiled: declare `mod {name};` in {}",
                parents.join(" or ")
            );
            faults.push(Fault::new(path, 0, what));
        }
    }
    for (path, text) in tree.texts("/Cargo.toml") {
        let package = path.trim_end_matches("/Cargo.toml");
        if let Some(what) = check_targets(tree, package, text) {
            faults.push(Fault::new(path, 0, what));
        }
    }
    faults
}

/// Whether cargo builds `tests/main.rs`, and nothing else in `tests`, which it would by itself.
fn check_targets(tree: &Tree, package: &str, manifest: &str) -> Option<String> {
    let main = format!("{package}/tests/main.rs");
    tree.text(&main)?;
    let directory = format!("{package}/tests/");
    let modules = tree.texts(".rs").any(|(path, _)| {
        path != main
            && path
                .strip_prefix(&directory)
                .is_some_and(|rest| !rest.contains('/'))
    });
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    let automatic = manifest
        .get("package")
        .and_then(|package| package.get("autotests")?.as_bool());
    let targets = manifest.get("test").and_then(toml::Value::as_array);
    let listed = targets.into_iter().flatten().any(|target| {
        let text = |key: &str| target.get(key).and_then(toml::Value::as_str);
        text("name") == Some("main") && text("path").is_none_or(|path| path == "tests/main.rs")
    });
    match (automatic, listed) {
        (Some(false), false) => Some(NEVER_RUN.to_owned()),
        (Some(true) | None, _) if modules => Some(RUN_TWICE.to_owned()),
        _ => None,
    }
}

/// The package that `path` belongs to, and the path inside it.
fn split<'a>(tree: &Tree, path: &'a str) -> Option<(&'a str, &'a str)> {
    let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    let at = ends
        .into_iter()
        .rev()
        .find(|at| tree.exists(&format!("{}/Cargo.toml", &path[..*at])))?;
    Some((&path[..at], &path[at + 1..]))
}

/// Whether cargo itself finds the file. Other files directly below `tests` would be, too, but one
/// binary for each links everything again.
fn is_root(root: &str, module: &str) -> bool {
    match root {
        "src" => matches!(module, "lib.rs" | "main.rs") || module.starts_with("bin/"),
        _ => module == "main.rs",
    }
}

/// Splits `a/b.rs` or `a/b/mod.rs` into the directory `a` and the module's name `b`.
fn name_of(module: &str) -> (&str, &str) {
    let stem = module
        .strip_suffix("/mod.rs")
        .or_else(|| module.strip_suffix(".rs"));
    let stem = stem.unwrap_or(module);
    stem.rsplit_once('/').unwrap_or(("", stem))
}

/// The files that may declare a module in `directory` of `root`.
fn parents_of(root: &str, directory: &str) -> Vec<String> {
    match (root, directory) {
        ("src", "") => vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
        (_, "") => vec![format!("{root}/main.rs")],
        _ => vec![
            format!("{root}/{directory}.rs"),
            format!("{root}/{directory}/mod.rs"),
        ],
    }
}

fn declares(parent: &str, name: &str) -> bool {
    let by_path = parent.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with("#[path")
            && (line.contains(&format!("{name}.rs")) || line.contains(&format!("{name}/mod.rs")))
    });
    by_path
        || code_only(parent).lines().any(|line| {
            let ending = line.trim_end().strip_suffix(&format!("mod {name};"));
            ending.is_some_and(|before| before.is_empty() || before.ends_with(' '))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(files: &[(&str, &str)]) -> usize {
        let package = [
            (
                "crates/feed/Cargo.toml",
                "[package]\nautotests = false\n[[test]]\nname = \"main\"\n",
            ),
            ("crates/feed/src/lib.rs", "pub mod a;\n"),
        ];
        check(&Tree::of(&[files, &package].concat())).len()
    }

    #[test]
    fn declared_modules_pass() {
        assert_eq!(
            faults(&[
                ("crates/feed/src/a.rs", "#[cfg(test)]\nmod tests;\n"),
                ("crates/feed/src/a/tests.rs", ""),
                ("crates/feed/build.rs", ""),
                ("crates/feed/tests/main.rs", "//! Tests.\nmod story;\n"),
                ("crates/feed/tests/story.rs", ""),
            ]),
            0
        );
    }

    #[test]
    fn a_forgotten_module_is_refused() {
        assert_eq!(faults(&[("crates/feed/src/b.rs", "")]), 1);
        assert_eq!(
            faults(&[
                ("crates/feed/src/a.rs", "// mod tests;\n"),
                ("crates/feed/src/a/tests.rs", "")
            ]),
            1
        );
    }

    #[test]
    fn a_second_test_binary_and_a_forgotten_test_are_refused() {
        assert_eq!(faults(&[("crates/feed/tests/story.rs", "")]), 1);
        assert_eq!(
            faults(&[
                ("crates/feed/tests/main.rs", ""),
                ("crates/feed/tests/story.rs", "")
            ]),
            1
        );
    }

    #[test]
    fn tests_that_cargo_runs_twice_or_never_are_refused() {
        let files = |manifest| {
            let tests = [
                ("a/tests/main.rs", "mod b;"),
                ("a/tests/b.rs", ""),
                ("a/Cargo.toml", manifest),
            ];
            check(&Tree::of(&tests)).len()
        };
        assert_eq!(
            files("[package]\nautotests = false\n[[test]]\nname = \"main\"\n"),
            0
        );
        assert_eq!(files("[package]\nautotests = false\n"), 1);
        assert_eq!(files("[package]\nname = \"a\"\n"), 1);
    }
}
