//! What an attachment asks to do, and what its credential permits.

use std::fmt;

use headcount_access::{Credential, Operation, Operations, QualifiedName};
use headcount_model::Modes;

use crate::protocol_error::ProtocolError;

/// Channel modes: a set of what an attachment may do, with the bits that `flags` has for them.
///
/// What is in effect is what was requested and is permitted:
/// `requested.intersection(ChannelModes::permitted(credential, channel))`. If that is empty, the
/// attach fails with 40160.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelModes(u64);

impl ChannelModes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// May enter presence.
    pub const PRESENCE: Self = Self(1 << 16);
    /// May publish messages.
    pub const PUBLISH: Self = Self(1 << 17);
    /// Receives messages.
    pub const SUBSCRIBE: Self = Self(1 << 18);
    /// Receives presence.
    pub const PRESENCE_SUBSCRIBE: Self = Self(1 << 19);
    /// May publish annotations.
    pub const ANNOTATION_PUBLISH: Self = Self(1 << 21);
    /// Receives annotations.
    pub const ANNOTATION_SUBSCRIBE: Self = Self(1 << 22);
    /// Receives objects.
    pub const OBJECT_SUBSCRIBE: Self = Self(1 << 24);
    /// May publish objects.
    pub const OBJECT_PUBLISH: Self = Self(1 << 25);
    /// What a client gets that asks for nothing (contract §5.6): no objects, and no annotations of
    /// others.
    pub const DEFAULT: Self = Self(
        Self::PRESENCE.0
            | Self::PUBLISH.0
            | Self::SUBSCRIBE.0
            | Self::PRESENCE_SUBSCRIBE.0
            | Self::ANNOTATION_PUBLISH.0,
    );

    /// Every mode with its name in `params.modes`.
    pub const NAMED: [(Self, &'static str); 8] = [
        (Self::PRESENCE, "presence"),
        (Self::PUBLISH, "publish"),
        (Self::SUBSCRIBE, "subscribe"),
        (Self::PRESENCE_SUBSCRIBE, "presence_subscribe"),
        (Self::ANNOTATION_PUBLISH, "annotation_publish"),
        (Self::ANNOTATION_SUBSCRIBE, "annotation_subscribe"),
        (Self::OBJECT_SUBSCRIBE, "object_subscribe"),
        (Self::OBJECT_PUBLISH, "object_publish"),
    ];

    /// What the flags of an ATTACH ask for: [`ChannelModes::DEFAULT`] if no mode is among them.
    #[must_use]
    pub fn requested(flags: u64) -> Self {
        let named = Self::NAMED.iter().fold(0, |all, (mode, _)| all | mode.0);
        match flags & named {
            0 => Self::DEFAULT,
            modes => Self(modes),
        }
    }

    /// Reads the value of `params.modes`: names with commas between them.
    ///
    /// # Errors
    /// 40003 names the first one that is no mode.
    pub fn parse(text: &str) -> Result<Self, ProtocolError> {
        text.split(',').try_fold(Self::NONE, |all, part| {
            let name = part.trim();
            let (mode, _) = Self::NAMED
                .iter()
                .find(|(_, known)| *known == name)
                .ok_or_else(|| {
                    let known = Self::NAMED.map(|(_, known)| known).join(", ");
                    ProtocolError::bad_param("modes", name, &format!("use some of {known}"))
                })?;
            Ok(all.union(*mode))
        })
    }

    /// What the credential permits on a channel, which may be written with params. Nothing if the
    /// name cannot be read or the credential may not attach to it.
    #[must_use]
    pub fn permitted(credential: &Credential, channel: &str) -> Self {
        let (Ok(name), Ok(operations)) = (
            QualifiedName::parse(channel),
            credential.may_attach(channel),
        ) else {
            return Self::NONE;
        };
        let permitted = Self::of_operations(operations);
        // Metachannels have neither members nor objects.
        if name.is_metachannel() {
            permitted.intersection(Self::SUBSCRIBE)
        } else {
            permitted
        }
    }

    fn of_operations(operations: Operations) -> Self {
        const GRANTS: [(Operation, ChannelModes); 9] = [
            (Operation::Presence, ChannelModes::PRESENCE),
            (Operation::Publish, ChannelModes::PUBLISH),
            (Operation::Subscribe, ChannelModes::SUBSCRIBE),
            (Operation::Subscribe, ChannelModes::PRESENCE_SUBSCRIBE),
            (Operation::Subscribe, ChannelModes::OBJECT_SUBSCRIBE),
            (
                Operation::AnnotationPublish,
                ChannelModes::ANNOTATION_PUBLISH,
            ),
            (
                Operation::AnnotationSubscribe,
                ChannelModes::ANNOTATION_SUBSCRIBE,
            ),
            (Operation::ObjectSubscribe, ChannelModes::OBJECT_SUBSCRIBE),
            (Operation::ObjectPublish, ChannelModes::OBJECT_PUBLISH),
        ];
        GRANTS
            .iter()
            .filter(|(operation, _)| operations.contains(*operation))
            .fold(Self::NONE, |all, (_, mode)| all.union(*mode))
    }

    /// The bits for the flags of an ATTACHED.
    #[must_use]
    pub const fn flags(self) -> u64 {
        self.0
    }

    /// The modes as they are counted; annotations are not.
    #[must_use]
    pub fn counted(self) -> Modes {
        const COUNTED: [(ChannelModes, Modes); 6] = [
            (ChannelModes::PUBLISH, Modes::PUBLISH),
            (ChannelModes::SUBSCRIBE, Modes::SUBSCRIBE),
            (ChannelModes::PRESENCE, Modes::PRESENCE),
            (ChannelModes::PRESENCE_SUBSCRIBE, Modes::PRESENCE_SUBSCRIBE),
            (ChannelModes::OBJECT_PUBLISH, Modes::OBJECT_PUBLISH),
            (ChannelModes::OBJECT_SUBSCRIBE, Modes::OBJECT_SUBSCRIBE),
        ];
        COUNTED
            .iter()
            .filter(|(mode, _)| self.contains(*mode))
            .fold(Modes::default(), |all, (_, mode)| all.union(*mode))
    }

    /// Returns whether every mode of `other` is among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether there is no mode.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the modes of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the modes of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for ChannelModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMED.iter().filter(|(mode, _)| self.contains(*mode));
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_access::{AppSpec, Apps, KeySpec, Presented, Secret, authenticate};

    fn credential(capability: &str) -> Credential {
        let apps = Apps::new(vec![AppSpec {
            id: "dev".to_owned(),
            keys: vec![KeySpec {
                id: "key".to_owned(),
                secret: Secret::new("secret"),
                capability: capability.to_owned(),
                enabled: true,
            }],
        }]);
        authenticate(&apps.unwrap(), Presented::KeyParam("dev.key:secret"), 0).unwrap()
    }

    #[test]
    fn flags_without_modes_ask_for_the_default() {
        assert_eq!(ChannelModes::requested(0), ChannelModes::DEFAULT);
        let resume = crate::flags::ATTACH_RESUME;
        assert_eq!(ChannelModes::requested(resume), ChannelModes::DEFAULT);
        // What @ably/chat sends.
        assert_eq!(ChannelModes::requested(3_080_192), ChannelModes::DEFAULT);
        let one = ChannelModes::requested(1 << 24 | 1 << 40 | 1);
        assert_eq!(one, ChannelModes::OBJECT_SUBSCRIBE);
    }

    #[test]
    fn names_are_parsed_and_unknown_ones_named() {
        let two = ChannelModes::SUBSCRIBE.union(ChannelModes::PRESENCE_SUBSCRIBE);
        assert_eq!(
            ChannelModes::parse("subscribe, presence_subscribe"),
            Ok(two)
        );
        for (bad, named) in [
            ("subscribe,fly", "\"fly\""),
            ("", "\"\""),
            ("Publish", "\"Publish\""),
        ] {
            let error = ChannelModes::parse(bad).unwrap_err();
            assert_eq!((error.code, error.status_code), (40003, 400));
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[test]
    fn each_operation_permits_its_modes() {
        let permitted = |operation: &str| {
            let capability = format!(r#"{{"room":["{operation}"]}}"#);
            ChannelModes::permitted(&credential(&capability), "[?rewind=1]room")
        };
        let subscribe = ChannelModes::SUBSCRIBE
            .union(ChannelModes::PRESENCE_SUBSCRIBE)
            .union(ChannelModes::OBJECT_SUBSCRIBE);
        assert_eq!(permitted("subscribe"), subscribe);
        assert_eq!(permitted("publish"), ChannelModes::PUBLISH);
        assert_eq!(permitted("presence"), ChannelModes::PRESENCE);
        assert_eq!(
            permitted("object-subscribe"),
            ChannelModes::OBJECT_SUBSCRIBE
        );
        assert_eq!(permitted("object-publish"), ChannelModes::OBJECT_PUBLISH);
        assert_eq!(
            permitted("annotation-publish"),
            ChannelModes::ANNOTATION_PUBLISH
        );
        assert_eq!(
            permitted("annotation-subscribe"),
            ChannelModes::ANNOTATION_SUBSCRIBE
        );
        assert_eq!(permitted("history"), ChannelModes::NONE);
    }

    #[test]
    fn metachannels_can_only_be_followed() {
        let root = credential(r#"{"[*]*":["*"]}"#);
        let permitted = |channel| ChannelModes::permitted(&root, channel);
        assert_eq!(permitted("[meta?rewind=1]log"), ChannelModes::SUBSCRIBE);
        assert!(permitted("room").contains(ChannelModes::DEFAULT));
        assert!(permitted("[x]room").is_empty());
    }

    #[test]
    fn a_default_attachment_counts_as_one() {
        assert_eq!(ChannelModes::DEFAULT.counted(), Modes::DEFAULT);
        let all = ChannelModes::NAMED.map(|(mode, _)| mode);
        let all = all
            .into_iter()
            .fold(ChannelModes::NONE, ChannelModes::union);
        assert_eq!(all.counted().bits(), 63);
        assert_eq!(ChannelModes::requested(all.flags()), all);
    }
}
