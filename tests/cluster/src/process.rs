//! Nodes as processes of the `headcount` binary, which can be killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::SystemTime;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Logs;

/// Returns the `headcount` binary beside this test, built first if it is missing or out of date.
/// Whoever builds the whole workspace has built it already; with what else is needed for that, to
/// build it anew here could take minutes.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // target/<profile>/deps/main-<hash>
        let here = std::env::current_exe().expect("a test knows where it is");
        let deps = here.parent().expect("tests run from target/");
        let profile = deps.parent().expect("tests run from target/");
        let binary = profile.join(format!("headcount{}", std::env::consts::EXE_SUFFIX));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/headcount/src");
        let newest = newest(deps, "libheadcount_node-", ".rlib").max(newest(&sources, "", ".rs"));
        if changed(&binary).is_none_or(|built| newest.is_some_and(|newest| newest > built)) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = std::process::Command::new(cargo);
            build.args(["build", "--locked", "--quiet", "-p", "headcount"]);
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            let built = build.status().expect("cargo can be run");
            assert!(built.success(), "cargo build -p headcount failed: {built}");
        }
        assert!(binary.exists(), "{} was not built", binary.display());
        binary
    })
}

/// Returns when a file changed last, if it is there.
fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|of| of.modified()).ok()
}

/// Returns when the youngest file in a directory changed whose name begins and ends like that.
fn newest(directory: &Path, begin: &str, end: &str) -> Option<SystemTime> {
    let files = std::fs::read_dir(directory).ok()?.flatten();
    let named = files.filter(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    });
    named.filter_map(|file| changed(&file.path())).max()
}

/// A node's process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `headcount serve` with the configuration in `file`; what it writes goes to `logs`.
    pub(crate) fn start(name: &str, file: &Path, logs: &Logs) -> Self {
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().expect("the binary can be started");
        let outputs: [Box<dyn tokio::io::AsyncRead + Send + Unpin>; 2] = [
            Box::new(child.stdout.take().expect("it was asked for")),
            Box::new(child.stderr.take().expect("it was asked for")),
        ];
        for output in outputs {
            let (name, logs) = (name.to_owned(), logs.clone());
            tokio::spawn(async move {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    logs.foreign_line(&name, &line);
                }
            });
        }
        Self {
            child,
            name: name.to_owned(),
        }
    }

    /// Ends the process without asking it, as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child
            .kill()
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Sends the process a signal, such as `STOP`, after which it does nothing until `CONT`.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .await;
        assert!(
            sent.is_ok_and(|status| status.success()),
            "{} is not there",
            self.name
        );
    }

    /// Asks the process to end in good order, as a service manager does.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(crate::PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} does not stop", self.name));
        let status = ended.expect("its end can be waited for");
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Waits for the process to end by itself; returns its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(crate::PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} does not end", self.name));
        ended.expect("its end can be waited for").code()
    }
}
