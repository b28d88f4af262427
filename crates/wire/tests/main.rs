//! What the files below `proto/` promise: their surface changes only on purpose, and they keep the
//! rules of `proto/README.md`.

mod conventions;
mod surface;

use std::path::PathBuf;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The directory that holds every `.proto` file.
fn proto_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

/// Our own files as the compiler understood them, sorted by path.
fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(headcount_wire::proto::DESCRIPTORS)
        .expect("build.rs wrote a descriptor set");
    let mut files = set.file;
    files.retain(|file| file.package().starts_with("headcount."));
    files.sort_by(|a, b| a.name().cmp(b.name()));
    assert!(!files.is_empty(), "no file of ours in the descriptor set");
    files
}
