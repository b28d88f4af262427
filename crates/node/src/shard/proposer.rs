//! Bringing commands into a shard's log while this node coordinates it.

use std::collections::VecDeque;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use headcount_consensus::{Group, ProposeError};
use headcount_model::{ChannelKey, Command, Entry, RegionName, Timestamp};
use headcount_wire::encode_entry;

use crate::telemetry;

/// Most entries that are proposed and not applied; what comes meanwhile shares the next entry.
const IN_FLIGHT_MAX: usize = 8;

/// Most commands of one entry.
const COMMANDS_MAX: usize = 64;

/// About how many bytes an entry may have before it takes no further command: with a batch or a
/// claim of the greatest size on top it is still below the megabyte that a command may have.
const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Most commands that wait; more are dropped, and their owners send them again.
const WAITING_MAX: usize = 1_024;

/// The commands on their way into one shard's log.
#[derive(Default)]
pub(super) struct Proposer {
    waiting: VecDeque<Command>,
    in_flight: FuturesUnordered<BoxFuture<'static, Result<(), ProposeError>>>,
}

impl Proposer {
    /// Queues a command.
    pub(super) fn push(&mut self, command: Command) {
        if self.waiting.len() >= WAITING_MAX {
            telemetry::commands_dropped();
            return;
        }
        self.waiting.push_back(command);
    }

    /// Forgets what waits: this node does not coordinate any more.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Proposes what waits, as long as there is room.
    pub(super) fn propose(&mut self, group: &Group, region: &RegionName, stamp: Timestamp) {
        while !self.waiting.is_empty() && self.in_flight.len() < IN_FLIGHT_MAX {
            let (mut commands, mut bytes) = (Vec::new(), 0);
            while let Some(command) = self.waiting.front() {
                bytes += weight(command);
                if !commands.is_empty()
                    && (bytes > ENTRY_BYTES_MAX || commands.len() == COMMANDS_MAX)
                {
                    break;
                }
                commands.extend(self.waiting.pop_front());
            }
            let coordinator = region.clone();
            let entry = encode_entry(&Entry {
                stamp,
                coordinator,
                commands,
            });
            let group = group.clone();
            let proposal = async move { group.propose(entry).await.map(drop) };
            self.in_flight.push(proposal.boxed());
        }
    }

    /// Waits for a proposal to come to an end; for ever, if there is none.
    pub(super) async fn settled(&mut self) -> Result<(), ProposeError> {
        match self.in_flight.next().await {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }
}

/// Returns about how many bytes a command takes in an entry.
fn weight(command: &Command) -> usize {
    let item = |channel: &ChannelKey| channel.app.as_str().len() + channel.name.as_str().len() + 48;
    match command {
        Command::Batch(batch) => {
            let transitions = batch.transitions.iter().map(|told| item(&told.channel));
            let registers = batch
                .registers
                .iter()
                .map(|register| item(&register.channel));
            64 + 10 * batch.dropped.len() + transitions.chain(registers).sum::<usize>()
        }
        Command::Claim(claim) => {
            let told = claim.tails.iter().flat_map(|tail| &tail.transitions);
            64 + told.map(|told| item(&told.channel)).sum::<usize>()
        }
        Command::ExpireRegion(_) | Command::Settled(_) | Command::Configure(_) | Command::Tick => {
            64
        }
    }
}
