//! Coordinators where the traffic is: which region a shard's coordinator should follow, as the
//! control group's leader measures it.
//!
//! The measurements are not replicated, only what is decided from them: a new leader measures anew,
//! and until it has, everything stays where it is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use headcount_model::{Monotonic, RegionName, ShardId};

use crate::{Control, ControlCommand, FOLLOWING_VERSION, Group, GroupId};

/// Fewest items within the time that is looked at for which anything moves: less is chance.
const ITEMS_MIN: u64 = 20;

/// Into how many parts the time that is looked at is divided; the oldest goes at once.
const PARTS: u32 = 8;

/// How many times longer than [`TrafficConfig::steady`] a shard must have been without any traffic
/// until its coordinator follows none: a pause is no reason to move.
const IDLE_TIMES: u32 = 10;

/// Most shards that begin to follow something else within [`MOVES_TIME`]: each change of a
/// coordinator is felt for a round trip by those who are on its channels.
const MOVES_MAX: usize = 4;

/// See [`MOVES_MAX`].
const MOVES_TIME: Duration = Duration::from_secs(5);

/// How coordinators follow traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficConfig {
    /// Whether they do at all; if not, those that did are placed by the weights again.
    pub follow: bool,
    /// How many times the traffic of any other region a region must have to attract a coordinator,
    /// and to take one away from the region that it follows. Too low: coordinators move for little.
    /// Too high: they stay where they are not best. 2.
    pub factor: u32,
    /// How far back traffic is looked at, and for how long it must have said the same before
    /// anything moves. Too low: coordinators run after each burst. Too high: they come late. 1 min.
    pub steady: Duration,
    /// How many times its share by weight a region may lead because of traffic. 1 leaves the
    /// weights as they are, more lets traffic outweigh them. A region of weight 0 attracts nothing.
    /// 3.
    pub share_max: u32,
}

impl Default for TrafficConfig {
    fn default() -> Self {
        Self {
            follow: true,
            factor: 2,
            steady: Duration::from_secs(60),
            share_max: 3,
        }
    }
}

/// Traffic of all shards by the region that it comes from, at the control group's leader: items of
/// batches, that is transitions and registers, which is what a coordinator waits for.
///
/// Made and dropped with [`crate::Leases`].
#[derive(Clone, Debug)]
pub struct Traffic {
    config: TrafficConfig,
    shards: BTreeMap<ShardId, Measured>,
    /// When shards last began to follow something else, oldest first.
    moves: VecDeque<Monotonic>,
    /// Since when more shards follow a region than may.
    crowded: BTreeMap<RegionName, Monotonic>,
}

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
struct Measured {
    /// When each part began, and what came in it; oldest first.
    parts: VecDeque<(Monotonic, BTreeMap<RegionName, u64>)>,
    /// What the shard should follow instead of what it does, and since when that is so.
    wish: Option<(Option<RegionName>, Monotonic)>,
}

impl Measured {
    fn items(&self, region: &RegionName) -> u64 {
        let parts = self.parts.iter();
        parts.filter_map(|(_, part)| part.get(region)).sum()
    }

    fn by_region(&self) -> BTreeMap<RegionName, u64> {
        let mut sums = BTreeMap::new();
        for (region, items) in self.parts.iter().flat_map(|(_, part)| part) {
            *sums.entry(region.clone()).or_default() += *items;
        }
        sums
    }
}

/// Why a coordinator is to be another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveReason {
    /// Nobody was to be it, or who was cannot be any longer: dead, draining, or without a vote.
    Vacant,
    /// The shard's home is elsewhere.
    Home,
    /// Its traffic comes from elsewhere.
    Traffic,
    /// Weights, and evenness between the nodes of a region.
    Balance,
}

impl MoveReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Vacant, Self::Home, Self::Traffic, Self::Balance];

    /// Returns the reason's name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::Home => "home",
            Self::Traffic => "traffic",
            Self::Balance => "balance",
        }
    }
}

impl Traffic {
    /// Begins to measure.
    #[must_use]
    pub fn new(config: TrafficConfig) -> Self {
        Self {
            config,
            shards: BTreeMap::new(),
            moves: VecDeque::new(),
            crowded: BTreeMap::new(),
        }
    }

