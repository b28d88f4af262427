//! The listener before the node can serve it: everybody is told so at once, and why.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use headcount_net::Listener;
use http::{Method, header};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exchange::{allow_all_origins, format_of};
use crate::ports::Clock;
use crate::problem::Problem;
use crate::server::{Phase, accept};
use crate::telemetry;

/// How long answers under way may take once the node is ready. Short, since nobody is accepted
/// meanwhile; whoever opened a connection and has not asked yet only has to connect again.
const GOODBYE: Duration = Duration::from_millis(200);

/// Says why the node cannot serve yet.
pub type Reason = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Unready {
    clock: Arc<dyn Clock>,
    reason: Reason,
}

/// Answers on a bound listener that this node does not serve yet, until `ready` resolves; then the
/// listener is free for [`crate::serve`], and whoever connects meanwhile waits in its queue. Only
/// `GET /time` is served, which needs nobody else.
pub async fn serve_unready(
    config: &Config,
    listener: &Listener,
    clock: Arc<dyn Clock>,
    reason: Reason,
    ready: impl Future<Output = ()> + Send,
) {
    telemetry::describe();
    let (phase, seen) = watch::channel(Phase::Serving);
    let router = Router::new()
        .fallback(answer)
        .with_state(Unready { clock, reason });
    let connections = TaskTracker::new();
    tokio::select! {
        () = accept(config, &router, &seen, listener, &connections) => {}
        () = ready => {}
    }
    phase.send_replace(Phase::Draining);
    connections.close();
    // The rest is cut.
    drop(timeout(GOODBYE, connections.wait()).await);
    phase.send_replace(Phase::Ended);
}

async fn answer(State(unready): State<Unready>, request: Request) -> Response {
    let started = Instant::now();
    let format = format_of(request.uri(), request.headers());
    let asks_time = request.method() == Method::GET && request.uri().path() == "/time";
    let mut response = if asks_time {
        let mut response = Response::new(format.encode(&[unready.clock.wall()]).into());
        let content_type = format.content_type();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    } else {
        let reason = (unready.reason)();
        Problem::Unready { reason }.render(format)
    };
    allow_all_origins(response.headers_mut(), false);
    telemetry::answered("unready", response.status().as_u16(), started.elapsed());
    response
}
