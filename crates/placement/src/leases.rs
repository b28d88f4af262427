//! Who holds a lease, as the control group's leader sees it. Not replicated: a new leader begins
//! anew, with a full lease for everybody (R5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headcount_model::mutants::Mutant;
use headcount_model::{Incarnation, Monotonic, NodeId};

use crate::{Control, ControlCommand, NodeState, Standing};

/// How patient the leases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long a node is believed to live after it was last heard. Too low makes a slow network
    /// look like dead nodes, too high leaves their counts standing. 5 s.
    pub duration: Duration,
    /// How long after its last renewal a node is shown as suspect. Half the duration.
    pub suspect_after: Duration,
    /// How long a dead node is waited for before its replicas are placed elsewhere. Too low copies
    /// data on every restart, too high leaves shards with fewer replicas. 60 s.
    pub patience: Duration,
}

impl LeaseConfig {
    /// Returns the settings for leases of that length: suspicion at half of it, the usual patience.
    #[must_use]
    pub fn new(duration: Duration) -> Self {
        Self {
            duration,
            suspect_after: duration / 2,
            patience: Duration::from_secs(60),
        }
    }

    /// Returns how often a node renews its lease: often enough that one renewal may be lost before
    /// it is suspect, and several before it is dead.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        (self.duration / 5).min(self.suspect_after / 2)
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

/// Why a lease is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// The node is no member.
    #[error("node {0} is no member of this cluster, or was removed")]
    NotAMember(NodeId),
    /// The lease of this life has ended: register the next one.
    #[error("the lease of node {node} has ended: start with the incarnation after {current}")]
    Ended {
        /// The node.
        node: NodeId,
        /// The last incarnation that it registered.
        current: Incarnation,
    },
}

/// The leases of all nodes, at the control group's leader.
///
/// Made when a replica begins to lead, dropped when it ends to. Nothing here decides alone: a lease
/// that ran out becomes a [`ControlCommand::LeaseLost`], which counts once it is committed.
#[derive(Clone, Debug)]
pub struct Leases {
    config: LeaseConfig,
    /// When each life was last heard.
    heard: BTreeMap<NodeId, (Incarnation, Monotonic)>,
    /// Lives whose leases this leader said to be lost; they are not renewed any more.
    lost: BTreeSet<(NodeId, Incarnation)>,
    /// Since when this leader has known each node as dead.
    dead: BTreeMap<NodeId, Monotonic>,
    /// When lives began that are not the first ones of their nodes, as far as this leader saw it.
    restarted: BTreeMap<NodeId, Monotonic>,
    /// When [`Leases::expire`] last looked, at first the election.
    looked: Monotonic,
}

impl Leases {
    /// Begins with a full lease for every node, at the moment of this leader's election. `control`
    /// must hold whatever earlier leaders committed.
    #[must_use]
    pub fn new(config: LeaseConfig, now: Monotonic, control: &Control) -> Self {
        let mut leases = Self {
            config,
            heard: BTreeMap::new(),
            lost: BTreeSet::new(),
            dead: BTreeMap::new(),
            restarted: BTreeMap::new(),
            looked: now,
        };
        leases.look(now, control, Duration::ZERO);
        // Nobody knows how long they have been there.
        leases.restarted.clear();
        if Mutant::VoidAtElection.is_planted() {
            for (_, heard) in leases.heard.values_mut() {
                *heard = Monotonic(Duration::ZERO);
            }
        }
        leases
    }

