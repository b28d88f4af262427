//! The contract's codes and statuses.

use headcount_access::{AccessError, CapabilityError, Operation};
use serde_json::json;

use crate::support::{ROOT, by_key, token_of};

#[test]
fn codes_begin_with_their_status_where_the_contract_has_it_so() {
    let renewable = [
        AccessError::UnsupportedToken { kind: "x" },
        AccessError::TokenRevoked,
        AccessError::TokenExpired {
            expires_at_ms: 1,
            now_ms: 2,
        },
        AccessError::UnrecognisedToken,
        AccessError::InvalidJwt { reason: "x" },
        AccessError::MalformedToken,
    ];
    for (error, code) in renewable.into_iter().zip(40140..) {
        assert_eq!((error.code(), error.status()), (code, 401));
        assert!(error.is_renewable());
    }
    for error in [
        AccessError::NoCredentials,
        AccessError::BasicOverPlainHttp,
        AccessError::KeyRevoked {
            key_name: "a.b".to_owned(),
        },
        AccessError::IdentityNeeded,
    ] {
        assert_eq!(error.status(), 401);
        assert_eq!(error.code() / 100, 401);
        assert!(!error.is_renewable());
    }
}

#[test]
fn a_capability_error_is_told_in_full() {
    let fault = CapabilityError::NoOperations {
        resource: "a".to_owned(),
    };
    let error = AccessError::from(fault.clone());
    assert_eq!(error.to_string(), fault.to_string());
    assert_eq!((error.code(), error.status()), (40000, 400));
}

#[test]
fn messages_stay_short_whatever_the_client_sent() {
    let long = "x".repeat(10_000);
    let refused = [
        by_key("dev.meta:meta-secret")
            .may(Operation::Publish, &long)
            .unwrap_err(),
        by_key(ROOT)
            .may(Operation::Publish, &format!("[{long}"))
            .unwrap_err(),
        by_key(ROOT).client_id().narrow(Some(&long)).unwrap_err(),
        token_of(ROOT, &json!({ "capability": { &long: [&long] } })).unwrap_err(),
        token_of(ROOT, &json!({ "keyName": &long })).unwrap_err(),
    ];
    for error in refused {
        assert!(error.to_string().len() < 400, "{error}");
    }
}
