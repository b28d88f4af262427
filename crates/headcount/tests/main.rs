//! The binary as people and scripts meet it: exit codes, what goes where, JSON.

mod commands;
mod running;
