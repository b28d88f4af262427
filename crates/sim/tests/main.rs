//! The simulator's promise: nothing but the seed decides.

use std::path::Path;
use std::process::Command;

/// Runs a short world; returns what it said and its trace.
fn world(seed: u64, directory: &Path) -> (String, String) {
    let trace = directory.join(format!("{seed}"));
    let output = Command::new(env!("CARGO_BIN_EXE_headcount-sim-world"))
        .args([&seed.to_string(), "--safety", "4", "--trace"])
        .arg(&trace)
        .output()
        .expect("the world runs");
    let told = String::from_utf8(output.stdout).expect("it says text");
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{wrong}");
    let trace = std::fs::read_to_string(&trace);
    (told, trace.expect("it wrote its trace"))
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let directory = tempfile::tempdir().unwrap();
    let (first, trace) = world(1, directory.path());
    let (again, repeated) = world(1, directory.path());
    let lines = trace.lines().zip(repeated.lines()).enumerate();
    let other = lines.into_iter().find(|(_, (one, two))| one != two);
    assert_eq!(other, None, "the first line that differs");
    assert_eq!(trace, repeated);
    assert_eq!(first, again);
    assert!(trace.lines().count() > 500, "{trace}");
}

#[test]
fn another_seed_makes_another_world() {
    let directory = tempfile::tempdir().unwrap();
    let (_, one) = world(2, directory.path());
    let (_, two) = world(3, directory.path());
    assert_ne!(one, two);
}
