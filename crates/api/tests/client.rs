//! An HTTP/1.1 client that sends what it is told, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing in these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn msgpack(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/x-msgpack"),
            "{self:?}"
        );
        rmp_serde::from_slice(&self.body).unwrap()
    }

    /// The code of an error, after checking that body, headers and status say the same.
    pub(crate) fn code(&self) -> u64 {
        let body = match self.header("content-type") {
            Some("application/x-msgpack") => self.msgpack(),
            _ => self.json(),
        };
        let error = &body["error"];
        assert_eq!(error["statusCode"], self.status, "{self:?}");
        let code = error["code"].as_u64().unwrap();
        assert_eq!(
            self.header("x-ably-errorcode"),
            Some(code.to_string().as_str())
        );
        assert!(
            self.header("x-ably-errormessage")
                .is_some_and(|text| !text.is_empty())
        );
        assert!(error["href"].as_str().unwrap().ends_with(&code.to_string()));
        assert!(error["message"].is_string());
        code
    }
}

/// A connection.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have closed already: the test then sees it while reading.
        let _sent = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Sends a request with these header lines and reads the answer.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\n");
        for line in headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send(head).await;
        self.send(body).await;
        let head_only = method == "HEAD";
        let answer = timeout(PATIENCE, self.read_answer(head_only)).await;
        answer.expect("an answer in time").expect("an answer")
    }

    /// Reads the status line and headers; `None` if the connection ends first.
    pub(crate) async fn read_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                return None;
            }
        };
        let head: Vec<u8> = self.received.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or((line.trim_end_matches(':'), ""));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Some(Answer {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: Vec::new(),
        })
    }

    /// Reads an answer whose length is told.
    pub(crate) async fn read_answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut answer = self.read_head().await?;
        let length = answer.header("content-length").unwrap_or("0");
        let length: usize = if head_only {
            0
        } else {
            length.parse().unwrap()
        };
        while self.received.len() < length {
            if !self.more().await {
                return None;
            }
        }
        answer.body = self.received.drain(..length).collect();
        Some(answer)
    }

    /// Reads more bytes; false at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }

    /// Waits for the other side to close, and returns what came before.
    pub(crate) async fn closed(mut self) -> Vec<u8> {
        let reading = async { while self.more().await {} };
        timeout(PATIENCE, reading)
            .await
            .expect("the connection is closed");
        self.received
    }

    /// Reads the next block of an event stream, chunk marks aside; `None` at the end.
    pub(crate) async fn block(&mut self) -> Option<String> {
        let reading = async {
            loop {
                let text = String::from_utf8_lossy(&self.received).into_owned();
                // Marks of chunks stand on lines of their own, ended by CRLF; blocks have LF only.
                let plain: String = unchunk(&text)?;
                if let Some((block, _)) = plain.split_once("\n\n") {
                    let block = block.to_owned();
                    self.consume(&block);
                    return Some(block);
                }
                if !self.more().await {
                    return None;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("a block in time")
    }

    /// Removes a block from what was received, by writing the rest back as one chunk.
    fn consume(&mut self, block: &str) {
        let text = String::from_utf8_lossy(&self.received).into_owned();
        let (mut plain, rest) = split_chunks(&text);
        plain.drain(..block.len() + 2);
        let rest = rest.to_owned();
        self.received = format!("{:x}\r\n{plain}\r\n{rest}", plain.len()).into_bytes();
        if plain.is_empty() {
            self.received = rest.into_bytes();
        }
    }
}

/// Joins complete chunks; `None` once the last, empty one was seen and nothing is left.
fn unchunk(text: &str) -> Option<String> {
    let (plain, rest) = split_chunks(text);
    if plain.is_empty() && rest.starts_with("0\r\n") {
        return None;
    }
    Some(plain)
}

/// The content of complete chunks, and what follows them.
fn split_chunks(mut text: &str) -> (String, &str) {
    let mut plain = String::new();
    loop {
        let Some((mark, rest)) = text.split_once("\r\n") else {
            return (plain, text);
        };
        let length = usize::from_str_radix(mark, 16).expect("the mark of a chunk");
        if length == 0 || rest.len() < length + 2 {
            return (plain, text);
        }
        plain.push_str(&rest[..length]);
        text = &rest[length + 2..];
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Sends one request on a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    Connection::open(address)
        .await
        .ask(method, target, headers, body)
        .await
}
