//! Commands that need no cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

fn headcount(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HEADCOUNT")) {
        command.env_remove(name);
    }
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    command
        .args(arguments)
        .envs(environment)
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn wrong_usage_ends_with_64_and_help_with_0() {
    for wrong in [
        &["--no-such-flag"][..],
        &["dance"],
        &[],
        &["channels", "list"],
        &["join"],
    ] {
        let output = headcount(wrong, &[]);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{wrong:?}: {}",
            stderr(&output)
        );
        assert!(
            stdout(&output).is_empty() && !stderr(&output).is_empty(),
            "{wrong:?}"
        );
    }
    for help in [&["--help"][..], &["load", "--help"], &["--version"]] {
        assert_eq!(headcount(help, &[]).status.code(), Some(0), "{help:?}");
    }
}

#[test]
fn a_missing_key_is_told_with_its_remedy() {
    let output = headcount(&["channels", "list"], &[]);
    assert!(
        stderr(&output).contains("HEADCOUNT_KEY"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_server_that_is_not_there_is_a_failure_not_misuse() {
    // Port 9 of loopback: nobody listens there, and if somebody did, it would not be HTTP.
    let server = ["--server", "http://127.0.0.1:9", "--key", "a.b:c"];
    let output = headcount(&[&server[..], &["channels", "get", "x"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("no answer from http://127.0.0.1:9"),
        "{}",
        stderr(&output)
    );
    let output = headcount(&["cluster", "status", "--admin", "http://127.0.0.1:9"], &[]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_faulty_configuration_ends_with_64_and_all_its_faults() {
    let flags = [
        "--set",
        "node.regin=x",
        "--set",
        "gossip.interval=5",
        "--set",
        "api=1",
    ];
    let output = headcount(&[&["config", "check"][..], &flags].concat(), &[]);
    assert_eq!(output.status.code(), Some(64));
    for key in ["node.regin", "gossip.interval", "api", "node.region"] {
        assert!(
            stderr(&output).contains(&format!("\n  {key} (")),
            "{}",
            stderr(&output)
        );
    }
    let output = headcount(&[&["serve"][..], &flags].concat(), &[]);
    assert_eq!(output.status.code(), Some(64), "before anything is bound");
    let output = headcount(&[&["--json", "config", "check"][..], &flags].concat(), &[]);
    assert_eq!(json(&output)["faults"].as_array().unwrap().len(), 4);
}

#[test]
fn the_deployments_files_are_good() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for file in [
        "docker/node.toml",
        "compose/node.toml",
        "kubernetes/base/node.toml",
    ] {
        let path = deploy.join(file).display().to_string();
        let region = [("HEADCOUNT__NODE__REGION", "us-east-1")];
        let output = headcount(&["config", "check", "--config", &path], &region);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", stderr(&output));
    }
}

#[test]
fn settings_are_printed_masked_and_the_reference_with_every_key() {
    let flags = [
        "--set",
        "node.region=x",
        "--set",
        "admin.token=a-very-secret-token",
    ];
    let output = headcount(&[&["config", "print"][..], &flags].concat(), &[]);
    assert!(stdout(&output).contains("region = \"x\"") && stdout(&output).contains("\"***\""));
    assert!(!stdout(&output).contains("a-very-secret-token"));
    let output = headcount(&[&["--json", "config", "print"][..], &flags].concat(), &[]);
    assert_eq!(json(&output)["admin"]["token"], "***");
    let output = headcount(&["config", "docs"], &[]);
    let reference = include_str!("../../../deploy/config/node.toml");
    assert_eq!(stdout(&output), reference);
    let output = headcount(&["config", "docs", "--json"], &[]);
    assert_eq!(json(&output)[0]["section"], "node");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = headcount(&["completions", shell], &[]);
        assert!(stdout(&output).contains("channels"), "{shell}");
    }
}
