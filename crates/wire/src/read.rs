//! What nodes that follow a shard are told ahead of its log.

use headcount_model::{OwnerRef, Transition};

use crate::error::{WireError, required};
use crate::names::{NameReader, NameWriter};
use crate::proto::read::v1 as proto;
use crate::shard::{put_owner, put_transition, take_owner, take_transition};

/// A transition ahead of the log, as a holder's feed was told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Early {
    /// Who made it.
    pub owner: OwnerRef,
    /// What its batch will say.
    pub transition: Transition,
    /// Whether the holder's replica says that the channel is active in the owner's region.
    pub logged: bool,
}

/// Writes an early transition.
#[must_use]
pub fn put_early(early: &Early) -> proto::Early {
    let mut names = NameWriter::default();
    let transition = put_transition(&early.transition, &mut names);
    proto::Early {
        owner: Some(put_owner(&early.owner)),
        transition: Some(transition),
        channel: names.take_fresh().pop(),
        logged: early.logged,
    }
}

/// Reads what [`put_early`] wrote.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn take_early(early: proto::Early) -> Result<Early, WireError> {
    let mut names = NameReader::default();
    names.add(vec![required("early.channel", early.channel)?])?;
    let transition = required("early.transition", early.transition)?;
    Ok(Early {
        owner: take_owner(early.owner)?,
        transition: take_transition(&transition, &names)?,
        logged: early.logged,
    })
}

#[cfg(test)]
mod tests {
    use headcount_model::{ChannelKey, Fence, Occupancy, RegionName, Timestamp};

    use super::*;

    #[test]
    fn early_transitions_survive_and_must_be_whole() {
        let early = Early {
            owner: OwnerRef {
                region: RegionName::new("eu-west-1").unwrap(),
                fence: Fence(7),
            },
            transition: Transition {
                number: 3,
                channel: ChannelKey::new("app", "room").unwrap(),
                active: true,
                occupancy: Occupancy::from_counts([1, 2, 3, 0, 0, 0, 0, 0]),
                at: Timestamp(5),
                is_global_master: true,
            },
            logged: true,
        };
        let written = put_early(&early);
        assert_eq!(take_early(written.clone()), Ok(early));
        for broken in [
            proto::Early {
                owner: None,
                ..written.clone()
            },
            proto::Early {
                transition: None,
                ..written.clone()
            },
            proto::Early {
                channel: None,
                ..written
            },
        ] {
            assert!(take_early(broken).is_err());
        }
    }
}
