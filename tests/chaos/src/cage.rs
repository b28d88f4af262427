//! A cage for the run: namespaces of its own for network, mounts and processes, so that whatever
//! the run makes ends with it, also when it is killed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// Set for the run itself, to what the control groups of the run are called.
const INSIDE: &str = "HEADCOUNT_CHAOS_INSIDE";

/// Where control groups of version 1 bound memory.
const MEMORY: &str = "/sys/fs/cgroup/memory";

/// Returns what the run's control groups are called, if this process is in its cage.
pub(crate) fn inside() -> Option<String> {
    std::env::var(INSIDE).ok()
}

/// Returns why no run is possible here, if so.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let tools = ["unshare", "setpriv", "nsenter", "ip", "mount"];
    let missing = tools.iter().find(|tool| !has(tool));
    missing.map(|tool| format!("`{tool}` is not installed (util-linux, iproute2)"))
}

/// Returns whether a command can be found.
pub(crate) fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).exists())
}

/// Runs this program again in a cage, with the same arguments, and waits for its end.
pub(crate) fn enter() -> Result<ExitStatus> {
    let name = format!("headcount-chaos-{}", std::process::id());
    let program = std::env::current_exe().context("cannot find this program")?;
    // When this process dies, so does `unshare`; with it the first process of the namespace, and
    // with that the kernel ends all others.
    let mut cage = Command::new("setpriv");
    cage.args(["--pdeathsig", "KILL", "unshare"]);
    cage.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    cage.arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &name);
    let ended = cage.status().context("cannot run `setpriv`");
    // Control groups are not namespaced.
    for group in groups(&name) {
        // One whose processes are just ending cannot be removed yet, and does no harm.
        drop(std::fs::remove_dir(group));
    }
    ended
}

/// Returns the run's control groups.
fn groups(name: &str) -> Vec<PathBuf> {
    let groups = std::fs::read_dir(MEMORY).into_iter().flatten().flatten();
    let ours = groups.filter(|group| group.file_name().to_string_lossy().starts_with(name));
    ours.map(|group| group.path()).collect()
}

/// Makes a control group for a node; nothing if memory cannot be bounded here.
pub(crate) fn group(name: &str, node: usize) -> Option<PathBuf> {
    let group = Path::new(MEMORY).join(format!("{name}-{node}"));
    std::fs::create_dir_all(&group).ok()?;
    let limit = group.join("memory.limit_in_bytes");
    // Whether it is ours to write shows only when we do.
    std::fs::write(limit, "-1").ok()?;
    Some(group)
}

/// Runs a command of the system and returns what it says.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            says.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
