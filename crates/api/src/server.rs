//! The listener: connections, their deadlines, and the end of both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::BytesMut;
use headcount_net::{Listener, Stream};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::body::Held;
use crate::config::Config;
use crate::connection::{Activity, Idleness, StallGuard};
use crate::format::Format;
use crate::ports::Ports;
use crate::problem::Problem;
use crate::realtime::Realtime;
use crate::routes::{Shared, router};
use crate::telemetry;

/// How long to wait before accepting again when the process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The smallest buffer that hyper's HTTP/1.1 takes.
const HEADER_BYTES_MIN: usize = 8192;
/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// How often an HTTP/2 connection is pinged, and how long an answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests are taken.
    Serving,
    /// Those under way may end, event streams are ended.
    Draining,
    /// Whatever is left is cut.
    Ended,
}

/// Serves on a bound listener until `shutdown` resolves, then drains: no connection is taken any
/// more, event streams end with a resume point, requests under way have
/// [`Config::drain_timeout`].
pub async fn serve(
    config: Config,
    realtime: Realtime,
    listener: Listener,
    ports: Ports,
    shutdown: impl Future<Output = ()> + Send,
) {
    telemetry::describe();
    let drain_timeout = config.drain_timeout;
    let Realtime(core) = realtime;
    let phase = core.phase.clone();
    let shared = Shared::new(config, Arc::clone(&core), ports, phase.subscribe());
    let shared = Arc::new(shared);
    let connections = TaskTracker::new();

    let router = router(Arc::clone(&shared));
    tokio::select! {
        () = accept(&shared.config, &router, &shared.phase, &listener, &connections) => {}
        () = shared.realtime.sweep() => {}
        () = shutdown => {}
    }
    // First the listener, so that a client that reconnects does so elsewhere.
    drop(listener);
    connections.close();
    core.tasks.close();
    phase.send_replace(Phase::Draining);
    let ended = async {
        // Realtime connections tell their clients where to go, and stop counting.
        core.tasks.wait().await;
        connections.wait().await;
    };
    if timeout(drain_timeout, ended).await.is_err() {
        tracing::warn!(target: "api", left = connections.len(), "connections cut at shutdown");
    }
    phase.send_replace(Phase::Ended);
    connections.wait().await;
}

/// Takes connections for ever.
pub(crate) async fn accept(
    config: &Config,
    router: &Router,
    phase: &watch::Receiver<Phase>,
    listener: &Listener,
    connections: &TaskTracker,
) {
    let config = Arc::new(config.clone());
    let permits = Arc::new(Semaphore::new(config.connections_max));
    let full = refusal(&Problem::TooManyConnections {
        max: config.connections_max,
    })
    .await;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                telemetry::rejected("accept_failed");
                if !is_of_one_connection(&error) {
                    tracing::warn!(target: "api", %error, "no connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => {
                let (config, router) = (Arc::clone(&config), router.clone());
                connections.spawn(connection(config, router, phase.clone(), stream, permit));
            }
            Err(_) => {
                telemetry::rejected("connections");
                // Best effort, at once and without a task: a flood must not cost more than this.
                let _sent = stream.try_write(&full);
            }
        }
    }
}

/// Whether accepting failed because of the connection, so that the next one may do.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// An answer as text, for a client of which nothing was read.
async fn refusal(problem: &Problem) -> Vec<u8> {
    let (parts, body) = problem.render(Format::Json).into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default();
    let mut text = BytesMut::new();
    text.extend_from_slice(format!("HTTP/1.1 {}\r\n", parts.status).as_bytes());
    for (name, value) in &parts.headers {
        text.extend_from_slice(format!("{name}: ").as_bytes());
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let rest = format!(
        "content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    text.extend_from_slice(rest.as_bytes());
    text.extend_from_slice(&body);
    text.to_vec()
}

/// Serves one connection to its end.
async fn connection(
    config: Arc<Config>,
    router: Router,
    mut phase: watch::Receiver<Phase>,
    stream: Stream,
    permit: OwnedSemaphorePermit,
) {
    let _entered = telemetry::connections.enter();
    // Small answers must not wait for acknowledgements; a socket that refuses is about to fail.
    let _set = stream.set_nodelay(true);
    let activity = Arc::new(Activity::default());
    let socket = StallGuard::new(stream, config.write_timeout, Arc::clone(&activity));
    let io = TokioIo::new(socket);
    let service = hyper::service::service_fn({
        let activity = Arc::clone(&activity);
        move |request: http::Request<Incoming>| {
            let under_way = activity.begin();
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let response = answer.await?;
                Ok::<_, std::convert::Infallible>(response.map(|body| Held::new(body, under_way)))
            }
        }
    });
    let builder = builder(&config);
    let served = builder.serve_connection_with_upgrades(io, service);
    let mut served = std::pin::pin!(served);
    let mut awaited = Phase::Draining;
    let idleness = activity.idleness(config.header_timeout, config.idle_timeout);
    let mut idleness = std::pin::pin!(idleness);
    let started = Instant::now();
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tell_end(&*error, started.elapsed());
                }
                break;
            }
            idleness = idleness.as_mut() => {
                telemetry::rejected(match idleness {
                    Idleness::NeverAsked => "header_timeout",
                    Idleness::Quiet => "idle",
                });
                break;
            }
            () = until(&mut phase, awaited) => {
                if awaited == Phase::Ended {
                    break;
                }
                awaited = Phase::Ended;
                served.as_mut().graceful_shutdown();
            }
        }
    }
    drop(permit);
}

/// Waits for a phase, or for the end of the server, which comes after all of them.
pub(crate) async fn until(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _gone = phase.wait_for(|reached| *reached >= wanted).await.is_err();
}

/// The protocols with their bounds.
fn builder(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let header_bytes_max = config.header_bytes_max.max(HEADER_BYTES_MIN);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Whether the other side broke the rules of HTTP/2, of which hyper has no word of its own: all that
/// ends a connection otherwise has no cause, or one of the socket or of the service.
fn is_of_http2(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| !cause.is::<io::Error>()) && !error.is_user()
}

/// Counts why a connection broke, where a bound was the reason. Clients that go away are normal.
fn tell_end(error: &(dyn std::error::Error + 'static), after: Duration) {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_timeout() {
                telemetry::rejected("header_timeout");
            } else if error.is_parse_too_large() {
                telemetry::rejected("header_too_large");
            } else if error.is_parse() || is_of_http2(error) {
                telemetry::rejected("malformed");
            }
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::TimedOut
        {
            telemetry::rejected("write_timeout");
        }
        source = error.source();
    }
    tracing::debug!(target: "api", error, ?after, "connection ended");
}
