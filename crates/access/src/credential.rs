//! From what a client presents to what it may do.

use std::borrow::Cow;
use std::sync::Arc;

use crate::apps::{ApiKey, Apps, Key};
use crate::capability::Capability;
use crate::client_id::ClientIdRule;
use crate::encoding::decode_base64;
use crate::error::{AccessError, excerpt};
use crate::name::Parts;
use crate::operation::{Operation, Operations};
use crate::{jwt, token};

/// The longest key or token that is looked at, in bytes. A token holds at most a capability
/// ([`crate::CAPABILITY_BYTES_MAX`]), escaped and in base64, and a client id.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// A credential as it arrives, not yet judged.
///
/// It has no `Debug` output of its content, since keys and tokens must not reach a log.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// What follows `Basic ` in the header: base64 of a whole key.
    Basic(&'a str),
    /// What follows `Bearer ` in the header: a token, raw or in base64.
    Bearer(&'a str),
    /// The query parameter `key`, percent-decoded: a whole key.
    KeyParam(&'a str),
    /// The query parameter `access_token` or `accessToken`, percent-decoded: a token, raw or in
    /// base64.
    TokenParam(&'a str),
}

impl<'a> Presented<'a> {
    /// Reads the value of an `Authorization` header; the scheme's case does not matter.
    ///
    /// # Errors
    /// [`AccessError::UnsupportedScheme`] for any other scheme than Basic and Bearer.
    pub fn from_authorization(header: &'a str) -> Result<Self, AccessError> {
        let (scheme, rest) = header
            .trim()
            .split_once(' ')
            .ok_or(AccessError::UnsupportedScheme)?;
        if scheme.eq_ignore_ascii_case("basic") {
            Ok(Self::Basic(rest.trim()))
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(rest.trim()))
        } else {
            Err(AccessError::UnsupportedScheme)
        }
    }

    /// True for a key, false for a token. Where the configuration asks for it, keys are refused on
    /// connections without TLS, by [`AccessError::BasicOverPlainHttp`].
    pub fn is_key(&self) -> bool {
        match self {
            Self::Basic(_) | Self::KeyParam(_) => true,
            Self::Bearer(_) | Self::TokenParam(_) => false,
        }
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic(_) => "Basic(***)",
            Self::Bearer(_) => "Bearer(***)",
            Self::KeyParam(_) => "KeyParam(***)",
            Self::TokenParam(_) => "TokenParam(***)",
        })
    }
}

/// Which kind of credential it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A key with its secret.
    Key,
    /// A token that this cluster issued.
    Token,
    /// A JWT that the app's own server signed.
    Jwt,
}

/// A credential that has been verified, and what follows from it. Only [`authenticate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    app: Arc<str>,
    key_name: Arc<str>,
    kind: CredentialKind,
    capability: Arc<Capability>,
    client_id: ClientIdRule,
    issued_at_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    revocation_key: Option<String>,
}

/// Judges what a client presents, by the configuration and the wall clock in milliseconds since
/// the epoch.
///
/// # Errors
/// [`AccessError`] with the contract's code: unreadable (40005), wrong (40101), revoked (40131),
/// expired (40142), unrecognised (40143), an invalid JWT (40144), a damaged token (40145), or a
/// JWT of which the key permits nothing (40160).
pub fn authenticate(
    apps: &Apps,
    presented: Presented<'_>,
    now_ms: u64,
) -> Result<Credential, AccessError> {
    match presented {
        Presented::Basic(encoded) => {
            let text = decode_base64(within_limit(encoded, AccessError::UnreadableKey)?)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or(AccessError::UnreadableKey)?;
            authenticate_key(apps, &text)
        }
        Presented::KeyParam(text) => {
            authenticate_key(apps, within_limit(text, AccessError::UnreadableKey)?)
        }
        Presented::Bearer(text) | Presented::TokenParam(text) => authenticate_token(
            apps,
            within_limit(text, AccessError::UnreadableToken)?,
            now_ms,
        ),
    }
}

fn within_limit(text: &str, error: AccessError) -> Result<&str, AccessError> {
    let text = text.trim();
    if text.len() <= TOKEN_BYTES_MAX {
        Ok(text)
    } else {
        Err(error)
    }
}

fn authenticate_key(apps: &Apps, text: &str) -> Result<Credential, AccessError> {
    let key = apps.verified_key(&ApiKey::parse(text)?)?;
    let capability = Arc::clone(key.capability());
    Ok(Credential::new(
        key,
        CredentialKind::Key,
        capability,
        ClientIdRule::Any,
    ))
}

fn authenticate_token(apps: &Apps, text: &str, now_ms: u64) -> Result<Credential, AccessError> {
    // Every token has a dot and base64 has none, so the two forms cannot be confused.
    let token = if text.contains('.') {
        Cow::Borrowed(text)
    } else {
        decode_base64(text)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Cow::Owned)
            .ok_or(AccessError::UnreadableToken)?
    };
    match token.matches('.').count() {
        1 => token::verify(apps, &token, now_ms),
        2 => jwt::verify(apps, &token, now_ms),
        4 => Err(AccessError::UnsupportedToken {
            kind: "an encrypted JWT",
        }),
        _ => Err(AccessError::UnreadableToken),
    }
}

