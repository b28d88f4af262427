//! How consensus applies the control group's log.

use std::sync::Arc;

use bytes::Bytes;
use headcount_consensus::{AppliedAt, Frozen, Machine, MachineError};
use headcount_placement::Control;
use headcount_wire::{
    decode_control_command, decode_control_snapshot, encode_control_reply, encode_control_snapshot,
};
use tokio::sync::watch;

/// The state machine of the control group; publishes its state after each entry.
pub(crate) struct ControlMachine {
    state: watch::Sender<Arc<Control>>,
}

impl ControlMachine {
    pub(crate) fn new(state: watch::Sender<Arc<Control>>) -> Self {
        Self { state }
    }
}

impl Machine for ControlMachine {
    fn apply(&mut self, at: AppliedAt, command: &[u8]) -> Bytes {
        let command = decode_control_command(command);
        // A replica that passes over a command would differ from the others for ever; the node
        // stops and says so instead.
        let command = command.unwrap_or_else(|error| {
            panic!(
                "entry {} of the control group is not understood: {error}; if a later release wrote it, \
                 start the node with that release",
                at.index
            )
        });
        let mut control = Control::clone(&self.state.borrow());
        let reply = control.apply(at.index, &command);
        tracing::debug!(target: "placement", index = at.index, ?command, ?reply, "applied");
        self.state.send_replace(Arc::new(control));
        encode_control_reply(&reply)
    }

    fn advance(&mut self, _at: AppliedAt) {}

    fn freeze(&self) -> Frozen {
        let control = Arc::clone(&self.state.borrow());
        Box::new(move || encode_control_snapshot(control.parts()))
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), MachineError> {
        let failed = |reason: String| MachineError { reason };
        let parts = decode_control_snapshot(chunks).map_err(|error| failed(error.to_string()))?;
        let restored = Control::from_parts(parts).map_err(|error| failed(error.to_string()))?;
        self.state.send_replace(Arc::new(restored));
        Ok(())
    }
}
