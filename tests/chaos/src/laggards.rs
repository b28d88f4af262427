//! Laggards: clients of a node's public listener that ask for much and read little or nothing of
//! it, each a connection of its own, as a library would read on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::cluster::{Cluster, KEY};
use crate::edges::authorization;
use crate::nemesis::pass;

/// What the kernel takes in for a laggard: little, so that what is not read waits in the node soon.
const RECEIVE_BUFFER: u32 = 64 * 1024;

/// Pages of the list that are asked for at once, each a third of a megabyte: more than the kernels
/// of both ends take in.
const PAGES: usize = 16;

/// How much is read at a trickle, and how often: 32 kB a second, so that a node's write gets on
/// several times in the time that it waits for one. The kernel lets it once a third of its buffer
/// is free, which for packets of 9,000 bytes is about 100 kB.
const SIP: usize = 3_200;
const SIPS: Duration = Duration::from_millis(100);

/// Longest wait for an answer's beginning, and for more of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a laggard asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Server-sent events of everything.
    Events,
    /// The realtime protocol's channel of the same events, over a websocket.
    Lifecycle,
    /// The list of all channels, again and again.
    List,
}

/// Asks a node; returns the connection once the answer has begun.
pub(crate) async fn ask(cluster: &Cluster, node: usize, asks: Asks) -> Result<TcpStream> {
    let base = cluster.client(node);
    let address: SocketAddr = base.trim_start_matches("http://").parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let connecting = tokio::time::timeout(PATIENCE, socket.connect(address));
    let mut stream = connecting.await.context("no connection")??;
    let get = |target: &str, more: &str| {
        let authorization = authorization();
        format!(
            "GET {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: {authorization}\r\n{more}\r\n"
        )
    };
    let (request, begins) = match asks {
        Asks::Events => (get("/events", ""), "200 OK"),
        Asks::List => {
            let page = get("/channels?by=value&limit=1000", "");
            (page.repeat(PAGES), "200 OK")
        }
        Asks::Lifecycle => {
            let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
            let target = format!("/?key={KEY}&v=6&format=json");
            (get(&target, upgrade), "101 Switching")
        }
    };
    stream.write_all(request.as_bytes()).await?;
    hear(&mut stream, begins).await?;
    if asks == Asks::Lifecycle {
        // A websocket frame: text, of 49 bytes, and masked, by zeros.
        let attach = b"\x81\xb1\0\0\0\0{\"action\":10,\"channel\":\"[meta]channel.lifecycle\"}";
        stream.write_all(attach).await?;
        hear(&mut stream, "\"action\":11").await?;
    }
    Ok(stream)
}

/// Reads until something was heard.
async fn hear(stream: &mut TcpStream, wanted: &str) -> Result<()> {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(wanted) {
        let reading = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard)).await;
        let read = reading.is_ok_and(|read| read.is_ok_and(|bytes| bytes > 0));
        let so_far = String::from_utf8_lossy(&heard);
        ensure!(read, "{wanted:?} was not heard, but {so_far:?}");
    }
    Ok(())
}

/// Reads at a trickle until told to stop; returns how many bytes that were.
///
/// # Errors
/// If the node ended the connection, or sends nothing any more.
pub(crate) async fn sip(mut stream: TcpStream, stop: watch::Receiver<bool>) -> Result<usize> {
    let (mut bytes, mut sip) = (0, vec![0; SIP]);
    while !*stop.borrow() {
        let reading = tokio::time::timeout(PATIENCE, stream.read(&mut sip)).await;
        let read = reading.map_err(anyhow::Error::from).and_then(|r| Ok(r?));
        let read = read.with_context(|| format!("who trickled on read {bytes} bytes"))?;
        ensure!(read > 0, "who trickled on was cut off after {bytes} bytes");
        bytes += read;
        pass(SIPS).await;
    }
    Ok(bytes)
}
