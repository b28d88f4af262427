//! The contract between a stage and whoever drives it.

use std::fmt::Debug;

use crate::{Monotonic, Now};

/// Stage: a deterministic step of the pipeline; same inputs at the same times, same effects.
///
/// The driver owns clocks, sockets and disks. It calls [`Stage::step`] for whatever happens and
/// [`Stage::on_deadline`] once `now` has reached [`Stage::next_deadline`], and carries out the
/// effects in their order. A trace of inputs and effects is therefore a replayable test.
pub trait Stage {
    /// Everything that can happen to the stage.
    type Input: Debug;
    /// Everything it can ask its driver for.
    type Effect: Debug;

    /// Takes one input and appends what is to be done about it.
    fn step(&mut self, now: Now, input: Self::Input, effects: &mut Vec<Self::Effect>);

    /// Returns when [`Stage::on_deadline`] wants to be called next, if ever.
    fn next_deadline(&self) -> Option<Monotonic>;

    /// Acts on every deadline that `now` has reached; does nothing if none has.
    fn on_deadline(&mut self, now: Now, effects: &mut Vec<Self::Effect>);
}