    /// Renews the lease of a node's life and returns its length, which the node counts from the
    /// moment at which it asked.
    ///
    /// # Errors
    /// [`RenewError`] if that life has no lease to renew; the node must not act on it any more.
    pub fn renew(
        &mut self,
        now: Monotonic,
        control: &Control,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Result<Duration, RenewError> {
        let known = control
            .node(node)
            .filter(|known| known.state != NodeState::Removed);
        let known = known.ok_or(RenewError::NotAMember(node))?;
        // Renewed after [`Leases::expire`] told of it, a node would be declared dead within its lease.
        let lost = self.lost.contains(&(node, incarnation));
        if lost || !control.is_current(node, incarnation) {
            return Err(RenewError::Ended {
                node,
                current: known.incarnation,
            });
        }
        let heard = self.heard(control, node).max(now);
        self.heard.insert(node, (incarnation, heard));
        Ok(self.config.duration)
    }

    /// Returns a command for each lease that has run out, to be proposed; the same again until it
    /// is applied.
    ///
    /// To be called at least at every [`Leases::next_deadline`]. If this process itself was not
    /// running for a while, nobody could be heard: the time lost is given to everybody.
    pub fn expire(&mut self, now: Monotonic, control: &Control) -> Vec<ControlCommand> {
        let stall = now.since(self.looked);
        let stall = if stall > self.config.duration / 4 {
            stall
        } else {
            Duration::ZERO
        };
        self.look(now, control, stall);
        let live = control.nodes().iter().filter(|(_, node)| node.is_live());
        let silent = live.filter(|(id, _)| self.age(now, control, **id) >= self.config.duration);
        let silent = silent.map(|(id, node)| (*id, node.incarnation));
        let silent: Vec<_> = silent.collect();
        self.lost.extend(silent);
        let lost = self.lost.iter();
        lost.map(|(node, incarnation)| ControlCommand::LeaseLost {
            node: *node,
            incarnation: *incarnation,
        })
        .collect()
    }

    /// Takes note of who lives and who is dead by now.
    fn look(&mut self, now: Monotonic, control: &Control, stall: Duration) {
        let before = std::mem::take(&mut self.heard);
        for (id, node) in control.nodes().iter().filter(|(_, node)| node.is_live()) {
            // A life that no earlier look saw began since the last one.
            let known = before.get(id).filter(|(life, _)| *life == node.incarnation);
            if known.is_none() && node.incarnation > Incarnation(1) {
                self.restarted.insert(*id, now);
            }
            let heard = known.map_or(now, |(_, heard)| heard.after(stall).min(now));
            self.heard.insert(*id, (node.incarnation, heard));
        }
        self.lost
            .retain(|(id, life)| control.is_current(*id, *life));
        self.restarted.retain(|id, _| self.heard.contains_key(id));
        self.looked = self.looked.max(now);
        self.dead.retain(|id, _| is_dead(control, *id));
        for id in control.nodes().keys().filter(|id| is_dead(control, **id)) {
            self.dead.entry(*id).or_insert(now);
        }
    }

    /// Returns when [`Leases::expire`] should be called next: when the next lease runs out, and
    /// often enough that a stall of this process can be told from silence, and that a loss whose
    /// command was refused is told again.
    #[must_use]
    pub fn next_deadline(&self, control: &Control) -> Monotonic {
        let live = control.nodes().iter().filter(|(_, node)| node.is_live());
        // The end of a lost lease is past: whoever waited for it would never rest.
        let held = live.filter(|(id, node)| !self.lost.contains(&(**id, node.incarnation)));
        let ends = held.map(|(id, _)| self.heard(control, *id).after(self.config.duration));
        ends.fold(self.looked.after(self.config.duration / 8), Monotonic::min)
    }

    /// Returns what is to be said about a node's life.
    #[must_use]
    pub fn standing(&self, now: Monotonic, control: &Control, node: NodeId) -> Standing {
        let live = control.node(node).is_some_and(crate::Node::is_live);
        match self.age(now, control, node) {
            _ if !live => Standing::Dead,
            age if age >= self.config.duration => Standing::Dead,
            age if age >= self.config.suspect_after => Standing::Suspect,
            _ => Standing::Live,
        }
    }

    /// Returns the nodes that have been dead for longer than the patience, for
    /// [`crate::PlanOptions::given_up`].
    #[must_use]
    pub fn given_up(&self, now: Monotonic) -> BTreeSet<NodeId> {
        let dead = self.dead.iter();
        dead.filter(|(_, since)| now.since(**since) >= self.config.patience)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Returns whether a node has been dead for less than a lease, for
    /// [`crate::PlanOptions::settling`].
    #[must_use]
    pub fn is_settling(&self, now: Monotonic) -> bool {
        let mut dead = self.dead.values();
        dead.any(|since| now.since(*since) < self.config.duration)
    }

    /// Returns the nodes that live again for less than a lease, for [`crate::PlanOptions::restarted`].
    #[must_use]
    pub fn restarted(&self, now: Monotonic) -> BTreeSet<NodeId> {
        let restarted = self.restarted.iter();
        restarted
            .filter(|(_, since)| now.since(**since) < self.config.duration)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Returns how long ago a node's present life was last heard.
    #[must_use]
    pub fn age(&self, now: Monotonic, control: &Control, node: NodeId) -> Duration {
        now.since(self.heard(control, node))
    }

    fn heard(&self, control: &Control, node: NodeId) -> Monotonic {
        let incarnation = control.node(node).map(|node| node.incarnation);
        let heard = self
            .heard
            .get(&node)
            .filter(|(life, _)| Some(*life) == incarnation);
        heard.map_or(self.looked, |(_, at)| *at)
    }
}

fn is_dead(control: &Control, node: NodeId) -> bool {
    control
        .node(node)
        .is_some_and(|node| node.state == NodeState::Dead)
}
