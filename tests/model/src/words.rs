//! The protocol's words: transitions, commands, events, ids.

/// The most regions of a world.
pub const REGIONS: usize = 2;
/// The most channels of a world.
pub const CHANNELS: usize = 2;

/// A fence of one region, counted from 1; 0 stands for none.
pub type Fence = u8;
/// One value per channel.
pub type PerChannel<T> = [T; CHANNELS];

/// A channel going active or inactive in a region, as its owner tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transition {
    /// The fence under which it was emitted.
    pub fence: Fence,
    /// Its number in the fence, from 1.
    pub number: u8,
    /// The channel.
    pub channel: usize,
    /// Whether the channel went active.
    pub active: bool,
    /// The region's count at that moment (part of the body, R12).
    pub count: u8,
    /// `isGlobalMaster`, as the owner believed it (part of the body, R12).
    pub global_master: bool,
}

/// What the shard's log is asked to take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// An owner's first command (R1).
    Claim {
        /// The owner's region.
        region: usize,
        /// Its fence.
        fence: Fence,
        /// What gateways were told under the fence before and had not seen logged (R3).
        tail: Vec<Transition>,
        /// Which gateways were heard for the tail, one bit each; for the checker only.
        witnesses: u8,
    },
    /// Numbered transitions and absolute registers of a region (R2).
    Batch {
        /// The owner's region.
        region: usize,
        /// Its fence.
        fence: Fence,
        /// The batch's place in the fence, from 1.
        sequence: u8,
        /// In order of their numbers; applied before the registers.
        transitions: Vec<Transition>,
        /// The region's counts.
        registers: PerChannel<u8>,
    },
    /// The owner's adoption has ended (R3).
    Settled {
        /// The owner's region.
        region: usize,
        /// Its fence.
        fence: Fence,
    },
    /// The control group gave the region up, with all its fences so far (R5).
    Expire {
        /// The region.
        region: usize,
        /// The highest fence that is void.
        fence: Fence,
    },
}

impl Command {
    /// The region that the command is about.
    #[must_use]
    pub const fn region(&self) -> usize {
        match self {
            Self::Claim { region, .. }
            | Self::Batch { region, .. }
            | Self::Settled { region, .. }
            | Self::Expire { region, .. } => *region,
        }
    }

    /// The fence that the command names.
    #[must_use]
    pub const fn fence(&self) -> Fence {
        match self {
            Self::Claim { fence, .. }
            | Self::Batch { fence, .. }
            | Self::Settled { fence, .. }
            | Self::Expire { fence, .. } => *fence,
        }
    }
}

/// What applying a command yields, in order; what feeds read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A claim was applied.
    Claimed {
        /// The region.
        region: usize,
        /// The fence that holds from here.
        fence: Fence,
        /// The fence whose tail the claim could carry on; 0 if there was none or it had ended.
        after: Fence,
        /// The gateways heard for the tail; for the checker only.
        witnesses: u8,
    },
    /// `channel.region.active` or `.inactive` by an owner's transition.
    Transition {
        /// The region.
        region: usize,
        /// The transition as logged.
        transition: Transition,
    },
    /// `channel.region.inactive` by an expiry.
    Expired {
        /// The region.
        region: usize,
        /// The void fence.
        fence: Fence,
        /// The channel.
        channel: usize,
    },
    /// `channel.opened`.
    Opened {
        /// The channel.
        channel: usize,
    },
    /// `channel.closed`.
    Closed {
        /// The channel.
        channel: usize,
    },
    /// An expiry's first chunk: its fences are over.
    ExpiryBegun {
        /// The region.
        region: usize,
        /// The void fence.
        fence: Fence,
    },
    /// An expiry's last chunk.
    ExpiryEnded {
        /// The region.
        region: usize,
        /// The void fence.
        fence: Fence,
    },
    /// An owner's adoption has ended.
    Settled {
        /// The region.
        region: usize,
        /// The owner's fence.
        fence: Fence,
    },
}

/// The id under which a regional fact is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventId {
    /// A transition: region, fence, number.
    Transition(usize, Fence, u8),
    /// An expiry: region, void fence, channel (the log's position in the product).
    Expiry(usize, Fence, usize),
    /// A void by an owner's `Settled`: region, settling fence, channel.
    Void(usize, Fence, usize),
    /// A void by an expiry's end: region, void fence, channel. It must not share the id of the
    /// void that the same fence's `Settled` may have caused before.
    ExpiryVoid(usize, Fence, usize),
}

impl EventId {
    /// Region and fence of the cause.
    #[must_use]
    pub const fn origin(&self) -> (usize, Fence) {
        match *self {
            Self::Transition(region, fence, _)
            | Self::Expiry(region, fence, _)
            | Self::Void(region, fence, _)
            | Self::ExpiryVoid(region, fence, _) => (region, fence),
        }
    }
}

/// A promise that was broken on the way into a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The log holds two actives or two inactives of a region and channel in a row.
    LogRepeats,
    /// A regional event does not nest in opened and closed, or these do not alternate.
    NotNested,
    /// A region counts somebody on a channel that is inactive there.
    CountedWhileInactive,
    /// A subscriber was told two actives or two inactives in a row.
    ToldRepeats,
    /// One id was told with two bodies.
    BodyDiffers,
    /// A transition was voided although a gateway that was told of it was heard for the claim.
    NeedlessVoid,
    /// A channel with a client that never left went inactive.
    Flap,
    /// A channel with a client that never left was counted as empty.
    Dip,
}
