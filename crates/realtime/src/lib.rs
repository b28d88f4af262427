//! The words of Ably's realtime protocol: what clients and a node say to each other over one
//! websocket.
//!
//! ```text
//! query ──CONNECTQUERY──▶ format, resume key …
//! payload ──CLIENTFRAME::decode──▶ the session ──SERVERFRAME::encode──▶ payload
//! ATTACH ──ATTACHPARAMS::resolve──▶ modes ∩ CHANNELMODES::permitted(Credential) ──▶ what counts
//! published once ──BROADCAST──▶ one encoding per format ──frame(channel, serial)──▶ each subscriber
//! ```
//!
//! * [`ClientFrame`] is what a client may say; a frame that cannot be taken is a [`RefusedFrame`],
//!   which knows the reply that the client waits for.
//! * [`ServerFrame`] is what a node may say; absent fields are left out, never null.
//! * [`Broadcast`] is one message or presence change on its way to many subscribers.
//! * [`Message`], [`PresenceMessage`] and [`Payload`] are the same in both [`Format`]s; only their
//!   encodings differ.
//! * [`ChannelModes`], [`AttachParams`], [`OccupancyParam`], [`flags`] are what an ATTACH asks for.
//! * [`ProtocolError`] is the error object of the wire; every error here becomes one.
//!
//! A client is not trusted: every length, count and depth has a bound in `limits.rs`, nothing is
//! allocated because a frame merely claims a length, and no input makes a decoder panic.
//!
//! Driver's duties:
//! 1. Decode a payload in the format of [`ConnectQuery::format`], not by its websocket opcode.
//! 2. Answer a [`RefusedFrame`] by its [`RefusedFrame::reply`].
//! 3. Fill in what a client may not say: `connectionId`, `timestamp`, `serial`; judge its `clientId`.
//!
//! What it does not do: no I/O, no clock, no randomness, no session, no order of frames, and no
//! judgement of channel names beyond their length. The rules are those of the contract, §5.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod action;
mod broadcast;
mod client;
mod error;
mod fields;
pub mod flags;
mod format;
mod limits;
mod message;
mod modes;
mod occupancy;
mod params;
mod payload;
mod presence;
mod protocol_error;
mod query;
mod server;
mod tree;
mod wire;

pub use broadcast::{Broadcast, Content, Envelope};
pub use client::{ClientFrame, RefusedFrame};
pub use error::FrameError;
pub use format::Format;
pub use limits::{
    CHANNEL_TEXT_BYTES_MAX, DEPTH_MAX, Limits, MESSAGES_MAX, PARAMS_MAX, PRESENCE_MAX,
    TEXT_BYTES_MAX, VALUES_MAX,
};
pub use message::{Message, MessageAction};
pub use modes::ChannelModes;
pub use occupancy::OccupancyParam;
pub use params::{AttachParams, REWIND_MESSAGES_MAX, REWIND_SPAN_MAX, Rewind};
pub use payload::Payload;
pub use presence::{PresenceAction, PresenceId, PresenceMessage};
pub use protocol_error::ProtocolError;
pub use query::{ConnectQuery, HEARTBEAT_INTERVAL_MS_MAX, HEARTBEAT_INTERVAL_MS_MIN};
pub use server::{ConnectionDetails, PublishResult, ServerFrame};
