//! The numbers of the protocol's actions (contract §5.2).

pub(crate) const HEARTBEAT: u64 = 0;
pub(crate) const ACK: u64 = 1;
pub(crate) const NACK: u64 = 2;
pub(crate) const CONNECTED: u64 = 4;
pub(crate) const DISCONNECT: u64 = 5;
pub(crate) const DISCONNECTED: u64 = 6;
pub(crate) const CLOSE: u64 = 7;
pub(crate) const CLOSED: u64 = 8;
pub(crate) const ERROR: u64 = 9;
pub(crate) const ATTACH: u64 = 10;
pub(crate) const ATTACHED: u64 = 11;
pub(crate) const DETACH: u64 = 12;
pub(crate) const DETACHED: u64 = 13;
pub(crate) const PRESENCE: u64 = 14;
pub(crate) const MESSAGE: u64 = 15;
pub(crate) const SYNC: u64 = 16;
pub(crate) const AUTH: u64 = 17;
pub(crate) const OBJECT: u64 = 19;
pub(crate) const ANNOTATION: u64 = 21;

/// Returns whether a client waits for an ACK or NACK of this action's `msgSerial`.
pub(crate) fn is_acknowledged(action: u64) -> bool {
    matches!(action, PRESENCE | MESSAGE | OBJECT | ANNOTATION)
}
