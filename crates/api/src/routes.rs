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
use headcount_access::{Credential, NonceWindow, Operation, TokenRequest, issue_token};
use headcount_model::{AppId, ChannelDetails, ChannelStatus, Occupancy, RegionName};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::credentials;
use crate::events;
use crate::exchange::{Exchange, exchange};
use crate::format::Format;
use crate::page::{By, ListParams};
use crate::path::{Channel, ChannelPath};
use crate::ports::{Freshness, ListItem, ListQuery, Ports, ReadError, ReadLevel};
use crate::problem::Problem;
use crate::realtime::{self, Core};
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
    async fn read<T>(&self, read: BoxFuture<'_, Result<T, ReadError>>) -> Result<T, ReadError> {
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
        .route("/channels/", get(status))
        .route("/channels/{*name}", get(status))
        .route("/keys/{keyName}/requestToken", post(request_token))
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

/// `GET /channels/{id}`: the global state of one channel.
async fn status(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let path = ChannelPath::parse(uri.path());
    if path.verb.is_some() {
        return Err(Problem::NotFound);
    }
    let credential = credentials::authenticate(&shared, &headers, &exchange.query)?;
    let name = path.name()?;
    let channel = Channel::parse(app_of(&credential), &name)?;
    credential.may(Operation::ChannelMetadata, &name)?;
    let level = match exchange.query.given("consistency") {
        None | Some("local") => ReadLevel::Local,
        Some("strong") => ReadLevel::Strong,
        Some(_) => {
            return Err(Problem::Parameter {
                name: "consistency",
                reason: "it must be local or strong",
            });
        }
    };
    let channel = match channel {
        Channel::Normal(channel) => channel,
        Channel::Meta(name) => {
            let region = &shared.ports.source.region;
            let inactive = ChannelStatus::new(false, Occupancy::ZERO);
            return Ok(exchange.answer(&details(&name, region, inactive)));
        }
    };
    tracing::Span::current().record("channel", channel.name.as_str());
    let name = channel.name.clone();
    let read = shared
        .read(shared.ports.directory.status(channel, level))
        .await?;
    let details = details(name.as_str(), &read.coordinator, read.status);
    let mut response = exchange.answer(&details);
    tell_freshness(response.headers_mut(), &read.freshness);
    Ok(response)
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
    let body = collect(&shared.config, body).await?;
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
    Ok((StatusCode::CREATED, exchange.answer(&details)).into_response())
}

/// Reads a body within the bounds of size and time.
async fn collect(config: &Config, body: Body) -> Result<Vec<u8>, Problem> {
    let (max, after) = (config.body_bytes_max, config.body_timeout);
    let mut stream = body.into_data_stream();
    let read = async {
        let mut collected = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| Problem::BodyIncomplete { after })?;
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
fn details(name: &str, coordinator: &RegionName, status: ChannelStatus) -> ChannelDetails {
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

fn tell_links(headers: &mut HeaderMap, links: &[String]) {
    for link in links {
        let value = HeaderValue::from_str(link).expect("links are percent-encoded");
        headers.append(header::LINK, value);
    }
}

/// Tells what an answer rests on; see the crate's documentation.
fn tell_freshness(headers: &mut HeaderMap, freshness: &Freshness) {
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
