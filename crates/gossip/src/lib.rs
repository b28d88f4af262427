//! What the region is and the log does not say yet, as fenced, numbered batches.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
