//! Protobuf types, generated here only, and their checked conversions to the model.
//!
//! [`proto`] holds what the files below `proto/` say, as prost and tonic generate it. Everything
//! else in this crate turns those types into words of `headcount-model` and back: outward with
//! `From`, inward with `TryFrom` and an error that names the field.

/// Generated types and services, one module per protobuf package.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations, reason = "generated")]
pub mod proto {
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/headcount.rs"));
    }
    pub use generated::headcount::*;
    /// The descriptors of every file, for reflection and for the surface test.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
}
