//! One module per rule of the house.

pub mod designs;
pub mod docs;
pub mod layers;
pub mod links;
pub mod machine;
pub mod makefile;
pub mod manifests;
pub mod metrics;
pub mod modules;
pub mod plain;
pub mod pure;
pub mod readme;
pub mod sleeps;
pub mod words;
