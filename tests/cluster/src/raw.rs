//! Clients that do not behave: bytes on a socket, and any body in any gRPC request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::body::HttpBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tower::ServiceExt;

use crate::PATIENCE;

/// Sends bytes to a listener and returns what it answers until it closes the connection, which it
/// must do.
///
/// # Panics
/// If the listener keeps the connection open.
pub async fn send_bytes(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let talk = async {
        let stream = TcpStream::connect(to).await.expect("the listener listens");
        let (mut from, mut to) = stream.into_split();
        let mut answer = Vec::new();
        // A listener may close before it read everything.
        let sending = async {
            drop(to.write_all(bytes).await);
            drop(to.shutdown().await);
        };
        let reading = async { drop(from.read_to_end(&mut answer).await) };
        tokio::join!(sending, reading);
        answer
    };
    let answered = tokio::time::timeout(PATIENCE, talk).await;
    answered.unwrap_or_else(|_| panic!("{to} keeps a connection with {bytes:?}"))
}

/// Wraps a message as gRPC does.
#[must_use]
pub fn grpc_message(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a test's message is small");
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Encodes a message and wraps it as gRPC does.
#[must_use]
pub fn grpc_encoded(message: &impl prost::Message) -> Vec<u8> {
    grpc_message(&message.encode_to_vec())
}

/// How a gRPC call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcEnd {
    /// The HTTP status.
    pub http: u16,
    /// The gRPC status, if there was one.
    pub code: Option<tonic::Code>,
    /// What it says.
    pub message: String,
    /// Bytes of messages before it.
    pub answered: usize,
}

/// Calls a gRPC method with any body; returns how the call ends, which it must within a moment.
///
/// # Errors
/// If the connection broke without a status.
///
/// # Panics
/// If it does not end.
pub async fn grpc_call(
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<GrpcEnd, String> {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("an address");
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("{error:?}"))?;
    let mut request = http::Request::post(format!("http://{to}{path}"))
        .version(http::Version::HTTP_2)
        .header("te", "trailers");
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(axum::body::Body::from(body));
    let request = request.body(body).expect("headers that can be sent");
    let calling = async {
        let response = channel
            .oneshot(request)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let (parts, mut body) = response.into_parts();
        let (mut answered, mut trailers) = (0, parts.headers);
        while let Some(frame) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let frame = frame.map_err(|error| format!("{error:?}"))?;
            answered += frame.data_ref().map_or(0, bytes_of);
            if let Ok(last) = frame.into_trailers() {
                trailers.extend(last);
            }
        }
        let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
        let code = text("grpc-status").and_then(|code| code.parse::<i32>().ok());
        Ok(GrpcEnd {
            http: parts.status.as_u16(),
            code: code.map(tonic::Code::from),
            message: text("grpc-message").unwrap_or_default().to_owned(),
            answered,
        })
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), calling).await;
    ended.unwrap_or_else(|_| panic!("{path} does not end"))
}

fn bytes_of(data: &impl AsRef<[u8]>) -> usize {
    data.as_ref().len()
}
