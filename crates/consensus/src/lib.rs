//! Raft groups over one shared durable store; hides every openraft type.

pub mod store;
