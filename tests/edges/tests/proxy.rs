//! A way to a node that can be cut: at once, or in the middle of what an edge sends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What passes.
#[derive(Debug)]
struct Way {
    /// Where to; nowhere refuses connections.
    target: Option<SocketAddr>,
    /// Bytes that an edge may still send before everything is cut.
    allowance: Option<usize>,
}

/// A proxy on loopback; its address stays whatever it leads to.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    way: Arc<Mutex<Way>>,
    /// Raised to cut what is connected.
    cuts: Arc<watch::Sender<u64>>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(Mutex::new(Way {
            target: Some(target),
            allowance: None,
        }));
        let cuts = Arc::new(watch::Sender::new(0));
        let proxy = Self {
            address,
            way: Arc::clone(&way),
            cuts: Arc::clone(&cuts),
        };
        tokio::spawn(async move {
            while let Ok((edge, _)) = listener.accept().await {
                let target = way.lock().unwrap().target;
                if let Some(target) = target {
                    let (way, cuts) = (Arc::clone(&way), Arc::clone(&cuts));
                    tokio::spawn(async move {
                        let mut cut = cuts.subscribe();
                        tokio::select! {
                            _ = cut.changed() => {}
                            _ = carry(edge, target, &way) => {}
                        }
                    });
                }
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts everything after so many more bytes from the edge, once.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.way.lock().unwrap().allowance = Some(bytes);
    }

    /// Cuts everything now; new connections go to `target`.
    pub(crate) fn cut(&self, target: Option<SocketAddr>) {
        self.way.lock().unwrap().target = target;
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// Carries bytes both ways until one side closes or the allowance is used up.
async fn carry(edge: TcpStream, target: SocketAddr, way: &Mutex<Way>) -> std::io::Result<()> {
    let node = TcpStream::connect(target).await?;
    let (mut from_edge, mut to_edge) = edge.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let there = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from_edge.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let (pass, is_cut) = {
                let mut way = way.lock().unwrap();
                let pass = way.allowance.map_or(read, |left| left.min(read));
                way.allowance = way.allowance.map(|left| left - pass);
                let is_cut = way.allowance == Some(0);
                if is_cut {
                    way.allowance = None;
                }
                (pass, is_cut)
            };
            to_node.write_all(&buffer[..pass]).await?;
            if is_cut {
                return Ok(());
            }
        }
    };
    let back = async {
        tokio::io::copy(&mut from_node, &mut to_edge)
            .await
            .map(|_| ())
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}
