//! What an edge can rely on, end to end.
#![cfg(test)]

mod node;
mod proxy;
mod reporting;