impl Credential {
    pub(crate) fn new(
        key: &Key,
        kind: CredentialKind,
        capability: Arc<Capability>,
        client_id: ClientIdRule,
    ) -> Self {
        Self {
            app: Arc::clone(key.app()),
            key_name: Arc::clone(key.name()),
            kind,
            capability,
            client_id,
            issued_at_ms: None,
            expires_at_ms: None,
            revocation_key: None,
        }
    }

    pub(crate) fn valid(mut self, issued_at_ms: u64, expires_at_ms: u64) -> Self {
        self.issued_at_ms = Some(issued_at_ms);
        self.expires_at_ms = Some(expires_at_ms);
        self
    }

    pub(crate) fn revocable_by(mut self, revocation_key: Option<&str>) -> Self {
        self.revocation_key = revocation_key.map(str::to_owned);
        self
    }

    /// The app that the credential belongs to. Nothing of another app is within its reach.
    pub fn app(&self) -> &Arc<str> {
        &self.app
    }

    /// The key behind it, `appId.keyId`.
    pub fn key_name(&self) -> &Arc<str> {
        &self.key_name
    }

    /// Key, token or JWT.
    pub fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// What it may do.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// Which client ids it allows.
    pub fn client_id(&self) -> &ClientIdRule {
        &self.client_id
    }

    /// When it was issued, in milliseconds since the epoch; none for a key.
    pub fn issued_at_ms(&self) -> Option<u64> {
        self.issued_at_ms
    }

    /// When it expires, in milliseconds since the epoch; a key never does.
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.expires_at_ms
    }

    /// The JWT's claim by which it may be revoked together with others.
    pub fn revocation_key(&self) -> Option<&str> {
        self.revocation_key.as_deref()
    }

    /// Says whether the credential is still within its time.
    ///
    /// # Errors
    /// [`AccessError::TokenExpired`] (40142).
    pub fn check_expiry(&self, now_ms: u64) -> Result<(), AccessError> {
        match self.expires_at_ms {
            Some(expires_at_ms) if expires_at_ms <= now_ms => Err(AccessError::TokenExpired {
                expires_at_ms,
                now_ms,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// The one decision: may this credential do that to this channel (or, for operations of the
    /// whole app, to `*`)? Channel params in the name are ignored.
    ///
    /// # Errors
    /// [`AccessError::NotPermitted`] (40160), or [`AccessError::InvalidChannelName`] (40010).
    pub fn may(&self, operation: Operation, channel: &str) -> Result<(), AccessError> {
        check_name(channel)?;
        if self.capability.permits(operation, channel) {
            Ok(())
        } else {
            Err(AccessError::NotPermitted {
                operation,
                resource: excerpt(channel),
            })
        }
    }

    /// May this credential do that on every normal channel?
    #[must_use]
    pub fn may_everywhere(&self, operation: Operation) -> bool {
        self.capability.permits_prefix(operation, "")
    }

    /// What the credential may do on a channel that it attaches to, from which the modes follow.
    ///
    /// # Errors
    /// [`AccessError::NotAttachable`] (40160) if nothing of it lets one attach, or
    /// [`AccessError::InvalidChannelName`] (40010).
    pub fn may_attach(&self, channel: &str) -> Result<Operations, AccessError> {
        check_name(channel)?;
        let operations = self.capability.operations_on(channel);
        if operations.intersection(Operations::ATTACHING).is_empty() {
            return Err(AccessError::NotAttachable {
                channel: excerpt(channel),
            });
        }
        Ok(operations)
    }

    /// May this credential list the channels whose names begin with the prefix (none: all normal
    /// channels)? It needs `channel-metadata` on `*`, or on a resource that covers the prefix.
    ///
    /// # Errors
    /// [`AccessError::NotPermitted`] (40160).
    pub fn may_enumerate(&self, prefix: Option<&str>) -> Result<(), AccessError> {
        let operation = Operation::ChannelMetadata;
        let prefix = prefix.unwrap_or("");
        if self.capability.permits_prefix(operation, prefix) {
            Ok(())
        } else {
            Err(AccessError::NotPermitted {
                operation,
                resource: excerpt(&format!("{prefix}*")),
            })
        }
    }

    /// Insists on a key, for what tokens must not do.
    ///
    /// # Errors
    /// [`AccessError::KeyNeeded`] (40162).
    pub fn require_key(&self) -> Result<(), AccessError> {
        match self.kind {
            CredentialKind::Key => Ok(()),
            CredentialKind::Token | CredentialKind::Jwt => Err(AccessError::KeyNeeded),
        }
    }

    /// The identity of a live connection after this credential has taken another's place on it
    /// (contract §4.7), given the identity so far: a client that has an id keeps it.
    ///
    /// # Errors
    /// [`AccessError::IncompatibleApp`] or [`AccessError::IncompatibleClientId`], both 40102.
    pub fn takes_over(
        &self,
        former: &Self,
        identity: &ClientIdRule,
    ) -> Result<ClientIdRule, AccessError> {
        if self.app != former.app {
            return Err(AccessError::IncompatibleApp);
        }
        match identity {
            ClientIdRule::Fixed(id) => self.client_id.narrow(Some(id)),
            ClientIdRule::Any | ClientIdRule::Anonymous => Ok(self.client_id.clone()),
        }
    }
}

fn check_name(channel: &str) -> Result<(), AccessError> {
    match Parts::split(channel) {
        Ok(_) => Ok(()),
        Err(fault) => Err(AccessError::InvalidChannelName {
            name: excerpt(channel),
            fault,
        }),
    }
}
