//! Everything that can happen to the two stages, and everything that they can ask for.

use headcount_model::{Fence, Incarnation, NodeId, RegionName};

use crate::member::{Change, Member, MemberKey, Message, Regions, RelayChannel};
use crate::messages::{GatewayMessage, OwnerMessage, RegionMessage};

/// What can happen to a [`Gateway`](crate::Gateway).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayInput {
    /// The node has attachments to the channel now, or has none any more; in the latter case
    /// members that are still there leave with it.
    Interest {
        /// The channel.
        channel: RelayChannel,
        /// Whether it has.
        on: bool,
    },
    /// A local connection entered, updated or left; validated, and shown to local subscribers
    /// before the effects of the step. Ignored if its newness is not above the member's, and if
    /// who is not there leaves.
    Presence {
        /// The channel; one of the interests.
        channel: RelayChannel,
        /// What happened.
        change: Change,
    },
    /// A local connection published; shown to local subscribers by the front end itself.
    Publish(Message),
    /// The shard's regional owner is reachable: a new one, or the same after the way to it broke,
    /// in whichever direction. The whole set is told on a new stream. Ignored if a higher fence was
    /// heard of.
    Owner {
        /// The owner's fence.
        fence: Fence,
    },
    /// The shard's owner is not reachable, or is not known. Ignored if a higher fence was heard of.
    OwnerLost {
        /// The fence of the owner that was lost.
        fence: Fence,
    },
    /// An owner said something.
    FromOwner(OwnerMessage),
    /// The node lost its lease and has a new incarnation (R13): the owner is told anew under it.
    Reborn {
        /// The new one.
        incarnation: Incarnation,
    },
}

/// What a [`Gateway`](crate::Gateway) asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEffect {
    /// Send this to the owner under the message's fence. It may be lost together with everything
    /// after it on its stream, never alone.
    ToOwner(GatewayMessage),
    /// Show this to the local subscribers of the channel.
    Deliver {
        /// The channel; one of the interests.
        channel: RelayChannel,
        /// What.
        delivery: Delivery,
    },
    /// Something is lost, and nobody was told who could do anything about it.
    Lost {
        /// The channel.
        channel: RelayChannel,
        /// What.
        lost: Lost,
    },
    /// An interest or a change is not taken. Nothing of it is known here or told.
    Refused {
        /// The channel.
        channel: RelayChannel,
        /// Whose change it is; `None` for an interest.
        member: Option<MemberKey>,
        /// Why.
        refusal: Refusal,
    },
}

/// What a gateway loses without refusing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A published message: it waited for an owner, too long or with too many others.
    Message,
    /// So many members elsewhere: there was no room for them.
    Members(u64),
}

/// What local subscribers are shown. Local members are never in it, save as the last line of
/// [`Action::Enter`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Published elsewhere.
    Message(Message),
    /// A member elsewhere changed.
    Presence {
        /// How.
        action: Action,
        /// The member as it is now; in leaving, as it said or as it was last.
        member: Member,
    },
}

/// How a member elsewhere changed, as local subscribers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It was there before the node was interested in the channel.
    Present,
    /// It came. Also told of a local member that has left, if the same member is elsewhere, too.
    Enter,
    /// It was known, and its state is another.
    Update,
    /// It left.
    Leave,
}

/// Why a gateway does not take an interest or a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node is full.
    #[error("the node relays {max} channels of the shard, as many as it may")]
    ChannelsFull {
        /// The bound.
        max: usize,
    },
    /// The channel is full.
    #[error("the channel has {max} members, as many as it may")]
    MembersFull {
        /// The bound.
        max: usize,
    },
    /// Members are of attached connections, and the node has no attachment to the channel.
    #[error("the node has no attachment to the channel")]
    NotInterested,
}

/// What can happen to an [`Owner`](crate::Owner).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerInput {
    /// The nodes of the region that hold a lease now, each with its incarnation. What others had is
    /// gone, and they are not listened to.
    Gateways {
        /// All of them.
        live: Vec<(NodeId, Incarnation)>,
    },
    /// A gateway said something.
    FromGateway {
        /// What it said.
        message: GatewayMessage,
        /// For each item of the message, in order: the regions in which the log says that its
        /// channel is active; none for items without a channel, all for metachannels. Entries that
        /// are missing count as empty.
        active: Vec<Regions>,
    },
    /// The owner of another region is reachable: a new one, or the same after the way to it broke.
    /// It is told everything on a new stream. Ignored if a higher fence was heard of.
    RegionOwner {
        /// The region.
        region: RegionName,
        /// Its owner's fence.
        fence: Fence,
    },
    /// The owner of another region is not reachable, or is not known; its members stay. Ignored if
    /// a higher fence was heard of.
    RegionLost {
        /// The region.
        region: RegionName,
        /// The fence of the owner that was lost.
        fence: Fence,
    },
    /// The log says that a region is dead up to a fence (R5): its members are gone. Ignored if a
    /// higher fence was heard of.
    RegionExpired {
        /// The region.
        region: RegionName,
        /// What carries this fence or a lower one is not listened to any more.
        fence: Fence,
    },
    /// The owner of another region said something.
    FromRegion(RegionMessage),
    /// The log says that channels went active in regions, in its order. An interest told for one is
    /// not held any longer, and the region is told the version of this region's set, lest it missed
    /// something while the log did not know of it.
    Activated {
        /// Where, and what. Of this region, they are ignored.
        activations: Vec<(RegionName, RelayChannel)>,
    },
}

/// What an [`Owner`](crate::Owner) asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerEffect {
    /// Send this to a gateway, on the way back of the stream that the message names. It may be lost
    /// together with that stream, never alone.
    ToGateway {
        /// The gateway's node.
        node: NodeId,
        /// What.
        message: OwnerMessage,
    },
    /// Send this to the owner of another region under the fence that the message names. It may be
    /// lost together with everything after it on its stream, never alone.
    ToRegion {
        /// The region.
        region: RegionName,
        /// What.
        message: RegionMessage,
    },
}
