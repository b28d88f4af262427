//! From the members that a group has to those that it shall have, one safe step at a time.
//!
//! [`plan`] decides, from what the leader sees; the group's handle carries the step out and is
//! called again. Nothing is remembered but how far new replicas have caught up, so that any leader
//! can go on where another stopped.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, ReplicaId};

/// A replica and the node that it lives on, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// The node.
    pub node: NodeId,
}

/// Who shall belong to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those who decide; at least one.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Those who only listen; none of them is a voter.
    pub learners: BTreeMap<ReplicaId, NodeId>,
}

impl Membership {
    /// Returns every replica, voters and learners.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.voters
            .iter()
            .chain(&self.learners)
            .map(|(replica, node)| Member {
                replica: *replica,
                node: *node,
            })
    }
}

/// What one call of [`crate::Group::reconcile`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// The group has the members that it shall have.
    Done,
    /// A step was taken; call again.
    Stepped(Step),
    /// Nothing can be done now; call again later.
    Waiting(Wait),
}

/// One change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ends a change of voters that an earlier leader left half-way.
    Flatten,
    /// Adds replicas that listen and catch up.
    AddLearners(BTreeMap<ReplicaId, NodeId>),
    /// Hands leadership to a voter that stays, as the leader itself shall go.
    HandOver(ReplicaId),
    /// Replaces the voters in one joint change. Those who were voters and are neither voters nor
    /// learners afterwards are removed with it, unless `keep_removed`.
    ReplaceVoters {
        /// The voters from now on.
        voters: BTreeSet<ReplicaId>,
        /// Whether those who are no longer voters stay as learners.
        keep_removed: bool,
    },
    /// Removes learners.
    RemoveLearners(BTreeSet<ReplicaId>),
}

/// Why no step can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The last change is not committed yet.
    Uncommitted,
    /// New voters, or all heirs of a leader that shall go, have not caught up with its log.
    CatchUp(BTreeSet<ReplicaId>),
}

/// A target that cannot be reached by any step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A group without voters could decide nothing.
    #[error("the target has no voters")]
    NoVoters,
    /// A replica is either a voter or a learner.
    #[error("replica {0} shall be voter and learner at once")]
    VoterAndLearner(ReplicaId),
    /// A replica never moves: another node's copy needs an id of its own.
    #[error("replica {replica} lives on node {is}, not on node {wanted}")]
    Moved {
        /// The replica.
        replica: ReplicaId,
        /// Where it lives.
        is: NodeId,
        /// Where the target says that it does.
        wanted: NodeId,
    },
}

/// What a leader sees of its group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// The leader's own replica.
    pub(crate) leader: ReplicaId,
    /// The voters, as one set or, in a joint configuration, two.
    pub(crate) configs: Vec<BTreeSet<ReplicaId>>,
    /// Every member.
    pub(crate) nodes: BTreeMap<ReplicaId, NodeId>,
    /// Whether the last change of members is committed.
    pub(crate) committed: bool,
    /// The replicas that have caught up, as [`CatchUp`] found.
    pub(crate) caught_up: BTreeSet<ReplicaId>,
}

