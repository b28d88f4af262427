//! `POST /keys/{keyName}/requestToken` (contract §4.2): from a signed request to a token.

use serde_json::{Map, Value};

use crate::apps::{Apps, Key, Secret};
use crate::capability::Capability;
use crate::client_id::ClientIdRule;
use crate::credential::Credential;
use crate::encoding::{encode_base64, equal_in_constant_time, hmac_sha256};
use crate::error::{AccessError, excerpt};
use crate::nonce::NonceWindow;
use crate::token::{self, TokenDetails};

/// How far a signed request's timestamp may be from this node's clock, either way.
pub const TIMESTAMP_WINDOW_MS: u64 = 120_000;
/// The shortest nonce, in characters.
pub const NONCE_CHARS_MIN: usize = 16;
/// How long a token lives if the request does not say.
pub const TOKEN_TTL_MS_DEFAULT: u64 = 60 * 60 * 1000;
/// The longest life of a token.
pub const TOKEN_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The longest nonce, in bytes; clients send 16 digits.
const NONCE_BYTES_MAX: usize = 1024;

/// A request for a token as it arrived; absent and null fields are the same. Whether it is valid
/// is decided by [`issue_token`].
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    key_name: Option<String>,
    ttl: Option<Number>,
    capability: Option<CapabilityField>,
    client_id: Option<String>,
    timestamp: Option<Number>,
    nonce: Option<String>,
    mac: Option<String>,
}

/// A number and how it was written, since the mac is over the text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Number {
    value: i64,
    text: String,
}

/// Clients send the text, exactly as they signed it; by hand, without a mac, an object is handier.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CapabilityField {
    Text(String),
    Object(Value),
}

