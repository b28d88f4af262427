//! The repository as rules see it: paths and texts, sorted by path.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// Directories that hold no source and are passed over where git cannot be asked.
const SKIPPED: &[&str] = &[
    ".git",
    "target",
    "node_modules",
    ".venv",
    "__pycache__",
    "data",
];

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the file, relative to the root of the repository.
    pub path: String,
    /// Line counted from 1, or 0 where the fault is the whole file's.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl Fault {
    /// Describes a fault at a line (counted from 1; 0 means the file as a whole).
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.path, self.what)
        } else {
            write!(f, "{}:{}: {}", self.path, self.line, self.what)
        }
    }
}

/// One file of the repository.
#[derive(Clone, Debug)]
pub struct File {
    /// Size on disk in bytes.
    pub bytes: u64,
    /// The text, or `None` if the file is not UTF-8.
    pub text: Option<String>,
}

/// Every file of the repository, by path relative to its root, with `/` between components.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, File>,
}

impl Tree {
    /// Reads the repository that this package belongs to: the files that git tracks or would track
    /// after `git add`, or, where git is missing, everything outside the build directories.
    ///
    /// # Panics
    ///
    /// If the root cannot be listed at all.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let paths = git_files(&root).unwrap_or_else(|| {
            let mut paths = Vec::new();
            walk(&root, &root, &mut paths);
            paths
        });
        assert!(
            paths.len() > 10,
            "found {} files below {}",
            paths.len(),
            root.display()
        );
        let mut tree = Self::default();
        for path in paths {
            // A tracked file may just have been deleted; a link may point nowhere.
            let Ok(content) = std::fs::read(root.join(&path)) else {
                continue;
            };
            let bytes = content.len() as u64;
            tree.files.insert(
                path,
                File {
                    bytes,
                    text: String::from_utf8(content).ok(),
                },
            );
        }
        tree
    }

    /// Builds a tree from (path, text) pairs.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let entry = |(path, text): &(&str, &str)| {
            let file = File {
                bytes: text.len() as u64,
                text: Some((*text).to_owned()),
            };
            ((*path).to_owned(), file)
        };
        Self {
            files: files.iter().map(entry).collect(),
        }
    }

    /// All files with their paths, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// All UTF-8 files whose path ends with `suffix`, with their text.
    pub fn texts<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(suffix))
            .filter_map(|(path, file)| file.text.as_deref().map(|text| (path.as_str(), text)))
    }

    /// The text at exactly `path`.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    /// Whether `path` is a file, or a directory that holds one; the empty path is the root.
    pub fn exists(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        path.is_empty()
            || self.files.contains_key(path)
            || self
                .files
                .range(prefix.clone()..)
                .next()
                .is_some_and(|(p, _)| p.starts_with(&prefix))
    }

    /// Names of the directories directly below `dir` that hold a `Cargo.toml`, sorted.
    pub fn packages(&self, dir: &str) -> Vec<&str> {
        self.files
            .keys()
            .filter_map(|path| {
                path.strip_prefix(dir)?
                    .strip_prefix('/')?
                    .strip_suffix("/Cargo.toml")
            })
            .filter(|name| !name.contains('/'))
            .collect()
    }
}

/// Asks git for tracked and not-ignored files; `None` if git is missing or this is no work tree.
fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()
        .ok()?;
    let listing = output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())??;
    Some(listing.split_terminator('\0').map(str::to_owned).collect())
}

/// Adds every file below `dir` to `paths`, relative to `root`.
fn walk(root: &Path, dir: &Path, paths: &mut Vec<String>) {
    let entries = std::fs::read_dir(dir).expect("the repository can be listed");
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            walk(root, &path, paths);
        } else if path.is_file() {
            let relative = path.strip_prefix(root).expect("below the root");
            paths.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_exists_if_it_holds_a_file() {
        let tree = Tree::of(&[("crates/model/Cargo.toml", "")]);
        assert!(tree.exists("crates") && tree.exists("crates/model/Cargo.toml"));
        assert!(!tree.exists("crates/mod") && !tree.exists("docs"));
        assert_eq!(tree.packages("crates"), ["model"]);
    }

    #[test]
    fn walking_finds_what_git_finds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = Vec::new();
        walk(root, root, &mut paths);
        assert!(paths.contains(&"src/tree.rs".to_owned()), "{paths:?}");
    }
}
