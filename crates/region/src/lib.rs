//! Registers of a region's nodes become regional occupancy and activity.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
