//! Nothing in the repository is true of one machine only: no home directories, no workplace paths,
//! no registry hosts.

use crate::{Fault, Tree};

/// Directories that exist on somebody's machine. A user's name must follow where one is expected.
const PLACES: &[&str] = &["/root/", "/home/", "/Users/", "C:\\Users\\", "/workspace/"];
/// Hosts and settings of package registries: which one is used is a matter of the machine.
const REGISTRIES: &[&str] = &[
    "crates.io/api",
    "index.crates.io",
    "static.crates.io",
    "pypi.org/simple",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "deb.debian.org",
    "archive.ubuntu.com",
    "proxy.golang.org",
    "index-url",
    "--registry",
];

/// Checks all texts but this package, which spells out what it bans.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree
        .texts("")
        .filter(|(path, _)| !path.starts_with("tests/tidy/"))
    {
        for (index, line) in text.lines().enumerate() {
            if let Some(place) = PLACES.iter().find(|place| names_place(line, place)) {
                let what = format!("names `{place}…`, which is a path of one machine");
                faults.push(Fault::new(path, index + 1, what));
            }
            if let Some(host) = REGISTRIES.iter().find(|host| line.contains(**host)) {
                let what = format!("names `{host}`: the machine decides which registry is used");
                faults.push(Fault::new(path, index + 1, what));
            }
        }
    }
    faults
}

/// Whether `place` starts a path in `line`: not in the middle of a longer one such as a URL's.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before
            .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '.' | '/' | '_' | '-' | '}' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        check(&Tree::of(&[("deploy/README.md", text)])).len()
    }

    #[test]
    fn portable_paths_pass() {
        assert_eq!(
            faults("/var/lib/headcount and https://example.org/home/x and crates/work/src\n"),
            0
        );
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        assert_eq!(faults("see /workspace/main/x\n"), 1);
        assert_eq!(faults("`/home/ada/headcount`\n"), 1);
        assert_eq!(faults("path=/root/.cargo\n"), 1);
    }

    #[test]
    fn registry_hosts_are_refused() {
        assert_eq!(
            faults("\"resolved\": \"https://registry.npmjs.org/ably\"\n"),
            1
        );
        assert_eq!(faults("pip install --index-url http://10.0.0.1/ x\n"), 1);
    }
}
