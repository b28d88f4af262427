//! The outbox: claim, batches in flight, settling, and when to send what again.

use std::collections::VecDeque;
use std::sync::Arc;

use headcount_model::{Batch, Claim, Fence, Monotonic, Now, OwnerRef, Stage};

use crate::pending::{Contents, Pending};
use crate::{Config, Effect, Input, Proposal};

/// Outbox: one owner's facts on their way into the log.
#[derive(Clone, Debug)]
pub struct Outbox {
    config: Config,
    claim: Arc<Claim>,
    phase: Phase,
    pending: Pending,
    in_flight: VecDeque<InFlight>,
    /// Sequence of the last batch made.
    sequence: u64,
    /// Number of the last transition taken in.
    number: u64,
    /// Number of the last transition that the log has.
    logged: u64,
    /// When what is pending is due to be sent.
    flush_at: Option<Monotonic>,
    /// The end of adoption, until the log has it.
    settling: Option<Settling>,
    dropped: u64,
    resent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The claim is not applied; sent at this time, if at all.
    Claiming(Option<Monotonic>),
    Claimed,
}

#[derive(Clone, Debug)]
struct InFlight {
    batch: Arc<Batch>,
    /// When it was sent; nothing if that is to be done again at once.
    sent: Option<Monotonic>,
}

/// Word of the end of adoption, which follows every transition that was decided before it.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// The last transition before it, which the log must have.
    after: u64,
    sent: Option<Monotonic>,
}

/// Facts about an outbox for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Transitions that are in no batch yet.
    pub transitions: usize,
    /// Registers that are in no batch yet.
    pub registers: usize,
    /// Batches sent and not known to be applied.
    pub in_flight: usize,
    /// Transitions dropped in pairs since the start (R7).
    pub dropped: u64,
    /// Proposals sent again since the start.
    pub resent: u64,
}

impl Outbox {
    /// Makes an outbox whose first proposal is `claim`.
    #[must_use]
    pub fn new(config: Config, claim: Claim) -> Self {
        Self {
            config,
            claim: Arc::new(claim),
            phase: Phase::Claiming(None),
            pending: Pending::default(),
            in_flight: VecDeque::new(),
            sequence: 0,
            number: 0,
            logged: 0,
            flush_at: None,
            settling: None,
            dropped: 0,
            resent: 0,
        }
    }

    /// Returns whose facts it carries.
    #[must_use]
    pub fn owner(&self) -> &OwnerRef {
        &self.claim.owner
    }

