//! The paths of the listener, and what each answers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use headcount_access::{Credential, NonceWindow, TokenRequest, issue_token};
use headcount_model::{AppId, ChannelDetails, ChannelStatus, RegionName};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::{Semaphore, watch};

use crate::channel;
use crate::chat;
use crate::config::Config;
use crate::credentials;
use crate::events;
use crate::exchange::{Exchange, exchange};
use crate::format::Format;
use crate::links::tell_links;
use crate::page::{By, ListParams};
use crate::ports::{Freshness, ListItem, ListQuery, Ports, ReadError};
use crate::problem::Problem;
use crate::realtime::{self, Core};
use crate::revocations;
use crate::server::Phase;
use crate::telemetry;

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) ports: Ports,
    /// Nonces of this node's token requests. Held for a look-up and an insertion, never across an
    /// await.
    nonces: std::sync::Mutex<NonceWindow>,
    /// One permit per event stream.
    pub(crate) event_streams: Arc<Semaphore>,
    /// Written by the server when it shuts down, read by event streams, which would not end.
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) realtime: Arc<Core>,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        realtime: Arc<Core>,
        ports: Ports,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            realtime,
            nonces: std::sync::Mutex::new(NonceWindow::new(config.nonces_max)),
            event_streams: Arc::new(Semaphore::new(config.event_streams_max)),
            config,
            ports,
            phase,
        }
    }

    /// Waits for the node's answer within the listener's deadline.
    pub(crate) async fn read<T>(
        &self,
        read: BoxFuture<'_, Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        let after = self.config.read_timeout;
        tokio::time::timeout(after, read)
            .await
            .unwrap_or(Err(ReadError::TimedOut { after }))
    }
}

/// Returns everything that the listener answers.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(realtime::upgrade))
        .route("/time", get(time))
        .route("/channels", get(list))
        .route("/channels/", get(channel::read))
        .route("/channels/{*name}", get(channel::read).post(channel::write))
        .route("/chat/v4/rooms/{*room}", get(chat::occupancy))
        .route("/keys/{keyName}/requestToken", post(request_token))
        .route(
            "/keys/{keyName}/revokeTokens",
            post(revocations::revoke_tokens),
        )
        .route("/events", get(events::events))
        .route("/sse", get(realtime::event_stream))
        .route("/event-stream", get(realtime::event_stream))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .fallback(async || Problem::NotFound)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&shared),
            exchange,
        ))
        .with_state(shared)
}

/// `GET /time`: this node's wall clock, for clients that sign token requests.
async fn time(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
) -> Response {
    exchange.answer(&[shared.ports.clock.wall()])
}

/// `GET /channels`: a page of the sorted walk over active channels.
async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let credential = credentials::authenticate(&shared, &headers, &exchange.query)?;
    let params = ListParams::parse(&exchange.query, exchange.version)?;
    credential.may_enumerate(Some(&params.prefix))?;
    if params.prefix.starts_with('[') {
        // Metachannels are listed only when asked for, and none is counted yet.
        let mut response = exchange.answer(&[""; 0]);
        tell_links(response.headers_mut(), &params.links(None));
        return Ok(response);
    }
    let query = ListQuery {
        app: app_of(&credential),
        prefix: params.prefix.clone(),
        after: params.after.clone(),
        limit: params.limit,
        with_values: params.by == By::Value,
    };
    let read = shared.read(shared.ports.directory.list(query)).await?;
    let mut response = match params.by {
        By::Id => {
            let names: Vec<&str> = read.items.iter().map(|item| item.name.as_str()).collect();
            exchange.answer(&names)
        }
        By::Value => {
            let values: Vec<_> = read
                .items
                .iter()
                .map(listed_details)
                .collect::<Result<_, _>>()?;
            exchange.answer(&values)
        }
    };
    tell_links(response.headers_mut(), &params.links(read.next.as_ref()));
    tell_freshness(response.headers_mut(), &read.freshness);
    Ok(response)
}

