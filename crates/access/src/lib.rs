//! Keys, tokens, capabilities and the one decision whether a credential may do something.
//!
//! ```text
//! header or query ──Presented──▶ authenticate(Apps, now) ──▶ CREDENTIAL ──may(operation, channel)──▶ yes | AccessError
//! requestToken body ──TokenRequest──▶ issue_token(Apps, NonceWindow, now) ──▶ TokenDetails
//! ```
//!
//! Every front end (REST, realtime, server-sent events, the reporter API) asks here and nowhere
//! else, so the answer is the same on all of them. The rules are those of the contract, §4, and an
//! [`AccessError`] carries the contract's code and HTTP status.
//!
//! * [`Apps`] is what the configuration says: apps, their keys, secrets and capabilities.
//! * [`Capability`] is a set of resource patterns with operations: parse, print canonically,
//!   match, intersect.
//! * [`QualifiedName`] takes a channel as a client wrote it apart: qualifier, params, base name.
//! * [`Credential`] is the outcome of [`authenticate`]; nothing else makes one.
//! * Tokens are self-contained and signed by a key derived from the API key's secret, so that each
//!   node of a cluster accepts what any other has issued, with no shared state.
//!
//! Driver's duties:
//! 1. Bring the wall clock as milliseconds since the epoch, and random bytes as token ids.
//! 2. Keep one [`NonceWindow`] per node and lend it to each [`issue_token`].
//! 3. Ask [`Revocations::check`] after [`authenticate`], where revocations are kept.
//! 4. End or renew a live connection when [`Credential::expires_at_ms`] has come.
//! 5. Build [`Apps`] anew when the configuration changes; credentials at work keep what they had.
//!
//! What it does not do: no I/O, no clock, no randomness, no rate limits, and no validation of a
//! channel's base name beyond what a decision rests on.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod apps;
mod capability;
mod client_id;
mod credential;
mod encoding;
mod error;
mod jwt;
mod name;
mod nonce;
mod operation;
mod pattern;
mod revocation;
mod token;
mod token_request;

pub use apps::{ApiKey, AppSpec, Apps, AppsFault, Key, KeySpec, Secret};
pub use capability::{CAPABILITY_BYTES_MAX, Capability, CapabilityError, RESOURCES_MAX};
pub use client_id::{CLIENT_ID_BYTES_MAX, ClientIdRule};
pub use credential::{Credential, CredentialKind, Presented, TOKEN_BYTES_MAX, authenticate};
pub use error::AccessError;
pub use jwt::JWT_SKEW_MS;
pub use name::{NAME_PARAMS_MAX, NameFault, QualifiedName};
pub use nonce::NonceWindow;
pub use operation::{Operation, Operations};
pub use revocation::{RevocationTarget, Revocations, RevocationsFull};
pub use token::TokenDetails;
pub use token_request::{
    NONCE_CHARS_MIN, TIMESTAMP_WINDOW_MS, TOKEN_TTL_MS_DEFAULT, TOKEN_TTL_MS_MAX, TokenRequest,
    issue_token,
};