    /// Returns facts for metrics.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        OutboxStats {
            transitions: self.pending.transitions(),
            registers: self.pending.registers(),
            in_flight: self.in_flight.len(),
            dropped: self.dropped,
            resent: self.resent,
        }
    }

    /// Returns whether the log has everything that it was given.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Claimed
            && self.pending.is_empty()
            && self.in_flight.is_empty()
            && self.settling.is_none()
    }

    fn applied(&mut self, now: Now, fence: Fence, sequence: u64, number: u64, settled: bool) {
        if fence != self.owner().fence {
            return;
        }
        if self.phase != Phase::Claimed {
            self.phase = Phase::Claimed;
            self.flush_at = (!self.pending.is_empty()).then_some(now.monotonic);
        }
        while self
            .in_flight
            .front()
            .is_some_and(|first| first.batch.sequence <= sequence)
        {
            self.in_flight.pop_front();
        }
        self.logged = self.logged.max(number);
        if settled {
            self.settling = None;
        }
    }

    /// Makes what is in flight due again.
    fn path_changed(&mut self) {
        if let Phase::Claiming(sent) = &mut self.phase {
            *sent = None;
        }
        if let Some(settling) = &mut self.settling {
            settling.sent = None;
        }
        for flight in &mut self.in_flight {
            flight.sent = None;
        }
    }

    /// Returns when what was sent at `sent` is sent again, unless it is applied: at once if it was
    /// not sent, or may be lost.
    fn again(&self, sent: Option<Monotonic>) -> Monotonic {
        sent.map_or_else(Monotonic::default, |sent| {
            sent.after(self.config.resend_after)
        })
    }

    fn hurry(&mut self, at: Monotonic) {
        self.flush_at = Some(self.flush_at.map_or(at, |flush_at| flush_at.min(at)));
    }

    fn claim(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Phase::Claiming(sent) = self.phase else {
            return;
        };
        if now.monotonic < self.again(sent) {
            return;
        }
        self.resent += u64::from(sent.is_some());
        self.phase = Phase::Claiming(Some(now.monotonic));
        effects.push(Effect::Propose(Proposal::Claim(Arc::clone(&self.claim))));
    }

    /// Sends again what was not applied in time. The oldest decides: what follows it cannot apply
    /// without it.
    fn resend(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(first) = self.in_flight.front() else {
            return;
        };
        if now.monotonic < self.again(first.sent) {
            return;
        }
        self.resent += self.in_flight.len() as u64;
        for flight in &mut self.in_flight {
            flight.sent = Some(now.monotonic);
            effects.push(Effect::Propose(Proposal::Batch(Arc::clone(&flight.batch))));
        }
    }

    fn flush(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.flush_at.is_none_or(|at| now.monotonic < at) {
            return;
        }
        while !self.pending.is_empty() && self.in_flight.len() < self.config.window {
            let Contents {
                dropped,
                transitions,
                registers,
            } = self.pending.take(self.config.items_max);
            self.sequence += 1;
            let owner = self.claim.owner.clone();
            let sequence = self.sequence;
            let batch = Arc::new(Batch {
                owner,
                sequence,
                dropped,
                transitions,
                registers,
            });
            effects.push(Effect::Propose(Proposal::Batch(Arc::clone(&batch))));
            self.in_flight.push_back(InFlight {
                batch,
                sent: Some(now.monotonic),
            });
        }
        if self.pending.is_empty() {
            self.flush_at = None;
        }
    }

    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(settling) = self.settling else {
            return;
        };
        if self.logged < settling.after || now.monotonic < self.again(settling.sent) {
            return;
        }
        self.resent += u64::from(settling.sent.is_some());
        self.settling = Some(Settling {
            sent: Some(now.monotonic),
            ..settling
        });
        let owner = self.claim.owner.clone();
        effects.push(Effect::Propose(Proposal::Settled(owner)));
    }
}

impl Stage for Outbox {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, now: Now, input: Input, _effects: &mut Vec<Effect>) {
        match input {
            Input::Transition(transition) => {
                self.number = transition.number;
                self.pending.transition(transition);
                if self.pending.transitions() > self.config.pending_max {
                    self.dropped += self.pending.drop_pairs() as u64;
                }
                self.hurry(now.monotonic);
            }
            Input::Register {
                channel,
                occupancy,
                crossing,
            } => {
                self.pending.register(channel, occupancy);
                let wait = if crossing {
                    std::time::Duration::ZERO
                } else {
                    self.config.interval
                };
                self.hurry(now.monotonic.after(wait));
            }
            Input::Settled => {
                let after = self.number;
                self.settling = Some(Settling { after, sent: None });
            }
            Input::Applied {
                fence,
                sequence,
                number,
                settled,
            } => {
                self.applied(now, fence, sequence, number, settled);
            }
            Input::PathChanged => self.path_changed(),
        }
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        if let Phase::Claiming(sent) = self.phase {
            return Some(self.again(sent));
        }
        let resend = self.in_flight.front().map(|first| self.again(first.sent));
        let room = self.in_flight.len() < self.config.window;
        let flush = self.flush_at.filter(|_| room);
        let settle = self
            .settling
            .filter(|settling| self.logged >= settling.after);
        let settle = settle.map(|settling| self.again(settling.sent));
        [resend, flush, settle].into_iter().flatten().min()
    }

    fn on_deadline(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Claimed {
            self.claim(now, effects);
            return;
        }
        self.resend(now, effects);
        self.flush(now, effects);
        self.settle(now, effects);
    }
}
