//! A client that costs little: its requests are written before the clock runs, and of the answers
//! it reads what it must.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::node::KEY;

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Http {
    socket: TcpStream,
    buffer: Vec<u8>,
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) head: &'a str,
    pub(crate) body: &'a [u8],
}

impl Http {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let buffer = Vec::with_capacity(1 << 16);
        Ok(Self { socket, buffer })
    }

    /// Sends a request of [`get`] and waits for its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.socket.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let text = std::str::from_utf8(&self.buffer[..head])?;
        ensure!(text.starts_with("HTTP/1.1 200"), "refused: {text}");
        let length = field(text, "content-length").context("an answer without its length")?;
        let length: usize = length.parse()?;
        let begin = head + 4;
        while self.buffer.len() < begin + length {
            self.more().await?;
        }
        Ok(Answer {
            head: std::str::from_utf8(&self.buffer[..head])?,
            body: &self.buffer[begin..begin + length],
        })
    }

    async fn more(&mut self) -> Result<()> {
        let read = self.socket.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the node closed the connection");
        Ok(())
    }
}

/// Writes a request.
pub(crate) fn get(path: &str) -> Vec<u8> {
    let key = base64::engine::general_purpose::STANDARD.encode(KEY);
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Basic {key}\r\n\r\n").into_bytes()
}

/// Returns the first field with a name, which is in lower case.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut values = fields.filter(|(field, _)| *field == name);
    values.next().map(|(_, value)| value)
}

impl Answer<'_> {
    /// Returns the path of the next page, if there is one.
    pub(crate) fn next(&self) -> Option<String> {
        let links = self.head.lines().filter(|line| line.starts_with("link: "));
        let mut next = links.filter(|line| line.contains("rel=\"next\""));
        let (_, rest) = next.next()?.split_once('<')?;
        let (path, _) = rest.split_once('>')?;
        Some(path.replacen("./", "/", 1))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
