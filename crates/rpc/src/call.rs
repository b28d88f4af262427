//! What calls to other nodes have in common.

use std::time::Duration;

use tonic::{Response, Status};

/// Makes a call with the emulated delay of both ways; `None` if it takes longer than `within`.
pub(crate) async fn call<T>(
    delay: Duration,
    within: Duration,
    calling: impl Future<Output = Result<Response<T>, Status>>,
) -> Option<Result<T, Status>> {
    let delayed = async {
        tokio::time::sleep(delay).await;
        let answer = calling.await;
        tokio::time::sleep(delay).await;
        answer.map(Response::into_inner)
    };
    tokio::time::timeout(within, delayed).await.ok()
}

/// Two nodes over loopback, one of which serves the other.
#[cfg(test)]
pub(crate) mod testing {
    use headcount_model::{Incarnation, NodeId};
    use headcount_net::Dialer;
    use tokio::net::TcpListener;
    use tonic::transport::server::{Router, TcpIncoming};

    use super::Duration;
    use crate::peers::{Identity, Network, NetworkConfig, Peer};

    pub(crate) fn network(cluster: &str) -> Network {
        let identity = Identity {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cluster: cluster.to_owned(),
            fingerprint: "f".to_owned(),
            address: String::new(),
        };
        Network::new(NetworkConfig::default(), Dialer::default(), identity)
    }

    /// Serves `router` as node 2, and returns the network of a node of `cluster` that knows it.
    pub(crate) async fn asking(router: Router, cluster: &str, delay: Duration) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        let asking = network(cluster);
        let holder = Peer {
            node: NodeId(2),
            incarnation: Incarnation(1),
            address,
            delay,
        };
        asking.set_peers([holder], |_| true).unwrap();
        asking
    }
}
