//! The one protocol message of which every server frame is a part, and its two encodings.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::format::Format;
use crate::message::Message;
use crate::presence::PresenceMessage;
use crate::protocol_error::ProtocolError;
use crate::server::{ConnectionDetails, PublishResult};

/// A server frame on the wire, or a part of one. What is `None` is left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel_serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) msg_serial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) res: Option<&'a [PublishResult]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_details: Option<&'a ConnectionDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a ProtocolError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages: Option<&'a [Message]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence: Option<&'a [PresenceMessage]>,
}

impl Wire<'_> {
    pub(crate) fn encode(&self, format: Format) -> Vec<u8> {
        const INFALLIBLE: &str = "memory takes all, keys are text, and depth has a bound";
        match format {
            Format::Json => serde_json::to_vec(self).expect(INFALLIBLE),
            Format::MessagePack => rmp_serde::to_vec_named(self).expect(INFALLIBLE),
        }
    }
}

/// Joins two encoded parts of a frame, neither empty and no field in both, to the encoding of the
/// whole.
pub(crate) fn join(format: Format, head: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(head.len() + tail.len());
    match format {
        // {head} {tail}: the inner braces become a comma.
        Format::Json => {
            whole.extend_from_slice(&head[..head.len() - 1]);
            whole.push(b',');
        }
        // A map of up to 15 entries begins with one byte, 0x80 plus their number; a whole `Wire`
        // has no more.
        Format::MessagePack => {
            debug_assert!(head[0] & tail[0] & 0xf0 == 0x80 && (head[0] & 15) + (tail[0] & 15) < 16);
            whole.push(head[0] + (tail[0] & 0x0f));
            whole.extend_from_slice(&head[1..]);
        }
    }
    whole.extend_from_slice(&tail[1..]);
    whole
}
