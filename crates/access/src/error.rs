//! The one error of this crate's decisions, with the contract's codes (§3.7).

use crate::capability::CapabilityError;
use crate::name::NameFault;
use crate::operation::Operation;

/// Why access is refused. No message holds a secret, a token or a mac.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The request names no credential at all.
    #[error("no authentication information provided")]
    NoCredentials,
    /// The `Authorization` header has another scheme than Basic or Bearer.
    #[error("the authorization scheme is not supported; use Basic or Bearer")]
    UnsupportedScheme,
    /// The key is not of the form `app.key:secret`, or its base64 is broken.
    #[error("the API key is malformed; its form is appId.keyId:secret")]
    UnreadableKey,
    /// The token is neither a JWT nor a token of this cluster, nor base64 of one.
    #[error("the token cannot be read")]
    UnreadableToken,
    /// The app, the key or the secret is wrong; which of them is not told.
    #[error("invalid credentials")]
    BadCredentials,
    /// The mac of a token request does not fit its fields and the key.
    #[error("the mac of the token request does not match its fields")]
    MacMismatch,
    /// The key in the path, in the body and in the credential are not one and the same.
    #[error("the request is for the key {expected}, but {presented} is presented")]
    IncompatibleKey {
        /// The key's name in the path.
        expected: String,
        /// The key's name in the body or of the credential.
        presented: String,
    },
    /// A live connection presents a credential of another app.
    #[error("the credential belongs to another app than the connection")]
    IncompatibleApp,
    /// The client asks for an id that its credential does not allow.
    #[error("the clientId {requested:?} is not the one of the credential")]
    IncompatibleClientId {
        /// The id asked for.
        requested: String,
    },
    /// A key came over a connection without TLS, and the node does not allow that.
    #[error("an API key may only be used over TLS")]
    BasicOverPlainHttp,
    /// A token request's timestamp is too far from this node's clock.
    #[error("the timestamp {timestamp_ms} is more than two minutes away from {now_ms}")]
    TimestampOutOfWindow {
        /// The request's timestamp.
        timestamp_ms: i64,
        /// This node's clock.
        now_ms: u64,
    },
    /// A token request's nonce was used before.
    #[error("the nonce was used before")]
    NonceReplayed,
    /// So many token requests arrived in two minutes that their nonces cannot be remembered.
    #[error("too many token requests; at most {capacity} in two minutes")]
    TooManyTokenRequests {
        /// How many nonces a node remembers.
        capacity: usize,
    },
    /// The key is disabled.
    #[error("the key {key_name} has been revoked")]
    KeyRevoked {
        /// The key's name.
        key_name: String,
    },
    /// A kind of token that is known but not accepted here, such as an encrypted JWT.
    #[error("this kind of token is not supported: {kind}")]
    UnsupportedToken {
        /// Which kind.
        kind: &'static str,
    },
    /// The token has been revoked.
    #[error("the token has been revoked")]
    TokenRevoked,
    /// The token's time is over.
    #[error("the token expired at {expires_at_ms}; now is {now_ms}")]
    TokenExpired {
        /// When it expired.
        expires_at_ms: u64,
        /// This node's clock.
        now_ms: u64,
    },
    /// The token looks well but no key of this cluster has signed it.
    #[error("the token is not recognised")]
    UnrecognisedToken,
    /// The JWT is not valid.
    #[error("the JWT is invalid: {reason}")]
    InvalidJwt {
        /// What is wrong.
        reason: &'static str,
    },
    /// A claim of a JWT that is otherwise valid is missing or malformed.
    #[error("the JWT's claim {claim} is missing or malformed")]
    MalformedClaim {
        /// The claim's name.
        claim: &'static str,
    },
    /// A token of this cluster's form that is damaged.
    #[error("the token is malformed")]
    MalformedToken,
    /// The capability does not grant the operation.
    #[error("the capability does not permit {operation} on {resource:?}")]
    NotPermitted {
        /// What was to be done.
        operation: Operation,
        /// The channel, or `*`.
        resource: String,
    },
    /// The capability grants nothing by which one attaches.
    #[error("the capability permits nothing on the channel {channel:?}")]
    NotAttachable {
        /// The channel.
        channel: String,
    },
    /// The capability asked for has nothing in common with the key's.
    #[error("nothing of the requested capability is permitted by the key {key_name}")]
    NothingPermitted {
        /// The key's name.
        key_name: String,
    },
    /// The operation needs a client that has said who it is.
    #[error("the operation needs an identified client")]
    IdentityNeeded,
    /// The operation needs a key, and a token was presented.
    #[error("the operation needs an API key (Basic authentication), not a token")]
    KeyNeeded,
    /// A capability cannot be read.
    #[error("{0}")]
    InvalidCapability(#[from] CapabilityError),
    /// The body of a token request is not an object with the expected fields.
    #[error("the body of the token request is invalid: {reason}")]
    InvalidBody {
        /// What is wrong.
        reason: &'static str,
    },
    /// A field of a token request has a value that is not allowed.
    #[error("invalid value of {parameter}: {reason}")]
    InvalidParameter {
        /// The field's name.
        parameter: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A channel's name cannot be read.
    #[error("invalid channel name {name:?}: {fault}")]
    InvalidChannelName {
        /// The name.
        name: String,
        /// What is wrong.
        #[source]
        fault: NameFault,
    },
    /// A client id that nobody may have, or not this client.
    #[error("invalid clientId: {reason}")]
    InvalidClientId {
        /// What is wrong.
        reason: &'static str,
    },
    /// Presence without a client id.
    #[error("presence needs a clientId")]
    PresenceWithoutClientId,
}

/// As much of a client's text as belongs into a message: messages travel in headers and logs.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 128;
    text.chars().take(CHARS_MAX).collect()
}

