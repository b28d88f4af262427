//! Judging a world: against its ledger, its log, and among those who watched it.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_checker::linear::{self, Call, Op};
use headcount_checker::{Fault, History, Log, Step, agree_on_the_log, sessions};

use crate::logs;
use crate::plan::REGIONS;
use crate::record::Record;
use crate::world::World;

/// The search for an order of the calls to one register gives up after so many steps.
const STEPS_MAX: u64 = 300_000;

/// What a watcher was told that it was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    /// Nothing.
    None,
    /// Transitions of a region ahead of the log (R10).
    Early,
    /// Events of the log (R14).
    Logged,
}

fn gaps_of(history: &History) -> Gaps {
    let gaps = history.steps.iter().filter_map(|step| match step {
        Step::Gap(gap) => Some(gap.contains("region Some")),
        Step::Event(_) | Step::Resumed { .. } | Step::Broken(_) => None,
    });
    gaps.fold(Gaps::None, |so_far, is_early| match (so_far, is_early) {
        (Gaps::None | Gaps::Early, true) => Gaps::Early,
        (Gaps::Logged, _) | (_, false) => Gaps::Logged,
    })
}

impl World {
    /// Returns what is not yet as it must be once nothing changes any more.
    pub(crate) fn unsettled(&mut self) -> Option<String> {
        let mut record = self.shared.lock();
        let record = &mut *record;
        if let Some(node) = record.lives.iter().position(|life| !life.ready) {
            return Some(format!("node {node} is not ready"));
        }
        if record.restless > 0 {
            return Some(format!(
                "{} edges wait for acknowledgements",
                record.restless
            ));
        }
        if record.orders > 0 {
            return Some(format!("operators have {} things to do", record.orders));
        }
        let nodes = record.status.iter().flat_map(|status| &status.nodes);
        if let Some(node) = nodes.into_iter().find(|node| node.state == "draining") {
            return Some(format!("node {} was not taken back", node.id));
        }
        for node in 0..self.plan.nodes.len() {
            let Some(listed) = record.listed.get(&node) else {
                return Some(format!("node {node} was not asked"));
            };
            match listed {
                Err(why) => return Some(format!("node {node} does not list: {why}")),
                Ok(listed) => {
                    let name = format!("node {node}");
                    if let Some(fault) = record.ledger.converged(&name, listed) {
                        return Some(fault.to_string());
                    }
                }
            }
        }
        for (name, history) in &record.histories {
            if history.faults().is_empty()
                && let Some(fault) = record.ledger.ends(&history.check())
            {
                return Some(format!("{name}: {fault}"));
            }
        }
        None
    }

    /// Returns what is wrong with the lives of nodes: in a plain world those that nothing hit have
    /// the lives in which they were founded, whoever led the control group meanwhile.
    fn deaths(&self) -> Vec<String> {
        let record = self.shared.lock();
        let Some(status) = record.status.as_ref().filter(|_| self.plan.is_plain) else {
            return Vec::new();
        };
        let is_spared = |peer: &str| {
            let node = self.plan.node_of_peer(peer);
            node.is_some_and(|node| !self.plan.frail.contains(&node))
        };
        let nodes = status.nodes.iter();
        nodes
            .filter(|node| is_spared(&node.addresses.peer) && node.incarnation != 1)
            .map(|node| {
                let (id, lives) = (node.id, node.incarnation);
                format!(
                    "C3 no false void: node {id} has its life number {lives}, though nothing hit it"
                )
            })
            .collect()
    }

    /// Judges everything that was written down.
    pub(crate) fn judge(&mut self) -> Vec<String> {
        self.excuse();
        let deaths = self.deaths();
        let disks = self.disks();
        let mut record = self.shared.lock();
        let record = &mut *record;
        let mut wrong = std::mem::take(&mut record.wrong);
        wrong.extend(deaths);
        let mut say = |who: &str, faults: Vec<Fault>| {
            wrong.extend(faults.into_iter().map(|fault| format!("{fault} [{who}]")));
        };
        // A gap that is told is a stated exception. Who missed transitions of a region ahead of the
        // log can still be held to the log's global events, below.
        let (told_all, told_gaps): (Vec<_>, Vec<_>) = record
            .histories
            .iter()
            .partition(|(_, history)| gaps_of(history) == Gaps::None);
        record
            .coverage
            .add("watchers-told-of-gaps", told_gaps.len() as u64);
        for (name, history) in &told_all {
            say(name, history.faults());
            say(name, record.ledger.justify(history, &record.heard));
        }
        let whole: Vec<History> = told_all
            .iter()
            .map(|(_, history)| (*history).clone())
            .collect();
        let histories: Vec<History> = record.histories.values().cloned().collect();
        match Log::of(&histories) {
            Err(fault) => say("the log", vec![fault]),
            Ok(log) => {
                say("the log", log.faults());
                record.coverage.add("events-logged", log.len() as u64);
                // A region's transition that tells a watcher what it knows already, of a correction
                // or ahead of the log, is not told again (R10).
                let mut global = Log::default();
                let events = histories.iter().flat_map(History::events);
                for told in events.filter(|told| !told.kind.is_regional()) {
                    say("the log", global.add(told).err().into_iter().collect());
                }
                let mut is_whole = false;
                for (name, history) in &record.histories {
                    if gaps_of(history) != Gaps::Logged {
                        say(name, global.missed(history));
                        is_whole = true;
                    }
                }
                let (faults, events) = logs::judge(&disks, self.plan.shards, &log, is_whole);
                say("the disks", faults);
                record.coverage.add("events-on-disks", events as u64);
            }
        }
        let mut judged = record.samples.iter();
        let first = judged.find_map(|sample| record.ledger.judge(sample));
        say("a reader", first.into_iter().collect());
        let sharp = record.samples.iter().filter(|sample| {
            let (least, most) = record
                .ledger
                .bounds(&sample.channel, None, sample.from, sample.to);
            least == most && !least.is_zero()
        });
        record.coverage.add("reads-sharp", sharp.count() as u64);
        let calls = self.calls(record);
        let (faults, undecided) = linear::judge(&calls, STEPS_MAX);
        say("strong reads", faults);
        record.coverage.add("registers", calls.len() as u64);
        let decided = calls.len().saturating_sub(undecided) as u64;
        record.coverage.add("registers-decided", decided);
        // Where nothing was taken away, what only grows is never seen to shrink.
        let steady = record.seen.iter();
        let steady = steady.filter(|seen| !self.is_voided(&seen.subject));
        say("a session", sessions::backward(steady));
        if let Err(disagreement) = agree_on_the_log(&whole) {
            wrong.push(format!("C6 agreement: {disagreement}"));
        }
        wrong
    }

