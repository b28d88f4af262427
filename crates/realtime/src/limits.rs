//! Bounds of what a client may send, each with its reason.

use headcount_model::CHANNEL_BYTES_MAX;

/// Deepest nesting of lists and maps in a frame. A frame needs three levels, and nobody reads
/// `extras` that are nested further than this; ten thousand would overflow a stack.
pub const DEPTH_MAX: usize = 32;

/// Most values in a frame, keys not counted. In memory a value takes 32 bytes or a little more, so a
/// frame being decoded stays near 4 MiB even if each value is one byte on the wire.
pub const VALUES_MAX: usize = 65_536;

/// Most messages in a frame: twenty times what a connection may publish in a second by default, so
/// that a batch is bounded by its bytes and its rate first.
pub const MESSAGES_MAX: usize = 1_000;

/// Most presence items in a frame. A connection may enter many members, and enters all of them
/// again after a resume that failed; clients send one frame for each.
pub const PRESENCE_MAX: usize = 250;

/// Most params of an ATTACH. Clients send one to three; unknown ones are tolerated.
pub const PARAMS_MAX: usize = 32;

/// Longest name, id, encoding, serial or param, in bytes. Real ones stay below 200; a client id is
/// bounded more tightly by `headcount-access`, which has the code for it.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest channel as a client writes it, in bytes: a name and a qualifier before it.
pub const CHANNEL_TEXT_BYTES_MAX: usize = CHANNEL_BYTES_MAX + TEXT_BYTES_MAX;

/// The bounds that CONNECTED announces, so that they are settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame, in bytes.
    pub frame_bytes_max: usize,
    /// Largest sum of the sizes of a frame's messages or presence items, in bytes; see
    /// [`crate::Message::size`].
    pub message_bytes_max: usize,
}

impl Default for Limits {
    /// The numbers of the contract's §5.4.
    fn default() -> Self {
        Self {
            frame_bytes_max: 524_288,
            message_bytes_max: 65_536,
        }
    }
}
