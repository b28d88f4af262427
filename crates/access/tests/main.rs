//! Tests of the access crate through its public surface.
#![cfg(test)]

mod authentication;
mod capabilities;
mod client_ids;
mod errors;
mod names;
mod revocations;
mod support;
mod token_requests;
