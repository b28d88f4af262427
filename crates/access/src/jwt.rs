//! JSON Web Tokens that an app's own server signed with the secret of a key (contract §4.3).
//!
//! Only HS256 is accepted: the algorithm is this crate's choice, never the token's. That rules out
//! `none` and the confusion of a public key with a secret.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::apps::Apps;
use crate::capability::Capability;
use crate::client_id::ClientIdRule;
use crate::credential::{Credential, CredentialKind};
use crate::encoding::{decode_base64_url, equal_in_constant_time, hmac_sha256};
use crate::error::AccessError;

/// How far a JWT's `iat` and `nbf` may be ahead of this node's clock, in milliseconds: the same two
/// minutes that a token request's timestamp has. `exp` has no leeway.
pub const JWT_SKEW_MS: u64 = 120_000;

/// Verifies a JWT of three parts.
pub(crate) fn verify(apps: &Apps, jwt: &str, now_ms: u64) -> Result<Credential, AccessError> {
    let (signed, signature) = jwt.rsplit_once('.').ok_or(AccessError::UnreadableToken)?;
    let (header, claims) = signed.split_once('.').ok_or(AccessError::UnreadableToken)?;

    let header = decode_object(header, "its header is not a JSON object")?;
    if header.get("alg").and_then(Value::as_str) != Some("HS256") {
        return Err(AccessError::InvalidJwt {
            reason: "its algorithm is not HS256",
        });
    }
    if header.contains_key("crit") {
        return Err(AccessError::InvalidJwt {
            reason: "it has critical extensions",
        });
    }
    let key_name = header
        .get("kid")
        .and_then(Value::as_str)
        .ok_or(AccessError::InvalidJwt {
            reason: "its header has no kid, the key's name",
        })?;
    // One reason for both, so that nobody learns which keys exist.
    let forged = AccessError::InvalidJwt {
        reason: "no key of this name has signed it",
    };
    let Some(key) = apps.key(key_name) else {
        return Err(forged);
    };
    let expected = hmac_sha256(key.secret().as_bytes(), &[signed.as_bytes()]);
    let genuine = decode_base64_url(signature)
        .is_some_and(|signature| equal_in_constant_time(&expected, &signature));
    if !genuine {
        return Err(forged);
    }
    key.require_enabled()?;

    let claims = decode_object(claims, "its claims are not a JSON object")?;
    let issued_at_ms =
        time_claim(&claims, "iat")?.ok_or(AccessError::MalformedClaim { claim: "iat" })?;
    let expires_at_ms =
        time_claim(&claims, "exp")?.ok_or(AccessError::MalformedClaim { claim: "exp" })?;
    let valid_from_ms = time_claim(&claims, "nbf")?.unwrap_or(0);
    if expires_at_ms <= now_ms {
        return Err(AccessError::TokenExpired {
            expires_at_ms,
            now_ms,
        });
    }
    if issued_at_ms.max(valid_from_ms) > now_ms.saturating_add(JWT_SKEW_MS) {
        return Err(AccessError::InvalidJwt {
            reason: "its time has not come",
        });
    }
    if claims.contains_key("x-ably-token") {
        return Err(AccessError::UnsupportedToken {
            kind: "a JWT that embeds another token",
        });
    }

    let capability = match claims.get("x-ably-capability") {
        None | Some(Value::Null) => Arc::clone(key.capability()),
        Some(claim) => {
            let claimed =
                Capability::from_value(claim).map_err(|_| AccessError::MalformedClaim {
                    claim: "x-ably-capability",
                })?;
            Arc::new(key.capability().intersection(&claimed)?)
        }
    };
    if capability.is_empty() {
        return Err(AccessError::NothingPermitted {
            key_name: key.name().to_string(),
        });
    }
    let client_id =
        ClientIdRule::of_token(text_claim(&claims, "x-ably-clientId")?).map_err(|_| {
            AccessError::MalformedClaim {
                claim: "x-ably-clientId",
            }
        })?;
    let revocation_key = text_claim(&claims, "x-ably-revocation-key")?;
    Ok(
        Credential::new(key, CredentialKind::Jwt, capability, client_id)
            .valid(issued_at_ms, expires_at_ms)
            .revocable_by(revocation_key),
    )
}

fn decode_object(part: &str, reason: &'static str) -> Result<Map<String, Value>, AccessError> {
    decode_base64_url(part)
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or(AccessError::InvalidJwt { reason })
}

/// A time in seconds since the epoch, whole or with a fraction, as milliseconds. Times beyond the
/// range stay at its end.
fn time_claim(
    claims: &Map<String, Value>,
    claim: &'static str,
) -> Result<Option<u64>, AccessError> {
    let malformed = AccessError::MalformedClaim { claim };
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::Number(seconds)) => match (seconds.as_u64(), seconds.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds.saturating_mul(1000))),
            (None, Some(seconds)) if seconds >= 0.0 => Ok(Some((seconds * 1000.0) as u64)),
            _ => Err(malformed),
        },
        Some(
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
        ) => Err(malformed),
    }
}

fn text_claim<'a>(
    claims: &'a Map<String, Value>,
    claim: &'static str,
) -> Result<Option<&'a str>, AccessError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(AccessError::MalformedClaim { claim })
        }
    }
}
