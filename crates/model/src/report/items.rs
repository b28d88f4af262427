//! A batch's items in one piece of memory.
//!
//! Edges send names by the million, and nearly all of them are known already: an allocation for each
//! would cost more than counting it.

use crate::{ChannelName, ConnectionId, MemberId, Modes, NameError, Occupancy, RefusalReason};

use super::ReportItem;

/// A [`ReportItem`] whose names are borrowed. In [`ReportItems`] they are known to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportChange<'a> {
    /// As [`ReportItem::Attach`].
    Attach {
        /// Who; a [`ConnectionId`].
        connection: &'a str,
        /// To what; a [`ChannelName`].
        channel: &'a str,
        /// What it may do there.
        modes: Modes,
    },
    /// As [`ReportItem::Detach`].
    Detach {
        /// Who.
        connection: &'a str,
        /// From what.
        channel: &'a str,
    },
    /// As [`ReportItem::PresenceEnter`].
    PresenceEnter {
        /// Whose member it is.
        connection: &'a str,
        /// Where.
        channel: &'a str,
        /// Who; a [`MemberId`].
        member: &'a str,
    },
    /// As [`ReportItem::PresenceLeave`].
    PresenceLeave {
        /// Whose member it was.
        connection: &'a str,
        /// Where.
        channel: &'a str,
        /// Who.
        member: &'a str,
    },
    /// As [`ReportItem::ConnectionClosed`].
    ConnectionClosed {
        /// Who.
        connection: &'a str,
    },
    /// As [`ReportItem::Counts`].
    Counts {
        /// Where.
        channel: &'a str,
        /// The counts.
        occupancy: Occupancy,
    },
    /// As [`ReportItem::Activity`].
    Activity {
        /// Where.
        channel: &'a str,
    },
}

impl<'a> ReportChange<'a> {
    /// Returns the channel that it is about, if it names one.
    #[must_use]
    pub fn channel(&self) -> Option<&'a str> {
        match self {
            Self::Attach { channel, .. }
            | Self::Detach { channel, .. }
            | Self::PresenceEnter { channel, .. }
            | Self::PresenceLeave { channel, .. }
            | Self::Counts { channel, .. }
            | Self::Activity { channel } => Some(channel),
            Self::ConnectionClosed { .. } => None,
        }
    }

    /// Returns its connection, channel and member; what it lacks is empty.
    fn names(&self) -> [&'a str; 3] {
        match self {
            Self::Attach {
                connection,
                channel,
                ..
            }
            | Self::Detach {
                connection,
                channel,
            } => [connection, channel, ""],
            Self::PresenceEnter {
                connection,
                channel,
                member,
            }
            | Self::PresenceLeave {
                connection,
                channel,
                member,
            } => [connection, channel, member],
            Self::ConnectionClosed { connection } => [connection, "", ""],
            Self::Counts { channel, .. } | Self::Activity { channel } => ["", channel, ""],
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Attach { modes, .. } => Kind::Attach(*modes),
            Self::Detach { .. } => Kind::Detach,
            Self::PresenceEnter { .. } => Kind::PresenceEnter,
            Self::PresenceLeave { .. } => Kind::PresenceLeave,
            Self::ConnectionClosed { .. } => Kind::ConnectionClosed,
            Self::Counts { .. } => Kind::Counts,
            Self::Activity { .. } => Kind::Activity,
        }
    }

    /// Checks its names.
    ///
    /// # Errors
    /// [`RefusalReason::Name`] for the first that breaks its rules.
    pub fn check(&self) -> Result<(), RefusalReason> {
        let named = |field| move |fault: NameError| RefusalReason::Name { field, fault };
        let [connection, channel, member] = self.names();
        let kind = self.kind();
        if !matches!(kind, Kind::Counts | Kind::Activity) {
            ConnectionId::check(connection).map_err(named("connection"))?;
        }
        if !matches!(kind, Kind::ConnectionClosed) {
            ChannelName::check(channel).map_err(named("channel"))?;
        }
        if matches!(kind, Kind::PresenceEnter | Kind::PresenceLeave) {
            MemberId::check(member).map_err(named("member"))?;
        }
        Ok(())
    }
}

/// Report items: what a batch holds, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportItems {
    /// The names of all items, one after the other.
    text: String,
    packed: Vec<Packed>,
    /// The counts of those items that tell some, in order.
    counts: Vec<Occupancy>,
}

/// An item: what it is, and how long its names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    kind: Kind,
    /// Bytes of its connection, channel and member.
    lengths: [u16; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Attach(Modes),
    Detach,
    PresenceEnter,
    PresenceLeave,
    ConnectionClosed,
    Counts,
    Activity,
}

impl ReportItems {
    /// Makes an empty list with room for that many items, whose names have that many bytes.
    #[must_use]
    pub fn with_capacity(items: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            packed: Vec::with_capacity(items),
            counts: Vec::new(),
        }
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Adds an item.
    ///
    /// # Errors
    /// [`RefusalReason::Name`] if one of its names is none; nothing is added then.
    pub fn push(&mut self, change: ReportChange<'_>) -> Result<(), RefusalReason> {
        change.check()?;
        self.add(change);
        Ok(())
    }

    /// Adds an item whose names are good.
    fn add(&mut self, change: ReportChange<'_>) {
        let names = change.names();
        for name in names {
            self.text.push_str(name);
        }
        if let ReportChange::Counts { occupancy, .. } = change {
            self.counts.push(occupancy);
        }
        // Names are far shorter than 2^16 bytes.
        let lengths = names.map(|name| name.len() as u16);
        let kind = change.kind();
        self.packed.push(Packed { kind, lengths });
    }

    /// Returns them in order.
    pub fn iter(&self) -> impl Iterator<Item = ReportChange<'_>> {
        let mut rest = self.text.as_str();
        let mut counts = self.counts.iter();
        self.packed.iter().map(move |packed| {
            let [connection, channel, member] = packed.lengths.map(|length| {
                let (name, after) = rest.split_at(usize::from(length));
                rest = after;
                name
            });
            match packed.kind {
                Kind::Attach(modes) => ReportChange::Attach {
                    connection,
                    channel,
                    modes,
                },
                Kind::Detach => ReportChange::Detach {
                    connection,
                    channel,
                },
                Kind::PresenceEnter => ReportChange::PresenceEnter {
                    connection,
                    channel,
                    member,
                },
                Kind::PresenceLeave => ReportChange::PresenceLeave {
                    connection,
                    channel,
                    member,
                },
                Kind::ConnectionClosed => ReportChange::ConnectionClosed { connection },
                Kind::Counts => ReportChange::Counts {
                    channel,
                    occupancy: *counts.next().expect("each such item has its counts"),
                },
                Kind::Activity => ReportChange::Activity { channel },
            }
        })
    }
}

impl FromIterator<ReportItem> for ReportItems {
    fn from_iter<I: IntoIterator<Item = ReportItem>>(items: I) -> Self {
        let mut all = Self::default();
        for item in items {
            all.add(item.as_change());
        }
        all
    }
}

impl From<Vec<ReportItem>> for ReportItems {
    fn from(items: Vec<ReportItem>) -> Self {
        items.into_iter().collect()
    }
}
