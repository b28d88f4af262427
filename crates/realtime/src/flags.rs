//! The bits of the field `flags` that are no modes (contract §5.3); [`crate::ChannelModes`] are the
//! others.

/// ATTACHED: there are members, and SYNC will tell them.
pub const HAS_PRESENCE: u64 = 1 << 0;
/// ATTACHED: messages of a rewind follow.
pub const HAS_BACKLOG: u64 = 1 << 1;
/// ATTACHED: nothing was missed since the client was last attached.
pub const RESUMED: u64 = 1 << 2;
/// A message that is to be sent on now and stored nowhere.
pub const TRANSIENT: u64 = 1 << 4;
/// ATTACH: the client was attached before. Deprecated, still sent by ably-python, means nothing.
pub const ATTACH_RESUME: u64 = 1 << 5;
/// ATTACHED: there are objects.
pub const HAS_OBJECTS: u64 = 1 << 7;
