//! The listener itself: routes, the operator's credential, and how outcomes look.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use axum::serve::IncomingStream;
use headcount_model::{NodeId, RegionName};
use headcount_net::Listener;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::ports::{Operator, OperatorCommand, OperatorError};
use crate::listening::{Listening, Terms};
use crate::telemetry;

/// Largest body of a request, in bytes: far above a table of weights.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How often what was recorded is folded into distributions, so that a process that nobody scrapes
/// keeps no growing list of samples.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a connection may take to begin.
const BEGINNING: Duration = Duration::from_secs(10);

/// How long it may stay without a request: longer than collectors of metrics wait between two, and
/// than any answer takes.
const SILENCE: Duration = Duration::from_secs(150);

#[derive(Clone)]
struct Admin {
    config: Arc<Config>,
    operator: Arc<dyn Operator>,
    metrics: Option<PrometheusHandle>,
}

/// Serves the admin listener until `shutdown` resolves.
pub async fn serve(
    config: Config,
    listener: Listener,
    operator: Arc<dyn Operator>,
    is_measured: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let metrics = is_measured.then(telemetry::recorder);
    let ended = CancellationToken::new();
    let _cut = ended.clone().drop_guard();
    let terms = Terms {
        connections_max: config.connections_max,
        beginning: BEGINNING,
        silence: Some(SILENCE),
    };
    let listener = Listening::new("admin", listener, terms, ended);
    let app = router(config, operator, metrics.clone());
    let app = app.into_make_service_with_connect_info::<Caller>();
    let serving = async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(target: "admin", %error, "the admin listener ended");
        }
    };
    let upkeep = async {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            if let Some(metrics) = &metrics {
                metrics.run_upkeep();
            }
        }
    };
    // Connections are cut at the end: whoever waits for an answer learns that the node is gone.
    tokio::select! {
        () = serving => {}
        () = upkeep => {}
        () = shutdown => {}
    }
}

/// Makes the routes.
pub(super) fn router(
    config: Config,
    operator: Arc<dyn Operator>,
    metrics: Option<PrometheusHandle>,
) -> Router {
    let admin = Admin {
        config: Arc::new(config),
        operator,
        metrics,
    };
    let operations = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/init", post(init))
        .route("/v1/nodes/{id}/{operation}", post(node))
        .route("/v1/weights", put(weights))
        .route("/v1/homes", put(homes))
        .route("/v1/settings", put(settings))
        .layer(middleware::from_fn_with_state(admin.clone(), admit));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .merge(operations)
        .method_not_allowed_fallback(async || {
            let remedy = "the header Allow names what is";
            failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "the method is not allowed here",
                Some(remedy),
            )
        })
        .fallback(async || failure(StatusCode::NOT_FOUND, "there is nothing at this path", None))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn healthz(State(admin): State<Admin>) -> Response {
    let broken = admin.operator.health().broken;
    let healthy = broken.is_empty();
    (
        verdict(healthy),
        Json(json!({ "healthy": healthy, "broken": broken })),
    )
        .into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.operator.readiness().missing;
    let ready = missing.is_empty();
    (
        verdict(ready),
        Json(json!({ "ready": ready, "missing": missing })),
    )
        .into_response()
}

fn verdict(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        admin
            .metrics
            .as_ref()
            .map(PrometheusHandle::render)
            .unwrap_or_default(),
    )
        .into_response()
}

/// Whence a request comes.
#[derive(Clone, Copy, Debug)]
struct Caller(SocketAddr);

