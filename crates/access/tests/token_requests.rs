//! Token requests: signatures, times, nonces, bounds.

use headcount_access::{
    AccessError, Credential, NonceWindow, Secret, TIMESTAMP_WINDOW_MS, TOKEN_TTL_MS_DEFAULT,
    TOKEN_TTL_MS_MAX, TokenDetails, TokenRequest, issue_token,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{NOW_MS, ROOT, apps, by_key, by_token, token_of};

const NONCE: &str = "1234567890123456";

/// Computed with Python:
/// `hmac.new(b"root-secret", b"dev.root\n\n\n\n1760000000000\n1234567890123456\n", sha256)`.
const PLAIN_MAC: &str = "qgLyBbOXEp1Y0BJOAyS6p3zaPTOyZWHsP+thdl5CK84=";
/// The same over
/// `dev.root\n3600000\n{"room:*":["subscribe"]}\nalice\n1760000000000\n1234567890123456\n`.
const FULL_MAC: &str = "AY3WpLwLSM4KGp3n3tVelPWXYBo2t68+NklgjoRtor0=";

fn plain() -> Value {
    json!({ "keyName": "dev.root", "timestamp": NOW_MS, "nonce": NONCE, "mac": PLAIN_MAC })
}

fn full() -> Value {
    json!({
        "keyName": "dev.root", "ttl": 3_600_000, "capability": r#"{"room:*":["subscribe"]}"#,
        "clientId": "alice", "timestamp": NOW_MS, "nonce": NONCE, "mac": FULL_MAC,
    })
}

/// The body with its mac made right.
fn signed(mut body: Value) -> Value {
    let mac = TokenRequest::from_value(&body)
        .unwrap()
        .mac(&Secret::new("root-secret"))
        .unwrap();
    body["mac"] = Value::String(mac);
    body
}

fn issue_at(
    body: &Value,
    nonces: &mut NonceWindow,
    now_ms: u64,
) -> Result<TokenDetails, AccessError> {
    let request = TokenRequest::from_value(body)?;
    issue_token(&apps(), "dev.root", &request, None, nonces, [1; 16], now_ms)
}

fn issue(body: &Value) -> Result<TokenDetails, AccessError> {
    issue_at(body, &mut NonceWindow::new(10), NOW_MS)
}

#[track_caller]
fn refused(body: &Value, code: u32, status: u16) {
    let error = issue(body).unwrap_err();
    assert_eq!((error.code(), error.status()), (code, status), "{error}");
}

#[test]
fn a_signed_request_yields_a_token() {
    let details = issue(&full()).unwrap();
    assert_eq!(
        serde_json::to_value(&details).unwrap(),
        json!({
            "token": details.token, "keyName": "dev.root", "issued": NOW_MS,
            "expires": NOW_MS + 3_600_000, "capability": r#"{"room:*":["subscribe"]}"#,
            "clientId": "alice",
        })
    );
    let credential = by_token(&details.token, NOW_MS).unwrap();
    assert_eq!(credential.client_id().announced(), Some("alice"));
    assert_eq!(credential.expires_at_ms(), Some(details.expires));
}

#[test]
fn a_plain_request_gets_the_keys_capability_for_an_hour() {
    let details = issue(&plain()).unwrap();
    assert_eq!(details.expires, NOW_MS + TOKEN_TTL_MS_DEFAULT);
    assert_eq!(details.capability, r#"{"[*]*":["*"]}"#);
    assert_eq!(details.client_id, None);
    assert!(
        serde_json::to_value(&details)
            .unwrap()
            .get("clientId")
            .is_none()
    );
}

#[test]
fn nulls_are_as_absent_and_numbers_may_be_text() {
    let mut body = plain();
    body["ttl"] = Value::Null;
    body["capability"] = Value::Null;
    body["clientId"] = Value::Null;
    body["timestamp"] = json!(NOW_MS.to_string());
    assert_eq!(issue(&body).unwrap().expires, NOW_MS + TOKEN_TTL_MS_DEFAULT);
    let mut body = full();
    body["ttl"] = json!("3600000");
    body["timestamp"] = json!(NOW_MS as f64);
    assert_eq!(issue(&body).unwrap().expires, NOW_MS + 3_600_000);
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    for (field, value) in [
        ("ttl", json!(3_600_001)),
        ("capability", json!(r#"{"*":["*"]}"#)),
        ("capability", Value::Null),
        ("clientId", json!("bob")),
        ("timestamp", json!(NOW_MS + 1)),
        ("nonce", json!("1234567890123457")),
        ("mac", json!("12345")),
        ("mac", json!(PLAIN_MAC)),
        ("mac", json!("")),
        ("keyName", Value::Null),
    ] {
        let mut body = full();
        body[field] = value;
        refused(&body, 40101, 401);
    }
}

#[test]
fn the_timestamp_is_within_two_minutes_either_way() {
    let at = |timestamp: i64| {
        signed(json!({ "keyName": "dev.root", "timestamp": timestamp, "nonce": NONCE }))
    };
    let now = NOW_MS as i64;
    let window = TIMESTAMP_WINDOW_MS as i64;
    assert!(issue(&at(now - window)).is_ok());
    assert!(issue(&at(now + window)).is_ok());
    for timestamp in [
        now - window - 1,
        now + window + 1,
        0,
        -1,
        i64::MIN,
        i64::MAX,
    ] {
        refused(&at(timestamp), 40104, 401);
    }
    refused(
        &signed(json!({ "keyName": "dev.root", "nonce": NONCE })),
        40003,
        400,
    );
}

#[test]
fn a_nonce_is_good_for_one_use_with_each_key() {
    let mut nonces = NonceWindow::new(10);
    assert!(issue_at(&plain(), &mut nonces, NOW_MS).is_ok());
    assert_eq!(
        issue_at(&plain(), &mut nonces, NOW_MS),
        Err(AccessError::NonceReplayed)
    );
    let last = NOW_MS + TIMESTAMP_WINDOW_MS;
    assert_eq!(
        issue_at(&plain(), &mut nonces, last),
        Err(AccessError::NonceReplayed)
    );
    let mut body = json!({ "keyName": "dev.nometa", "timestamp": NOW_MS, "nonce": NONCE });
    let request = TokenRequest::from_value(&body).unwrap();
    body["mac"] = json!(request.mac(&Secret::new("nometa-secret")).unwrap());
    let request = TokenRequest::from_value(&body).unwrap();
    let of_other_key = issue_token(
        &apps(),
        "dev.nometa",
        &request,
        None,
        &mut nonces,
        [1; 16],
        NOW_MS,
    );
    assert!(of_other_key.is_ok());
    // Once it is forgotten, the timestamp has become too old.
    assert_eq!(
        issue_at(&plain(), &mut nonces, last + 1)
            .unwrap_err()
            .code(),
        40104
    );
    refused(
        &signed(json!({ "keyName": "dev.root", "timestamp": NOW_MS, "nonce": "123456789012345" })),
        40003,
        400,
    );
}

#[test]
fn a_full_window_refuses_and_forgets_only_in_time() {
    let body = |nonce: u32, timestamp: u64| {
        signed(json!({
            "keyName": "dev.root", "timestamp": timestamp, "nonce": format!("{nonce:016}"),
        }))
    };
    let mut nonces = NonceWindow::new(2);
    assert!(issue_at(&body(1, NOW_MS), &mut nonces, NOW_MS).is_ok());
    assert!(issue_at(&body(2, NOW_MS), &mut nonces, NOW_MS).is_ok());
    let full = issue_at(&body(3, NOW_MS), &mut nonces, NOW_MS).unwrap_err();
    assert_eq!((full.code(), full.status()), (42910, 429));
    assert_eq!(nonces.len(), 2);
    let later = NOW_MS + TIMESTAMP_WINDOW_MS + 1;
    assert!(issue_at(&body(3, later), &mut nonces, later).is_ok());
    assert_eq!(nonces.len(), 1);
}

#[test]
fn a_wrong_mac_leaves_no_trace_in_the_window() {
    let mut nonces = NonceWindow::new(10);
    let mut body = plain();
    body["mac"] = json!(FULL_MAC);
    assert_eq!(
        issue_at(&body, &mut nonces, NOW_MS),
        Err(AccessError::MacMismatch)
    );
    assert!(nonces.is_empty());
    assert!(issue_at(&plain(), &mut nonces, NOW_MS).is_ok());
}

#[test]
fn the_time_to_live_is_bounded() {
    let token = |ttl: Value| token_of(ROOT, &json!({ "ttl": ttl }));
    assert_eq!(token(json!(123)).unwrap().expires, NOW_MS + 123);
    assert_eq!(
        token(json!(TOKEN_TTL_MS_MAX)).unwrap().expires,
        NOW_MS + TOKEN_TTL_MS_MAX
    );
    for ttl in [
        json!(TOKEN_TTL_MS_MAX + 1),
        json!(0),
        json!(-1),
        json!("notanumber"),
        json!(u64::MAX),
        json!(1e300),
        json!(1.5),
        json!([]),
        json!(true),
    ] {
        let error = token(ttl.clone()).unwrap_err();
        assert_eq!((error.code(), error.status()), (40003, 400), "{ttl}");
    }
}

#[test]
fn a_token_gets_what_key_and_request_have_in_common() {
    let token = |capability: Value| {
        token_of(
            "dev.rooms:rooms-secret",
            &json!({ "capability": capability }),
        )
    };
    let granted = token(json!(r#"{"*":["subscribe"]}"#)).unwrap().capability;
    assert_eq!(granted, r#"{"lobby":["subscribe"],"room:*":["subscribe"]}"#);
    assert_eq!(
        token(json!({ "*": ["subscribe"] })).unwrap().capability,
        granted
    );
    assert_eq!(
        token(json!("")).unwrap().capability,
        r#"{"lobby":["*"],"room:*":["publish","subscribe"]}"#
    );
    for nothing in [
        json!(r#"{"room:1":["presence"]}"#),
        json!(r#"{"x":["*"]}"#),
        json!("{}"),
    ] {
        let error = token(nothing).unwrap_err();
        assert_eq!((error.code(), error.status()), (40160, 401));
    }
    for malformed in [
        json!("x"),
        json!(r#"{"a":[]}"#),
        json!(r#"{"a":["publish_"]}"#),
        json!(7),
    ] {
        let error = token(malformed).unwrap_err();
        assert_eq!((error.code(), error.status()), (40000, 400));
    }
}

#[test]
fn an_unsigned_request_needs_the_same_key() {
    let request = TokenRequest::from_value(&json!({})).unwrap();
    let ask = |presenter: Option<&Credential>| {
        let mut nonces = NonceWindow::new(0);
        issue_token(
            &apps(),
            "dev.root",
            &request,
            presenter,
            &mut nonces,
            [1; 16],
            NOW_MS,
        )
    };
    assert_eq!(ask(None), Err(AccessError::NoCredentials));
    assert!(ask(Some(&by_key(ROOT))).is_ok());
    let other = ask(Some(&by_key("dev.meta:meta-secret"))).unwrap_err();
    assert_eq!((other.code(), other.status()), (40102, 401));
    let namesake = ask(Some(&by_key("other.root:root-secret"))).unwrap_err();
    assert_eq!(namesake.code(), 40102);
    let token = by_token(&token_of(ROOT, &json!({})).unwrap().token, NOW_MS).unwrap();
    assert_eq!(ask(Some(&token)), Err(AccessError::KeyNeeded));
}

#[test]
fn a_signed_request_ignores_another_credential() {
    let request = TokenRequest::from_value(&plain()).unwrap();
    let other = by_key("dev.meta:meta-secret");
    let mut nonces = NonceWindow::new(1);
    let issued = issue_token(
        &apps(),
        "dev.root",
        &request,
        Some(&other),
        &mut nonces,
        [1; 16],
        NOW_MS,
    );
    assert_eq!(issued.unwrap().key_name, "dev.root");
}

#[test]
fn the_key_in_path_and_body_is_the_same_and_exists() {
    let mut nonces = NonceWindow::new(10);
    let request = TokenRequest::from_value(&plain()).unwrap();
    let mut ask = |key_name| {
        issue_token(
            &apps(),
            key_name,
            &request,
            None,
            &mut nonces,
            [1; 16],
            NOW_MS,
        )
        .unwrap_err()
        .code()
    };
    assert_eq!(ask("dev.meta"), 40102);
    let mut body = plain();
    body["keyName"] = json!("dev.nobody");
    let request = TokenRequest::from_value(&body).unwrap();
    let unknown = issue_token(
        &apps(),
        "dev.nobody",
        &request,
        None,
        &mut nonces,
        [1; 16],
        NOW_MS,
    );
    assert_eq!(unknown, Err(AccessError::BadCredentials));
}

#[test]
fn a_revoked_key_issues_nothing_and_says_so_to_its_owner_alone() {
    let body = json!({ "keyName": "dev.revoked", "timestamp": NOW_MS, "nonce": NONCE });
    let sign = |secret: &str| {
        let mut body = body.clone();
        let mac = TokenRequest::from_value(&body)
            .unwrap()
            .mac(&Secret::new(secret))
            .unwrap();
        body["mac"] = Value::String(mac);
        let request = TokenRequest::from_value(&body).unwrap();
        let mut nonces = NonceWindow::new(1);
        issue_token(
            &apps(),
            "dev.revoked",
            &request,
            None,
            &mut nonces,
            [1; 16],
            NOW_MS,
        )
        .unwrap_err()
        .code()
    };
    assert_eq!(sign("revoked-secret"), 40131);
    assert_eq!(sign("guess"), 40101);
}

#[test]
fn client_ids_are_checked_and_a_star_allows_any() {
    let token = |id: &str| token_of(ROOT, &json!({ "clientId": id }));
    assert_eq!(token("").unwrap_err().code(), 40012);
    assert_eq!(token("a\u{0}b").unwrap_err().code(), 40012);
    let any = by_token(&token("*").unwrap().token, NOW_MS).unwrap();
    assert_eq!(any.client_id().announced(), Some("*"));
    let anonymous = by_token(&token_of(ROOT, &json!({})).unwrap().token, NOW_MS).unwrap();
    assert_eq!(anonymous.client_id().announced(), None);
}

#[test]
fn two_tokens_for_one_request_differ_by_their_ids() {
    let presenter = by_key(ROOT);
    let request = TokenRequest::from_value(&json!({})).unwrap();
    let token = |id| {
        let mut nonces = NonceWindow::new(0);
        issue_token(
            &apps(),
            "dev.root",
            &request,
            Some(&presenter),
            &mut nonces,
            [id; 16],
            NOW_MS,
        )
        .unwrap()
        .token
    };
    assert_ne!(token(1), token(2));
}

fn json_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({ "a": ["subscribe"] })),
    ]
}

proptest! {
    #[test]
    fn nothing_panics(
        fields in prop::collection::vec(json_value(), 7), body in json_value(), now_ms: u64
    ) {
        drop(TokenRequest::from_value(&body));
        let names = ["keyName", "ttl", "capability", "clientId", "timestamp", "nonce", "mac"];
        let body: Value = names.into_iter().zip(fields).collect();
        drop(issue_at(&body, &mut NonceWindow::new(1), now_ms));
        let mut body = body;
        body["keyName"] = json!("dev.root");
        body["mac"] = Value::Null;
        if let Ok(request) = TokenRequest::from_value(&body)
            && let Ok(mac) = request.mac(&Secret::new("root-secret"))
        {
            body["mac"] = json!(mac);
            drop(issue_at(&body, &mut NonceWindow::new(1), now_ms));
        }
    }
}