/// Decides the next step from `observed` towards `target`.
pub(crate) fn plan(observed: &Observed, target: &Membership) -> Result<Reconciled, TargetError> {
    check(observed, target)?;
    if !observed.committed {
        return Ok(Reconciled::Waiting(Wait::Uncommitted));
    }
    // Of a joint configuration the last one is what remains.
    let Some(voters) = observed.configs.last() else {
        return Ok(Reconciled::Waiting(Wait::Uncommitted));
    };
    // Who leads without a vote holds no lease, and everything that asks for one stands still. It
    // may come to that where a leader of a joint configuration was lost, and one took its place
    // that shall go.
    let votes = voters.contains(&observed.leader);
    let mut answering = voters.intersection(&observed.caught_up);
    if let Some(heir) = answering.next().filter(|_| !votes) {
        return Ok(Reconciled::Stepped(Step::HandOver(*heir)));
    }
    if observed.configs.len() > 1 {
        return Ok(Reconciled::Stepped(Step::Flatten));
    }
    let missing: BTreeMap<_, _> = target
        .members()
        .filter(|member| !observed.nodes.contains_key(&member.replica))
        .map(|member| (member.replica, member.node))
        .collect();
    if !missing.is_empty() {
        return Ok(Reconciled::Stepped(Step::AddLearners(missing)));
    }
    let wanted: BTreeSet<_> = target.voters.keys().copied().collect();
    if *voters != wanted {
        return Ok(change_voters(observed, target, voters, wanted));
    }
    let extra: BTreeSet<_> = observed
        .nodes
        .keys()
        .filter(|replica| !wanted.contains(replica) && !target.learners.contains_key(replica))
        .copied()
        .collect();
    Ok(if !extra.is_empty() {
        Reconciled::Stepped(Step::RemoveLearners(extra))
    } else if votes {
        Reconciled::Done
    } else {
        Reconciled::Waiting(Wait::CatchUp(wanted))
    })
}

fn change_voters(
    observed: &Observed,
    target: &Membership,
    voters: &BTreeSet<ReplicaId>,
    wanted: BTreeSet<ReplicaId>,
) -> Reconciled {
    let behind: BTreeSet<_> = wanted
        .difference(voters)
        .filter(|replica| !observed.caught_up.contains(replica))
        .copied()
        .collect();
    if !behind.is_empty() {
        return Reconciled::Waiting(Wait::CatchUp(behind));
    }
    if !wanted.contains(&observed.leader) {
        let heirs: BTreeSet<_> = voters.intersection(&wanted).copied().collect();
        if let Some(heir) = heirs.iter().find(|heir| observed.caught_up.contains(heir)) {
            return Reconciled::Stepped(Step::HandOver(*heir));
        }
        // If no old voter stays, one of the new ones is handed over to after the change.
        if !heirs.is_empty() {
            return Reconciled::Waiting(Wait::CatchUp(heirs));
        }
    }
    let keep_removed = voters
        .difference(&wanted)
        .any(|replica| target.learners.contains_key(replica));
    Reconciled::Stepped(Step::ReplaceVoters {
        voters: wanted,
        keep_removed,
    })
}