    /// Returns the region of a register.
    fn region_of(register: &str) -> usize {
        let digit = register
            .strip_prefix("register:e")
            .and_then(|rest| rest.chars().next());
        let digit = digit.and_then(|digit| digit.to_digit(10));
        digit
            .and_then(|digit| usize::try_from(digit).ok())
            .unwrap_or(0)
    }

    fn is_voided(&self, register: &str) -> bool {
        !self.voids(Self::region_of(register)).is_empty()
    }

    /// Returns the calls to registers, with what may have been taken away.
    fn calls(&self, record: &Record) -> BTreeMap<String, Vec<Call<Op>>> {
        let mut channels = record.calls.clone();
        for (channel, calls) in &mut channels {
            let index = Self::region_of(channel);
            let region = REGIONS[index].to_owned();
            for (from, to) in self.voids(index) {
                // It is taken away, and comes back with whatever was reported last or later.
                let known = calls.iter().filter_map(|call| match &call.op {
                    Op::Apply { .. } if call.invoked <= to => Some(call.op.clone()),
                    Op::Apply { .. } | Op::Void { .. } | Op::Read(_) => None,
                });
                let back: Vec<Op> = known.collect();
                let unknown = |op| Call {
                    op,
                    invoked: from,
                    returned: None,
                };
                calls.push(unknown(Op::Void {
                    region: region.clone(),
                }));
                calls.extend(back.last().cloned().map(unknown));
            }
        }
        channels
    }

    /// How long after a trouble its consequences may still come to light.
    fn aftermath(&self) -> Duration {
        let plan = &self.plan;
        plan.lease * 2 + plan.grace * 2 + plan.linger + plan.election * 3 + Duration::from_secs(4)
    }

    /// Returns when a region's counts may have been taken away: something that edges take long to
    /// notice hit one of its nodes, or two of its nodes were in trouble at once.
    pub(crate) fn voids(&self, region: usize) -> Vec<(Duration, Duration)> {
        let end = Duration::from_secs(1_000_000);
        let here: Vec<_> = self
            .troubles
            .iter()
            .map(|trouble| {
                let nodes = trouble.nodes.iter().copied();
                let nodes: Vec<usize> = nodes
                    .filter(|node| self.plan.nodes[*node] == region)
                    .collect();
                (nodes, trouble)
            })
            .filter(|(nodes, _)| !nodes.is_empty())
            .collect();
        let aftermath = self.aftermath();
        let mut voids = Vec::new();
        for (at, (nodes, trouble)) in here.iter().enumerate() {
            let to = trouble.to.unwrap_or(end);
            if trouble.is_silent || nodes.len() > 1 {
                voids.push((trouble.from, to + aftermath));
                continue;
            }
            for (others, other) in &here[..at] {
                let other_to = other.to.unwrap_or(end);
                let from = trouble.from.max(other.from);
                let until = to.min(other_to);
                if others != nodes && from <= until + aftermath {
                    voids.push((from, to.max(other_to) + aftermath));
                }
            }
        }
        voids
    }

    /// Tells the ledger what the troubles excuse.
    fn excuse(&mut self) {
        let aftermath = self.aftermath();
        let end = Duration::from_secs(1_000_000);
        let voids: Vec<_> = (0..3).map(|region| self.voids(region)).collect();
        let mut record = self.shared.lock();
        for trouble in &self.troubles {
            if !trouble.nodes.is_empty() {
                let to = trouble.to.unwrap_or(end);
                record.ledger.late(trouble.from, to + aftermath);
            }
        }
        for (region, voids) in voids.into_iter().enumerate() {
            for (from, to) in voids {
                record.ledger.may_void(REGIONS[region], from, to);
            }
        }
    }
}
