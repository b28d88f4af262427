//! Ordered events to many bounded subscribers.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