impl AccessError {
    /// The contract's error code.
    pub fn code(&self) -> u32 {
        match self {
            Self::InvalidCapability(_) => 40000,
            Self::InvalidBody { .. } => 40001,
            Self::InvalidParameter { .. } => 40003,
            Self::UnreadableKey | Self::UnreadableToken => 40005,
            Self::InvalidChannelName { .. } => 40010,
            Self::InvalidClientId { .. } => 40012,
            Self::UnsupportedScheme => 40100,
            Self::NoCredentials | Self::BadCredentials | Self::MacMismatch => 40101,
            Self::IncompatibleKey { .. }
            | Self::IncompatibleApp
            | Self::IncompatibleClientId { .. } => 40102,
            Self::BasicOverPlainHttp => 40103,
            Self::TimestampOutOfWindow { .. } => 40104,
            Self::NonceReplayed => 40105,
            Self::KeyRevoked { .. } => 40131,
            Self::UnsupportedToken { .. } => 40140,
            Self::TokenRevoked => 40141,
            Self::TokenExpired { .. } => 40142,
            Self::UnrecognisedToken => 40143,
            Self::InvalidJwt { .. } | Self::MalformedClaim { .. } => 40144,
            Self::MalformedToken => 40145,
            Self::NotPermitted { .. }
            | Self::NotAttachable { .. }
            | Self::NothingPermitted { .. } => 40160,
            Self::IdentityNeeded => 40161,
            Self::KeyNeeded => 40162,
            Self::TooManyTokenRequests { .. } => 42910,
            Self::PresenceWithoutClientId => 91000,
        }
    }

    /// The HTTP status. The contract denies capabilities with 401, not 403.
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidCapability(_)
            | Self::InvalidBody { .. }
            | Self::InvalidParameter { .. }
            | Self::UnreadableKey
            | Self::UnreadableToken
            | Self::InvalidChannelName { .. }
            | Self::InvalidClientId { .. }
            | Self::MalformedClaim { .. }
            | Self::PresenceWithoutClientId => 400,
            Self::UnsupportedScheme
            | Self::NoCredentials
            | Self::BadCredentials
            | Self::MacMismatch
            | Self::IncompatibleKey { .. }
            | Self::IncompatibleApp
            | Self::IncompatibleClientId { .. }
            | Self::BasicOverPlainHttp
            | Self::TimestampOutOfWindow { .. }
            | Self::NonceReplayed
            | Self::KeyRevoked { .. }
            | Self::UnsupportedToken { .. }
            | Self::TokenRevoked
            | Self::TokenExpired { .. }
            | Self::UnrecognisedToken
            | Self::InvalidJwt { .. }
            | Self::MalformedToken
            | Self::NotPermitted { .. }
            | Self::NotAttachable { .. }
            | Self::NothingPermitted { .. }
            | Self::IdentityNeeded
            | Self::KeyNeeded => 401,
            Self::TooManyTokenRequests { .. } => 429,
        }
    }

    /// True if a client with a fresh token may succeed: the codes 40140 to 40149, upon which the
    /// official clients renew their token once.
    pub fn is_renewable(&self) -> bool {
        (40140..40150).contains(&self.code())
    }
}
