//! Commands that run nodes, as processes of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A process that prints JSON lines; killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

fn headcount(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HEADCOUNT")) {
        command.env_remove(name);
    }
    command.arg("--json").args(arguments).stdout(Stdio::piped());
    command
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = headcount(arguments).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// Reads lines until one is the event of that name.
    fn wait_event(&mut self, name: &str) -> Value {
        self.wait_line(name, |line| line["event"] == name)
    }

    /// Reads lines until one is as wanted.
    fn wait_line(&mut self, why: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let line: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            if wanted(&line) {
                return line;
            }
        }
        panic!("the process ended without {why}");
    }

    /// Asks it to end, and returns its exit code.
    fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks a node's operator API until the answer is as wanted; each ask is a process of its own.
fn wait_status(admin: &str, why: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let output = headcount(&["cluster", "status", "--admin", admin, "--token", TOKEN]).output();
        let output = output.expect("the binary runs");
        let status = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if wanted(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{why}: {status}");
        // allow-sleep: polling, with a deadline
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

const TOKEN: &str = "0123456789abcdef";

/// Runs a node in a directory of its own, on ports of the system's choice.
fn serve(command: &[&str], directory: &Path, region: &str) -> Running {
    let settings = [
        format!("node.region={region}"),
        format!("node.data_dir={}", directory.join(region).display()),
        "cluster.shards=2".to_owned(),
        "cluster.timing=local".to_owned(),
        format!("admin.token={TOKEN}"),
    ];
    let listeners =
        ["client", "reporter", "peer", "admin"].map(|name| format!("listen.{name}=127.0.0.1:0"));
    let mut arguments = command.to_vec();
    for setting in settings.iter().chain(&listeners) {
        arguments.extend(["--set", setting]);
    }
    Running::start(&arguments)
}

#[test]
fn a_cluster_is_founded_by_command_and_joined_by_command() {
    let directory = tempfile::tempdir().expect("a directory");

    // A node without a cluster waits, and says so.
    let mut first = serve(&["serve"], directory.path(), "here");
    let started = first.wait_event("started");
    let admin = format!("http://{}", started["admin"].as_str().expect("an address"));
    wait_status(&admin, "the node answers", |status| {
        status["cluster"].is_null()
    });

    // Only an operator founds one.
    let init = |token: &str| {
        let output = headcount(&["init", "--admin", &admin, "--token", token]).output();
        output.expect("the binary runs").status.code()
    };
    assert_eq!(init("not-the-token-at-all"), Some(1));
    assert_eq!(init(TOKEN), Some(0));
    assert_eq!(init(TOKEN), Some(1), "not twice");
    wait_status(&admin, "the cluster is founded", |status| {
        status["cluster"]["shards"] == 2
    });

    // Another region joins.
    let peer = started["peer"].as_str().expect("an address");
    let mut second = serve(&["join", peer], directory.path(), "there");
    second.wait_event("started");
    let both_live = |status: &Value| {
        let regions = status["regions"].as_array().cloned().unwrap_or_default();
        regions.len() == 2 && regions.iter().all(|region| region["live"] == true)
    };
    wait_status(&admin, "both regions live", both_live);

    // Asked to end, a node drains and ends well.
    assert_eq!(second.terminate(), Some(0));
    assert_eq!(first.terminate(), Some(0));
}

#[test]
fn a_lost_disk_is_replaced_and_nodes_are_drained_and_removed_by_command() {
    let home = tempfile::tempdir().expect("a directory");
    let short = [
        "--set",
        "placement.lease=2s",
        "--set",
        "placement.suspect_after=1s",
    ];
    let run =
        |command: &[&str], region: &str| serve(&[command, &short].concat(), home.path(), region);
    let mut first = run(&["serve", "--init"], "a");
    let started = first.wait_event("started");
    let address = |of: &str| started[of].as_str().expect("an address").to_owned();
    let (admin, peer) = (format!("http://{}", address("admin")), address("peer"));
    let mut second = run(&["join", &peer], "b");
    second.wait_event("started");
    wait_status(&admin, "two nodes", |status| {
        status["nodes"][1]["state"] == "live"
    });
    let mut third = run(&["join", &peer], "c");
    third.wait_event("started");
    let holds = |status: &Value, at: usize| {
        let node = &status["nodes"][at];
        status["plan_pending"] == 0 && node["state"] == "live" && node["replicas"] == 2
    };
    wait_status(&admin, "three nodes", |status| holds(status, 2));

    // Who lives is not replaced, and nobody is who is not there or elsewhere.
    let refused = |command: &[&str], region: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = serve(command, directory.path(), region);
        child.child.wait().expect("it ends").code()
    };
    assert_eq!(refused(&["join", &peer, "--replace", "99"], "c"), Some(1));
    assert_eq!(refused(&["join", &peer, "--replace", "3"], "b"), Some(1));

    // Its machine is lost, and the disk: one command brings another, which is filled from the rest.
    drop(third);
    std::fs::remove_dir_all(home.path().join("c")).expect("it is there");
    let mut third = run(&["join", &peer, "--replace", "3"], "c");
    third.wait_event("started");
    wait_status(&admin, "the replacement is filled", |status| {
        status["nodes"][2]["state"] == "removed" && holds(status, 3)
    });

    // Emptied and removed, each with its progress; a region goes as a node does.
    let operate = |command: &[&str]| {
        let flags = ["--admin", &admin, "--token", TOKEN];
        ended(&[&["cluster"], command, &flags].concat())
    };
    let (code, _, why) = operate(&["drain", "--region", "nowhere"]);
    assert!(code == Some(64) && why.contains("nowhere"), "{why}");
    let (code, _, why) = operate(&["remove", "4"]);
    assert!(code == Some(1) && why.contains("drain it first"), "{why}");
    let (code, told, why) = operate(&["drain", "--region", "c", "--wait", "--timeout", "60s"]);
    assert_eq!(
        (code, &told["left"], &told["percent"]),
        (Some(0), &0.into(), &100.into()),
        "{why}"
    );
    assert!(told["total"].as_u64() > Some(0), "{told}");
    let (code, told, why) = operate(&["remove", "4", "--wait", "--timeout", "60s"]);
    assert_eq!((code, &told["left"]), (Some(0), &0.into()), "{why}");
    let status = wait_status(&admin, "it is removed", |status| {
        status["nodes"][3]["state"] == "removed"
    });
    assert_eq!(status["regions"][0]["leaders"], 1, "{status}");
}

/// Runs a command to its end; returns its exit code, the JSON that it printed last, and its error.
fn ended(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = headcount(arguments).output().expect("the binary runs");
    let last = |text: &[u8]| -> Option<Value> {
        let text = std::str::from_utf8(text).expect("text");
        let mut lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.next_back()
    };
    let error = last(&output.stderr).unwrap_or_default();
    let message = error["error"]["message"].as_str().unwrap_or_default();
    let told = last(&output.stdout).unwrap_or_default();
    (output.status.code(), told, message.to_owned())
}

const ROOT: &str = "dev.root:root-secret";

#[test]
fn a_development_cluster_is_used_by_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let kept = directory.path().to_str().expect("text");
    let dev = |more: &[&'static str]| {
        let mut arguments = vec!["dev", "--data-dir", kept];
        arguments.extend(more);
        arguments
    };
    let fresh = dev(&["--port", "0", "--shards", "2", "--set", "region.linger=60s"]);
    let mut cluster = Running::start(&fresh);
    let ready = cluster.wait_event("ready");
    let address = |region: usize, listener: &str| {
        let address = &ready["regions"][region][listener];
        address.as_str().expect("an address").to_owned()
    };
    let (reporter, server) = (address(0, "reporter"), address(1, "client"));
    let ask = ["--server", &server, "--key", ROOT];
    let asked = |command: &[&str]| ended(&[command, &ask].concat());

    // Who watches hears of the load in another region, which says how it went.
    let mut tail = Running::start(&[&["events", "tail", "--prefix", "load:0"], &ask[..]].concat());
    let mut watch = Running::start(&[&["channels", "watch", "load:0"], &ask[..]].concat());
    let load = [
        "load",
        "--reporter",
        &reporter,
        "--channels",
        "1",
        "--connections",
        "7",
    ];
    let calm = ["--rate", "0", "--burst-every", "0", "--edges", "1"];
    let mut loading = Running::start(&[&load[..], &calm, &["--key", ROOT]].concat());
    loading.wait_line("progress", |progress| progress["connections"] == 7);
    tail.wait_line("the opening", |event| event["name"] == "channel.opened");
    watch.wait_line("all seven", |told| {
        told.to_string().contains("\"connections\":7")
    });
    let (code, listed, _) = asked(&["channels", "list", "--prefix", "load:"]);
    assert_eq!((code, listed), (Some(0), "load:0".into()));
    let (code, told, _) = asked(&["channels", "get", "load:0", "--strong"]);
    let counts = &told["channel"]["status"]["occupancy"]["metrics"];
    assert_eq!(
        (code, &counts["connections"]),
        (Some(0), &7.into()),
        "{told}"
    );
    assert_eq!(loading.terminate(), Some(0));

    // What cannot go well ends soon, and badly.
    let forever = ["--duration", "1h"];
    let wrong = [&load[..], &calm, &["--key", "dev.root:wrong"], &forever].concat();
    let (code, _, why) = ended(&wrong);
    assert!(
        code == Some(1) && why.contains("does not accept the key"),
        "{why}"
    );
    let nobody = ["load", "--reporter", "http://127.0.0.1:1", "--key", ROOT];
    let (code, last, why) = ended(&[&nobody[..], &["--duration", "1s"]].concat());
    assert!(code == Some(1) && why.contains("acknowledged"), "{why}");
    assert_eq!(last["finished"], true);
    let secure = ["channels", "list", "--key", ROOT, "--server", "https://x"];
    let (code, _, why) = ended(&secure);
    assert!(code == Some(64) && why.contains("TLS"), "{why}");

    // It is taken up again as it was, or not at all.
    assert_eq!(cluster.terminate(), Some(0));
    let (code, _, why) = ended(&dev(&["--port", "9000"]));
    let port = address(2, "admin").rsplit(':').next().map(str::to_owned);
    let port = port.expect("a port");
    assert!(code == Some(64) && why.contains(&port), "{why}");
    let (code, _, why) = ended(&dev(&["--port", "0", "--shards", "32"]));
    assert!(code == Some(64) && why.contains("2 shards"), "{why}");
    let mut again = Running::start(&dev(&["--port", "0"]));
    let regions = again.wait_event("ready")["regions"].take();
    assert_eq!(regions, ready["regions"]);
    assert_eq!(again.terminate(), Some(0));
}

/// The story fails by itself where the cluster does not do what it tells.
#[test]
fn the_demo_tells_its_story_to_the_end() {
    let output = headcount(&[
        "demo",
        "--exit-after-story",
        "--port",
        "0",
        "--set",
        "region.linger=500ms",
        "--set",
        "coordinator.occupancy_interval=200ms",
    ])
    .output()
    .expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let lines = lines.expect("JSON lines");
    assert_eq!(
        lines.last().map(|line| &line["story"]),
        Some(&Value::from(10))
    );
    assert!(
        lines
            .iter()
            .any(|line| line["heard_in"] == "ap-southeast-1")
    );
}
