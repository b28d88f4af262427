//! What this node does for its region's part of a shard while it owns it.

use std::collections::VecDeque;

use headcount_gossip::{
    Effect as OutboxEffect, Input as OutboxInput, Outbox, OutboxStats, Proposal,
};
use headcount_model::{
    Batch, ChannelKey, Claim, Command, Era, Event, EventId, EventKind, Fence, GatewayAck,
    GatewayUpdate, Incarnation, Monotonic, NodeId, Now, Occupancy, OwnerRef, ShardId, Stage,
    Transition,
};
use headcount_region::{Effect as OwnerEffect, Input as OwnerInput, Owner};

use crate::telemetry;

/// What owning asks the driver to do.
#[derive(Debug)]
pub(super) enum Duty {
    /// Bring this into the log.
    Propose(Command),
    /// Acknowledge a gateway's update.
    Acknowledge(NodeId, GatewayAck),
    /// Tell this in the region now.
    Tell(Transition, Event),
}

/// An owner with its way into the log.
pub(super) struct Owning {
    era: Era,
    owner: Owner,
    outbox: Outbox,
    owner_effects: Vec<OwnerEffect>,
    outbox_effects: Vec<OutboxEffect>,
    /// When each batch in flight was first sent, by sequence.
    sent: VecDeque<(u64, Monotonic)>,
    /// What was counted so far, to tell metrics the difference.
    counted: OutboxStats,
}

impl Owning {
    pub(super) fn begin(
        config: (headcount_region::Config, headcount_gossip::Config),
        era: Era,
        shard: ShardId,
        claim: Claim,
    ) -> Self {
        let owner = claim.owner.clone();
        Self {
            era,
            owner: Owner::new(config.0, owner.region, shard, owner.fence),
            outbox: Outbox::new(config.1, claim),
            owner_effects: Vec::new(),
            outbox_effects: Vec::new(),
            sent: VecDeque::new(),
            counted: OutboxStats::default(),
        }
    }

    pub(super) fn fence(&self) -> Fence {
        self.owner.fence()
    }

    pub(super) fn stats(&self) -> OutboxStats {
        self.outbox.stats()
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.owner.is_claimed()
    }

    pub(super) fn claimed(&mut self, now: Now, base: Vec<(ChannelKey, Occupancy)>) {
        self.owner
            .step(now, OwnerInput::Claimed { base }, &mut self.owner_effects);
    }

    pub(super) fn gateways(&mut self, now: Now, live: Vec<(NodeId, Incarnation)>) {
        self.owner
            .step(now, OwnerInput::Gateways { live }, &mut self.owner_effects);
    }

    pub(super) fn update(&mut self, now: Now, update: GatewayUpdate) {
        self.owner
            .step(now, OwnerInput::Update(update), &mut self.owner_effects);
    }

    pub(super) fn coordinator_here(&mut self, now: Now, here: bool) {
        self.owner.step(
            now,
            OwnerInput::CoordinatorHere(here),
            &mut self.owner_effects,
        );
    }

    pub(super) fn path_changed(&mut self, now: Now) {
        self.outbox
            .step(now, OutboxInput::PathChanged, &mut self.outbox_effects);
    }

    pub(super) fn applied(&mut self, now: Now, mark: headcount_coordinator::RegionMark) {
        let input = OutboxInput::Applied {
            fence: mark.fence,
            sequence: mark.sequence,
            number: mark.number,
            settled: mark.settled,
        };
        self.outbox.step(now, input, &mut self.outbox_effects);
        if mark.fence != self.owner.fence() {
            return;
        }
        while let Some((sequence, sent)) = self.sent.front().copied() {
            if sequence > mark.sequence {
                break;
            }
            telemetry::batch_applied(now.monotonic.since(sent));
            self.sent.pop_front();
        }
    }

