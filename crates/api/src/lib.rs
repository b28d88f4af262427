//! Public HTTP: REST and server-sent events.
pub mod ports;
