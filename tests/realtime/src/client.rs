//! A realtime client that holds little, as there are many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a client that is turned away tries again.
const TRIES: usize = 20;

/// One connection.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    message_pack: bool,
}

impl Client {
    /// Connects, in either format.
    pub(crate) async fn connect(address: SocketAddr, message_pack: bool) -> Result<Self> {
        let format = if message_pack { "msgpack" } else { "json" };
        let url = format!(
            "ws://{address}/?key=dev.root:root-secret&v=6&heartbeats=false&format={format}"
        );
        let config = WebSocketConfig::default().read_buffer_size(1024);
        for _ in 0..TRIES {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let opened = tokio_tungstenite::client_async_with_config(&url, socket, Some(config));
            let (socket, _) = timeout(PATIENCE, opened).await??;
            let mut client = Self {
                socket,
                message_pack,
            };
            if client.next().await?.contains("connectionDetails") {
                return Ok(client);
            }
        }
        bail!("turned away {TRIES} times")
    }

    /// Attaches to a channel.
    pub(crate) async fn attach(&mut self, channel: &str) -> Result<()> {
        let frame = if self.message_pack {
            let length = u8::try_from(channel.len())?;
            // {"action": 10, "channel": channel}
            let mut frame = b"\x82\xa6action\x0a\xa7channel\xd9".to_vec();
            frame.push(length);
            frame.extend_from_slice(channel.as_bytes());
            Message::binary(frame)
        } else {
            let frame = serde_json::json!({ "action": 10, "channel": channel });
            Message::text(frame.to_string())
        };
        self.socket.send(frame).await?;
        loop {
            let told = self.next().await?;
            if told.contains(channel) {
                return Ok(());
            }
        }
    }

    /// Waits for an event about a channel; returns when it came.
    pub(crate) async fn wait_for(&mut self, event: &str, channel: &str) -> Result<Instant> {
        loop {
            let told = self.next().await?;
            if told.contains(event) && told.contains(channel) {
                return Ok(Instant::now());
            }
        }
    }

    /// Returns the next frame as text; what is binary in it does not matter here.
    async fn next(&mut self) -> Result<String> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await?;
            match message.context("the server closed the connection")?? {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Binary(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Message::Close(_) => bail!("the server closed the connection"),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