    /// Returns when something is due, of which a quiet owner decides nothing.
    pub(super) fn next_deadline(&self, quiet: bool) -> Option<Monotonic> {
        let owner = self.owner.next_deadline().filter(|_| !quiet);
        let deadlines = [owner, self.outbox.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Lets deadlines act, save the owner's if it is to decide nothing more, and carries everything
    /// that was decided one stage on. Returns whether something is sent again.
    pub(super) fn pump(&mut self, now: Now, quiet: bool, duties: &mut Vec<Duty>) -> bool {
        let due = self.owner.next_deadline();
        if !quiet && due.is_some_and(|at| at <= now.monotonic) {
            self.owner.on_deadline(now, &mut self.owner_effects);
        }
        for effect in std::mem::take(&mut self.owner_effects) {
            let input = match effect {
                OwnerEffect::Acknowledge { node, ack } => {
                    duties.push(Duty::Acknowledge(node, ack));
                    continue;
                }
                OwnerEffect::Transition(transition) => {
                    let event = self.event(&transition);
                    duties.push(Duty::Tell(transition.clone(), event));
                    OutboxInput::Transition(transition)
                }
                OwnerEffect::Register {
                    channel,
                    occupancy,
                    crossing,
                } => OutboxInput::Register {
                    channel,
                    occupancy,
                    crossing,
                },
                OwnerEffect::Settled { missing } => {
                    if !missing.is_empty() {
                        telemetry::adoption_capped();
                        let shard = self.owner.shard().0;
                        tracing::warn!(target: "region", shard, ?missing, "adoption was cut short");
                    }
                    let (shard, fence) = (self.owner.shard().0, self.owner.fence());
                    tracing::debug!(target: "region", shard, %fence, "settled");
                    OutboxInput::Settled
                }
            };
            self.outbox.step(now, input, &mut self.outbox_effects);
        }
        if self
            .outbox
            .next_deadline()
            .is_some_and(|at| at <= now.monotonic)
        {
            self.outbox.on_deadline(now, &mut self.outbox_effects);
        }
        for OutboxEffect::Propose(proposal) in self.outbox_effects.drain(..) {
            let command = match proposal {
                Proposal::Claim(claim) => Command::Claim(Claim::clone(&claim)),
                Proposal::Batch(batch) => {
                    if self
                        .sent
                        .back()
                        .is_none_or(|(last, _)| *last < batch.sequence)
                    {
                        telemetry::batch_sent(batch.transitions.len(), batch.registers.len());
                        self.sent.push_back((batch.sequence, now.monotonic));
                    }
                    Command::Batch(Batch::clone(&batch))
                }
                Proposal::Settled(owner) => Command::Settled(owner),
            };
            duties.push(Duty::Propose(command));
        }
        let before = self.counted.resent;
        self.count();
        self.counted.resent > before
    }

    /// Tells metrics what the outbox has counted since the last time.
    fn count(&mut self) {
        let stats = self.outbox.stats();
        let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        telemetry::batches_resent(since(stats.resent, self.counted.resent));
        telemetry::transitions_dropped(since(stats.dropped, self.counted.dropped));
        self.counted = stats;
    }

    /// The event of a transition, as the log will tell it too (R12).
    fn event(&self, transition: &Transition) -> Event {
        let owner = OwnerRef {
            region: self.owner.region().clone(),
            fence: self.fence(),
        };
        early_event(self.era, self.owner.shard(), &owner, transition)
    }
}

/// Returns the event of a transition that an owner decided.
pub(crate) fn early_event(
    era: Era,
    shard: ShardId,
    owner: &OwnerRef,
    transition: &Transition,
) -> Event {
    let active = transition.active;
    let (region, fence) = (owner.region.clone(), owner.fence);
    Event {
        id: EventId::Transition {
            era,
            shard,
            region: region.clone(),
            fence,
            number: transition.number,
        },
        kind: if active {
            EventKind::RegionActive
        } else {
            EventKind::RegionInactive
        },
        channel: transition.channel.clone(),
        at: transition.at,
        region,
        is_global_master: transition.is_global_master,
        active,
        occupancy: transition.occupancy,
    }
}

/// Returns what [`early_event`] made the event of; nothing if it is the event of no transition.
pub(super) fn transition_of(event: &Event) -> Option<(OwnerRef, Transition)> {
    let EventId::Transition {
        region,
        fence,
        number,
        ..
    } = &event.id
    else {
        return None;
    };
    let owner = OwnerRef {
        region: region.clone(),
        fence: *fence,
    };
    let transition = Transition {
        number: *number,
        channel: event.channel.clone(),
        active: event.active,
        occupancy: event.occupancy,
        at: event.at,
        is_global_master: event.is_global_master,
    };
    Some((owner, transition))
}
