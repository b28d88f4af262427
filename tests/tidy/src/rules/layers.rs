//! Dependencies between our own crates point inward, as the table below says and no further.

use crate::rules::manifests::dependencies;
use crate::{Fault, Tree};

/// What each crate may depend on, in flow order. A crate that is not listed here has no place in
/// the house yet: decide it and add a line.
pub(crate) const LAYERS: &[(&str, &[&str])] = &[
    // words
    ("model", &[]),
    ("wire", &["model"]),
    ("access", &["model"]),
    ("realtime", &["model", "access"]),
    // pure stages: what two of them share is a word, and words live in `model`;
    // `scenarios` replays recorded stories in their tests
    ("gateway", &["model"]),
    ("region", &["model", "scenarios"]),
    ("gossip", &["model", "scenarios"]),
    ("coordinator", &["model", "scenarios"]),
    ("feed", &["model"]),
    ("placement", &["model"]),
    ("relay", &["model"]),
    // shells: they never import each other; `net` is what connections of all of them are made of
    ("net", &[]),
    ("consensus", &["model", "wire", "coordinator", "placement"]),
    // `rpc` carries the relay's messages and checks them, as `consensus` does with its stages'
    // words: `wire` stands before all stages, and past these two nobody speaks protobuf.
    ("rpc", &["model", "wire", "relay", "net"]),
    ("api", &["model", "access", "realtime", "relay", "net"]),
    ("integrations", &["model"]),
    ("client", &["model", "wire", "net"]),
    // composition
    (
        "node",
        &[
            "model",
            "wire",
            "access",
            "gateway",
            "region",
            "gossip",
            "coordinator",
            "feed",
            "placement",
            "relay",
            "net",
            "consensus",
            "rpc",
            "api",
            "integrations",
            "client",
        ],
    ),
    ("headcount", &["node", "wire", "client", "model"]),
    // proof
    (
        "sim",
        &[
            "model",
            "access",
            "gateway",
            "region",
            "gossip",
            "coordinator",
            "feed",
            "placement",
            "relay",
            "net",
            "consensus",
            "client",
            "wire",
            "node",
            "checker",
        ],
    ),
];

/// Checks every crate's dependencies on our own crates, in all sections of its manifest.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in tree.packages("crates") {
        let path = format!("crates/{name}/Cargo.toml");
        let Ok(manifest) = tree.text(&path).unwrap_or_default().parse::<toml::Table>() else {
            continue; // reported by `manifests`
        };
        let package = manifest
            .get("package")
            .and_then(|package| package.get("name")?.as_str());
        if package != Some(package_name(name).as_str()) {
            let what = format!(
                "must be called `{}`, after its directory",
                package_name(name)
            );
            faults.push(Fault::new(&path, 0, what));
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            let what = "is not in the table of layers in `tests/tidy/src/rules/layers.rs`";
            faults.push(Fault::new(&path, 0, what));
            continue;
        };
        for (section, dependency, _) in dependencies(&manifest) {
            let Some(own) = dependency.strip_prefix("headcount-") else {
                continue;
            };
            if !allowed.contains(&own) && own != name {
                let what = format!(
                    "[{section}] {dependency}: `{name}` may depend on {allowed:?} only; \
                     dependencies point inward"
                );
                faults.push(Fault::new(&path, 0, what));
            }
        }
    }
    faults
}

/// Package names carry a prefix that directory names do not; the binary is the prefix itself.
fn package_name(directory: &str) -> String {
    if directory == "headcount" {
        directory.to_owned()
    } else {
        format!("headcount-{directory}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(directory: &str, package: &str, dependency: &str) -> Vec<Fault> {
        let manifest = format!(
            "[package]\nname = \"{package}\"\n[dependencies]\n{dependency}.workspace = true\n"
        );
        check(&Tree::of(&[(
            &format!("crates/{directory}/Cargo.toml"),
            &manifest,
        )]))
    }

    #[test]
    fn inward_is_allowed() {
        assert_eq!(faults("gossip", "headcount-gossip", "headcount-model"), []);
        assert_eq!(faults("headcount", "headcount", "headcount-node"), []);
    }

    #[test]
    fn sideways_and_outward_are_refused() {
        assert_eq!(
            faults("gossip", "headcount-gossip", "headcount-region").len(),
            1
        );
        assert_eq!(faults("api", "headcount-api", "headcount-rpc").len(), 1);
        assert_eq!(
            faults("model", "headcount-model", "headcount-wire").len(),
            1
        );
    }

    #[test]
    fn a_test_dependency_counts_too() {
        let manifest = "[package]\nname = \"headcount-feed\"\n\
            [target.'cfg(unix)'.dev-dependencies]\nheadcount-node.workspace = true\n";
        assert_eq!(
            check(&Tree::of(&[("crates/feed/Cargo.toml", manifest)])).len(),
            1
        );
    }

    #[test]
    fn unknown_crates_and_wrong_names_are_refused() {
        assert_eq!(faults("misc", "headcount-misc", "serde").len(), 1);
        assert_eq!(faults("feed", "feed", "serde").len(), 1);
    }
}
