//! Runs every rule on this repository, one test per rule.

use std::sync::OnceLock;

use headcount_tidy::{Tree, rules};

/// The repository, read once for all rules.
fn repository() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(Tree::read)
}

macro_rules! the_repository_keeps {
    ($($rule:ident),* $(,)?) => {
        $(#[test]
        fn $rule() {
            let faults = rules::$rule::check(repository());
            let list: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
            assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), list.join("\n"));
        })*

        #[test]
        fn every_rule_is_run() {
            let run = [$(stringify!($rule)),*];
            let index = include_str!("../src/rules/mod.rs");
            let name = |line: &'static str| line.strip_prefix("pub mod ")?.strip_suffix(';');
            let rules: Vec<&str> = index.lines().filter_map(name).collect();
            assert_eq!(rules, run, "add the rule to this list");
        }
    };
}

the_repository_keeps!(
    designs, docs, layers, links, machine, makefile, manifests, metrics, modules, plain, pure,
    readme, sleeps, words,
);
