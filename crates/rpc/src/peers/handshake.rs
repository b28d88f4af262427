//! Who a peer says that it is, and whether it belongs here.

use headcount_model::{Incarnation, NodeId};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// Lowest version of the protocol between nodes that this release speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Highest version of the protocol between nodes that this release speaks.
pub const PROTOCOL_MAX: u32 = 1;

const NODE: &str = "headcount-node";
const INCARNATION: &str = "headcount-incarnation";
const CLUSTER: &str = "headcount-cluster";
const FINGERPRINT: &str = "headcount-fingerprint";
const PROTOCOL: &str = "headcount-protocol";
const ADDRESS: &str = "headcount-address";

/// Longest address that a peer may introduce itself with: that of a host name and a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// Identity: what a node tells every peer that it connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// Hash of the settings that must be equal on all nodes, in hexadecimal.
    pub fingerprint: String,
    /// Where other nodes reach it, `host:port`.
    pub address: String,
}

impl Identity {
    /// Puts the identity into a request.
    pub(crate) fn sign<T>(&self, request: &mut Request<T>) {
        let facts = [
            (NODE, self.node.to_string()),
            (INCARNATION, self.incarnation.to_string()),
            (CLUSTER, self.cluster.clone()),
            (FINGERPRINT, self.fingerprint.clone()),
            (PROTOCOL, format!("{PROTOCOL_MIN}-{PROTOCOL_MAX}")),
        ];
        for (key, value) in facts {
            let value = value.parse().expect("numbers and hexadecimal are ASCII");
            request.metadata_mut().insert(key, value);
        }
        if let Ok(address) = self.address.parse() {
            request.metadata_mut().insert(ADDRESS, address);
        }
    }

    /// Returns where a peer says that it is reached, if it does, and in which life: 0 if it has not
    /// registered this one yet.
    pub(crate) fn introduction(metadata: &MetadataMap) -> Option<(Incarnation, &str)> {
        let address = text(metadata, ADDRESS).ok()?;
        let incarnation = text(metadata, INCARNATION).ok()?.parse().ok()?;
        let usable = (1..=ADDRESS_BYTES_MAX).contains(&address.len());
        usable.then_some((Incarnation(incarnation), address))
    }

    /// Checks a peer's request against this node's own identity; returns the peer.
    pub(crate) fn admit(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let protocol = text(metadata, PROTOCOL)?;
        let range = protocol
            .split_once('-')
            .and_then(|(min, max)| Some((min.parse::<u32>().ok()?, max.parse::<u32>().ok()?)));
        let (min, max) = range.ok_or_else(|| malformed(PROTOCOL, protocol))?;
        if min > PROTOCOL_MAX || max < PROTOCOL_MIN {
            return Err(Status::failed_precondition(format!(
                "the peer speaks protocol {min} to {max}, this node {PROTOCOL_MIN} to \
                 {PROTOCOL_MAX}: upgrade one release at a time"
            )));
        }
        let cluster = text(metadata, CLUSTER)?;
        if cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "the peer belongs to cluster {cluster}, this node to {}: check `node.join`",
                self.cluster
            )));
        }
        let fingerprint = text(metadata, FINGERPRINT)?;
        if fingerprint != self.fingerprint {
            return Err(Status::failed_precondition(format!(
                "the peer's [cluster] settings have fingerprint {fingerprint}, this node's {}: \
                 they must be equal on all nodes",
                self.fingerprint
            )));
        }
        let node = text(metadata, NODE)?;
        let id = node.parse().map_err(|_| malformed(NODE, node))?;
        Ok(NodeId(id))
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<&'a str, Status> {
    let value = metadata.get(key).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| {
        Status::unauthenticated(format!(
            "metadata {key} is missing: this port is for nodes only"
        ))
    })
}

fn malformed(key: &str, value: &str) -> Status {
    let value: String = value.chars().take(64).collect();
    Status::invalid_argument(format!("metadata {key} is malformed: {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn identity() -> Identity {
        let (cluster, fingerprint) = ("c1".to_owned(), "f1".to_owned());
        Identity {
            node: NodeId(7),
            incarnation: Incarnation(2),
            cluster,
            fingerprint,
            address: "h7:1".to_owned(),
        }
    }

    fn admit(peer: &Identity) -> Result<NodeId, Status> {
        let mut request = Request::new(());
        peer.sign(&mut request);
        identity().admit(request.metadata())
    }

    #[test]
    fn peers_of_the_same_cluster_are_admitted() {
        assert_eq!(admit(&identity()).unwrap(), NodeId(7));
    }

    #[test]
    fn strangers_are_told_why_not() {
        let other = Identity {
            cluster: "c2".to_owned(),
            ..identity()
        };
        assert!(admit(&other).unwrap_err().message().contains("cluster c2"));
        let other = Identity {
            fingerprint: "f2".to_owned(),
            ..identity()
        };
        assert!(
            admit(&other)
                .unwrap_err()
                .message()
                .contains("[cluster] settings")
        );
        let nobody = identity().admit(&MetadataMap::new()).unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated);
    }

    #[test]
    fn other_protocols_are_refused() {
        let mut request = Request::new(());
        identity().sign(&mut request);
        request
            .metadata_mut()
            .insert(PROTOCOL, "2-3".parse().unwrap());
        let refused = identity().admit(request.metadata()).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        request
            .metadata_mut()
            .insert(PROTOCOL, "x".parse().unwrap());
        assert_eq!(
            identity().admit(request.metadata()).unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}
