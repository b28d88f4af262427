//! Addresses of a node that stay its own over restarts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use headcount_node::{Listener, Listeners};

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// REST and server-sent events.
    pub client: SocketAddr,
    /// gRPC for edges and watchers.
    pub reporter: SocketAddr,
    /// gRPC between nodes.
    pub peer: SocketAddr,
    /// Health, metrics and operators.
    pub admin: SocketAddr,
}

/// Takes an address of the loopback network that no other cluster of this machine uses, as long as
/// there are fewer than 2^22 processes. A port that was taken from the system there is still free
/// when its node comes back: outgoing connections use ports of 127.0.0.1.
pub(crate) fn own_address() -> Ipv4Addr {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed) % 64;
    // The last byte is neither 0 nor 255, the second neither 0 nor above 127.
    let mixed = std::process::id().wrapping_mul(64).wrapping_add(cluster);
    let [_, _, high, low] = mixed.to_be_bytes();
    let middle = 1 + (mixed >> 16) % 127;
    let [_, _, _, middle] = middle.to_be_bytes();
    Ipv4Addr::new(127, middle, high, 1 + low % 254)
}

impl Ports {
    /// Takes four free ports, and keeps them open for the node's first start.
    pub(crate) async fn take(address: Ipv4Addr) -> (Self, Listeners) {
        let free = || async move {
            let bound = tokio::net::TcpListener::bind((address, 0)).await;
            Listener::from(bound.expect("the system has a free port"))
        };
        let listeners = Listeners {
            client: free().await,
            reporter: free().await,
            peer: free().await,
            admin: free().await,
        };
        let local = |listener: &Listener| {
            listener
                .local_addr()
                .expect("a bound listener has an address")
        };
        let ports = Self {
            client: local(&listeners.client),
            reporter: local(&listeners.reporter),
            peer: local(&listeners.peer),
            admin: local(&listeners.admin),
        };
        (ports, listeners)
    }
}
