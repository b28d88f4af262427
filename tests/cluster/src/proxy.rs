//! A way to a node that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy on loopback whose address stays, whatever it leads to.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// Where to; nowhere refuses connections. Each change cuts what is connected.
    target: Arc<watch::Sender<Option<SocketAddr>>>,
}

impl Proxy {
    /// Starts a way to `target`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let target = Arc::new(watch::Sender::new(Some(target)));
        let leads = target.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let mut leads = leads.subscribe();
                let Some(to) = *leads.borrow_and_update() else {
                    continue;
                };
                tokio::spawn(async move {
                    tokio::select! {
                        _ = leads.changed() => {}
                        _ = carry(from, to) => {}
                    }
                });
            }
        });
        Self { address, target }
    }

    /// Returns the proxy's own address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts everything that is connected; new connections go to `target`.
    pub fn cut(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn carry(mut from: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut to = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut from, &mut to)
        .await
        .map(drop)
}
