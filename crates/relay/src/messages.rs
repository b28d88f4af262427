//! What gateways and owners send each other. All numbers are counts; nothing here has a unit of time.
//!
//! Each direction of each pair is a *stream* of numbered messages. A higher stream number starts
//! over; a lower one is ignored, as is a message that is repeated, and one after a hole makes the
//! receiver ask for a new stream. Items of a message are taken in order.

use headcount_model::{Fence, Incarnation, NodeId, RegionName};

use crate::member::{Change, Member, Message, RelayChannel};

/// What a gateway tells its regional owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayMessage {
    /// The gateway's node.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// The fence of the owner that it is meant for; another owner ignores it.
    pub fence: Fence,
    /// Number of the stream, from 1, increasing in an incarnation. A new stream tells the whole set
    /// up to [`GatewayItem::Complete`], and then what changes.
    pub stream: u64,
    /// Number of the message in its stream, from 1, without holes.
    pub sequence: u64,
    /// Bounded by `message_items_max` and `message_bytes_max` of [`Config`](crate::Config).
    pub items: Vec<GatewayItem>,
}

/// One thing that a gateway tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayItem {
    /// The node has attachments to the channel, or has none any more, with which its members leave.
    Interest {
        /// The channel.
        channel: RelayChannel,
        /// Whether it has.
        on: bool,
    },
    /// What happened to members of the node, in order; the channel is one of its interests.
    Changes {
        /// The channel.
        channel: RelayChannel,
        /// At least one.
        changes: Vec<Change>,
    },
    /// A connection of the node published; the channel need not be one of its interests.
    Publish(Message),
    /// The whole set was told on this stream: interests and members not mentioned are gone.
    Complete,
}

impl GatewayItem {
    /// Returns the channel whose active regions the owner needs to route the item.
    #[must_use]
    pub fn channel(&self) -> Option<&RelayChannel> {
        match self {
            Self::Interest { channel, .. } | Self::Changes { channel, .. } => Some(channel),
            Self::Publish(message) => Some(&message.channel),
            Self::Complete => None,
        }
    }
}

/// What a regional owner tells one of its gateways, on the way back of that gateway's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerMessage {
    /// The owner's fence.
    pub fence: Fence,
    /// The gateway's stream that it answers; the gateway ignores what answers an older one.
    pub stream: u64,
    /// Number of the message in the answer to that stream, from 1, without holes; 0 for
    /// [`OwnerItem::Restart`], which comes alone.
    pub sequence: u64,
    /// Bounded by `message_items_max` and `message_bytes_max` of [`Config`](crate::Config).
    pub items: Vec<OwnerItem>,
}

/// One thing that an owner tells a gateway. Members of the gateway's own node are never in it, save
/// that another node or region holds the same member, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerItem {
    /// A part of the channel's set as others have it. The parts of a set follow each other on the
    /// stream; after the last, members that were in none are gone.
    Set {
        /// The channel.
        channel: RelayChannel,
        /// Each member at most once in a set.
        members: Vec<Member>,
        /// Whether it is the set's first part.
        first: bool,
        /// Whether it is the set's last part.
        last: bool,
    },
    /// What happened to members since the set was told, in order.
    Changes {
        /// The channel.
        channel: RelayChannel,
        /// At least one.
        changes: Vec<Change>,
    },
    /// Published elsewhere.
    Message(Message),
    /// The owner could not follow the stream: the gateway starts a new one.
    Restart,
}

/// What a regional owner tells the owner of the same shard in another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMessage {
    /// The sender's region.
    pub region: RegionName,
    /// The sender's fence; ignored below the highest that the receiver heard of that region.
    pub fence: Fence,
    /// The fence of the owner that it is meant for; another owner ignores it.
    pub to: Fence,
    /// Number of the stream, from 1, increasing under a fence. A new stream makes the receiver
    /// forget what interest it was told, and tells it anew.
    pub stream: u64,
    /// Number of the message in its stream, from 1, without holes.
    pub sequence: u64,
    /// Bounded by `message_items_max` and `message_bytes_max` of [`Config`](crate::Config).
    pub items: Vec<RegionItem>,
}

/// One thing that an owner tells the owner of another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionItem {
    /// The sender's set is whole: whoever is interested may pull it, and should, unless it did.
    /// Before it, neither sets nor changes come.
    Ready,
    /// The sender is interested in the channel, and pulls: the receiver holds the interest and
    /// answers with its set, or with [`RegionItem::Changes`] without any if the sender has it.
    Interest {
        /// The channel.
        channel: RelayChannel,
        /// The receiver's fence when the sender last knew its set; 0 if it never did.
        fence: Fence,
        /// The set's version then.
        version: u64,
    },
    /// A part of the channel's set in the sender's region. The parts of a set follow each other on
    /// the stream; after the last, members of the region that were in none are gone.
    Set {
        /// The channel.
        channel: RelayChannel,
        /// The version that the whole set has.
        version: u64,
        /// Each member at most once in a set.
        members: Vec<Member>,
        /// Whether it is the set's first part.
        first: bool,
        /// Whether it is the set's last part.
        last: bool,
    },
    /// What happened to members in the sender's region.
    Changes {
        /// The channel.
        channel: RelayChannel,
        /// The version from which they lead; a receiver that does not have it pulls. 0 is the empty
        /// set, whatever the receiver has.
        previous: u64,
        /// The version to which they lead, above `previous`, or the same if there are none: then
        /// the receiver only sees whether it has missed any.
        version: u64,
        /// In order.
        changes: Vec<Change>,
    },
    /// Published in the sender's region; for the receiver's gateways, and never passed on.
    Message(Message),
    /// The sender could not follow a stream of the receiver's, which starts a new one.
    Restart {
        /// The stream.
        stream: u64,
    },
}
