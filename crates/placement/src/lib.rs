//! Replicated control state: members, leases, fences, placement.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
