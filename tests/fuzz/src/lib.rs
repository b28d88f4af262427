//! Fuzzing on stable Rust: mutated input for every decoder that reads what strangers or other nodes
//! send.
//!
//! ```text
//! TARGET's seeds ──▶ pool ──mutate(seed)──▶ input ──▶ TARGET.run ──▶ outcome of a new shape? ──▶ pool
//!                                                        └─ panics, takes long or much memory ──▶ FAILURE, shrunk
//! ```
//!
//! * [`targets()`] lists what is fuzzed: real input to begin with, and a function that decodes and
//!   asserts what must hold, such as that what decodes survives being encoded.
//! * [`fuzz`] runs one for some time. It is deterministic: a seed leads to the same inputs in the
//!   same order, however long they take.
//! * [`Failure`] is an input that breaks a rule, made as small as it can be with little effort.
//!
//! Without the compiler's instrumentation, which stable Rust does not have, an input is kept for
//! further mutation if the *shape* of its outcome is new: the text of the outcome without numbers
//! and quoted texts. Decoders say what they found, so that leads them deep enough.

mod driver;
mod mutate;
mod random;
mod targets;
mod tokens;

pub use driver::{Bounds, Decoder, Failure, Plan, Run, Shape, Summary, Target, fuzz, hush, judge};
pub use targets::targets;

/// Counts what is allocated, since no decoder may take much more than what it was sent.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
