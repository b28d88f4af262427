//! What people see of real clusters.
#![cfg(test)]

mod lifecycle;
