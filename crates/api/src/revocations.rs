//! `POST /keys/{keyName}/revokeTokens`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use headcount_access::{AccessError, RevocationTarget};
use headcount_model::{CHANNEL_BYTES_MAX, Timestamp};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::credentials;
use crate::exchange::Exchange;
use crate::format::Format;
use crate::ports::{RevokeError, Revoking};
use crate::problem::{ErrorBody, Problem};
use crate::routes::{Shared, collect};

/// Most targets of a request.
const TARGETS_MAX: usize = 100;

/// Longest target, in bytes: what kind it is and a channel's name, the longest that there is.
const TARGET_BYTES_MAX: usize = CHANNEL_BYTES_MAX + 64;

/// How long clients may go on where they are given time to fetch another token.
const REAUTH_MARGIN: Duration = Duration::from_secs(30);

/// What is asked for.
struct Request {
    /// As they were written.
    targets: Vec<String>,
    issued_before: Timestamp,
    applies_at: Timestamp,
}

/// What became of a target.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Outcome<'a> {
    #[serde(rename_all = "camelCase")]
    Revoked {
        target: &'a str,
        issued_before: Timestamp,
        applies_at: Timestamp,
    },
    Refused {
        target: &'a str,
        error: ErrorBody,
    },
}

/// The answer to clients that want to be told how many.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    success_count: usize,
    failure_count: usize,
    results: &'a [Outcome<'a>],
}

/// Whoever has the key itself may revoke its tokens. Targets that are none are told with the rest.
pub(crate) async fn revoke_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    key_name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // A path that is not UTF-8 names no key.
    let Path(key_name) = key_name.map_err(|_| Problem::NotFound)?;
    let credential = credentials::authenticate(&shared, &headers, &exchange.query)?;
    credential.require_key()?;
    if **credential.key_name() != *key_name {
        return Err(Problem::Access(AccessError::IncompatibleKey {
            expected: key_name.chars().take(64).collect(),
            presented: credential.key_name().to_string(),
        }));
    }
    let body = collect(&shared.config, shared.config.body_bytes_max, body).await?;
    let now = shared.ports.clock.wall();
    let request = Request::read(&Format::of_body(&headers).decode(&body)?, now)?;
    let judged: Vec<_> = request.targets.iter().map(|text| judge(text)).collect();
    let targets: Vec<_> = judged.iter().filter_map(|it| it.clone().ok()).collect();
    let success_count = targets.len();
    if !targets.is_empty() {
        let revoking = Revoking {
            key_name,
            targets,
            issued_before: request.issued_before,
            applies_at: request.applies_at,
        };
        let after = shared.config.read_timeout;
        let revoking = shared.ports.access.revoke(revoking);
        let late = |_| RevokeError::Unconfirmed {
            reason: format!("no answer within {} ms", after.as_millis()),
        };
        let revoked = tokio::time::timeout(after, revoking).await;
        revoked.map_err(late)??;
    }
    let results = request.targets.iter().zip(judged);
    let results = results.map(|(target, judged)| match judged {
        Ok(_) => Outcome::Revoked {
            target,
            issued_before: request.issued_before,
            applies_at: request.applies_at,
        },
        Err(error) => Outcome::Refused {
            target,
            error: Problem::Access(error).body(),
        },
    });
    let results: Vec<_> = results.collect();
    // Clients of version 1 ask for it, those of version 2 take it for granted.
    let asked = exchange.query.given("newBatchResponse") == Some("true");
    let answer = if asked || exchange.version.counts_results() {
        exchange.answer(&Batch {
            success_count,
            failure_count: results.len() - success_count,
            results: &results,
        })
    } else {
        exchange.answer(&results)
    };
    Ok((StatusCode::CREATED, answer).into_response())
}

fn judge(text: &str) -> Result<RevocationTarget, AccessError> {
    if text.len() > TARGET_BYTES_MAX {
        return Err(AccessError::InvalidParameter {
            parameter: "targets",
            reason: "a target is longer than any can be",
        });
    }
    text.parse()
}

impl Request {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Problem::MalformedBody`] (40001), or [`Problem::Parameter`] (40003).
    fn read(body: &Value, now: Timestamp) -> Result<Self, Problem> {
        let refuse = |name, reason| Problem::Parameter { name, reason };
        let fields = body.as_object().ok_or_else(|| Problem::MalformedBody {
            reason: "it is not an object".to_owned(),
        })?;
        let targets = fields.get("targets").and_then(Value::as_array);
        let targets = targets.ok_or_else(|| refuse("targets", "it must be a list"))?;
        if targets.is_empty() || targets.len() > TARGETS_MAX {
            return Err(refuse("targets", "it must have from 1 to 100 items"));
        }
        let texts = targets
            .iter()
            .map(|target| target.as_str().map(str::to_owned));
        let texts: Option<Vec<_>> = texts.collect();
        let issued_before = match fields.get("issuedBefore") {
            None | Some(Value::Null) => now,
            Some(given) => {
                let given = given.as_u64().map(Timestamp).filter(|given| *given <= now);
                let reason = "it must be a time in ms since the epoch that is not to come";
                given.ok_or_else(|| refuse("issuedBefore", reason))?
            }
        };
        let margin = match fields.get("allowReauthMargin") {
            None | Some(Value::Null) => false,
            Some(given) => given
                .as_bool()
                .ok_or_else(|| refuse("allowReauthMargin", "it must be true or false"))?,
        };
        Ok(Self {
            targets: texts.ok_or_else(|| refuse("targets", "each must be a text"))?,
            issued_before,
            applies_at: if margin {
                now.after(REAUTH_MARGIN)
            } else {
                now
            },
        })
    }
}
