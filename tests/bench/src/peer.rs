//! What people use today: counters in Redis, written through a pipeline.
//!
//! Each attach is five `HINCRBY` of the channel's hash and an `EXPIRE` that a sweeper would live by.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::process::Process;
use crate::traffic::Attach;

/// The commands of one attach, and so the replies to it.
const COMMANDS: usize = 6;

/// How long the server may take to be there.
const START: Duration = Duration::from_secs(10);

/// A Redis server without persistence, on a socket of its own.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) process: Process,
    socket: UnixStream,
    _directory: tempfile::TempDir,
}

impl Peer {
    /// Starts one, or says that there is none and returns nothing.
    pub(crate) async fn start() -> Result<Option<Self>> {
        if !is_installed() {
            eprintln!("skipped: redis-server is not installed");
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("redis.sock");
        let place = path.to_str().context("the path is not text")?;
        let arguments = [
            "--port",
            "0",
            "--unixsocket",
            place,
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ];
        let process = Process::start(Path::new("redis-server"), &arguments)?;
        let begun = Instant::now();
        let socket = loop {
            match UnixStream::connect(&path).await {
                Ok(socket) => break socket,
                Err(error) if begun.elapsed() > START => {
                    return Err(error).context("redis-server did not start");
                }
                // allow-sleep: polls for a condition with a deadline
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Ok(Some(Self {
            process,
            socket,
            _directory: directory,
        }))
    }

    /// Sends attaches that were encoded before, and waits until all of their replies are there.
    pub(crate) async fn send(&mut self, encoded: &[(Bytes, usize)]) -> Result<()> {
        let expected: usize = encoded
            .iter()
            .map(|(_, attaches)| attaches * COMMANDS)
            .sum();
        let (mut read, mut write) = self.socket.split();
        let sending = async {
            for (bytes, _) in encoded {
                write.write_all(bytes).await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let receiving = async {
            let mut buffer = BytesMut::with_capacity(1 << 16);
            let mut replies = 0;
            while replies < expected {
                buffer.clear();
                ensure!(
                    read.read_buf(&mut buffer).await? > 0,
                    "redis-server closed the connection"
                );
                if buffer.contains(&b'-') {
                    bail!("redis-server refused: {}", String::from_utf8_lossy(&buffer));
                }
                replies += buffer.iter().filter(|byte| **byte == b'\n').count();
            }
            Ok(())
        };
        futures::future::try_join(sending, receiving).await?;
        Ok(())
    }

    /// Returns a channel's count of connections.
    pub(crate) async fn connections(&mut self, channel: &str) -> Result<u64> {
        let command = format!("HGET occupancy:{channel} connections\r\n");
        self.socket.write_all(command.as_bytes()).await?;
        let mut reply = [0; 64];
        let length = self.socket.read(&mut reply).await?;
        let reply = std::str::from_utf8(&reply[..length])?;
        let value = reply.split("\r\n").nth(1).context("no such channel")?;
        Ok(value.parse()?)
    }
}

fn is_installed() -> bool {
    let version = std::process::Command::new("redis-server")
        .arg("--version")
        .output();
    version.is_ok()
}

/// Encodes attaches as the peer's protocol wants them.
pub(crate) fn encode(attaches: &[Attach], at_once: usize) -> Vec<(Bytes, usize)> {
    const FIELDS: [&str; 5] = [
        "connections",
        "publishers",
        "subscribers",
        "presenceConnections",
        "presenceSubscribers",
    ];
    let chunks = attaches.chunks(at_once).map(|chunk| {
        let mut text = String::new();
        for attach in chunk {
            let key = format!("occupancy:{}", attach.channel());
            for field in FIELDS {
                command(&mut text, &["HINCRBY", &key, field, "1"]);
            }
            command(&mut text, &["EXPIRE", &key, "60"]);
        }
        (Bytes::from(text), chunk.len())
    });
    chunks.collect()
}

fn command(text: &mut String, words: &[&str]) {
    // Writing to a string cannot fail.
    let _fits = write!(text, "*{}\r\n", words.len());
    for word in words {
        let _fits = write!(text, "${}\r\n{word}\r\n", word.len());
    }
}
