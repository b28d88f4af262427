//! A small HTTP client over the simulated network: one connection per request.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use crate::network::SimDialer;

/// What a node answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body as text.
    pub(crate) body: String,
}

/// Asks for a path, within a time.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn get(
    dialer: &SimDialer,
    to: SocketAddr,
    path: &str,
    authorization: &str,
    within: Duration,
) -> Result<Answer, String> {
    send(
        dialer,
        to,
        (Method::GET, path),
        String::new(),
        authorization,
        within,
    )
    .await
}

/// Sends a body with a method to a path, and waits for the answer within a time.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn send(
    dialer: &SimDialer,
    to: SocketAddr,
    (method, path): (Method, &str),
    body: String,
    authorization: &str,
    within: Duration,
) -> Result<Answer, String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", to.to_string())
        .header("authorization", authorization)
        .body(Full::from(body))
        .map_err(|error| error.to_string())?;
    let asking = ask(dialer.clone(), to, request);
    match tokio::time::timeout(within, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(format!("no answer within {within:?}")),
    }
}

async fn ask(
    dialer: SimDialer,
    to: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let socket = dialer.connect(to).await.map_err(|error| said(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| said(&error))?;
    let answering = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| said(&error))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| said(&error))?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        })
    };
    tokio::pin!(connection);
    tokio::pin!(answering);
    tokio::select! {
        biased;
        answer = &mut answering => answer,
        ended = &mut connection => {
            ended.map_err(|error| said(&error))?;
            answering.await
        }
    }
}
