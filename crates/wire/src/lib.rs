//! Protobuf types, generated here only, and their checked conversions to the model.
//!
//! [`proto`] holds what the files below `proto/` say, as prost and tonic generate it. Everything
//! else in this crate turns those types into words of `headcount-model` and back: outward with
//! `From`, inward with `TryFrom` and an error that names the field.

mod control;
mod entry;
mod error;
mod feed;
mod fields;
mod gossip;
mod journal;
mod names;
mod read;
mod report;
mod shard;
mod snapshot;

#[cfg(test)]
mod tests;

pub use control::{
    decode_control_command, decode_control_reply, decode_control_snapshot, encode_control_command,
    encode_control_reply, encode_control_snapshot,
};
pub use entry::{decode_entry, encode_entry};
pub use error::WireError;
pub use feed::{put_watch_item, put_watch_request, take_watch_item, take_watch_request};
pub use gossip::{LoggedMark, Parcel, ParcelBody, decode_parcels, encode_parcels};
pub use journal::{
    decode_logged, decode_past_event, encode_logged, encode_past_event, put_kinds, take_kinds,
};
pub use names::{NAMES_MAX, NameReader, NameWriter};
pub use read::{Early, put_early, take_early};
pub use report::{
    REPORT_PROTOCOL, ReceivedBatch, ReportReceived, put_hello, put_item, put_refusal, put_welcome,
    take_hello, take_item, take_refusal_code, take_report_request, take_welcome,
};
pub use snapshot::{decode_snapshot, encode_snapshot};

/// Generated types and services, one module per protobuf package.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::nursery,
    clippy::pedantic,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated"
)]
pub mod proto {
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/headcount.rs"));
    }
    pub use generated::headcount::*;
    /// The descriptors of every file, for reflection and for the surface test.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
}
