//! What is attached to this node: sessions of edges, counts, registers.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
