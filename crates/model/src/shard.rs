//! Which shard a channel belongs to. Fixed for ever: changing this moves every channel.

use crate::{ChannelKey, ShardId};

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
