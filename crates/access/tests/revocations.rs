//! Tokens revoked before their time.

use headcount_access::{AccessError, Credential, RevocationTarget, Revocations, RevocationsFull};
use serde_json::json;

use crate::support::{NOW_MS, ROOT, by_key, by_token, jwt_of, token_of};

fn target(text: &str) -> RevocationTarget {
    text.parse().unwrap()
}

fn token(key: &str, client_id: &str, capability: &str) -> Credential {
    let body = json!({ "clientId": client_id, "capability": capability });
    by_token(&token_of(key, &body).unwrap().token, NOW_MS).unwrap()
}

fn is_revoked(target_text: &str, before_ms: u64, credential: &Credential) -> bool {
    let mut revocations = Revocations::new(1);
    revocations
        .revoke("dev.root", target(target_text), before_ms)
        .unwrap();
    revocations.check(credential) == Err(AccessError::TokenRevoked)
}

#[test]
fn a_revocation_meets_its_target_alone() {
    let one = token(ROOT, "u", r#"{"room:1":["*"],"lobby:*":["*"]}"#);
    assert!(is_revoked("clientId:u", NOW_MS + 1, &one));
    assert!(
        !is_revoked("clientId:u", NOW_MS, &one),
        "issued at that time, so not before"
    );
    assert!(!is_revoked("clientId:v", NOW_MS + 1, &one));
    assert!(is_revoked("channel:room:1", NOW_MS + 1, &one));
    assert!(is_revoked("channel:lobby:*", NOW_MS + 1, &one));
    assert!(!is_revoked("channel:lobby:1", NOW_MS + 1, &one));
    assert!(!is_revoked("revocationKey:u", NOW_MS + 1, &one));
    let of_other_key = token("dev.nometa:nometa-secret", "u", r#"{"room:1":["*"]}"#);
    assert!(!is_revoked("clientId:u", NOW_MS + 1, &of_other_key));
    let jwt = by_token(
        &jwt_of("root", &json!({ "x-ably-revocation-key": "r" })),
        NOW_MS,
    )
    .unwrap();
    assert!(is_revoked("revocationKey:r", NOW_MS + 1, &jwt));
    assert!(!is_revoked("channel:[*]*", u64::MAX, &by_key(ROOT)));
}

#[test]
fn the_later_revocation_counts_and_room_is_bounded() {
    let mut revocations = Revocations::new(1);
    assert!(revocations.is_empty());
    revocations
        .revoke("dev.root", target("clientId:u"), 20)
        .unwrap();
    revocations
        .revoke("dev.root", target("clientId:u"), 10)
        .unwrap();
    assert_eq!(revocations.len(), 1);
    let full = revocations.revoke("dev.root", target("clientId:v"), 10);
    assert_eq!(full, Err(RevocationsFull { capacity: 1 }));
    revocations.forget(19);
    assert_eq!(revocations.len(), 1);
    revocations.forget(20);
    assert!(revocations.is_empty());
}

#[test]
fn targets_are_read_and_refused() {
    assert_eq!(
        target("channel:a:b"),
        RevocationTarget::Channel("a:b".to_owned())
    );
    for text in ["", "clientId", "clientId:", "user:u", ":"] {
        assert_eq!(
            text.parse::<RevocationTarget>().unwrap_err().code(),
            40003,
            "{text}"
        );
    }
}
