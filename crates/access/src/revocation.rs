//! Tokens revoked before their time (`POST /keys/{keyName}/revokeTokens`, contract §4.2).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::client_id::ClientIdRule;
use crate::credential::{Credential, CredentialKind};
use crate::error::AccessError;

/// Which of a key's tokens a revocation is about. The text form is `clientId:x`,
/// `revocationKey:x` or `channel:x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevocationTarget {
    /// Tokens for this client id.
    ClientId(String),
    /// JWTs with this revocation key.
    RevocationKey(String),
    /// Tokens whose capability names this very resource; wildcards that match it do not count.
    Channel(String),
}

impl RevocationTarget {
    fn concerns(&self, credential: &Credential) -> bool {
        match self {
            Self::ClientId(id) => {
                matches!(credential.client_id(), ClientIdRule::Fixed(own) if own == id)
            }
            Self::RevocationKey(key) => credential.revocation_key() == Some(key),
            Self::Channel(resource) => credential.capability().names_resource(resource),
        }
    }
}

impl fmt::Display for RevocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, value) = match self {
            Self::ClientId(id) => ("clientId", id),
            Self::RevocationKey(key) => ("revocationKey", key),
            Self::Channel(channel) => ("channel", channel),
        };
        write!(f, "{kind}:{value}")
    }
}

impl FromStr for RevocationTarget {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        match text.split_once(':') {
            Some((_, "")) | None => Err(AccessError::InvalidParameter {
                parameter: "targets",
                reason: "a target is clientId:x, revocationKey:x or channel:x",
            }),
            Some(("clientId", id)) => Ok(Self::ClientId(id.to_owned())),
            Some(("revocationKey", key)) => Ok(Self::RevocationKey(key.to_owned())),
            Some(("channel", channel)) => Ok(Self::Channel(channel.to_owned())),
            Some(_) => Err(AccessError::InvalidParameter {
                parameter: "targets",
                reason: "its type is none of clientId, revocationKey, channel",
            }),
        }
    }
}

/// The set has no room; older revocations are never forgotten to make some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{capacity} revocations are in force, which is the most that can be")]
pub struct RevocationsFull {
    /// The bound.
    pub capacity: usize,
}

/// The revocations in force: per key and target, the time before which tokens must not have been
/// issued. Keys themselves are revoked in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    capacity: usize,
    /// Key name → target → issued before, in milliseconds since the epoch.
    issued_before_ms: BTreeMap<String, BTreeMap<RevocationTarget, u64>>,
}

impl Revocations {
    /// An empty set for this many revocations.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            issued_before_ms: BTreeMap::new(),
        }
    }

    /// The number of revocations in force.
    pub fn len(&self) -> usize {
        self.issued_before_ms.values().map(BTreeMap::len).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.issued_before_ms.is_empty()
    }

    /// Revokes the key's tokens of a target that were issued before the time. Of two times for one
    /// target the later counts, so that the order of merging does not matter.
    ///
    /// # Errors
    /// [`RevocationsFull`]; the set is then unchanged.
    pub fn revoke(
        &mut self,
        key_name: &str,
        target: RevocationTarget,
        issued_before_ms: u64,
    ) -> Result<(), RevocationsFull> {
        let known = self
            .issued_before_ms
            .get_mut(key_name)
            .and_then(|targets| targets.get_mut(&target));
        if let Some(known) = known {
            *known = issued_before_ms.max(*known);
            return Ok(());
        }
        if self.len() >= self.capacity {
            return Err(RevocationsFull {
                capacity: self.capacity,
            });
        }
        let targets = self
            .issued_before_ms
            .entry(key_name.to_owned())
            .or_default();
        targets.insert(target, issued_before_ms);
        Ok(())
    }

    /// Drops revocations of tokens issued before the time, which the owner knows to have expired:
    /// now less the longest life of a token. JWTs may live longer than this cluster's own tokens.
    pub fn forget(&mut self, issued_before_ms: u64) {
        for targets in self.issued_before_ms.values_mut() {
            targets.retain(|_, revoked| *revoked > issued_before_ms);
        }
        self.issued_before_ms
            .retain(|_, targets| !targets.is_empty());
    }

    /// Says whether a credential has been revoked; keys never are, here.
    ///
    /// # Errors
    /// [`AccessError::TokenRevoked`] (40141).
    pub fn check(&self, credential: &Credential) -> Result<(), AccessError> {
        let (CredentialKind::Token | CredentialKind::Jwt, Some(issued_at_ms)) =
            (credential.kind(), credential.issued_at_ms())
        else {
            return Ok(());
        };
        let revoked = self
            .issued_before_ms
            .get(&**credential.key_name())
            .is_some_and(|targets| {
                targets
                    .iter()
                    .any(|(target, before)| issued_at_ms < *before && target.concerns(credential))
            });
        if revoked {
            Err(AccessError::TokenRevoked)
        } else {
            Ok(())
        }
    }
}
