//! The traffic that both sides are given.

/// A connection attaches to a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attach {
    channel: u32,
    connection: u32,
}

impl Attach {
    /// The channel's name, 24 bytes.
    pub(crate) fn channel(&self) -> String {
        channel(self.channel)
    }

    /// The connection's id, 14 bytes.
    pub(crate) fn connection(&self) -> String {
        format!("conn-{:09}", self.connection)
    }
}

/// One attach.
pub(crate) fn attach(channel: u32, connection: u32) -> Attach {
    Attach {
        channel,
        connection,
    }
}

/// A channel's name, 24 bytes.
pub(crate) fn channel(number: u32) -> String {
    format!("room:{number:019}")
}

/// The numbers up to `count` in an order without a pattern, the same in every run.
pub(crate) fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = seed;
    for at in (1..order.len()).rev() {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        order.swap(at, (mixed % (at as u64 + 1)) as usize);
    }
    order
}

/// Connections that come one after the other and attach to `each` channels, which have no pattern;
/// all channels as often.
///
/// # Panics
/// If a connection would attach to one channel twice.
pub(crate) fn attaches(channels: u32, connections: u32, each: u32, seed: u64) -> Vec<Attach> {
    assert!(each <= channels, "a connection attaches to a channel once");
    let order = shuffled(channels, seed);
    let all = (0..connections).flat_map(|connection| {
        (0..each).map(move |at| {
            let place = u64::from(connection) * u64::from(each) + u64::from(at);
            (connection, (place % u64::from(channels)) as usize)
        })
    });
    all.map(|(connection, place)| Attach {
        channel: order[place],
        connection,
    })
    .collect()
}

/// One attach to each of these channels, by connections numbered from `first` that attach to
/// `each` of them one after the other.
pub(crate) fn in_turn(channels: &[u32], first: u32, each: u32) -> Vec<Attach> {
    let channels = channels.iter().zip(0..);
    channels
        .map(|(channel, at): (_, u32)| Attach {
            channel: *channel,
            connection: first + at / each,
        })
        .collect()
}
