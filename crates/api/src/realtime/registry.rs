//! The connections of this node, by the keys with which clients take them up again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headcount_model::AppId;
use subtle::ConstantTimeEq as _;

use super::mailbox::Mailbox;
use crate::ports::Entropy;

/// All connections of this node, those without a transport included.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

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

    /// The key that resumes the connection.
    pub(crate) fn key(&self) -> String {
        format!("{}!{}", self.id, self.secret)
    }
}

/// Why a connection is not taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresumable {
    /// No node makes such keys.
    Malformed,
    /// It ended, or is another node's.
    Unknown,
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
        if let Some(count) = inner.by_app.get_mut(&entry.app) {
            *count -= 1;
            if *count == 0 {
                inner.by_app.remove(&entry.app);
            }
        }
    }

    /// Returns the connection with a key, if it is of the app and still there.
    pub(crate) fn find(&self, app: &AppId, key: &str) -> Result<Arc<Mailbox>, Unresumable> {
        let (id, secret) = key.split_once('!').ok_or(Unresumable::Malformed)?;
        let inner = self.inner();
        let entry = inner.connections.get(id).ok_or(Unresumable::Unknown)?;
        let same = entry.secret.as_bytes().ct_eq(secret.as_bytes());
        if entry.app != *app || !bool::from(same) {
            return Err(Unresumable::Unknown);
        }
        Ok(Arc::clone(&entry.mailbox))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
