//! Tests of the realtime crate through its public surface.
#![cfg(test)]

mod broadcasts;
mod client_frames;
mod garbage;
mod server_frames;
mod support;
