//! The operations that a capability grants, and sets of them.

use std::fmt;

/// Something that a credential may be allowed to do to a resource (contract §4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Receive messages and presence, read the presence set, follow a metachannel.
    Subscribe,
    /// Send messages.
    Publish,
    /// Enter, update and leave the presence set.
    Presence,
    /// Receive objects.
    ObjectSubscribe,
    /// Change objects.
    ObjectPublish,
    /// Receive annotations.
    AnnotationSubscribe,
    /// Send annotations.
    AnnotationPublish,
    /// Update messages of one's own.
    MessageUpdateOwn,
    /// Update messages of anyone.
    MessageUpdateAny,
    /// Delete messages of one's own.
    MessageDeleteOwn,
    /// Delete messages of anyone.
    MessageDeleteAny,
    /// Read the past of a channel or metachannel.
    History,
    /// Read the app's statistics.
    Stats,
    /// Register oneself for push notifications.
    PushSubscribe,
    /// Manage the push registrations of others.
    PushAdmin,
    /// Read status and occupancy; on `*`, enumerate channels.
    ChannelMetadata,
    /// Send headers reserved for privileged servers.
    PrivilegedHeaders,
    /// Report attachments as an edge. The project's own, not Ably's.
    OccupancyReport,
}

impl Operation {
    /// Every operation, in the order of declaration.
    pub const ALL: [Self; 18] = [
        Self::Subscribe,
        Self::Publish,
        Self::Presence,
        Self::ObjectSubscribe,
        Self::ObjectPublish,
        Self::AnnotationSubscribe,
        Self::AnnotationPublish,
        Self::MessageUpdateOwn,
        Self::MessageUpdateAny,
        Self::MessageDeleteOwn,
        Self::MessageDeleteAny,
        Self::History,
        Self::Stats,
        Self::PushSubscribe,
        Self::PushAdmin,
        Self::ChannelMetadata,
        Self::PrivilegedHeaders,
        Self::OccupancyReport,
    ];

    /// The operation's name in a capability, such as `channel-metadata`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::ObjectSubscribe => "object-subscribe",
            Self::ObjectPublish => "object-publish",
            Self::AnnotationSubscribe => "annotation-subscribe",
            Self::AnnotationPublish => "annotation-publish",
            Self::MessageUpdateOwn => "message-update-own",
            Self::MessageUpdateAny => "message-update-any",
            Self::MessageDeleteOwn => "message-delete-own",
            Self::MessageDeleteAny => "message-delete-any",
            Self::History => "history",
            Self::Stats => "stats",
            Self::PushSubscribe => "push-subscribe",
            Self::PushAdmin => "push-admin",
            Self::ChannelMetadata => "channel-metadata",
            Self::PrivilegedHeaders => "privileged-headers",
            Self::OccupancyReport => "occupancy-report",
        }
    }

    /// Reads an operation's name; case matters. `*` is no operation but all of them.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of operations.
///
/// [`Operations::EVERY`], written `*`, also holds operations that a later release adds; a list of
/// all of today's names does not, and the two are printed differently.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations(u32);

impl Operations {
    /// No operation.
    pub const NONE: Self = Self(0);
    /// The wildcard `*`.
    pub const EVERY: Self = Self(u32::MAX);
    /// Any of these lets a client attach to a channel (contract §4.6).
    pub const ATTACHING: Self = Self(
        Operation::Subscribe.bit()
            | Operation::Publish.bit()
            | Operation::Presence.bit()
            | Operation::ObjectSubscribe.bit()
            | Operation::ObjectPublish.bit()
            | Operation::AnnotationSubscribe.bit()
            | Operation::AnnotationPublish.bit(),
    );
    /// What can be granted on a metachannel at all (contract §4.5): metachannels are written by
    /// the cluster alone.
    pub const ON_METACHANNELS: Self = Self(
        Operation::Subscribe.bit() | Operation::History.bit() | Operation::ChannelMetadata.bit(),
    );

    /// True if the set holds the operation.
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }

    /// True if the set holds nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What both sets hold; `*` is the identity.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What either set holds.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set with one more operation.
    #[must_use]
    pub const fn with(self, operation: Operation) -> Self {
        Self(self.0 | operation.bit())
    }

    /// The operations of the set; for `*`, all that this release knows.
    pub fn iter(self) -> impl Iterator<Item = Operation> {
        Operation::ALL
            .into_iter()
            .filter(move |operation| self.contains(*operation))
    }

    /// The names as a capability lists them: sorted, or `*` alone.
    pub fn names(self) -> Vec<&'static str> {
        if self == Self::EVERY {
            return vec!["*"];
        }
        let mut names: Vec<_> = self.iter().map(Operation::name).collect();
        names.sort_unstable();
        names
    }
}

impl FromIterator<Operation> for Operations {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        operations.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