    /// Takes note of items that were applied in a shard since its coordinator last told.
    pub fn note(&mut self, now: Monotonic, shard: ShardId, items: &BTreeMap<RegionName, u64>) {
        let measured = self.shards.entry(shard).or_default();
        let fresh = |(began, _): &(Monotonic, _)| now.since(*began) < self.config.steady / PARTS;
        if !measured.parts.back().is_some_and(fresh) {
            measured.parts.push_back((now, BTreeMap::new()));
        }
        if let Some((_, part)) = measured.parts.back_mut() {
            for (region, items) in items {
                let sum: &mut u64 = part.entry(region.clone()).or_default();
                *sum = sum.saturating_add(*items);
            }
        }
    }

    /// Returns what came lately in a shard, by region.
    #[must_use]
    pub fn lately(&self, shard: ShardId) -> BTreeMap<RegionName, u64> {
        let measured = self.shards.get(&shard);
        measured.map_or_else(BTreeMap::new, Measured::by_region)
    }

    /// Returns which shards should follow what, to be proposed; some again until they are applied.
    /// To be called once a second or so.
    ///
    /// A shard begins to follow a region that has [`TrafficConfig::factor`] times the traffic of
    /// each other one, and leaves it only for a region that has as many times its own; in between
    /// it stays. Either must have been so all through [`TrafficConfig::steady`], over which traffic
    /// is summed up, too. Shards with a home follow nothing.
    pub fn decide(&mut self, now: Monotonic, control: &Control) -> Vec<ControlCommand> {
        self.forget(now);
        if control.understood() < FOLLOWING_VERSION {
            return Vec::new();
        }
        let mut counts = following(control);
        let mut commands = self.released(now, control, &mut counts);
        for (shard, wish) in self.wishes(now, control) {
            let free = wish.as_ref().is_none_or(|region| {
                let count = counts.get(region).copied().unwrap_or(0);
                count < self.most(control, region)
            });
            if !free {
                continue;
            }
            let before = control.group(GroupId::Shard(shard));
            if let Some(before) = before.and_then(|group| group.follows.as_ref()) {
                counts.entry(before.clone()).and_modify(|count| *count -= 1);
            }
            if let Some(region) = &wish {
                *counts.entry(region.clone()).or_default() += 1;
            }
            commands.push(ControlCommand::FollowTraffic {
                shard,
                region: wish,
            });
        }
        let room = MOVES_MAX.saturating_sub(self.moves.len());
        commands.truncate(room);
        self.moves.extend(commands.iter().map(|_| now));
        commands
    }

    /// Forgets what is too long ago.
    fn forget(&mut self, now: Monotonic) {
        let old = |began: Monotonic, time: Duration| now.since(began) >= time;
        self.moves.retain(|moved| !old(*moved, MOVES_TIME));
        for measured in self.shards.values_mut() {
            let steady = self.config.steady;
            measured.parts.retain(|(began, _)| !old(*began, steady));
        }
    }

    /// Returns the changes that have been due for long enough, those that help most first.
    fn wishes(&mut self, now: Monotonic, control: &Control) -> Vec<(ShardId, Option<RegionName>)> {
        let mut due = Vec::new();
        for shard in control.shards() {
            let Some(group) = control.group(GroupId::Shard(shard)) else {
                continue;
            };
            let measured = self.shards.entry(shard).or_default();
            let wish = wish(self.config, control, group, measured);
            if wish == group.follows {
                measured.wish = None;
                continue;
            }
            let since = match &measured.wish {
                Some((before, since)) if *before == wish => *since,
                _ => now,
            };
            measured.wish = Some((wish.clone(), since));
            let patience = match &wish {
                Some(_) => self.config.steady,
                None if self.config.follow && group.home.is_none() => {
                    self.config.steady * IDLE_TIMES
                }
                None => Duration::ZERO,
            };
            if now.since(since) >= patience {
                let of = |region: &Option<RegionName>| {
                    region.as_ref().map_or(0, |region| measured.items(region))
                };
                let gain = of(&wish).saturating_sub(of(&group.follows));
                due.push((std::cmp::Reverse(gain), shard, wish));
            }
        }
        due.sort();
        due.into_iter()
            .map(|(_, shard, wish)| (shard, wish))
            .collect()
    }

