//! Apps, keys and credentials that are valid, to begin from.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headcount_access::{
    AppSpec, Apps, Credential, KeySpec, NonceWindow, Presented, Secret, TokenRequest, authenticate,
    issue_token,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// A moment in 2025.
pub(crate) const NOW_MS: u64 = 1_760_000_000_000;

/// The keys of the app: id and capability.
const KEYS: [(&str, &str); 3] = [
    ("root", r#"{"[*]*":["*"]}"#),
    (
        "rooms",
        r#"{"room:*":["subscribe","publish"],"lobby":["*"]}"#,
    ),
    ("meta", r#"{"[meta]*":["subscribe","history"]}"#),
];

pub(crate) fn apps() -> Apps {
    let keys = KEYS.map(|(id, capability)| KeySpec {
        id: id.to_owned(),
        secret: Secret::new(format!("{id}-secret")),
        capability: capability.to_owned(),
        enabled: true,
    });
    let app = AppSpec {
        id: "dev".to_owned(),
        keys: keys.into(),
    };
    Apps::new(vec![app]).expect("the app is well formed")
}

/// Judges a text in each way in which it may be presented.
pub(crate) fn present(apps: &Apps, text: &str) -> Vec<Credential> {
    [
        Presented::Basic(text),
        Presented::Bearer(text),
        Presented::KeyParam(text),
        Presented::TokenParam(text),
    ]
    .into_iter()
    .filter_map(|presented| authenticate(apps, presented, NOW_MS).ok())
    .collect()
}

/// Valid credentials of every kind, as they are presented.
pub(crate) fn valid(apps: &Apps) -> Vec<String> {
    let mut all = Vec::new();
    for (id, _) in KEYS {
        let key = format!("dev.{id}:{id}-secret");
        all.push(STANDARD.encode(&key));
        let presenter = present(apps, &key).pop().expect("the key is valid");
        all.push(key);
        for body in [json!({}), json!({ "clientId": "ann", "ttl": 60_000 })] {
            let request = TokenRequest::from_value(&body).expect("the request is well formed");
            let details = issue_token(
                apps,
                presenter.key_name(),
                &request,
                Some(&presenter),
                &mut NonceWindow::new(0),
                [7; 16],
                NOW_MS,
            );
            let token = details.expect("the request is granted").token;
            all.push(STANDARD.encode(&token));
            all.push(token);
        }
        all.push(jwt(id, &json!({})));
        let more = json!({ "x-ably-clientId": "*", "x-ably-capability": "{\"lobby\":[\"*\"]}" });
        all.push(jwt(id, &more));
    }
    all
}

/// A JWT of a key.
fn jwt(id: &str, more: &Value) -> String {
    let mut claims = json!({ "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 3600 });
    for (name, value) in more.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    let header = json!({ "typ": "JWT", "alg": "HS256", "kid": format!("dev.{id}") });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let secret = format!("{id}-secret");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key does");
    mac.update(signed.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{signed}.{mac}")
}
