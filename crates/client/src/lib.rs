//! The reporter API's client: what a realtime server embeds to report who is attached to what.
//!
//! ```text
//! realtime server ──report──▶ CLIENT ──batches──▶ a node's reporter API ──▶ gateway ──▶ …
//! ```
//!
//! The server says what changes, as it happens: [`Client::report`]. The client keeps the whole of
//! what is wanted and tells the node the difference, so that
//!
//! * changes that cancel each other before they are sent cost nothing,
//! * after a break the session goes on where it was, if the node still has it, and otherwise a new
//!   session tells the whole set, which replaces the old one in one step,
//! * a node that is lost is replaced by the next of [`Config::nodes`],
//! * nothing grows without bound: a server that reports faster than the node counts waits.
//!
//! ```no_run
//! # async fn edge() -> Result<(), headcount_client::Ended> {
//! use headcount_client::{Client, Config};
//! use headcount_model::{EdgeId, Incarnation, Modes, ReportItem};
//!
//! let config = Config::new(
//!     vec!["http://127.0.0.1:8081".into()],
//!     "Basic ZGV2LnJvb3Q6cm9vdC1zZWNyZXQ=".into(),
//!     EdgeId::new("edge-1").expect("a good name"),
//!     Incarnation(1_790_000_000_000),
//! );
//! let (client, mut notices) = Client::start(config);
//! tokio::spawn(async move {
//!     while let Some(notice) = notices.recv().await {
//!         println!("{notice:?}");
//!     }
//! });
//! let attach = ReportItem::Attach {
//!     connection: "c1".parse().expect("a good name"),
//!     channel: "room:42".parse().expect("a good name"),
//!     modes: Modes::DEFAULT,
//! };
//! client.report(vec![attach]).await?;
//! client.flush().await?;
//! # Ok(())
//! # }
//! ```
//!
//! One client reports for one app, the one of its credential. What it does not do: it counts
//! nothing, and it does not decide when a connection that dropped has left.

mod backoff;
mod config;
mod driver;
mod notice;
mod outbox;

use headcount_model::ReportItem;
use tokio::sync::{mpsc, oneshot};

pub use config::Config;
pub use notice::{Notice, Stopped};
pub use outbox::Refused;

use driver::{Command, Driver};
use notice::Notices;

/// Reports that wait for the task; their items are bounded by [`Config::queue_max`] behind it.
const COMMANDS_MAX: usize = 64;

/// A handle of an edge's client; cheap to clone. When the last is dropped the stream is cut, and
/// the session counts on for the node's grace.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
}

/// The client gave up, or was told goodbye; the last [`Notice`] says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has ended")]
pub struct Ended;

impl Client {
    /// Starts a client on the current tokio runtime; returns a handle and what it has to say.
    ///
    /// # Panics
    /// Without a node to report to, and outside a runtime.
    #[must_use]
    pub fn start(config: Config) -> (Self, mpsc::Receiver<Notice>) {
        assert!(!config.nodes.is_empty(), "a client needs a node");
        let (commands, taken) = mpsc::channel(COMMANDS_MAX);
        let (told, notices) = Notices::new(config.notices_max);
        let driver = Driver::new(config, taken, told);
        tokio::spawn(driver.run());
        (Self { commands }, notices)
    }

    /// Takes changes, in order; waits while too many are unsent. They are told soon after; what
    /// a node refuses comes as a [`Notice::Refused`].
    ///
    /// # Errors
    /// [`Ended`] if nothing will be told any more.
    pub async fn report(&self, items: Vec<ReportItem>) -> Result<(), Ended> {
        self.ask(Command::Report(items)).await
    }

    /// Waits until everything reported before is acknowledged by a node: counted, or refused.
    ///
    /// # Errors
    /// [`Ended`] if that will not happen.
    pub async fn flush(&self) -> Result<(), Ended> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Flush(done)).await?;
        waiting.await.map_err(|_| Ended)
    }

    /// Ends the session at once, with all that it attached, and the client with it. What was
    /// reported and not flushed may never be told. Without a stream, one more is tried for
    /// [`Config::connect_timeout`]; failing that, the node's grace ends the session.
    ///
    /// # Errors
    /// [`Ended`] if it had ended before.
    pub async fn goodbye(self) -> Result<(), Ended> {
        let (done, waiting) = oneshot::channel();
        self.ask(Command::Goodbye(done)).await?;
        waiting.await.map_err(|_| Ended)
    }

    async fn ask(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).await.map_err(|_| Ended)
    }
}
