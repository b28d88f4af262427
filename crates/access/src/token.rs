//! This cluster's own tokens: self-contained, so that every node accepts what any has issued.
//!
//! ```text
//! token   = appId "." base64url( claims ‖ mac )
//! claims  = JSON, see `Claims`
//! mac     = HMAC-SHA256( HMAC-SHA256(secret of the key, LABEL), appId "." claims )
//! ```
//! The label keeps these macs apart from the others that the same secret makes (JWTs, token
//! requests, webhook signatures). A changed secret or a disabled key ends all tokens of the key.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::apps::{Apps, Key};
use crate::capability::Capability;
use crate::client_id::ClientIdRule;
use crate::credential::{Credential, CredentialKind};
use crate::encoding::{decode_base64_url, encode_base64_url, equal_in_constant_time, hmac_sha256};
use crate::error::AccessError;

const LABEL: &[u8] = b"headcount token v1";
const VERSION: u32 = 1;
const MAC_BYTES: usize = 32;

/// The answer to a token request, with the contract's field names (§4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenDetails {
    /// The token.
    pub token: String,
    /// The key by which it was issued, `appId.keyId`.
    pub key_name: String,
    /// When it was issued, in milliseconds since the epoch.
    pub issued: u64,
    /// When it expires, in milliseconds since the epoch.
    pub expires: u64,
    /// The canonical text of its capability.
    pub capability: String,
    /// Its client id; `*` allows any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// What a token says. The names are short because the token travels in URLs.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "v")]
    version: u32,
    #[serde(rename = "k")]
    key_id: String,
    #[serde(rename = "i")]
    issued_at_ms: u64,
    #[serde(rename = "e")]
    expires_at_ms: u64,
    #[serde(rename = "c")]
    capability: String,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// Makes two tokens for the same request differ.
    #[serde(rename = "n")]
    token_id: String,
}

/// Issues a token; what goes into it has been decided.
pub(crate) fn issue(
    key: &Key,
    capability: &Capability,
    client_id: Option<String>,
    issued_at_ms: u64,
    expires_at_ms: u64,
    token_id: [u8; 16],
) -> TokenDetails {
    let claims = Claims {
        version: VERSION,
        key_id: key.id().to_owned(),
        issued_at_ms,
        expires_at_ms,
        capability: capability.to_string(),
        client_id,
        token_id: encode_base64_url(&token_id),
    };
    let mut sealed = serde_json::to_vec(&claims).expect("numbers and strings can be serialized");
    let mac = token_mac(key, &sealed);
    sealed.extend_from_slice(&mac);
    TokenDetails {
        token: format!("{}.{}", key.app(), encode_base64_url(&sealed)),
        key_name: key.name().to_string(),
        issued: issued_at_ms,
        expires: expires_at_ms,
        capability: claims.capability,
        client_id: claims.client_id,
    }
}

/// Reads a token and checks all of it: mac, key, expiry.
pub(crate) fn verify(apps: &Apps, token: &str, now_ms: u64) -> Result<Credential, AccessError> {
    let (app, sealed) = token.split_once('.').ok_or(AccessError::UnreadableToken)?;
    let sealed = decode_base64_url(sealed).ok_or(AccessError::MalformedToken)?;
    let (payload, mac) = sealed
        .len()
        .checked_sub(MAC_BYTES)
        .map(|length| sealed.split_at(length))
        .ok_or(AccessError::MalformedToken)?;
    // Nothing of the claims is believed before the mac is right; they only say which key to try.
    let claims: Claims =
        serde_json::from_slice(payload).map_err(|_| AccessError::MalformedToken)?;
    let key = apps
        .key(&format!("{app}.{}", claims.key_id))
        .ok_or(AccessError::UnrecognisedToken)?;
    if !equal_in_constant_time(&token_mac(key, payload), mac) || claims.version != VERSION {
        return Err(AccessError::UnrecognisedToken);
    }
    key.require_enabled()?;
    if claims.expires_at_ms <= now_ms {
        return Err(AccessError::TokenExpired {
            expires_at_ms: claims.expires_at_ms,
            now_ms,
        });
    }
    // Signed by this product, so a fault here is an older release's leniency, not an attack.
    let capability =
        Capability::parse(&claims.capability).map_err(|_| AccessError::MalformedToken)?;
    let client_id = ClientIdRule::of_token(claims.client_id.as_deref())
        .map_err(|_| AccessError::MalformedToken)?;
    Ok(
        Credential::new(key, CredentialKind::Token, Arc::new(capability), client_id)
            .valid(claims.issued_at_ms, claims.expires_at_ms),
    )
}

fn token_mac(key: &Key, payload: &[u8]) -> [u8; 32] {
    let signing_key = hmac_sha256(key.secret().as_bytes(), &[LABEL]);
    hmac_sha256(&signing_key, &[key.app().as_bytes(), b".", payload])
}
