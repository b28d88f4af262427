//! The apps and keys that the configuration names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::capability::{Capability, CapabilityError};
use crate::encoding::{encode_base64, equal_in_constant_time, hmac_sha256};
use crate::error::AccessError;
use crate::name::is_word;

const ID_BYTES_MAX: usize = 64;

/// A key's secret. It is never printed, and compared in constant time.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn equals(&self, other: &Self) -> bool {
        equal_in_constant_time(self.as_bytes(), other.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// An API key as a client presents it: `appId.keyId:secret`. The secret may hold colons.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// `appId.keyId`.
    pub name: String,
    /// What stands behind the first colon.
    pub secret: Secret,
}

impl ApiKey {
    /// Takes a key apart.
    ///
    /// # Errors
    /// [`AccessError::UnreadableKey`] if it is not of the form above.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let (name, secret) = text
            .trim()
            .split_once(':')
            .ok_or(AccessError::UnreadableKey)?;
        if split_key_name(name).is_none() || secret.is_empty() {
            return Err(AccessError::UnreadableKey);
        }
        Ok(Self {
            name: name.to_owned(),
            secret: Secret::new(secret),
        })
    }
}

/// `appId.keyId` taken apart.
pub(crate) fn split_key_name(name: &str) -> Option<(&str, &str)> {
    name.split_once('.')
        .filter(|(app, key)| is_id(app) && is_id(key))
}

/// True for 1 to 64 ASCII letters, digits, `_` and `-`, as the model has it for apps.
fn is_id(text: &str) -> bool {
    is_word(text) && text.len() <= ID_BYTES_MAX
}

/// An app as the configuration gives it.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// The app's id: 1 to 64 ASCII letters, digits, `_`, `-`.
    pub id: String,
    /// Its keys.
    pub keys: Vec<KeySpec>,
}

/// A key as the configuration gives it.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// The key's id inside its app: 1 to 64 ASCII letters, digits, `_`, `-`.
    pub id: String,
    /// Its secret; not empty, no control characters.
    pub secret: Secret,
    /// The JSON text of its capability.
    pub capability: String,
    /// False for a revoked key: it is refused by name, with all that it ever signed.
    pub enabled: bool,
}

/// Why a configuration of apps is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppsFault {
    /// An app's or key's id has a bad length or characters that it must not have.
    #[error("the id {id:?} is not 1 to 64 ASCII letters, digits, '_' and '-'")]
    MalformedId {
        /// The id.
        id: String,
    },
    /// An app stands there twice.
    #[error("the app {app} is given twice")]
    DuplicateApp {
        /// The app's id.
        app: String,
    },
    /// A key stands there twice.
    #[error("the key {key_name} is given twice")]
    DuplicateKey {
        /// The key's name.
        key_name: String,
    },
    /// A secret is empty or holds control characters.
    #[error("the secret of the key {key_name} is empty or holds control characters")]
    UnusableSecret {
        /// The key's name.
        key_name: String,
    },
    /// A capability cannot be read.
    #[error("the capability of the key {key_name} is invalid: {source}")]
    InvalidCapability {
        /// The key's name.
        key_name: String,
        /// What is wrong.
        source: CapabilityError,
    },
}

/// A key at work.
#[derive(Debug, Clone)]
pub struct Key {
    app: Arc<str>,
    name: Arc<str>,
    secret: Secret,
    capability: Arc<Capability>,
    enabled: bool,
}

impl Key {
    /// The app's id.
    pub fn app(&self) -> &Arc<str> {
        &self.app
    }

    /// `appId.keyId`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The key's id inside its app.
    pub fn id(&self) -> &str {
        &self.name[self.app.len() + 1..]
    }

    /// What the key may do.
    pub fn capability(&self) -> &Arc<Capability> {
        &self.capability
    }

