//! The connections of this node, by the keys with which clients take them up again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headcount_model::{AppId, ConnectionId, NodeId};
use subtle::ConstantTimeEq as _;
use tokio::sync::Notify;

use super::mailbox::Mailbox;
use crate::ports::Entropy;

/// Longest part of a key, in bytes: far above those that nodes draw.
const PART_BYTES_MAX: usize = 64;

/// All connections of this node, those without a transport included.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// Told when the last one has gone.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    connections: HashMap<Arc<str>, Entry>,
    by_app: HashMap<AppId, usize>,
}

#[derive(Debug)]
struct Entry {
    app: AppId,
    secret: Box<str>,
    mailbox: Arc<Mailbox>,
}

/// A connection's name, which everybody sees, and its key, which only its client knows.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) id: Arc<str>,
    secret: Box<str>,
}

impl Names {
    /// Draws new ones.
    pub(crate) fn draw(entropy: &dyn Entropy) -> Self {
        let text = || URL_SAFE_NO_PAD.encode(entropy.bytes());
        // Half as long is unique enough, and is in every message that the connection publishes.
        let id = URL_SAFE_NO_PAD.encode(&entropy.bytes()[..9]);
        Self {
            id: id.into(),
            secret: text().into(),
        }
    }

    /// The key that resumes the connection, or has it ended at its node when its client goes on at
    /// another one.
    pub(crate) fn key(&self, node: NodeId) -> String {
        format!("{}!{node}.{}", self.id, self.secret)
    }
}

/// What a client says of the connection that it had.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) connection: ConnectionId,
    /// Whose connection it is.
    pub(crate) node: NodeId,
    pub(crate) secret: String,
}

impl Key {
    /// Reads a key; `None` if no node makes such ones.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.split_once('!')?;
        let (node, secret) = rest.split_once('.')?;
        let has_room = |part: &str| (1..=PART_BYTES_MAX).contains(&part.len());
        if !has_room(id) || !has_room(secret) {
            return None;
        }
        Some(Self {
            connection: ConnectionId::new(id).ok()?,
            node: NodeId(node.parse().ok()?),
            secret: secret.to_owned(),
        })
    }
}

impl Registry {
    /// Registers a connection; false if its app has as many as it may.
    pub(crate) fn add(
        &self,
        names: &Names,
        app: &AppId,
        mailbox: &Arc<Mailbox>,
        app_max: usize,
    ) -> bool {
        let mut inner = self.inner();
        let count = inner.by_app.entry(app.clone()).or_default();
        if *count >= app_max {
            return false;
        }
        *count += 1;
        let entry = Entry {
            app: app.clone(),
            secret: names.secret.clone(),
            mailbox: Arc::clone(mailbox),
        };
        inner.connections.insert(Arc::clone(&names.id), entry);
        true
    }

    /// Forgets a connection.
    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.inner();
        let Some(entry) = inner.connections.remove(id) else {
            return;
        };
        if inner.connections.is_empty() {
            self.emptied.notify_waiters();
        }
        if let Some(count) = inner.by_app.get_mut(&entry.app) {
            *count -= 1;
            if *count == 0 {
                inner.by_app.remove(&entry.app);
            }
        }
    }

    /// Waits until there is none.
    pub(crate) async fn emptied(&self) {
        loop {
            // Before the look, so that what happens meanwhile is not missed.
            let emptied = self.emptied.notified();
            if self.inner().connections.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Returns the connection of that id, if it is of the app, still there, and its secret is known.
    pub(crate) fn find(&self, app: &AppId, id: &str, secret: &str) -> Option<Arc<Mailbox>> {
        let inner = self.inner();
        let entry = inner.connections.get(id)?;
        let same = entry.secret.as_bytes().ct_eq(secret.as_bytes());
        (entry.app == *app && bool::from(same)).then(|| Arc::clone(&entry.mailbox))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_connection_its_node_and_what_its_client_alone_knows() {
        let names = Names {
            id: "id".into(),
            secret: "secret".into(),
        };
        let key = names.key(NodeId(7));
        let parsed = Key::parse(&key).unwrap();
        assert_eq!(parsed.connection.as_str(), "id");
        assert_eq!(parsed.node, NodeId(7));
        assert_eq!(parsed.secret, "secret");
        let long = format!("id!7.{}", "x".repeat(PART_BYTES_MAX + 1));
        for bad in [
            "",
            "id",
            "id!secret",
            "id!7",
            "id!7.",
            "!7.secret",
            "id!.secret",
            "id!-1.secret",
            "id!x.secret",
            "i\u{1}d!7.secret",
            &long,
        ] {
            assert!(Key::parse(bad).is_none(), "{bad:?}");
        }
    }
}
