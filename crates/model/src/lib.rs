//! Words shared by every stage: ids, occupancy, registers, events, time, limits and the Stage trait.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
