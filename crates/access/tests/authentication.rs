//! What is presented, and what it may do.

use headcount_access::{
    AccessError, AppSpec, Apps, AppsFault, ClientIdRule, CredentialKind, KeySpec, Operation,
    Operations, Presented, Secret, TOKEN_BYTES_MAX, authenticate,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{NOW_MS, ROOT, apps, base64, by_key, by_token, jwt, jwt_of, token_of};

fn code(presented: Presented<'_>) -> u32 {
    authenticate(&apps(), presented, NOW_MS).unwrap_err().code()
}

fn jwt_error(token: &str) -> (u32, u16) {
    let error = by_token(token, NOW_MS).unwrap_err();
    (error.code(), error.status())
}

#[test]
fn a_key_is_accepted_in_the_header_and_in_the_query() {
    let encoded = base64(ROOT);
    let header = format!("basic {encoded}");
    for presented in [
        Presented::Basic(&encoded),
        Presented::KeyParam(ROOT),
        Presented::from_authorization(&header).unwrap(),
    ] {
        let credential = authenticate(&apps(), presented, NOW_MS).unwrap();
        assert_eq!(&**credential.app(), "dev");
        assert_eq!(&**credential.key_name(), "dev.root");
        assert_eq!(credential.kind(), CredentialKind::Key);
        assert_eq!(credential.client_id(), &ClientIdRule::Any);
        assert_eq!(credential.check_expiry(u64::MAX), Ok(()));
        assert!(presented.is_key());
    }
}

#[test]
fn wrong_keys_are_refused_without_a_hint() {
    for key in [
        "dev.root:root-secre",
        "dev.root:root-secret2",
        "dev.root:Root-secret",
        "dev.nobody:root-secret",
        "nobody.root:root-secret",
        "other.meta:meta-secret",
        "dev.revoked:guess",
    ] {
        assert_eq!(code(Presented::KeyParam(key)), 40101, "{key}");
        assert_eq!(code(Presented::Basic(&base64(key))), 40101, "{key}");
    }
    assert_eq!(
        code(Presented::KeyParam("dev.revoked:revoked-secret")),
        40131
    );
    for key in [
        "",
        "dev.root",
        "dev.root:",
        "dev:root-secret",
        ":",
        ".:x",
        "a.b.c:x",
        "d v.r:x",
    ] {
        assert_eq!(code(Presented::KeyParam(key)), 40005, "{key}");
        assert_eq!(code(Presented::Basic(&base64(key))), 40005, "{key}");
    }
    assert_eq!(code(Presented::Basic("***")), 40005);
    assert_eq!(
        code(Presented::Basic(&"A".repeat(TOKEN_BYTES_MAX + 1))),
        40005
    );
    assert_eq!(
        Presented::from_authorization("Digest x")
            .unwrap_err()
            .code(),
        40100
    );
    assert_eq!(
        Presented::from_authorization("Basic").unwrap_err().code(),
        40100
    );
}

#[test]
fn a_secret_may_hold_colons() {
    let key = KeySpec {
        id: "k".to_owned(),
        secret: Secret::new("a:b:c"),
        capability: r#"{"*":["*"]}"#.to_owned(),
        enabled: true,
    };
    let apps = Apps::new(vec![AppSpec {
        id: "app".to_owned(),
        keys: vec![key],
    }])
    .unwrap();
    assert!(authenticate(&apps, Presented::KeyParam("app.k:a:b:c"), NOW_MS).is_ok());
}

#[test]
fn a_configuration_is_refused_with_all_its_faults() {
    let key = |id: &str, secret: &str, capability: &str| KeySpec {
        id: id.to_owned(),
        secret: Secret::new(secret),
        capability: capability.to_owned(),
        enabled: true,
    };
    let app = |id: &str, keys| AppSpec {
        id: id.to_owned(),
        keys,
    };
    let faults = Apps::new(vec![
        app(
            "one",
            vec![
                key("a", "s", "{}"),
                key("a", "s", "{}"),
                key("b.c", "s", "{}"),
                key("d", "", "{}"),
                key("e", "s", r#"{"x":["fly"]}"#),
            ],
        ),
        app("one", vec![]),
        app("t wo", vec![]),
    ])
    .unwrap_err();
    assert!(matches!(
        &faults[..],
        [
            AppsFault::DuplicateKey { .. },
            AppsFault::MalformedId { .. },
            AppsFault::UnusableSecret { .. },
            AppsFault::InvalidCapability { .. },
            AppsFault::DuplicateApp { .. },
            AppsFault::MalformedId { .. },
        ]
    ));
    assert!(faults[3].to_string().contains("fly"), "{}", faults[3]);
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?} {:?}", apps(), Presented::KeyParam(ROOT));
    assert!(!printed.contains("root-secret"), "{printed}");
}

#[test]
fn a_delivery_is_signed_with_the_secret() {
    // Computed with Python: hmac.new(b"root-secret", b'{"items":[]}', sha256).
    let signature = apps()
        .key("dev.root")
        .unwrap()
        .sign_delivery(br#"{"items":[]}"#);
    assert_eq!(signature, "9zK8QPIIa88eYsNSg1cJ/RO9PWLU4RJOU0cxMDcnlIk=");
}

#[test]
fn a_token_is_accepted_raw_and_in_base64_until_it_expires() {
    let details = token_of(ROOT, &json!({ "ttl": 1000, "clientId": "u" })).unwrap();
    let encoded = base64(&details.token);
    let unpadded = encoded.trim_end_matches('=');
    for token in [&details.token, &encoded, unpadded] {
        for presented in [Presented::Bearer(token), Presented::TokenParam(token)] {
            let credential = authenticate(&apps(), presented, NOW_MS + 999).unwrap();
            assert_eq!(credential.kind(), CredentialKind::Token);
            assert_eq!(credential.client_id(), &ClientIdRule::Fixed("u".to_owned()));
            assert_eq!(credential.issued_at_ms(), Some(NOW_MS));
            assert_eq!(
                credential.check_expiry(NOW_MS + 1000).unwrap_err().code(),
                40142
            );
        }
    }
    let expired = by_token(&details.token, NOW_MS + 1000).unwrap_err();
    assert_eq!((expired.code(), expired.status()), (40142, 401));
    assert!(expired.is_renewable());
}

#[test]
fn a_token_ends_with_its_keys_secret_and_enablement() {
    let details = token_of("dev.nometa:nometa-secret", &json!({})).unwrap();
    let with = |secret: &str, enabled| {
        let key = KeySpec {
            id: "nometa".to_owned(),
            secret: Secret::new(secret),
            capability: r#"{"x":["subscribe"]}"#.to_owned(),
            enabled,
        };
        let apps = Apps::new(vec![AppSpec {
            id: "dev".to_owned(),
            keys: vec![key],
        }])
        .unwrap();
        authenticate(&apps, Presented::Bearer(&details.token), NOW_MS)
    };
    // A token keeps the capability that it was issued with.
    assert_eq!(
        with("nometa-secret", true)
            .unwrap()
            .may(Operation::Publish, "y"),
        Ok(())
    );
    assert_eq!(
        with("new-secret", true),
        Err(AccessError::UnrecognisedToken)
    );
    assert_eq!(with("nometa-secret", false).unwrap_err().code(), 40131);
    let elsewhere = authenticate(&Apps::default(), Presented::Bearer(&details.token), NOW_MS);
    assert_eq!(elsewhere, Err(AccessError::UnrecognisedToken));
}

#[test]
fn what_is_no_token_is_told_apart() {
    let jwe = "a.b.c.d.e";
    for (token, code) in [
        ("", 40005),
        ("x", 40005),
        ("this.is.a.bad", 40005),
        ("dev.", 40145),
        ("dev.***", 40145),
        ("dev.AAAA", 40145),
        (jwe, 40140),
        ("a.b.c", 40144),
        (".", 40145),
        ("..", 40144),
    ] {
        assert_eq!(by_token(token, NOW_MS).unwrap_err().code(), code, "{token}");
    }
}

/// Made with Python's hmac, base64 and json, from `{"typ":"JWT","alg":"HS256","kid":"dev.root"}`
/// and `{"iat":1760000000,"exp":1760003600,"x-ably-capability":"{\"room:*\":[\"subscribe\"]}",
/// "x-ably-clientId":"alice"}`.
const PYTHON_JWT: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImRldi5yb290In0.\
    eyJpYXQiOjE3NjAwMDAwMDAsImV4cCI6MTc2MDAwMzYwMCwieC1hYmx5LWNhcGFiaWxpdHkiOiJ7XCJyb29tOipcIjpb\
    XCJzdWJzY3JpYmVcIl19IiwieC1hYmx5LWNsaWVudElkIjoiYWxpY2UifQ.\
    Z8zzlXfkIOjVk6SU_KdkSpQrzjBpWfcs2-H-jD0zeXg";

#[test]
fn a_jwt_of_another_implementation_is_accepted_raw_and_in_base64() {
    for token in [PYTHON_JWT.to_owned(), base64(PYTHON_JWT)] {
        let credential = by_token(&token, NOW_MS).unwrap();
        assert_eq!(credential.kind(), CredentialKind::Jwt);
        assert_eq!(
            credential.capability().to_string(),
            r#"{"room:*":["subscribe"]}"#
        );
        assert_eq!(
            credential.client_id(),
            &ClientIdRule::Fixed("alice".to_owned())
        );
        assert_eq!(credential.expires_at_ms(), Some(1_760_003_600_000));
    }
    assert_eq!(
        by_token(PYTHON_JWT, 1_760_003_600_000).unwrap_err().code(),
        40142
    );
}

#[test]
fn a_jwts_capability_may_be_text_or_object_and_is_cut_to_the_keys() {
    let granted = |claim: Value| {
        let token = jwt_of("rooms", &json!({ "x-ably-capability": claim }));
        by_token(&token, NOW_MS).map(|credential| credential.capability().to_string())
    };
    let cut = r#"{"lobby":["subscribe"],"room:*":["subscribe"]}"#;
    assert_eq!(granted(json!(r#"{"*":["subscribe"]}"#)).unwrap(), cut);
    assert_eq!(granted(json!({ "*": ["subscribe"] })).unwrap(), cut);
    let whole = r#"{"lobby":["*"],"room:*":["publish","subscribe"]}"#;
    assert_eq!(granted(Value::Null).unwrap(), whole);
    assert_eq!(
        by_token(&jwt_of("rooms", &json!({})), NOW_MS)
            .unwrap()
            .capability()
            .to_string(),
        whole
    );
    assert_eq!(granted(json!({ "x": ["*"] })).unwrap_err().code(), 40160);
    for malformed in [
        json!(7),
        json!("x"),
        json!({ "a": [] }),
        json!({ "a": ["fly"] }),
    ] {
        let error = granted(malformed).unwrap_err();
        assert_eq!((error.code(), error.status()), (40144, 400));
    }
}

#[test]
fn a_jwts_client_id_is_a_name_a_star_or_none() {
    let rule = |claim: Value| {
        let token = jwt_of("root", &json!({ "x-ably-clientId": claim }));
        by_token(&token, NOW_MS).map(|credential| credential.client_id().clone())
    };
    assert_eq!(rule(json!("u")), Ok(ClientIdRule::Fixed("u".to_owned())));
    assert_eq!(rule(json!("*")), Ok(ClientIdRule::Any));
    assert_eq!(rule(Value::Null), Ok(ClientIdRule::Anonymous));
    for malformed in [json!(""), json!(1), json!("a\nb")] {
        assert_eq!(rule(malformed).unwrap_err().code(), 40144);
    }
}

#[test]
fn only_hs256_is_accepted() {
    let claims = json!({ "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 60 });
    for algorithm in ["none", "None", "HS512", "hs256", "RS256", "ES256", ""] {
        let header = json!({ "alg": algorithm, "kid": "dev.root" });
        assert_eq!(
            jwt_error(&jwt(&header, &claims, "root-secret")),
            (40144, 401),
            "{algorithm}"
        );
    }
    let unsigned = jwt(&json!({ "alg": "none", "kid": "dev.root" }), &claims, "");
    let unsigned = &unsigned[..=unsigned.rfind('.').unwrap()];
    assert_eq!(jwt_error(unsigned), (40144, 401));
    for header in [
        json!({ "kid": "dev.root" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "HS256", "kid": 7 }),
        json!({ "alg": "HS256", "kid": "dev.root", "crit": ["b64"], "b64": false }),
        json!({ "alg": "HS256", "kid": "../../etc/passwd" }),
        json!({ "alg": "HS256", "kid": "other.meta" }),
        json!({ "alg": "HS256", "kid": "dev.meta" }),
        json!(["HS256"]),
    ] {
        assert_eq!(
            jwt_error(&jwt(&header, &claims, "root-secret")),
            (40144, 401),
            "{header}"
        );
    }
}

#[test]
fn a_jwts_times_are_checked() {
    let now = NOW_MS / 1000;
    for (claims, expected) in [
        (json!({ "exp": now }), (40142, 401)),
        (json!({ "exp": 0 }), (40142, 401)),
        (json!({ "exp": Value::Null }), (40144, 400)),
        (json!({ "iat": Value::Null }), (40144, 400)),
        (json!({ "iat": "now" }), (40144, 400)),
        (json!({ "iat": -1 }), (40144, 400)),
        (json!({ "iat": now + 121 }), (40144, 401)),
        (json!({ "nbf": now + 121 }), (40144, 401)),
        (json!({ "nbf": -5 }), (40144, 400)),
        (json!({ "x-ably-token": "x" }), (40140, 401)),
    ] {
        assert_eq!(jwt_error(&jwt_of("root", &claims)), expected, "{claims}");
    }
    for claims in [
        json!({ "iat": now + 120 }),
        json!({ "iat": now as f64 + 0.5, "exp": now as f64 + 0.5 }),
        json!({ "exp": u64::MAX }),
        json!({ "exp": 1e300 }),
        json!({ "nbf": now }),
        json!({ "x-ably-appId": "dev", "jti": "1", "ably.channel.*": "vip" }),
    ] {
        assert!(
            by_token(&jwt_of("root", &claims), NOW_MS).is_ok(),
            "{claims}"
        );
    }
    let header = json!({ "alg": "HS256", "kid": "dev.root" });
    for missing in [json!({ "exp": now + 1 }), json!({ "iat": now })] {
        assert_eq!(
            jwt_error(&jwt(&header, &missing, "root-secret")),
            (40144, 400)
        );
    }
}

#[test]
fn a_jwt_of_a_revoked_key_is_refused() {
    assert_eq!(jwt_error(&jwt_of("revoked", &json!({}))), (40131, 401));
}

#[test]
fn the_one_decision() {
    let nometa = by_key("dev.nometa:nometa-secret");
    assert_eq!(nometa.may(Operation::Publish, "room"), Ok(()));
    let denied = nometa
        .may(Operation::Subscribe, "[meta]channel.lifecycle")
        .unwrap_err();
    assert_eq!((denied.code(), denied.status()), (40160, 401));
    assert_eq!(
        denied.to_string(),
        r#"the capability does not permit subscribe on "[meta]channel.lifecycle""#
    );
    let malformed = nometa.may(Operation::Subscribe, "[meta").unwrap_err();
    assert_eq!((malformed.code(), malformed.status()), (40010, 400));
    let meta = by_key("dev.meta:meta-secret");
    assert_eq!(
        meta.may(Operation::Subscribe, "[meta?rewind=1]channel.lifecycle"),
        Ok(())
    );
    assert_eq!(
        meta.may(Operation::Subscribe, "room").unwrap_err().code(),
        40160
    );
    assert_eq!(by_key(ROOT).may(Operation::Stats, "*"), Ok(()));
}

#[test]
fn attaching_needs_something_to_do_there() {
    let rooms = by_key("dev.rooms:rooms-secret");
    let operations = rooms.may_attach("[?occupancy=metrics]room:1").unwrap();
    assert_eq!(
        operations,
        [Operation::Subscribe, Operation::Publish]
            .into_iter()
            .collect()
    );
    assert_eq!(rooms.may_attach("lobby"), Ok(Operations::EVERY));
    assert_eq!(rooms.may_attach("x").unwrap_err().code(), 40160);
    assert_eq!(rooms.may_attach("[x]").unwrap_err().code(), 40010);
    let history = by_token(
        &token_of(
            ROOT,
            &json!({ "capability": r#"{"[*]*":["history","channel-metadata"]}"# }),
        )
        .unwrap()
        .token,
        NOW_MS,
    )
    .unwrap();
    assert_eq!(history.may_attach("x").unwrap_err().code(), 40160);
}

#[test]
fn enumeration_needs_the_star_or_the_prefix() {
    assert_eq!(by_key(ROOT).may_enumerate(None), Ok(()));
    assert_eq!(by_key(ROOT).may_enumerate(Some("[meta]")), Ok(()));
    let nometa = by_key("dev.nometa:nometa-secret");
    assert_eq!(nometa.may_enumerate(None), Ok(()));
    assert_eq!(
        nometa.may_enumerate(Some("[meta]")).unwrap_err().code(),
        40160
    );
    let rooms = by_key("dev.rooms:rooms-secret");
    assert_eq!(
        rooms.may_enumerate(Some("room:")).unwrap_err().code(),
        40160
    );
}

#[test]
fn a_renewed_credential_keeps_app_and_client() {
    let token = |body: &Value| by_token(&token_of(ROOT, body).unwrap().token, NOW_MS).unwrap();
    let u = token(&json!({ "clientId": "u" }));
    let v = token(&json!({ "clientId": "v" }));
    let root = by_key(ROOT);
    let as_u = ClientIdRule::Fixed("u".to_owned());
    assert_eq!(u.takes_over(&root, &as_u), Ok(as_u.clone()));
    assert_eq!(root.takes_over(&u, &as_u), Ok(as_u.clone()));
    assert_eq!(v.takes_over(&u, &as_u).unwrap_err().code(), 40102);
    assert_eq!(u.takes_over(&root, &ClientIdRule::Any), Ok(as_u));
    let other = by_key("other.root:root-secret");
    assert_eq!(
        other.takes_over(&root, &ClientIdRule::Any),
        Err(AccessError::IncompatibleApp)
    );
}

/// The token with one character replaced by another, and whether that changed it.
fn flipped(token: &str, at: prop::sample::Index, by: char) -> String {
    let at = at.index(token.len());
    token
        .chars()
        .enumerate()
        .map(|(index, old)| if index == at { by } else { old })
        .collect()
}

proptest! {
    #[test]
    fn a_token_says_what_was_asked(
        client_id in prop::option::of("[^\\pC*]{1,20}"), ttl in 1u64..86_400_000, elapsed: u32
    ) {
        let details = token_of(ROOT, &json!({ "clientId": client_id, "ttl": ttl })).unwrap();
        let elapsed = u64::from(elapsed) % ttl;
        let credential = by_token(&details.token, NOW_MS + elapsed).unwrap();
        prop_assert_eq!(credential.client_id().announced(), client_id.as_deref());
        prop_assert_eq!(credential.capability().to_string(), details.capability);
        prop_assert!(by_token(&details.token, NOW_MS + ttl).is_err());
    }

    #[test]
    fn a_token_with_any_character_changed_is_refused(
        at: prop::sample::Index, by in "[A-Za-z0-9_.=+/ -]"
    ) {
        let by = by.chars().next().unwrap();
        let token = token_of(ROOT, &json!({ "clientId": "u" })).unwrap().token;
        for token in [token, PYTHON_JWT.to_owned()] {
            let changed = flipped(&token, at, by);
            if changed != token {
                prop_assert!(by_token(&changed, NOW_MS).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC*|[A-Za-z0-9_=.-]*|dev\\.[A-Za-z0-9_-]*", now_ms: u64) {
        let apps = apps();
        for presented in [
            Presented::Basic(&text), Presented::Bearer(&text),
            Presented::KeyParam(&text), Presented::TokenParam(&text),
        ] {
            prop_assert!(authenticate(&apps, presented, now_ms).is_err());
        }
        drop(Presented::from_authorization(&text));
        let credential = by_key(ROOT);
        drop(credential.may(Operation::Publish, &text));
        drop(credential.may_attach(&text));
        drop(credential.may_enumerate(Some(&text)));
        drop(credential.client_id().narrow(Some(&text)));
    }

    #[test]
    fn no_claim_makes_a_jwt_panic(
        name in "iat|exp|nbf|x-ably-capability|x-ably-clientId|x-ably-revocation-key",
        text in any::<String>(), float in any::<f64>(), integer in any::<i64>(), now_ms: u64
    ) {
        for value in [json!(text), json!(float), json!(integer), json!([text]), json!({ text: 1 })] {
            drop(by_token(&jwt_of("root", &json!({ &name: value })), now_ms));
        }
    }
}