/// `POST /keys/{keyName}/requestToken`: a token for whoever knows the key, or signed with it.
async fn request_token(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    key_name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // A path that is not UTF-8 names no key.
    let Path(key_name) = key_name.map_err(|_| Problem::NotFound)?;
    let body = collect(&shared.config, shared.config.body_bytes_max, body).await?;
    let request = TokenRequest::from_value(&Format::of_body(&headers).decode(&body)?)?;
    let presenter = if request.is_signed() {
        None
    } else {
        Some(credentials::authenticate(
            &shared,
            &headers,
            &exchange.query,
        )?)
    };
    let apps = shared.ports.access.apps();
    let details = issue_token(
        &apps,
        &key_name,
        &request,
        presenter.as_ref(),
        &mut shared
            .nonces
            .lock()
            .expect("no one panics while holding the nonces"),
        shared.ports.entropy.bytes(),
        shared.ports.clock.wall().0,
    )?;
    if request.is_signed()
        && let Some(key) = apps.key(&key_name)
    {
        // Only now is it known who asks: nobody else can use up what the app may ask.
        let app = AppId::new(key.app()).expect("the configuration admits only such ids");
        shared.realtime.may_ask(&app)?;
    }
    Ok((StatusCode::CREATED, exchange.answer(&details)).into_response())
}

/// Reads a body of at most so many bytes, within the bound of time.
pub(crate) async fn collect(config: &Config, max: usize, body: Body) -> Result<Vec<u8>, Problem> {
    let after = config.body_timeout;
    let mut stream = body.into_data_stream();
    let read = async {
        let mut collected = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| {
                telemetry::rejected("body_incomplete");
                Problem::BodyIncomplete { after }
            })?;
            if collected.len() + chunk.len() > max {
                telemetry::rejected("body_too_large");
                return Err(Problem::BodyTooLarge { max });
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(collected)
    };
    tokio::time::timeout(after, read).await.unwrap_or_else(|_| {
        telemetry::rejected("body_timeout");
        Err(Problem::BodyIncomplete { after })
    })
}

/// The app that a credential belongs to, as the model names it.
pub(crate) fn app_of(credential: &Credential) -> AppId {
    AppId::new(credential.app()).expect("the configuration admits only ids that the model has")
}

/// The contract's form of a channel's global state: the coordinator's region speaks for it.
pub(crate) fn details(
    name: &str,
    coordinator: &RegionName,
    status: ChannelStatus,
) -> ChannelDetails {
    ChannelDetails {
        channel_id: name.to_owned(),
        name: name.to_owned(),
        region: Some(coordinator.to_string()),
        is_global_master: Some(true),
        status,
    }
}

fn listed_details(item: &ListItem) -> Result<ChannelDetails, ReadError> {
    let (status, coordinator) = item.value.as_ref().ok_or_else(|| ReadError::Internal {
        reason: "a list with values came without them".into(),
    })?;
    Ok(details(item.name.as_str(), coordinator, *status))
}

/// Tells what an answer rests on; see the crate's documentation.
pub(crate) fn tell_freshness(headers: &mut HeaderMap, freshness: &Freshness) {
    let name = HeaderName::from_static;
    let text = |text: &str| HeaderValue::from_str(text).expect("regions have plain names");
    let source = &freshness.source;
    let age_ms = u64::try_from(freshness.age.as_millis()).unwrap_or(u64::MAX);
    headers.insert(
        name("headcount-source"),
        text(&format!("{}/{}", source.region, source.node)),
    );
    headers.insert(name("headcount-age-ms"), HeaderValue::from(age_ms));
    if !freshness.unheard.is_empty() {
        let unheard: Vec<&str> = freshness.unheard.iter().map(RegionName::as_str).collect();
        headers.insert(name("headcount-unheard-regions"), text(&unheard.join(",")));
    }
}
