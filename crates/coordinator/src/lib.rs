//! The replicated state machine of a shard.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