fn check(observed: &Observed, target: &Membership) -> Result<(), TargetError> {
    if target.voters.is_empty() {
        return Err(TargetError::NoVoters);
    }
    if let Some(replica) = target
        .learners
        .keys()
        .find(|id| target.voters.contains_key(id))
    {
        return Err(TargetError::VoterAndLearner(*replica));
    }
    for Member {
        replica,
        node: wanted,
    } in target.members()
    {
        match observed.nodes.get(&replica) {
            Some(is) if *is != wanted => {
                return Err(TargetError::Moved {
                    replica,
                    is: *is,
                    wanted,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Judges which of the followers that answer have caught up: those that reached, on two looks
/// running, what the leader's log ended with on the look before. A follower that merely answers is not enough, and
/// openraft's own notion allows a lag of thousands of entries.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    /// The term whose leader looked; a new one begins anew.
    term: u64,
    /// The end of the log on the last look.
    goal: Option<u64>,
    /// How often running each follower reached the goal.
    reached: BTreeMap<ReplicaId, u32>,
}

impl CatchUp {
    /// Takes a look and returns who has caught up.
    pub(crate) fn look(
        &mut self,
        term: u64,
        last: Option<u64>,
        matched: &BTreeMap<ReplicaId, Option<u64>>,
    ) -> BTreeSet<ReplicaId> {
        if self.term != term {
            *self = Self {
                term,
                ..Self::default()
            };
        }
        let before = std::mem::take(&mut self.reached);
        if let Some(goal) = self.goal {
            self.reached = matched
                .iter()
                .filter(|(_, index)| **index >= Some(goal))
                .map(|(replica, _)| (*replica, before.get(replica).map_or(1, |times| times + 1)))
                .collect();
        }
        self.goal = last;
        self.reached
            .iter()
            .filter(|(_, times)| **times >= 2)
            .map(|(replica, _)| *replica)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().copied().map(ReplicaId).collect()
    }

    /// Replica n lives on node 10 n.
    fn map(ids: &[u64]) -> BTreeMap<ReplicaId, NodeId> {
        ids.iter()
            .map(|id| (ReplicaId(*id), NodeId(id * 10)))
            .collect()
    }

    fn target(voters: &[u64], learners: &[u64]) -> Membership {
        Membership {
            voters: map(voters),
            learners: map(learners),
        }
    }

    fn observed(voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Observed {
        let mut nodes = map(voters);
        nodes.extend(map(learners));
        Observed {
            leader: ReplicaId(1),
            configs: vec![set(voters)],
            nodes,
            committed: true,
            caught_up: set(caught_up),
        }
    }

    fn step(observed: &Observed, target: &Membership) -> Step {
        match plan(observed, target) {
            Ok(Reconciled::Stepped(step)) => step,
            other => panic!("expected a step, got {other:?}"),
        }
    }

    #[test]
    fn a_group_that_is_as_it_shall_be_is_left_alone() {
        let done = plan(&observed(&[1, 2, 3], &[4], &[]), &target(&[1, 2, 3], &[4]));
        assert_eq!(done, Ok(Reconciled::Done));
    }

    #[test]
    fn a_new_voter_is_a_learner_first_and_waits_until_it_has_caught_up() {
        let target = target(&[1, 2, 4], &[]);
        let before = observed(&[1, 2, 3], &[], &[2, 3]);
        assert_eq!(step(&before, &target), Step::AddLearners(map(&[4])));

        let behind = observed(&[1, 2, 3], &[4], &[2, 3]);
        let waiting = Reconciled::Waiting(Wait::CatchUp(set(&[4])));
        assert_eq!(plan(&behind, &target), Ok(waiting));

        let ready = observed(&[1, 2, 3], &[4], &[2, 3, 4]);
        let swap = Step::ReplaceVoters {
            voters: set(&[1, 2, 4]),
            keep_removed: false,
        };
        assert_eq!(step(&ready, &target), swap);
    }

    #[test]
    fn a_leader_that_shall_go_hands_over_first() {
        let target = target(&[2, 3, 4], &[]);
        let ready = observed(&[1, 2, 3], &[4], &[3, 4]);
        assert_eq!(step(&ready, &target), Step::HandOver(ReplicaId(3)));

        let nobody_stays = observed(&[1], &[2], &[2]);
        let swap = Step::ReplaceVoters {
            voters: set(&[2]),
            keep_removed: false,
        };
        assert_eq!(step(&nobody_stays, &self::target(&[2], &[])), swap);
    }

    #[test]
    fn a_voter_may_become_a_learner_and_a_learner_leave() {
        let swap = Step::ReplaceVoters {
            voters: set(&[1]),
            keep_removed: true,
        };
        assert_eq!(
            step(&observed(&[1, 2, 3], &[], &[]), &target(&[1], &[2])),
            swap
        );
        let gone = Step::RemoveLearners(set(&[3]));
        assert_eq!(
            step(&observed(&[1], &[2, 3], &[]), &target(&[1], &[2])),
            gone
        );
    }

    #[test]
    fn a_change_left_half_way_is_ended_first() {
        let mut joint = observed(&[1, 2, 3], &[4], &[4]);
        joint.configs.push(set(&[1, 2, 4]));
        assert_eq!(step(&joint, &target(&[1, 2, 4], &[])), Step::Flatten);
        joint.committed = false;
        let waiting = Reconciled::Waiting(Wait::Uncommitted);
        assert_eq!(plan(&joint, &target(&[1, 2, 4], &[])), Ok(waiting));
    }

    #[test]
    fn a_leader_without_a_vote_hands_over_to_any_voter_that_answers() {
        let target = target(&[2, 3, 4], &[1]);
        // It was elected by the voters before, while the change that takes its vote was on its way.
        let mut joint = observed(&[1, 2, 3], &[4], &[4]);
        joint.configs.push(set(&[2, 3, 4]));
        assert_eq!(step(&joint, &target), Step::HandOver(ReplicaId(4)));
        joint.caught_up = set(&[]);
        assert_eq!(step(&joint, &target), Step::Flatten);

        let mut alone = observed(&[2, 3, 4], &[1], &[]);
        let waiting = Reconciled::Waiting(Wait::CatchUp(set(&[2, 3, 4])));
        assert_eq!(plan(&alone, &target), Ok(waiting));
        alone.caught_up = set(&[3, 4]);
        assert_eq!(step(&alone, &target), Step::HandOver(ReplicaId(3)));
    }

    #[test]
    fn impossible_targets_are_refused() {
        let now = observed(&[1, 2, 3], &[], &[]);
        assert_eq!(plan(&now, &target(&[], &[1])), Err(TargetError::NoVoters));
        let both = plan(&now, &target(&[1, 2], &[2]));
        assert_eq!(both, Err(TargetError::VoterAndLearner(ReplicaId(2))));
        let mut moved = target(&[1, 2, 3], &[]);
        moved.voters.insert(ReplicaId(3), NodeId(99));
        let (is, wanted) = (NodeId(30), NodeId(99));
        let error = TargetError::Moved {
            replica: ReplicaId(3),
            is,
            wanted,
        };
        assert_eq!(plan(&now, &moved), Err(error));
    }

    #[test]
    fn catching_up_takes_two_looks_at_a_goal_set_before() {
        let mut catch_up = CatchUp::default();
        let matched = |index| BTreeMap::from([(ReplicaId(4), Some(index))]);
        assert_eq!(catch_up.look(1, Some(100), &matched(100)), set(&[]));
        assert_eq!(catch_up.look(1, Some(110), &matched(100)), set(&[]));
        // The leader's log ran on to 110 meanwhile, and the follower stands at 105.
        assert_eq!(catch_up.look(1, Some(120), &matched(105)), set(&[]));
        assert_eq!(catch_up.look(1, Some(130), &matched(120)), set(&[]));
        assert_eq!(catch_up.look(1, Some(140), &matched(131)), set(&[4]));
        // A new leader has seen nothing of that.
        assert_eq!(catch_up.look(2, Some(140), &matched(140)), set(&[]));
    }

    #[test]
    fn whatever_the_start_steps_lead_to_the_target() {
        let goal = target(&[2, 4, 5], &[3, 6]);
        let mut now = observed(&[1, 2, 3], &[7], &[2, 3, 4, 5, 6, 7]);
        for _ in 0..10 {
            match plan(&now, &goal).unwrap() {
                Reconciled::Done => {
                    assert_eq!(now.configs, vec![set(&[2, 4, 5])]);
                    assert_eq!(now.nodes, map(&[2, 3, 4, 5, 6]));
                    return;
                }
                Reconciled::Waiting(wait) => panic!("nothing to wait for, yet {wait:?}"),
                Reconciled::Stepped(step) => take(&mut now, step),
            }
        }
        panic!("no end in ten steps");
    }

    /// Does to `now` what the group does.
    fn take(now: &mut Observed, step: Step) {
        match step {
            Step::Flatten => now.configs = now.configs.split_off(1),
            Step::AddLearners(added) => now.nodes.extend(added),
            Step::HandOver(to) => now.leader = to,
            Step::ReplaceVoters {
                voters,
                keep_removed,
            } => {
                if !keep_removed {
                    now.nodes
                        .retain(|id, _| voters.contains(id) || !now.configs[0].contains(id));
                }
                now.configs = vec![voters];
            }
            Step::RemoveLearners(gone) => now.nodes.retain(|id, _| !gone.contains(id)),
        }
    }
}
