//! What is relayed: members of presence sets, their changes, and messages.

use std::fmt;
use std::sync::Arc;

use headcount_model::{
    AppId, CHANNEL_BYTES_MAX, ChannelKey, ConnectionId, MemberId, NameError, RegionName,
};
use smallvec::SmallVec;

/// Longest name of a relayed channel, in bytes of UTF-8: a channel name, and room for a qualifier
/// such as `[meta]`.
pub const RELAY_NAME_BYTES_MAX: usize = CHANNEL_BYTES_MAX + 64;

/// Regions in which a channel is active; few, and usually not more than three.
pub type Regions = SmallVec<[RegionName; 3]>;

/// Relay channel: a channel or a metachannel, such as `[meta]log`, inside its app.
///
/// Not a [`ChannelKey`], whose names may not begin with `[`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayChannel {
    /// The tenant.
    pub app: AppId,
    /// The name, with its qualifier if it has one; 1 to [`RELAY_NAME_BYTES_MAX`] bytes.
    pub name: Arc<str>,
}

impl RelayChannel {
    /// Takes `name` as it is; what a front end may name so is its own decision.
    ///
    /// # Errors
    /// [`NameError`] if the name is empty or too long.
    pub fn new(app: AppId, name: &str) -> Result<Self, NameError> {
        const WHAT: &str = "relay channel name";
        if name.is_empty() {
            return Err(NameError::Empty { what: WHAT });
        }
        if name.len() > RELAY_NAME_BYTES_MAX {
            return Err(NameError::TooLong {
                what: WHAT,
                bytes: name.len(),
                max: RELAY_NAME_BYTES_MAX,
            });
        }
        let name = Arc::from(name);
        Ok(Self { app, name })
    }
}

impl From<&ChannelKey> for RelayChannel {
    fn from(key: &ChannelKey) -> Self {
        Self {
            app: key.app.clone(),
            name: Arc::from(key.name.as_str()),
        }
    }
}

impl fmt::Display for RelayChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

/// Newness: which of two states of a member is the later, by what its connection sent (R17).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Newness {
    /// The connection's message serial, from 0.
    pub serial: u64,
    /// The item's index in that message, from 0.
    pub index: u32,
}

impl Newness {
    /// Newer than all: for a leave that the connection did not send, since it detached, closed or
    /// is gone.
    pub const LAST: Self = Self {
        serial: u64::MAX,
        index: u32::MAX,
    };
}

/// Member key: who a member is. A connection id is never used again for another connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Whose member it is.
    pub connection: ConnectionId,
    /// Who, usually a client id.
    pub id: MemberId,
}

/// Member: what a connection entered into a channel's presence set, in its latest state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub key: MemberKey,
    /// How new this state is.
    pub newness: Newness,
    /// Opaque to the relay; the front end bounds it.
    pub data: Arc<[u8]>,
}

/// Change: what happened to a member of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It entered, or its data changed: which of the two depends on what the receiver knows.
    Put(Member),
    /// It left; the data is what it said in leaving, or its last.
    Leave(Member),
}

impl Change {
    /// Returns the member, as the change has it.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Put(member) | Self::Leave(member) => member,
        }
    }
}

/// Message: something published on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub channel: RelayChannel,
    /// By whom; messages of one publisher stay in order. What was published without a connection
    /// carries a name that the front end makes up and keeps to one node.
    pub publisher: ConnectionId,
    /// Opaque to the relay; the front end bounds it.
    pub body: Arc<[u8]>,
}
