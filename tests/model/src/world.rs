//! The worlds: small enough to exhaust, each with the parts that its rules need.

use crate::words::{CHANNELS, Fence, REGIONS};

/// What exists in a world and how often its surroundings may act.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name in the table.
    pub name: &'static str,
    /// Gateways of each region; their numbers run through the regions.
    pub gateways: [usize; REGIONS],
    /// Channels, up to [`CHANNELS`].
    pub channels: usize,
    /// Owner incarnations that the control group may grant in each region.
    pub fences: [Fence; REGIONS],
    /// The gateway that each subscriber starts at.
    pub subscribers: &'static [usize],
    /// Gateways whose clients may attach and detach.
    pub togglers: &'static [usize],
    /// Attaches and detaches, all together.
    pub toggles: u8,
    /// Whether a client is attached to gateway 0 from the beginning and never leaves.
    pub steady: bool,
    /// How often the control group may give region 0 up.
    pub voids: u8,
    /// How often a gateway may restart.
    pub gateway_restarts: u8,
    /// How often an owner's process may restart under the fence it had (only without R4).
    pub owner_restarts: u8,
    /// How often a subscriber may resume at another gateway.
    pub moves: u8,
    /// The most told-but-unlogged transitions that a cursor keeps.
    pub unlogged_max: usize,
    /// How often the coordinator may move to another region.
    pub leader_changes: u8,
}

impl World {
    const SMALLEST: Self = Self {
        name: "",
        gateways: [1, 0],
        channels: 1,
        fences: [2, 0],
        subscribers: &[0],
        togglers: &[0],
        toggles: 2,
        steady: false,
        voids: 0,
        gateway_restarts: 0,
        owner_restarts: 0,
        moves: 0,
        unlogged_max: usize::MAX,
        leader_changes: 0,
    };

    /// One region, one gateway, three owner incarnations.
    #[must_use]
    pub fn claims() -> Self {
        Self {
            name: "claims",
            fences: [3, 0],
            owner_restarts: 1,
            ..Self::SMALLEST
        }
    }

    /// One region, one gateway, a client that comes, goes and comes again.
    #[must_use]
    pub fn churn() -> Self {
        Self {
            name: "churn",
            toggles: 3,
            ..Self::SMALLEST
        }
    }

    /// Two gateways that were told different prefixes.
    #[must_use]
    pub fn witnesses() -> Self {
        Self {
            name: "witnesses",
            gateways: [2, 0],
            subscribers: &[0, 1],
            toggles: 1,
            ..Self::SMALLEST
        }
    }

    /// A region that the control group gives up, rightly or not, and that may return.
    #[must_use]
    pub fn expiry() -> Self {
        Self {
            name: "expiry",
            voids: 1,
            toggles: 2,
            ..Self::SMALLEST
        }
    }

    /// Two channels that share numbers and batches.
    #[must_use]
    pub fn channels() -> Self {
        Self {
            name: "channels",
            channels: CHANNELS,
            toggles: 2,
            ..Self::SMALLEST
        }
    }

    /// Two regions on one log, and a coordinator that moves between them.
    #[must_use]
    pub fn regions() -> Self {
        Self {
            name: "regions",
            gateways: [1, 1],
            fences: [1, 1],
            subscribers: &[0],
            togglers: &[0, 1],
            leader_changes: 1,
            ..Self::SMALLEST
        }
    }

    /// Gateways and owners restart below a client that never leaves.
    #[must_use]
    pub fn adoption() -> Self {
        Self {
            name: "adoption",
            gateways: [2, 0],
            subscribers: &[],
            togglers: &[1],
            steady: true,
            gateway_restarts: 2,
            ..Self::SMALLEST
        }
    }

    /// A gateway restarts below a subscriber, which resumes there or at the other gateway.
    #[must_use]
    pub fn restarts() -> Self {
        Self {
            name: "restarts",
            gateways: [2, 0],
            toggles: 1,
            gateway_restarts: 1,
            ..Self::SMALLEST
        }
    }

    /// Two live regions, and a subscriber that goes from one to the other.
    #[must_use]
    pub fn roaming() -> Self {
        Self {
            name: "roaming",
            gateways: [1, 1],
            fences: [1, 1],
            togglers: &[1],
            toggles: 1,
            steady: true,
            voids: 1,
            moves: 1,
            ..Self::SMALLEST
        }
    }

    /// A subscriber that resumes in another region, whose own may be gone for ever.
    #[must_use]
    pub fn cursors() -> Self {
        Self {
            name: "cursors",
            gateways: [1, 1],
            fences: [2, 0],
            voids: 1,
            moves: 1,
            ..Self::SMALLEST
        }
    }

    /// Subscribers who are told more, before the log brings it, than a cursor can hold.
    #[must_use]
    pub fn overflow() -> Self {
        Self {
            name: "overflow",
            unlogged_max: 1,
            moves: 1,
            ..Self::SMALLEST
        }
    }

    /// Every world that the tests exhaust.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::claims(),
            Self::churn(),
            Self::channels(),
            Self::witnesses(),
            Self::expiry(),
            Self::regions(),
            Self::adoption(),
            Self::restarts(),
            Self::cursors(),
            Self::roaming(),
            Self::overflow(),
        ]
    }

    /// The same with more going on, for minutes rather than seconds.
    #[must_use]
    pub fn deep() -> Vec<Self> {
        vec![
            Self {
                toggles: 3,
                ..Self::claims()
            },
            Self {
                toggles: 4,
                ..Self::churn()
            },
            Self {
                toggles: 3,
                ..Self::channels()
            },
            Self {
                toggles: 2,
                ..Self::witnesses()
            },
            Self {
                toggles: 3,
                ..Self::expiry()
            },
            Self {
                toggles: 3,
                ..Self::regions()
            },
            Self {
                fences: [3, 0],
                ..Self::adoption()
            },
            Self {
                moves: 1,
                ..Self::restarts()
            },
            Self {
                moves: 2,
                ..Self::cursors()
            },
            Self {
                fences: [2, 1],
                voids: 0,
                ..Self::roaming()
            },
            Self {
                toggles: 3,
                ..Self::overflow()
            },
        ]
    }

    /// The region of a gateway.
    #[must_use]
    pub const fn region_of(&self, gateway: usize) -> usize {
        if gateway < self.gateways[0] { 0 } else { 1 }
    }

    /// The gateways of a region.
    #[must_use]
    pub const fn gateways_of(&self, region: usize) -> std::ops::Range<usize> {
        if region == 0 {
            0..self.gateways[0]
        } else {
            self.gateways[0]..self.gateways[0] + self.gateways[1]
        }
    }

    /// Whether somebody may resume.
    #[must_use]
    pub const fn resumes(&self) -> bool {
        self.moves > 0 || self.gateway_restarts > 0
    }
}