impl TokenRequest {
    /// Reads the body of a request, which front ends have decoded from JSON or MessagePack.
    /// Numbers may be strings; unknown fields are ignored.
    ///
    /// # Errors
    /// [`AccessError::InvalidBody`] (40001) if it is no object, [`AccessError::InvalidParameter`]
    /// (40003) if a field is of the wrong type.
    pub fn from_value(body: &Value) -> Result<Self, AccessError> {
        let Value::Object(fields) = body else {
            return Err(AccessError::InvalidBody {
                reason: "it is not an object",
            });
        };
        Ok(Self {
            key_name: text_field(fields, "keyName")?,
            ttl: number_field(fields, "ttl")?,
            capability: match fields.get("capability") {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) if text.is_empty() => None,
                Some(Value::String(text)) => Some(CapabilityField::Text(text.clone())),
                Some(other) => Some(CapabilityField::Object(other.clone())),
            },
            client_id: text_field(fields, "clientId")?,
            timestamp: number_field(fields, "timestamp")?,
            nonce: text_field(fields, "nonce")?,
            mac: text_field(fields, "mac")?,
        })
    }

    /// True if the request carries a mac and so needs no other credential.
    pub fn is_signed(&self) -> bool {
        self.mac.is_some()
    }

    /// The mac that the request must carry: base64 of the HMAC-SHA256 over its fields, each
    /// followed by a line feed, absent ones empty.
    ///
    /// # Errors
    /// [`AccessError::InvalidParameter`] if the capability is an object, which has no one text.
    pub fn mac(&self, secret: &Secret) -> Result<String, AccessError> {
        let capability = match &self.capability {
            None => "",
            Some(CapabilityField::Text(text)) => text,
            Some(CapabilityField::Object(_)) => {
                return Err(AccessError::InvalidParameter {
                    parameter: "capability",
                    reason: "in a signed request it must be a string",
                });
            }
        };
        let number = |field: &'_ Option<Number>| {
            field
                .as_ref()
                .map_or_else(String::new, |number| number.text.clone())
        };
        let text = format!(
            "{}\n{}\n{capability}\n{}\n{}\n{}\n",
            self.key_name.as_deref().unwrap_or(""),
            number(&self.ttl),
            self.client_id.as_deref().unwrap_or(""),
            number(&self.timestamp),
            self.nonce.as_deref().unwrap_or(""),
        );
        Ok(encode_base64(&hmac_sha256(
            secret.as_bytes(),
            &[text.as_bytes()],
        )))
    }

    fn check_key_name(&self, expected: &str) -> Result<(), AccessError> {
        match &self.key_name {
            Some(presented) if presented != expected => Err(AccessError::IncompatibleKey {
                expected: excerpt(expected),
                presented: excerpt(presented),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn check_signature(
        &self,
        key: &Key,
        presented: &str,
        nonces: &mut NonceWindow,
        now_ms: u64,
    ) -> Result<(), AccessError> {
        let expected = self.mac(key.secret())?;
        if !equal_in_constant_time(expected.as_bytes(), presented.as_bytes()) {
            return Err(AccessError::MacMismatch);
        }
        // Only who knows the secret learns that the key is revoked, and can fill the window.
        key.require_enabled()?;
        let timestamp_ms = self
            .timestamp
            .as_ref()
            .ok_or(AccessError::InvalidParameter {
                parameter: "timestamp",
                reason: "it is missing",
            })?
            .value;
        let stamped_at_ms = u64::try_from(timestamp_ms)
            .ok()
            .filter(|stamped_at_ms| stamped_at_ms.abs_diff(now_ms) <= TIMESTAMP_WINDOW_MS)
            .ok_or(AccessError::TimestampOutOfWindow {
                timestamp_ms,
                now_ms,
            })?;
        let nonce = self.nonce.as_deref().unwrap_or("");
        if nonce.chars().count() < NONCE_CHARS_MIN {
            return Err(AccessError::InvalidParameter {
                parameter: "nonce",
                reason: "it needs at least 16 characters",
            });
        }
        if nonce.len() > NONCE_BYTES_MAX {
            return Err(AccessError::InvalidParameter {
                parameter: "nonce",
                reason: "it is too long",
            });
        }
        let forget_at_ms = stamped_at_ms.saturating_add(TIMESTAMP_WINDOW_MS);
        nonces.spend(key.name(), nonce, forget_at_ms, now_ms)
    }

    fn ttl_ms(&self) -> Result<u64, AccessError> {
        let Some(ttl) = &self.ttl else {
            return Ok(TOKEN_TTL_MS_DEFAULT);
        };
        let reason = match u64::try_from(ttl.value) {
            Ok(0) | Err(_) => "it must be positive",
            Ok(ttl_ms) if ttl_ms > TOKEN_TTL_MS_MAX => "it must not exceed 24 hours",
            Ok(ttl_ms) => return Ok(ttl_ms),
        };
        Err(AccessError::InvalidParameter {
            parameter: "ttl",
            reason,
        })
    }

    fn granted_capability(&self, key: &Key) -> Result<Capability, AccessError> {
        let granted = match &self.capability {
            None => key.capability().as_ref().clone(),
            Some(CapabilityField::Text(text)) => {
                key.capability().intersection(&Capability::parse(text)?)?
            }
            Some(CapabilityField::Object(value)) => key
                .capability()
                .intersection(&Capability::from_value(value)?)?,
        };
        if granted.is_empty() {
            return Err(AccessError::NothingPermitted {
                key_name: key.name().to_string(),
            });
        }
        Ok(granted)
    }
}

/// No secret is in it, but a mac that is not used up is worth a token.
impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest")
            .field("key_name", &self.key_name)
            .field("ttl", &self.ttl)
            .field("capability", &self.capability)
            .field("client_id", &self.client_id)
            .field("timestamp", &self.timestamp)
            .field("signed", &self.is_signed())
            .finish_non_exhaustive()
    }
}

/// Issues a token of the key `key_name` (the one in the path).
///
/// A request with a mac is judged by the mac alone, whatever else was presented. One without needs
/// the same key as `presenter`. `token_id` is random and `now_ms` the wall clock in milliseconds
/// since the epoch.
///
/// # Errors
/// Wrong key or mac (40101), another key (40102), timestamp (40104), nonce (40105), revoked key
/// (40131), a token instead of a key (40162), a field out of bounds (40003), an unreadable
/// capability (40000) or one of which the key permits nothing (40160).
pub fn issue_token(
    apps: &Apps,
    key_name: &str,
    request: &TokenRequest,
    presenter: Option<&Credential>,
    nonces: &mut NonceWindow,
    token_id: [u8; 16],
    now_ms: u64,
) -> Result<TokenDetails, AccessError> {
    let key = match (&request.mac, presenter) {
        (Some(mac), _) => {
            request.check_key_name(key_name)?;
            let key = apps.key(key_name).ok_or(AccessError::BadCredentials)?;
            request.check_signature(key, mac, nonces, now_ms)?;
            key
        }
        (None, Some(presenter)) => {
            presenter.require_key()?;
            if **presenter.key_name() != *key_name {
                return Err(AccessError::IncompatibleKey {
                    expected: excerpt(key_name),
                    presented: presenter.key_name().to_string(),
                });
            }
            request.check_key_name(key_name)?;
            let key = apps.key(key_name).ok_or(AccessError::BadCredentials)?;
            key.require_enabled()?;
            key
        }
        (None, None) => return Err(AccessError::NoCredentials),
    };
    let capability = request.granted_capability(key)?;
    let expires_at_ms = now_ms.saturating_add(request.ttl_ms()?);
    ClientIdRule::of_token(request.client_id.as_deref())?;
    let client_id = request.client_id.clone();
    Ok(token::issue(
        key,
        &capability,
        client_id,
        now_ms,
        expires_at_ms,
        token_id,
    ))
}

fn text_field(
    fields: &Map<String, Value>,
    parameter: &'static str,
) -> Result<Option<String>, AccessError> {
    match fields.get(parameter) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(AccessError::InvalidParameter {
                parameter,
                reason: "it must be a string",
            })
        }
    }
}

fn number_field(
    fields: &Map<String, Value>,
    parameter: &'static str,
) -> Result<Option<Number>, AccessError> {
    let number = match fields.get(parameter) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => text.parse().ok().map(|value| Number {
            value,
            text: text.clone(),
        }),
        Some(Value::Number(number)) => whole(number).map(|value| Number {
            value,
            text: value.to_string(),
        }),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    number.map(Some).ok_or(AccessError::InvalidParameter {
        parameter,
        reason: "it must be a whole number of milliseconds",
    })
}

/// Some MessagePack encoders write large whole numbers as floats.
fn whole(number: &serde_json::Number) -> Option<i64> {
    /// Beyond 2^53 a float no longer tells one whole number from the next.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let value = number.as_f64()?;
        (value.fract() == 0.0 && value.abs() <= EXACT_MAX).then_some(value as i64)
    })
}
