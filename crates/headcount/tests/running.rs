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
    fn wait_line(&mut self, why: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
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

/// Runs a node in a directory of its own, on ports of the system's choice. What the command sets
/// itself has the last word.
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
    let (name, rest) = command.split_first().expect("a command has a name");
    let mut arguments = vec![*name];
    for setting in settings.iter().chain(&listeners) {
        arguments.extend(["--set", setting]);
    }
    arguments.extend(rest);
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

/// Whom the nodes of a test serve, as a configuration file.
const APPS: &str = r#"
[[app]]
id = "dev"

[[app.key]]
id = "root"
secret = "root-secret"
capability = { "[*]*" = ["*"] }
"#;

#[test]
fn a_region_is_drained_taken_back_and_removed_by_command_and_others_notice_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let apps = home.path().join("apps.toml");
    std::fs::write(&apps, APPS).expect("the directory can be written");
    let apps = apps.to_str().expect("text");
    let more = ["--config", apps, "--set", "cluster.shards=16"];
    let run = |command: &[&str], name: &str, region: &str| {
        let directory = home.path().join(name);
        serve(&[command, &more].concat(), &directory, region)
    };
    let mut first = run(&["serve", "--init"], "first", "a");
    let started = first.wait_event("started");
    let url = |of: &Value, listener: &str| {
        format!("http://{}", of[listener].as_str().expect("an address"))
    };
    let (admin, reporter) = (url(&started, "admin"), url(&started, "reporter"));
    let peer = started["peer"].as_str().expect("an address");
    let mut nodes = Vec::new();
    for (name, region) in [("second", "b"), ("third", "x"), ("fourth", "x")] {
        let mut node = run(&["join", peer], name, region);
        nodes.push((node.wait_event("started"), node));
    }
    let in_region = |status: &Value, fact: &str| -> Vec<Value> {
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let theirs = nodes.filter(|node| node["region"] == "x");
        theirs.map(|node| node[fact].clone()).collect()
    };
    let takes_part = |status: &Value| {
        let held = in_region(status, "held");
        let all = held.len() == 2 && held.iter().all(|held| held.as_u64() > Some(0));
        all && status["plan_pending"] == 0
    };
    let status = wait_status(&admin, "all take part", takes_part);
    let ids = in_region(&status, "id");

    // Somebody is attached in each other region, and somebody watches.
    let server = url(&nodes[0].0, "client");
    let ask = ["--server", &server, "--key", ROOT];
    let mut tail = Running::start(&[&["events", "tail"], &ask[..]].concat());
    let attach = |reporter: &str, prefix: &str| {
        let load = ["load", "--channels", "1", "--edges", "1", "--rate", "0"];
        let few = ["--connections", "5", "--burst-every", "0"];
        let whom = ["--reporter", reporter, "--prefix", prefix, "--key", ROOT];
        let mut load = Running::start(&[&load[..], &few, &whom].concat());
        load.wait_line("all five", |progress| progress["connections"] == 5);
        load
    };
    let mut told = Vec::new();
    let mut until_opened = |channel: &str| {
        tail.wait_line(channel, |event| {
            told.push(event.clone());
            event["name"] == "channel.opened" && event["data"]["channelId"] == channel
        });
    };
    let here = attach(&reporter, "here:");
    until_opened("here:0");
    let there = attach(&url(&nodes[0].0, "reporter"), "there:");
    until_opened("there:0");

    // Emptied, which is shown, and taken back.
    let operate = |command: &[&str]| {
        let flags = ["--region", "x", "--admin", &admin, "--token", TOKEN];
        told_until_ended(&[&["cluster"], command, &flags].concat())
    };
    let operate_and_wait = |command: &str| {
        let (code, told, why) = operate(&[command, "--wait", "--timeout", "60s"]);
        assert_eq!(code, Some(0), "{why}");
        let done = told.iter().filter(|line| line["done"] == true);
        let done: Vec<_> = done.map(|line| line["node"].clone()).collect();
        assert_eq!(done, ids, "{told:?}");
        let progress = told.iter().filter(|line| line["left"].is_u64());
        let progress: Vec<Value> = progress.cloned().collect();
        let last = progress.last().expect("progress is told");
        assert_eq!(
            (&last["left"], &last["percent"]),
            (&0.into(), &100.into()),
            "{told:?}"
        );
        progress
    };
    let progress = operate_and_wait("drain");
    assert!(progress[0]["total"].as_u64() > Some(0), "{progress:?}");
    wait_status(&admin, "nothing is there", |status| {
        in_region(status, "held") == [0, 0] && in_region(status, "leaders") == [0, 0]
    });
    let (code, told_last, why) = operate(&["undrain"]);
    assert_eq!((code, told_last.len()), (Some(0), 2), "{why}");
    wait_status(&admin, "it takes part again", takes_part);

    // Who takes part is not removed; who was emptied is, with all its nodes.
    let (code, _, why) = operate(&["remove"]);
    assert!(code == Some(1) && why.contains("drain it first"), "{why}");
    operate_and_wait("drain");
    operate_and_wait("remove");
    wait_status(&admin, "it is gone", |status| {
        let mut regions = status["regions"].as_array().into_iter().flatten();
        in_region(status, "state") == ["removed", "removed"]
            && in_region(status, "held") == [0, 0]
            && regions.all(|region| region["name"] != "x")
    });
    let (code, _, why) = operate(&["drain"]);
    assert!(code == Some(64) && why.contains("has no nodes"), "{why}");
    for (_, node) in nodes.drain(1..) {
        assert_eq!(node.terminate(), Some(0), "it has nothing to do");
    }

    // Those who stood noticed nothing, and go on.
    let last = attach(&reporter, "last:");
    until_opened("last:0");
    for channel in ["here:0", "there:0"] {
        let told = told
            .iter()
            .filter(|event| event["data"]["channelId"] == channel);
        let told = told.map(|event| event["name"].as_str().expect("a name"));
        let told: Vec<&str> = told.filter(|name| *name != "channel.occupancy").collect();
        assert_eq!(
            told,
            ["channel.region.active", "channel.opened"],
            "{channel}"
        );
    }
    for load in [here, there, last] {
        assert_eq!(load.terminate(), Some(0));
    }
}

/// Runs a command to its end; returns its exit code, the JSON that it printed last, and its error.
fn ended(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let (code, mut told, why) = told_until_ended(arguments);
    (code, told.pop().unwrap_or_default(), why)
}

/// Does the same, and returns all the JSON lines that it printed.
fn told_until_ended(arguments: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let output = headcount(arguments).output().expect("the binary runs");
    let lines = |text: &[u8]| -> Vec<Value> {
        let text = std::str::from_utf8(text).expect("text");
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    };
    let error = lines(&output.stderr).pop().unwrap_or_default();
    let message = error["error"]["message"].as_str().unwrap_or_default();
    let code = output.status.code();
    (code, lines(&output.stdout), message.to_owned())
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
