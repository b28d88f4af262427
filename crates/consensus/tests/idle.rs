//! What idle groups cost. Not a test of right and wrong: it prints, and a person judges. Run it
//! alone, optimised: `cargo test --release -p headcount-consensus -- --ignored --nocapture idle`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use headcount_consensus::{GroupId, Limits, Timing};

use crate::world::World;

/// Returns the CPU time that this process has used.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // User and system time are fields 14 and 15 of the line, in hundredths of a second.
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Returns the resident memory of this process in MiB.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of half a minute"]
async fn idle_groups_cost_little() {
    const GROUPS: u64 = 64;
    let mut world = World::with(3, Timing::WAN, Limits::default());
    for group in (1..=GROUPS).map(GroupId) {
        let first = group.0 % 3 + 1;
        world
            .form(group, &[first, first % 3 + 1, (first + 1) % 3 + 1])
            .await;
    }
    for group in (1..=GROUPS).map(GroupId) {
        world.agree(group, &[1, 2, 3]).await;
    }
    let (cpu, sent) = (cpu_time(), world.net.sent.load(Ordering::Relaxed));
    let span = Duration::from_secs(20);
    // allow-sleep: measures what happens in a span of time
    tokio::time::sleep(span).await;
    let share = (cpu_time() - cpu).as_secs_f64() / span.as_secs_f64() * 100.0;
    let sent = (world.net.sent.load(Ordering::Relaxed) - sent) / span.as_secs();
    println!(
        "3 nodes x {GROUPS} groups, idle: {share:.1} % of a core in all, {sent} envelopes/s, \
         {} MiB resident",
        resident_mib()
    );
}
