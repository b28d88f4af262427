//! One clock for all groups of a host, in place of a ticker for each.
//!
//! openraft gives every replica a ticker that wakes its core five times per heartbeat, to look
//! whether a follower must campaign or a leader must show that it lives. Nearly every look finds
//! nothing, and with hundreds of replicas those looks are most of what an idle node does. Here one
//! timer beats once per heartbeat for all of them:
//!
//! * a leader's ticker stands still, and its heartbeats are sent from here, those of all groups at
//!   once, so that they share messages to the peers;
//! * a follower's ticker stands still as long as its leader is heard. It runs again after at most
//!   three beats of silence, and an election is due no earlier than `election_max` +
//!   `election_min`, which is more than six: so it comes no later than by openraft's own decision;
//! * every other ticker runs: candidates, and whoever has never heard of a leader.
//!
//! One follower waits for no random time: the first heir, whom all voters know. It asks for a
//! pre-vote with each beat from when the leader's lease is over until somebody else is voted for.
//! So a lost leader is followed one lease and at most a beat later, and two voters that are far
//! apart do not take each other's votes away. Should the heir be gone too, or lack entries, the
//! others campaign after their random times.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::time::MissedTickBehavior;

use crate::host::Inner;
use crate::types::{Raft, Types};

/// Beats without a word of the leader after which a follower's ticker runs. Heartbeats come once
/// per beat of another node's clock, so a single beat may well be missed.
const QUIET_MAX: u8 = 2;

/// How long a replica's leader was not heard.
#[derive(Debug)]
pub(crate) struct Silence {
    /// In beats. Written by the beat, and back to none by the group's inbound task.
    beats: AtomicU8,
}

impl Silence {
    /// Nobody was heard yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            beats: AtomicU8::new(u8::MAX),
        })
    }

    /// Notes that a leader was heard and acknowledged.
    pub(crate) fn broken(&self) {
        self.beats.store(0, Ordering::Relaxed);
    }

    /// Counts a beat; returns whether the leader was heard lately.
    fn beat(&self) -> bool {
        let counted = |beats: u8| Some(beats.saturating_add(1));
        let before = self
            .beats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
        before.is_ok_and(|before| before < QUIET_MAX)
    }
}

/// What the clock has to do for a replica at a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    /// Send its heartbeats.
    Heartbeat,
    /// Nothing: it has just heard from its leader.
    Rest,
    /// Let it look at its own clock.
    Tick,
}

impl Beat {
    fn of(state: ServerState, heard: bool) -> Self {
        match state {
            ServerState::Leader => Self::Heartbeat,
            ServerState::Follower | ServerState::Learner if heard => Self::Rest,
            _ => Self::Tick,
        }
    }
}

/// Beats for the groups of `host`, once per `heartbeat`, until it is gone.
pub(crate) async fn run(heartbeat: Duration, host: Weak<Inner>) {
    let mut beats = tokio::time::interval(heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let Some(host) = host.upgrade() else { return };
        for group in host.started() {
            let (raft, silence) = (&group.0.raft, &group.0.silence);
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let beat = Beat::of(metrics.state, silence.beat());
            let campaigns = beat == Beat::Tick && is_first_heir(&metrics);
            drop(metrics);
            raft.runtime_config().tick(beat == Beat::Tick);
            if beat == Beat::Heartbeat {
                send_heartbeats(raft);
            } else if campaigns {
                campaign(raft);
            }
        }
    }
}

/// Returns whether the replica is the voter that is to follow the leader which it knows: the one
/// after it by number. Nobody is who has voted for somebody else since.
fn is_first_heir(metrics: &RaftServerMetrics<Types>) -> bool {
    let Some(leader) = metrics.current_leader else {
        return false;
    };
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    first_heir(&voters, leader) == Some(metrics.id)
}

fn first_heir(voters: &BTreeSet<u64>, leader: u64) -> Option<u64> {
    let after = voters.range((Bound::Excluded(leader), Bound::Unbounded));
    let around = voters.range(..leader);
    after.chain(around).next().copied()
}

/// Asks for a pre-vote. As long as the leader's lease is not over, here or with a majority, nothing
/// comes of that.
fn campaign(raft: &Raft) {
    let asked = tokio::task::unconstrained(raft.trigger().elect(true)).now_or_never();
    if !matches!(asked, Some(Ok(()))) {
        tracing::debug!(target: "consensus", replica = raft.node_id(), "no vote was asked for");
    }
}

/// Asks for a group's heartbeats. Waits for nothing: a group whose queue is full, or which is
/// stopping, must not hold up the others.
fn send_heartbeats(raft: &Raft) {
    // Unconstrained, as tokio's budget would let none but the first groups pass.
    let asked = tokio::task::unconstrained(raft.trigger().heartbeat()).now_or_never();
    if !matches!(asked, Some(Ok(()))) {
        tracing::debug!(target: "consensus", replica = raft.node_id(), "no heartbeat was sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;

    #[test]
    fn a_leader_is_taken_for_heard_for_two_beats() {
        let silence = Silence::new();
        assert!(!silence.beat(), "nobody was heard yet");
        silence.broken();
        assert_eq!([(); 4].map(|()| silence.beat()), [true, true, false, false]);
        silence.broken();
        assert!(silence.beat());
        for _ in 0..1_000 {
            silence.beat();
        }
        assert!(!silence.beat(), "silence does not wear off");
    }

    #[test]
    fn tickers_stand_still_only_where_a_look_would_find_nothing() {
        for heard in [false, true] {
            assert_eq!(Beat::of(ServerState::Leader, heard), Beat::Heartbeat);
            assert_eq!(Beat::of(ServerState::Candidate, heard), Beat::Tick);
        }
        for state in [ServerState::Follower, ServerState::Learner] {
            assert_eq!(Beat::of(state, true), Beat::Rest);
            assert_eq!(Beat::of(state, false), Beat::Tick);
        }
    }

    #[test]
    fn all_voters_name_the_same_heir() {
        let voters = BTreeSet::from([3, 5, 9]);
        let heirs = [3, 4, 5, 9, 12].map(|leader| first_heir(&voters, leader));
        assert_eq!(heirs, [Some(5), Some(5), Some(9), Some(3), Some(3)]);
        assert_eq!(first_heir(&BTreeSet::from([7]), 7), None);
        assert_eq!(first_heir(&BTreeSet::new(), 7), None);
    }

    #[test]
    fn a_ticker_runs_again_before_an_election_is_due() {
        for timing in [Timing::LOCAL, Timing::REGIONAL, Timing::WAN] {
            let beats = u32::from(QUIET_MAX) + 1;
            // And a beat more for a host that is late.
            let running = timing.heartbeat * (beats + 1);
            assert!(running < timing.election_max + timing.election_min);
        }
    }
}
