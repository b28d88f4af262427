//! The house rules as a test.
//!
//! Style that matters is checked, not remembered: this package reads every file that git tracks (or
//! would track) and reports what breaks a rule of the house. It depends on none of our crates, so
//! it runs in seconds and works while they do not compile.
//!
//! * [`Tree`] is the repository as a map from path to text; unit tests build one from literals.
//! * [`rules`] holds one module per rule, each with one function `check(&Tree) -> Vec<Fault>` and
//!   tests that show it can fail.
//! * `tests/main.rs` runs every rule on the real repository, one test per rule.
//!
//! A rule that is wrong is changed here, with its reason; there is no list of exceptions elsewhere.

pub mod rules;
mod rust;
mod tree;

pub use tree::{Fault, File, Tree};
