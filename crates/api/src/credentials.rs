//! Where a request carries its credential, and what becomes of it.

use headcount_access::{AccessError, Credential, Presented, authenticate as judge};
use http::{HeaderMap, header};

use crate::problem::Problem;
use crate::query::Query;
use crate::routes::{Shared, app_of};

/// Authenticates a request by its `Authorization` header, else by the parameter `key`, else by
/// `access_token` or `accessToken`.
///
/// Takes the request of its app's rate.
///
/// # Errors
/// What access says, 40101 if there is no credential at all, or 42918 if the app asks too often.
pub(crate) fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Credential, Problem> {
    let presented = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let text = value.to_str().map_err(|_| AccessError::UnreadableKey)?;
            Presented::from_authorization(text)?
        }
        None => from_query(query).ok_or(AccessError::NoCredentials)?,
    };
    let credential = verified(shared, presented)?;
    shared.realtime.may_ask(&app_of(&credential))?;
    Ok(credential)
}

/// Authenticates a request that can carry its credential in the query only, as websockets of
/// browsers do.
///
/// # Errors
/// As [`authenticate`].
pub(crate) fn of_query(shared: &Shared, query: &Query) -> Result<Credential, AccessError> {
    verified(shared, from_query(query).ok_or(AccessError::NoCredentials)?)
}

fn verified(shared: &Shared, presented: Presented<'_>) -> Result<Credential, AccessError> {
    if presented.is_key() && !shared.config.basic_over_plain_http {
        return Err(AccessError::BasicOverPlainHttp);
    }
    let access = &shared.ports.access;
    let credential = judge(&access.apps(), presented, shared.ports.clock.wall().0)?;
    access.check(&credential)?;
    Ok(credential)
}

fn from_query(query: &Query) -> Option<Presented<'_>> {
    let token = || {
        query
            .given("access_token")
            .or_else(|| query.given("accessToken"))
    };
    query
        .given("key")
        .map(Presented::KeyParam)
        .or_else(|| token().map(Presented::TokenParam))
}
