//! Who a client may say that it is (contract §4.4).

use crate::error::{AccessError, excerpt};

/// The longest client id, in bytes: as long as the model lets a presence member's id be.
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// Which client ids a credential allows; narrowed by [`ClientIdRule::narrow`], which a connection
/// keeps as its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientIdRule {
    /// Any id, also several on one connection: a key, or a token for `*`.
    Any,
    /// This id and no other.
    Fixed(String),
    /// None: a token that names no client.
    Anonymous,
}

impl ClientIdRule {
    /// The rule of a token that carries this client id.
    ///
    /// # Errors
    /// [`AccessError::InvalidClientId`] if nobody may have that id.
    pub fn of_token(client_id: Option<&str>) -> Result<Self, AccessError> {
        match client_id {
            None => Ok(Self::Anonymous),
            Some("*") => Ok(Self::Any),
            Some(id) => {
                check_client_id(id)?;
                Ok(Self::Fixed(id.to_owned()))
            }
        }
    }

    /// What remains of the rule when the client names itself as it connects or calls (the
    /// `clientId` parameter, `X-Ably-ClientId`). `*` names nobody.
    ///
    /// # Errors
    /// [`AccessError::IncompatibleClientId`] (40102) if the credential is for another id or for
    /// none, [`AccessError::InvalidClientId`] (40012) if nobody may have the id.
    pub fn narrow(&self, requested: Option<&str>) -> Result<Self, AccessError> {
        let Some(requested) = requested else {
            return Ok(self.clone());
        };
        let wanted = Self::of_token(Some(requested))?;
        match self {
            Self::Any => Ok(wanted),
            Self::Fixed(_) if *self == wanted => Ok(wanted),
            Self::Fixed(_) | Self::Anonymous => Err(AccessError::IncompatibleClientId {
                requested: excerpt(requested),
            }),
        }
    }

    /// What a `CONNECTED` frame tells the client: its id, `*` if it may use any and named none,
    /// nothing if it is anonymous.
    pub fn announced(&self) -> Option<&str> {
        match self {
            Self::Any => Some("*"),
            Self::Fixed(id) => Some(id),
            Self::Anonymous => None,
        }
    }

    /// The id under which a message goes out, given the one that it names itself.
    ///
    /// # Errors
    /// [`AccessError::InvalidClientId`] (40012) if the id is not allowed.
    pub fn publisher<'a>(&'a self, named: Option<&'a str>) -> Result<Option<&'a str>, AccessError> {
        if let Some(id) = named {
            check_client_id(id)?;
        }
        match (self, named) {
            (Self::Any | Self::Anonymous, None) => Ok(None),
            (Self::Any, Some(id)) => Ok(Some(id)),
            (Self::Fixed(own), None) => Ok(Some(own)),
            (Self::Fixed(own), Some(id)) if own == id => Ok(Some(own)),
            (Self::Fixed(_), Some(_)) => Err(AccessError::InvalidClientId {
                reason: "it is not the one of the connection",
            }),
            (Self::Anonymous, Some(_)) => Err(AccessError::InvalidClientId {
                reason: "the connection has none",
            }),
        }
    }

    /// The id of a presence member, given the one that the presence message names itself.
    ///
    /// # Errors
    /// [`AccessError::PresenceWithoutClientId`] (91000) if there is none, and as
    /// [`ClientIdRule::publisher`].
    pub fn member<'a>(&'a self, named: Option<&'a str>) -> Result<&'a str, AccessError> {
        self.publisher(named)?
            .ok_or(AccessError::PresenceWithoutClientId)
    }

    /// The id, for operations that only an identified client may do.
    ///
    /// # Errors
    /// [`AccessError::IdentityNeeded`] (40161) if the client has not said who it is.
    pub fn identified(&self) -> Result<&str, AccessError> {
        match self {
            Self::Fixed(id) => Ok(id),
            Self::Any | Self::Anonymous => Err(AccessError::IdentityNeeded),
        }
    }
}

/// Refuses ids that nobody may have.
fn check_client_id(id: &str) -> Result<(), AccessError> {
    let reason = if id.is_empty() {
        "it is empty"
    } else if id == "*" {
        "* is not the id of a client"
    } else if id.len() > CLIENT_ID_BYTES_MAX {
        "it is too long"
    } else if id.chars().any(char::is_control) {
        "it holds control characters"
    } else {
        return Ok(());
    };
    Err(AccessError::InvalidClientId { reason })
}
