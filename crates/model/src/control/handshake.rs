//! What two nodes say to each other first, so that strangers and misconfigured nodes are refused
//! with a reason before anything is believed of them.

use super::{ClusterId, Fingerprint, TimingProfile};
use crate::{Era, Incarnation, NodeId};

/// Protocols: a range of versions of what nodes say to each other, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// The lowest version understood.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Protocols {
    /// What this release understands.
    pub const OURS: Self = Self { min: 1, max: 1 };
}

/// Handshake: who a node is and what it holds to be the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What it understands.
    pub protocols: Protocols,
    /// The cluster that it belongs to; `None` before its first join.
    pub cluster: Option<ClusterId>,
    /// The era that it has heard of.
    pub era: Era,
    /// Hash of the settings that must be equal on all nodes.
    pub fingerprint: Fingerprint,
    /// Raft's patience, which is among those settings and so important that it is named.
    pub timing: TimingProfile,
    /// Its node id; `None` before its first join.
    pub node: Option<NodeId>,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// Why two nodes cannot talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisagreeError {
    /// No version of the protocol is understood by both.
    #[error(
        "it speaks protocols {} to {}, we speak {} to {}: upgrade one release at a time",
        theirs.min, theirs.max, ours.min, ours.max
    )]
    Protocols {
        /// What the other understands.
        theirs: Protocols,
        /// What we understand.
        ours: Protocols,
    },
    /// They belong to different clusters.
    #[error("it belongs to cluster {theirs}, we belong to {ours}: check its peers' addresses")]
    Cluster {
        /// The other's.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// The timing profile differs.
    #[error("its timing profile is {theirs}, the cluster's is {ours}: make them equal")]
    Timing {
        /// The other's.
        theirs: TimingProfile,
        /// Ours.
        ours: TimingProfile,
    },
    /// Another setting that must be equal differs.
    #[error(
        "its [cluster] settings and pins have the fingerprint {theirs}, ours {ours}: make them equal on all \
         nodes"
    )]
    Settings {
        /// The other's.
        theirs: Fingerprint,
        /// Ours.
        ours: Fingerprint,
    },
    /// The other comes from before a recovery without quorum, or we do (R20).
    #[error("it is in era {theirs}, we are in era {ours}: refill the older one from its peers")]
    Era {
        /// The other's.
        theirs: Era,
        /// Ours.
        ours: Era,
    },
}

impl Handshake {
    /// Decides whether to talk to who said `theirs`, and returns the version of the protocol to
    /// speak: the highest that both understand. Both sides decide the same.
    ///
    /// A node that never joined may talk, so that it can; whether it may do more is for whoever
    /// looks its incarnation up.
    ///
    /// # Errors
    /// [`DisagreeError`] with the first reason not to.
    pub fn agree(&self, theirs: &Self) -> Result<u32, DisagreeError> {
        let ours = self;
        let highest = ours.protocols.max.min(theirs.protocols.max);
        if highest < ours.protocols.min.max(theirs.protocols.min) {
            let (theirs, ours) = (theirs.protocols, ours.protocols);
            return Err(DisagreeError::Protocols { theirs, ours });
        }
        if let (Some(theirs), Some(ours)) = (theirs.cluster, ours.cluster)
            && theirs != ours
        {
            return Err(DisagreeError::Cluster { theirs, ours });
        }
        if theirs.timing != ours.timing {
            return Err(DisagreeError::Timing {
                theirs: theirs.timing,
                ours: ours.timing,
            });
        }
        if theirs.fingerprint != ours.fingerprint {
            let (theirs, ours) = (theirs.fingerprint, ours.fingerprint);
            return Err(DisagreeError::Settings { theirs, ours });
        }
        let members = theirs.cluster.is_some() && ours.cluster.is_some();
        if members && theirs.era != ours.era {
            return Err(DisagreeError::Era {
                theirs: theirs.era,
                ours: ours.era,
            });
        }
        Ok(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Handshake {
        Handshake {
            protocols: Protocols { min: 2, max: 4 },
            cluster: Some(ClusterId(7)),
            era: Era(0),
            fingerprint: Fingerprint(9),
            timing: TimingProfile::Local,
            node: Some(NodeId(1)),
            incarnation: Incarnation(3),
        }
    }

    #[test]
    fn the_highest_common_protocol_is_spoken() {
        let theirs = Handshake {
            protocols: Protocols { min: 1, max: 3 },
            ..ours()
        };
        assert_eq!(ours().agree(&theirs), Ok(3));
        assert_eq!(theirs.agree(&ours()), Ok(3));
        let old = Handshake {
            protocols: Protocols { min: 1, max: 1 },
            ..ours()
        };
        assert!(matches!(
            ours().agree(&old),
            Err(DisagreeError::Protocols { .. })
        ));
        assert!(matches!(
            old.agree(&ours()),
            Err(DisagreeError::Protocols { .. })
        ));
    }

    #[test]
    fn strangers_and_misconfigured_nodes_are_refused() {
        let foreign = Handshake {
            cluster: Some(ClusterId(8)),
            ..ours()
        };
        assert!(matches!(
            ours().agree(&foreign),
            Err(DisagreeError::Cluster { .. })
        ));
        let other = Handshake {
            fingerprint: Fingerprint(1),
            ..ours()
        };
        assert!(matches!(
            ours().agree(&other),
            Err(DisagreeError::Settings { .. })
        ));
        let slow = Handshake {
            timing: TimingProfile::Wan,
            ..ours()
        };
        assert!(matches!(
            ours().agree(&slow),
            Err(DisagreeError::Timing { .. })
        ));
        let late = Handshake {
            era: Era(1),
            ..ours()
        };
        assert!(matches!(
            ours().agree(&late),
            Err(DisagreeError::Era { .. })
        ));
    }

    #[test]
    fn who_never_joined_may_ask_to() {
        let new = Handshake {
            cluster: None,
            node: None,
            era: Era(0),
            ..ours()
        };
        let ours = Handshake {
            era: Era(2),
            ..ours()
        };
        assert_eq!(ours.agree(&new), Ok(4));
        let misconfigured = Handshake {
            fingerprint: Fingerprint(1),
            ..new
        };
        assert!(ours.agree(&misconfigured).is_err());
    }
}
