//! The nonces of token requests, each good for one use.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::error::AccessError;

/// Half a SHA-256: no two nonces share one, and a window's memory has a bound.
type Fingerprint = [u8; 16];

/// Remembers the nonces of one node until their requests' timestamps are refused anyway.
///
/// A full window refuses instead of forgetting, so that a flood does not make a replay possible.
/// Only requests whose mac is right get here, so only holders of keys can fill it. The window is
/// one node's: on another node a replay within the two minutes yields another token like the
/// first, to somebody who could read the first.
#[derive(Debug, Clone)]
pub struct NonceWindow {
    capacity: usize,
    /// Fingerprints with the time at which they are forgotten.
    seen: BTreeMap<Fingerprint, u64>,
    /// The same, by time.
    by_time: BTreeSet<(u64, Fingerprint)>,
}

impl NonceWindow {
    /// A window for this many nonces; one takes about 100 bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// How many nonces are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// True if no nonce is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Uses a nonce of a key, which then stays used until the given time.
    ///
    /// # Errors
    /// [`AccessError::NonceReplayed`] (40105) if it was used, or
    /// [`AccessError::TooManyTokenRequests`] (42910) if the window is full.
    pub(crate) fn spend(
        &mut self,
        key_name: &str,
        nonce: &str,
        forget_at_ms: u64,
        now_ms: u64,
    ) -> Result<(), AccessError> {
        self.forget(now_ms);
        let fingerprint = fingerprint(key_name, nonce);
        if self.seen.contains_key(&fingerprint) {
            return Err(AccessError::NonceReplayed);
        }
        if self.seen.len() >= self.capacity {
            return Err(AccessError::TooManyTokenRequests {
                capacity: self.capacity,
            });
        }
        self.seen.insert(fingerprint, forget_at_ms);
        self.by_time.insert((forget_at_ms, fingerprint));
        Ok(())
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((forget_at_ms, fingerprint)) = self.by_time.first().copied() {
            if forget_at_ms >= now_ms {
                break;
            }
            self.by_time.pop_first();
            self.seen.remove(&fingerprint);
        }
    }
}

fn fingerprint(key_name: &str, nonce: &str) -> Fingerprint {
    let mut hash = Sha256::new();
    // A key's name holds no NUL, so no two pairs have the same text.
    hash.update(key_name.as_bytes());
    hash.update([0]);
    hash.update(nonce.as_bytes());
    let digest = hash.finalize();
    let mut half = Fingerprint::default();
    half.copy_from_slice(&digest[..size_of::<Fingerprint>()]);
    half
}
