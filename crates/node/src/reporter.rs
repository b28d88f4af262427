//! The reporter listener: who is told "not yet", what is served afterwards, and what health says.

use std::time::Duration;

use futures::FutureExt;
use headcount_rpc::{reporter, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::adapters::{Keys, NodeSessions, NodeWatches};
use crate::listening::Listening;
use crate::node::Progress;

/// How often health follows readiness.
const FOLLOW: Duration = Duration::from_millis(250);

/// How long calls may take to end once the node is ready. They are all refused at once, so what is
/// waited for is whoever opened a connection and sent nothing.
const GOODBYE: Duration = Duration::from_millis(200);

/// What health is asked about: the node as a whole, and each service of the listener.
pub(crate) const SERVICES: [&str; 3] =
    ["", "headcount.report.v1.Reporter", "headcount.feed.v1.Feed"];

/// Answers every call with UNAVAILABLE and what is missing, and health truly, until `ready`; then
/// the listener is free for [`serve`].
pub(crate) async fn refuse<H: Health>(
    config: &reporter::Config,
    listening: &Listening,
    health: HealthServer<H>,
    progress: Progress,
    ready: CancellationToken,
) {
    let refusal = move || {
        let status = Status::unavailable(format!(
            "this node does not serve yet: {}",
            progress.unready()
        ));
        async move { status.into_http::<tonic::body::Body>() }
    };
    let routes = Routes::from(axum::Router::new().fallback(refusal)).add_service(health);
    let until = ready.clone().cancelled_owned();
    let serving = reporter::server(config)
        .add_routes(routes)
        .serve_with_incoming_shutdown(listening.incoming(), until);
    let over = async {
        ready.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(target: "rpc", %error, "the reporter listener ended early");
        },
        () = over => {}
    }
}

/// What the listener serves.
pub(crate) struct Served<H: Health> {
    pub(crate) config: reporter::Config,
    pub(crate) watch: watch::Config,
    pub(crate) keys: Keys,
    pub(crate) sessions: NodeSessions,
    pub(crate) watches: NodeWatches,
    pub(crate) health: HealthServer<H>,
}

impl<H: Health> Served<H> {
    /// Makes the server.
    pub(crate) fn router(self) -> tonic::transport::server::Router {
        let reporter = reporter::service(self.config.clone(), self.keys.clone(), self.sessions);
        let watching = watch::WatchService::new(
            self.watch,
            std::sync::Arc::new(self.watches),
            std::sync::Arc::new(self.keys),
        );
        // Only what this listener serves: the descriptors know all of our packages.
        let described = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(headcount_wire::proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(
                    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
                );
            let own = SERVICES.iter().filter(|name| !name.is_empty()).copied();
            let theirs = [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ];
            own.chain(theirs).fold(
                builder,
                tonic_reflection::server::Builder::with_service_name,
            )
        };
        let made = "the descriptors were made from the same files as the services";
        reporter::server(&self.config)
            .add_service(reporter)
            .add_service(watching.into_server())
            .add_service(self.health)
            .add_service(described().build_v1().expect(made))
            .add_service(described().build_v1alpha().expect(made))
    }
}

/// Says that nothing is served yet. To be called before anybody can ask.
pub(crate) async fn not_yet(health: &HealthReporter) {
    set(health, ServingStatus::NotServing).await;
}

/// Keeps health what readiness is, for ever: a balancer that asks by gRPC sees what `/readyz` says.
pub(crate) async fn follow(health: HealthReporter, progress: Progress) {
    let mut told = false;
    loop {
        let ready = progress.missing().is_empty();
        if ready != told {
            told = ready;
            let status = match ready {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            set(&health, status).await;
        }
        tokio::time::sleep(FOLLOW).await;
    }
}

async fn set(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Serves a listener until the node ends.
pub(crate) async fn serve(
    router: tonic::transport::server::Router,
    listening: Listening,
    ended: CancellationToken,
) {
    let listener = listening.name();
    let shutdown = ended.cancelled_owned().map(drop);
    let incoming = listening.incoming();
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await
    {
        tracing::error!(target: "rpc", listener, %error, "a listener ended");
    }
}

#[cfg(test)]
mod tests {
    use headcount_wire::proto::report::v1::reporter_client::ReporterClient;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::{v1, v1alpha};

    use super::*;
    use crate::config::{RawConfig, Sources, load};
    use crate::{Listeners, Node, Options};

    async fn healthy(channel: &Channel) -> Vec<bool> {
        let mut said = Vec::new();
        for service in SERVICES {
            let service = service.to_owned();
            let mut client = HealthClient::new(channel.clone());
            let asked = client.check(HealthCheckRequest { service }).await;
            said.push(asked.unwrap().into_inner().status == ServingStatus::Serving as i32);
        }
        said
    }

    async fn http(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks for the listed services, over both versions of the protocol.
    macro_rules! listed {
        ($version:ident, $channel:expr) => {{
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let request = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let client = $version::server_reflection_client::ServerReflectionClient::new($channel);
            let requests = futures::stream::iter([request]);
            let answers = { client }.server_reflection_info(requests).await.unwrap();
            let answer = answers.into_inner().message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("no list: {answer:?}");
            };
            let mut names: Vec<_> = list.service.into_iter().map(|listed| listed.name).collect();
            names.sort();
            names
        }};
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_says_at_once_whether_it_serves_and_what() {
        let dir = tempfile::tempdir().unwrap();
        let mut base = RawConfig::dev(0, dir.path());
        base.cluster.shards = 1;
        "local".clone_into(&mut base.cluster.timing);
        let listen = &mut base.listen;
        for listener in [
            &mut listen.client,
            &mut listen.reporter,
            &mut listen.peer,
            &mut listen.admin,
        ] {
            "127.0.0.1:0".clone_into(listener);
        }
        let sources = Sources {
            base,
            ..Sources::defaults()
        };
        let config = load(sources).unwrap().config;
        let listeners = Listeners::bind(&config).await.unwrap();
        let node = Node::start(config, listeners, Options::default())
            .await
            .unwrap();
        let addresses = node.addresses().clone();
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses.reporter));
        let channel = endpoint.unwrap().connect_lazy();

        // Before it has a cluster.
        assert_eq!(healthy(&channel).await, [false; 3]);
        let mut edge = ReporterClient::new(channel.clone());
        let refused = edge.report(futures::stream::pending()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("not a member"), "{refused}");
        let answer = http(&addresses.client, "GET /channels").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

        // And after.
        let founded = http(&addresses.admin, "POST /v1/init").await;
        assert!(founded.starts_with("HTTP/1.1 200 "), "{founded}");
        node.wait_ready(Duration::from_secs(60)).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while healthy(&channel).await != [true; 3] {
            assert!(tokio::time::Instant::now() < deadline);
            // allow-sleep: polls for a condition with a deadline
            tokio::time::sleep(FOLLOW / 4).await;
        }
        let refused = edge.report(futures::stream::pending()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("missing"), "{refused}");
        let answer = http(&addresses.client, "GET /channels").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        let expected = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "headcount.feed.v1.Feed",
            "headcount.report.v1.Reporter",
        ];
        assert_eq!(listed!(v1, channel.clone()), expected);
        assert_eq!(listed!(v1alpha, channel.clone()), expected);
        node.shutdown().await;
    }
}
