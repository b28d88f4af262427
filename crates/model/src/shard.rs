//! Which shard a channel belongs to. Fixed for ever: changing this moves every channel.

use std::sync::Arc;

use crate::control::Pin;
use crate::{ChannelKey, ShardId};

/// Shard map: which shard each channel of a cluster belongs to. Settled when the cluster is born,
/// as nobody moves a channel: on two nodes that differ it would be counted twice.
///
/// Channels whose names begin with a pin's prefix, the longest that fits, are divided among that
/// pin's own shards, which stand after all others in the order of the prefixes; the rest are divided
/// by [`shard_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Into how many shards channels without a pin are divided.
    divided: u32,
    /// The longest prefix first, so that the first that fits is meant.
    pins: Arc<[Pinned]>,
}

/// The shards of one pin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pinned {
    prefix: String,
    first: u32,
    shards: u32,
}

impl ShardMap {
    /// Makes the map of a cluster with so many shards (at least 1) for channels without a pin, and
    /// these pins, whose prefixes differ.
    #[must_use]
    pub fn new(divided: u32, pins: &[Pin]) -> Self {
        let divided = divided.max(1);
        let mut sorted: Vec<&Pin> = pins.iter().collect();
        sorted.sort_by(|one, other| one.prefix.cmp(&other.prefix));
        let mut first = divided;
        let pins = sorted.into_iter().map(|pin| {
            let pinned = Pinned {
                prefix: pin.prefix.clone(),
                first,
                shards: pin.shards.max(1),
            };
            first += pinned.shards;
            pinned
        });
        let mut pins: Vec<Pinned> = pins.collect();
        pins.sort_by_key(|pin| std::cmp::Reverse(pin.prefix.len()));
        Self {
            divided,
            pins: pins.into(),
        }
    }

    /// Returns how many shards there are in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        let pinned = self.pins.iter().map(|pin| pin.shards);
        self.divided + pinned.sum::<u32>()
    }

    /// Returns a channel's shard.
    #[must_use]
    pub fn of(&self, channel: &ChannelKey) -> ShardId {
        self.of_name(channel.app.as_str(), channel.name.as_str())
    }

    /// Returns the shard of a name, which may be one that no [`ChannelKey`] has.
    #[must_use]
    pub fn of_name(&self, app: &str, name: &str) -> ShardId {
        let hash = name_hash(app, name);
        match self.pins.iter().find(|pin| name.starts_with(&pin.prefix)) {
            Some(pin) => ShardId(pin.first + shard_of_hash(hash, pin.shards).0),
            None => shard_of_hash(hash, self.divided),
        }
    }

    /// Returns the shards of the pin with this prefix, ascending.
    pub fn pinned(&self, prefix: &str) -> impl Iterator<Item = ShardId> + use<> {
        let pin = self.pins.iter().find(|pin| pin.prefix == prefix);
        let shards = pin.map_or(0..0, |pin| pin.first..pin.first + pin.shards);
        shards.map(ShardId)
    }
}

impl From<u32> for ShardMap {
    /// Returns the map of a cluster without pins.
    fn from(divided: u32) -> Self {
        Self::new(divided, &[])
    }
}

/// Returns the hash of a channel: FNV-1a (64 bit) over the app's bytes, a zero byte and the name's
/// bytes, mixed by the finaliser of SplitMix64, whose avalanche FNV lacks.
#[must_use]
pub fn channel_hash(channel: &ChannelKey) -> u64 {
    name_hash(channel.app.as_str(), channel.name.as_str())
}

/// Returns the same hash for a name that no [`ChannelKey`] has, such as that of a metachannel.
#[must_use]
pub fn name_hash(app: &str, name: &str) -> u64 {
    let fnv = app
        .bytes()
        .chain([0])
        .chain(name.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the shard of a channel among `shards` (at least 1), which are fixed when a cluster is
/// born.
#[must_use]
pub fn shard_of(channel: &ChannelKey, shards: u32) -> ShardId {
    shard_of_hash(channel_hash(channel), shards)
}

/// Returns the shard of a channel with this hash.
#[must_use]
pub fn shard_of_hash(hash: u64, shards: u32) -> ShardId {
    let remainder = hash % u64::from(shards.max(1));
    ShardId(u32::try_from(remainder).expect("a remainder of a u32 fits one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        let key = ChannelKey::new("dev", "room:42").unwrap();
        assert_eq!(channel_hash(&key), 0x360e_9307_ef7c_d245);
    }

    fn pin(prefix: &str, shards: u32) -> Pin {
        Pin {
            prefix: prefix.to_owned(),
            home: crate::RegionName::new("eu").unwrap(),
            shards,
        }
    }

    #[test]
    fn pinned_channels_have_shards_of_their_own_and_the_rest_stay() {
        let map = ShardMap::new(8, &[pin("eu:", 3), pin("eu:de:", 1), pin("ap:", 2)]);
        assert_eq!(map.count(), 14);
        let shards = |prefix: &str| map.pinned(prefix).map(|shard| shard.0).collect::<Vec<_>>();
        // By prefix, whatever the order in which they are written.
        assert_eq!(shards("ap:"), [8, 9]);
        assert_eq!(shards("eu:"), [10, 11, 12]);
        assert_eq!(shards("eu:de:"), [13]);
        assert_eq!(shards("us:"), [0; 0]);
        let turned = ShardMap::new(8, &[pin("ap:", 2), pin("eu:de:", 1), pin("eu:", 3)]);
        assert_eq!(turned, map);
        for n in 0..500 {
            let of = |prefix: &str| {
                let key = ChannelKey::new("dev", &format!("{prefix}{n}")).unwrap();
                (map.of(&key), shard_of(&key, 8))
            };
            assert!(map.pinned("eu:").any(|shard| shard == of("eu:").0));
            assert_eq!(of("eu:de:").0, ShardId(13));
            for prefix in ["", "eu", "us:", "EU:"] {
                assert_eq!(of(prefix).0, of(prefix).1, "{prefix}{n}");
            }
        }
    }

    #[test]
    fn the_shards_of_a_pin_are_fixed_for_ever() {
        let map = ShardMap::new(64, &[pin("eu:", 4)]);
        let of = |name| map.of(&ChannelKey::new("dev", name).unwrap()).0;
        assert_eq!(["eu:1", "eu:2", "eu:3", "eu:4"].map(of), [67, 65, 66, 64]);
    }

    #[test]
    fn shards_are_evenly_filled() {
        let mut filled = [0_u32; 64];
        for n in 0..64_000 {
            let key = ChannelKey::new("dev", &format!("room:{n}")).unwrap();
            filled[shard_of(&key, 64).0 as usize] += 1;
        }
        assert!(
            filled.iter().all(|count| (850..1150).contains(count)),
            "{filled:?}"
        );
    }
}