    /// Returns the shards that shall not follow a region any more, as too many have for long: those
    /// with the least traffic from there.
    fn released(
        &mut self,
        now: Monotonic,
        control: &Control,
        counts: &mut BTreeMap<RegionName, usize>,
    ) -> Vec<ControlCommand> {
        let crowded = counts
            .iter()
            .filter(|(region, count)| **count > self.most(control, region));
        let crowded: BTreeMap<RegionName, Monotonic> = crowded
            .map(|(region, _)| {
                let since = self.crowded.get(region).copied().unwrap_or(now);
                (region.clone(), since)
            })
            .collect();
        self.crowded = crowded;
        let mut commands = Vec::new();
        let long = |since: &Monotonic| now.since(*since) >= self.config.steady;
        for region in self.crowded.iter().filter(|(_, since)| long(since)) {
            let region = region.0;
            let count = counts.get(region).copied().unwrap_or(0);
            let excess = count.saturating_sub(self.most(control, region));
            let followers = control.shards().filter(|shard| {
                let group = control.group(GroupId::Shard(*shard));
                group.is_some_and(|group| group.seat() == Some(region) && group.home.is_none())
            });
            let items = |shard: &ShardId| {
                self.shards
                    .get(shard)
                    .map_or(0, |measured| measured.items(region))
            };
            let mut followers: Vec<ShardId> = followers.collect();
            followers.sort_by_key(|shard| (items(shard), *shard));
            for shard in followers.into_iter().take(excess) {
                counts.entry(region.clone()).and_modify(|count| *count -= 1);
                commands.push(ControlCommand::FollowTraffic {
                    shard,
                    region: None,
                });
            }
        }
        commands
    }

    /// Returns how many shards may follow a region.
    fn most(&self, control: &Control, region: &RegionName) -> usize {
        let weight = |region| {
            let known = control.regions().get(region);
            known.map_or(0, |known| u64::from(known.weight))
        };
        let all: u64 = control
            .regions()
            .keys()
            .filter(|region| can_lead(control, region))
            .map(weight)
            .sum();
        let shards = control.shards().count() as u64;
        let most = shards * weight(region) * u64::from(self.config.share_max);
        let most = most.div_ceil(all.max(1)).min(shards);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

/// Returns how many shards follow each region, those with a home left out.
fn following(control: &Control) -> BTreeMap<RegionName, usize> {
    let mut counts = BTreeMap::new();
    for group in control.groups().values() {
        if let (None, Some(region)) = (&group.home, &group.follows) {
            *counts.entry(region.clone()).or_default() += 1;
        }
    }
    counts
}

/// Returns whether the region has a node that could lead.
fn can_lead(control: &Control, region: &RegionName) -> bool {
    control.live_nodes(region).any(|(_, node)| node.is_usable())
}

/// Returns what a shard should follow by what is known now.
fn wish(
    config: TrafficConfig,
    control: &Control,
    group: &Group,
    measured: &Measured,
) -> Option<RegionName> {
    if !config.follow || group.home.is_some() {
        return None;
    }
    let mut sums = measured.by_region();
    sums.retain(|region, _| can_lead(control, region));
    let total: u64 = sums.values().sum();
    if total == 0 {
        return None;
    }
    let follows = group.follows.as_ref();
    let follows = follows.filter(|region| can_lead(control, region));
    let best = sums.iter().max_by_key(|(region, items)| (**items, *region));
    let (best, most) = best.map(|(region, items)| (region.clone(), *items))?;
    let rival = match follows {
        Some(follows) if *follows == best => return Some(best),
        Some(follows) => sums.get(follows).copied().unwrap_or(0),
        None => {
            let others = sums.iter().filter(|(region, _)| **region != best);
            others.map(|(_, items)| *items).max().unwrap_or(0)
        }
    };
    let worth = most >= rival.saturating_mul(config.factor.into());
    if worth && total >= ITEMS_MIN {
        Some(best)
    } else {
        follows.cloned()
    }
}

impl Control {
    /// Returns why a command that prefers `replica` as a group's leader is proposed; `None` if it
    /// changes nothing.
    #[must_use]
    pub fn move_reason(
        &self,
        id: GroupId,
        replica: headcount_model::ReplicaId,
    ) -> Option<MoveReason> {
        let group = self.group(id)?;
        if group.leader == Some(replica) {
            return None;
        }
        let node = |replica| {
            let state = group.replicas.get(&replica)?;
            self.node(state.node)
        };
        let before = group.leader.and_then(node).filter(|node| node.is_usable());
        let Some(before) = before else {
            return Some(MoveReason::Vacant);
        };
        let to = node(replica).map(|node| &node.region);
        let moved = to != Some(&before.region);
        Some(
            if moved && group.home.is_some() && to == group.home.as_ref() {
                MoveReason::Home
            } else if moved && group.home.is_none() && to.is_some() && to == group.follows.as_ref()
            {
                MoveReason::Traffic
            } else {
                MoveReason::Balance
            },
        )
    }
}