impl Connected<IncomingStream<'_, Listening>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Listening>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Lets operators through.
async fn admit(
    State(admin): State<Admin>,
    ConnectInfo(Caller(peer)): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(&admin.config, peer, request.headers()) {
        None => next.run(request).await,
        Some((status, what, remedy)) => {
            let mut response = failure(status, what, Some(remedy));
            if status == StatusCode::UNAUTHORIZED {
                let challenge = header::HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

/// Says why a caller is no operator; `None` if it is one.
fn refusal(
    config: &Config,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Option<(StatusCode, &'static str, &'static str)> {
    let Some(token) = config.token.as_ref().and_then(|token| token.expose()) else {
        // A page in a browser on this machine comes from loopback too, and names its origin.
        let local = peer.ip().to_canonical().is_loopback() && !headers.contains_key(header::ORIGIN);
        return (!config.open_on_loopback || !local).then_some((
            StatusCode::FORBIDDEN,
            "this node has no operator token, and the caller is not trusted without one",
            "set admin.token on the node, and send it as a bearer token",
        ));
    };
    let sent = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.split_once(' '));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let right = sent.is_some_and(|(_, sent)| equal_in_constant_time(sent.trim(), token));
    (!right).then_some((
        StatusCode::UNAUTHORIZED,
        "the operator token is missing or wrong",
        "send admin.token as a bearer token: headcount --token, or HEADCOUNT_TOKEN",
    ))
}

/// Compares without telling by the time taken where two texts differ.
fn equal_in_constant_time(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |sum, (left, right)| sum | (left ^ right));
    left.len() == right.len() && difference == 0
}

async fn status(State(admin): State<Admin>) -> Response {
    Json(admin.operator.status().await).into_response()
}

async fn init(State(admin): State<Admin>) -> Response {
    done(admin.operator.init().await)
}

async fn node(
    State(admin): State<Admin>,
    Path((id, operation)): Path<(String, String)>,
) -> Response {
    let Ok(id) = id.parse() else {
        let what = format!("{id:?} is no node id: expected a number, see GET /v1/status");
        return failure(StatusCode::BAD_REQUEST, &what, None);
    };
    let command = match operation.as_str() {
        "drain" => OperatorCommand::Drain(NodeId(id)),
        "undrain" => OperatorCommand::Undrain(NodeId(id)),
        "remove" => OperatorCommand::Remove(NodeId(id)),
        _ => {
            let what = "nodes can be asked to drain, undrain or remove";
            return failure(StatusCode::NOT_FOUND, what, None);
        }
    };
    command_node(&admin, command).await
}

async fn weights(State(admin): State<Admin>, body: Body) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    let weights: BTreeMap<RegionName, u32> = match serde_json::from_slice(&body) {
        Ok(weights) => weights,
        Err(error) => return malformed(&error, "{\"us-east-1\": 100}"),
    };
    command_node(&admin, OperatorCommand::SetWeights(weights)).await
}

async fn homes(State(admin): State<Admin>, body: Body) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    let homes: BTreeMap<String, RegionName> = match serde_json::from_slice(&body) {
        Ok(homes) => homes,
        Err(error) => return malformed(&error, "{\"eu:\": \"eu-west-1\"}"),
    };
    command_node(&admin, OperatorCommand::SetHomes(homes)).await
}

/// What `PUT /v1/settings` takes.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangedSettings {
    occupancy_interval_ms: Option<u64>,
    copies: Option<u32>,
}

async fn settings(State(admin): State<Admin>, body: Body) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    let changed: ChangedSettings = match serde_json::from_slice(&body) {
        Ok(changed) => changed,
        Err(error) => return malformed(&error, "{\"occupancy_interval_ms\": 5000, \"copies\": 2}"),
    };
    let interval = changed.occupancy_interval_ms.map(Duration::from_millis);
    let commands = [
        interval.map(OperatorCommand::SetOccupancyInterval),
        changed.copies.map(OperatorCommand::SetCopies),
    ];
    for command in commands.into_iter().flatten() {
        let response = command_node(&admin, command).await;
        if !response.status().is_success() {
            return response;
        }
    }
    done(Ok(()))
}

async fn command_node(admin: &Admin, command: OperatorCommand) -> Response {
    if let Err(error) = command.check() {
        return done(Err(error));
    }
    tracing::info!(target: "admin", ?command, "an operator asked");
    done(admin.operator.command(command).await)
}

/// A request's body, or why it was not read.
type Body = Result<Bytes, BytesRejection>;

fn unread(rejection: &BytesRejection) -> Response {
    let remedy = format!("send at most {BODY_BYTES_MAX} bytes");
    failure(rejection.status(), &rejection.body_text(), Some(&remedy))
}

fn malformed(error: &serde_json::Error, example: &str) -> Response {
    let what = format!("the body is not what is expected: {error}");
    failure(
        StatusCode::BAD_REQUEST,
        &what,
        Some(&format!("send JSON such as {example}")),
    )
}

fn done(result: Result<(), OperatorError>) -> Response {
    let Err(error) = result else {
        return Json(json!({ "done": true })).into_response();
    };
    let status = match &error {
        OperatorError::Refused(_) | OperatorError::HasCluster => StatusCode::CONFLICT,
        OperatorError::Invalid(_) => StatusCode::BAD_REQUEST,
        OperatorError::NoCluster | OperatorError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        OperatorError::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
    };
    failure(status, &error.to_string(), None)
}

fn failure(status: StatusCode, error: &str, remedy: Option<&str>) -> Response {
    let body = match remedy {
        Some(remedy) => json!({ "error": error, "remedy": remedy }),
        None => json!({ "error": error }),
    };
    (status, Json(body)).into_response()
}