    /// False if the key has been revoked.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The base64 of the HMAC-SHA256 of a delivery's body under the key's secret, which the
    /// contract (§6.5) sends as `X-Ably-Signature`.
    ///
    /// Sign only bodies that begin with this node's own JSON. JWTs are signed by the same secret,
    /// so a body that somebody else chose freely could be one.
    pub fn sign_delivery(&self, body: &[u8]) -> String {
        encode_base64(&hmac_sha256(self.secret.as_bytes(), &[body]))
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn require_enabled(&self) -> Result<(), AccessError> {
        if self.enabled {
            Ok(())
        } else {
            Err(AccessError::KeyRevoked {
                key_name: self.name.to_string(),
            })
        }
    }
}

/// All apps and their keys: what [`authenticate`](crate::authenticate) knows.
#[derive(Debug, Clone, Default)]
pub struct Apps {
    /// App ids to key names to keys.
    apps: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Key>>,
}

impl Apps {
    /// Checks a configuration.
    ///
    /// # Errors
    /// All faults at once, in the order of the configuration.
    pub fn new(specs: Vec<AppSpec>) -> Result<Self, Vec<AppsFault>> {
        let mut apps = Self::default();
        let mut faults = Vec::new();
        for spec in specs {
            if !is_id(&spec.id) {
                faults.push(AppsFault::MalformedId { id: spec.id });
                continue;
            }
            let app: Arc<str> = spec.id.into();
            let mut keys = BTreeMap::new();
            for spec in spec.keys {
                match checked_key(&app, spec) {
                    Ok(key) if keys.contains_key(&key.name) => {
                        faults.push(AppsFault::DuplicateKey {
                            key_name: key.name.to_string(),
                        });
                    }
                    Ok(key) => {
                        keys.insert(Arc::clone(&key.name), key);
                    }
                    Err(fault) => faults.push(fault),
                }
            }
            if apps.apps.insert(Arc::clone(&app), keys).is_some() {
                faults.push(AppsFault::DuplicateApp {
                    app: app.to_string(),
                });
            }
        }
        if faults.is_empty() {
            Ok(apps)
        } else {
            Err(faults)
        }
    }

    /// The ids of all apps, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.apps.keys()
    }

    /// True if there is such an app.
    pub fn contains(&self, app: &str) -> bool {
        self.apps.contains_key(app)
    }

    /// The keys of an app, sorted by name; none if there is no such app.
    pub fn keys_of(&self, app: &str) -> impl Iterator<Item = &Key> {
        self.apps.get(app).into_iter().flat_map(BTreeMap::values)
    }

    /// The key of this name (`appId.keyId`), enabled or not.
    pub fn key(&self, name: &str) -> Option<&Key> {
        let (app, _) = split_key_name(name)?;
        self.apps.get(app)?.get(name)
    }

    /// The key that was presented, if its secret is right.
    ///
    /// # Errors
    /// [`AccessError::BadCredentials`] without telling what is wrong, or, only to whoever knows
    /// the secret, [`AccessError::KeyRevoked`].
    pub fn verified_key(&self, presented: &ApiKey) -> Result<&Key, AccessError> {
        let key = self
            .key(&presented.name)
            .ok_or(AccessError::BadCredentials)?;
        if !key.secret.equals(&presented.secret) {
            return Err(AccessError::BadCredentials);
        }
        key.require_enabled()?;
        Ok(key)
    }
}

fn checked_key(app: &Arc<str>, spec: KeySpec) -> Result<Key, AppsFault> {
    if !is_id(&spec.id) {
        return Err(AppsFault::MalformedId { id: spec.id });
    }
    let key_name = format!("{app}.{}", spec.id);
    if spec.secret.0.is_empty() || spec.secret.0.chars().any(char::is_control) {
        return Err(AppsFault::UnusableSecret { key_name });
    }
    match Capability::parse(&spec.capability) {
        Ok(capability) => Ok(Key {
            app: Arc::clone(app),
            name: key_name.into(),
            secret: spec.secret,
            capability: Arc::new(capability),
            enabled: spec.enabled,
        }),
        Err(source) => Err(AppsFault::InvalidCapability { key_name, source }),
    }
}
