//! Apps, keys and moments that the tests share.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use headcount_access::{
    AccessError, AppSpec, Apps, Credential, KeySpec, NonceWindow, Presented, Secret, TokenDetails,
    TokenRequest, authenticate, issue_token,
};

/// A moment in 2025.
pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

pub(crate) const ROOT: &str = "dev.root:root-secret";

pub(crate) fn apps() -> Apps {
    let key = |id: &str, capability: &str| KeySpec {
        id: id.to_owned(),
        secret: Secret::new(format!("{id}-secret")),
        capability: capability.to_owned(),
        enabled: id != "revoked",
    };
    Apps::new(vec![
        AppSpec {
            id: "dev".to_owned(),
            keys: vec![
                key("root", r#"{"[*]*":["*"]}"#),
                key("nometa", r#"{"*":["*"]}"#),
                key("meta", r#"{"[meta]*":["subscribe","history"]}"#),
                key(
                    "rooms",
                    r#"{"room:*":["subscribe","publish"],"lobby":["*"]}"#,
                ),
                key("revoked", r#"{"*":["*"]}"#),
            ],
        },
        AppSpec {
            id: "other".to_owned(),
            keys: vec![key("root", r#"{"*":["*"]}"#)],
        },
    ])
    .unwrap()
}

pub(crate) fn by_key(key: &str) -> Credential {
    authenticate(&apps(), Presented::KeyParam(key), NOW_MS).unwrap()
}

pub(crate) fn by_token(token: &str, now_ms: u64) -> Result<Credential, AccessError> {
    authenticate(&apps(), Presented::Bearer(token), now_ms)
}

/// A token issued to the key itself, without a mac.
pub(crate) fn token_of(key: &str, body: &Value) -> Result<TokenDetails, AccessError> {
    let presenter = by_key(key);
    issue_token(
        &apps(),
        presenter.key_name(),
        &TokenRequest::from_value(body)?,
        Some(&presenter),
        &mut NonceWindow::new(0),
        [7; 16],
        NOW_MS,
    )
}

pub(crate) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// A JWT made by other code than the crate's.
pub(crate) fn jwt(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

/// A valid JWT of `dev.<key>` with further claims, which may replace the usual ones.
pub(crate) fn jwt_of(key: &str, more: &Value) -> String {
    let mut claims = json!({ "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 3600 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let header = json!({ "typ": "JWT", "alg": "HS256", "kid": format!("dev.{key}") });
    jwt(&header, &claims, &format!("{key}-secret"))
}
