//! The service as tonic serves it. Generated code would do, were it not for the messages: those of
//! edges are read straight into the model, see [`take_report_request`].

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use headcount_wire::proto::report::v1 as pb;
use headcount_wire::{ReportReceived, take_report_request};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::codegen::{Body as HttpBody, Service as HttpService, StdError};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstEncoder;

use super::ports::{Authorize, Sessions};
use super::service::Service;

/// The reporter service, to be added to a server.
pub struct ReporterServer<A, S> {
    service: Arc<Service<A, S>>,
    /// Most bytes of a request.
    bytes_max: usize,
}

impl<A: Authorize, S: Sessions> ReporterServer<A, S> {
    pub(super) fn new(service: Service<A, S>, bytes_max: usize) -> Self {
        Self {
            service: Arc::new(service),
            bytes_max,
        }
    }
}

impl<A, S> Clone for ReporterServer<A, S> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            bytes_max: self.bytes_max,
        }
    }
}

impl<A, S> fmt::Debug for ReporterServer<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReporterServer").finish_non_exhaustive()
    }
}

impl<A, S> NamedService for ReporterServer<A, S> {
    const NAME: &'static str = pb::reporter_server::SERVICE_NAME;
}

impl<A, S, B> HttpService<HttpRequest<B>> for ReporterServer<A, S>
where
    A: Authorize,
    S: Sessions,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let Self { service, bytes_max } = self.clone();
        async move {
            if request.uri().path() != REPORT {
                return Ok(
                    Status::unimplemented("the service has the one method Report").into_http(),
                );
            }
            let mut grpc = Grpc::new(Reading).max_decoding_message_size(bytes_max);
            Ok(grpc.streaming(Report(service), request).await)
        }
        .boxed()
    }
}

/// The path of the service's one method.
const REPORT: &str = "/headcount.report.v1.Reporter/Report";

struct Report<A, S>(Arc<Service<A, S>>);

impl<A: Authorize, S: Sessions> StreamingService<ReportReceived> for Report<A, S> {
    type Response = pb::ReportResponse;
    type ResponseStream = ReceiverStream<Result<pb::ReportResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ReportReceived>>) -> Self::Future {
        let answered = self.0.report(request);
        async move { answered }.boxed()
    }
}

/// Reads requests, and writes responses as generated code does.
#[derive(Clone, Copy, Debug, Default)]
struct Reading;

impl Codec for Reading {
    type Encode = pb::ReportResponse;
    type Decode = ReportReceived;
    type Encoder = ProstEncoder<pb::ReportResponse>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for Reading {
    type Item = ReportReceived;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<ReportReceived>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let received = take_report_request(&bytes);
        let received = received.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Some(received))
    }
}
