//! openraft's types to protobuf and back. Outward cannot fail; inward is checked.

use headcount_model::NodeId;
use headcount_wire::proto::consensus::v1 as wire;
use headcount_wire::proto::storage::v1 as stored;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message as _;

use crate::types::{
    Command, Entry, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, Types,
    Vote,
};

/// The form in which votes, entries and snapshot descriptions are written.
const FORMAT: u32 = 1;

/// Something read from disk or heard from a peer that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{what} has format {format}, of which this release knows only {FORMAT}")]
    UnknownFormat { what: &'static str, format: u32 },
    #[error("membership is invalid: {reason}")]
    Membership { reason: String },
    #[error("not a protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

impl From<Malformed> for std::io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing { field })
}

fn check_format(what: &'static str, format: u32) -> Result<(), Malformed> {
    if format == FORMAT {
        Ok(())
    } else {
        Err(Malformed::UnknownFormat { what, format })
    }
}

// Log ids and votes.

pub(crate) fn log_id_to_proto(id: &LogId) -> stored::LogId {
    let leader = id.committed_leader_id();
    stored::LogId {
        term: leader.term,
        leader: leader.node_id,
        index: id.index(),
    }
}

pub(crate) fn log_id_from_proto(id: &stored::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        id.index,
    )
}

fn maybe_log_id(id: Option<&stored::LogId>) -> Option<LogId> {
    id.map(log_id_from_proto)
}

pub(crate) fn log_id_to_bytes(id: &LogId) -> bytes::Bytes {
    log_id_to_proto(id).encode_to_vec().into()
}

pub(crate) fn log_id_from_bytes(bytes: &[u8]) -> Result<LogId, Malformed> {
    Ok(log_id_from_proto(&stored::LogId::decode(bytes)?))
}

pub(crate) fn vote_to_proto(vote: &Vote) -> stored::Vote {
    stored::Vote {
        format: FORMAT,
        term: vote.leader_id.term,
        leader: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: &stored::Vote) -> Result<Vote, Malformed> {
    check_format("vote", vote.format)?;
    let leader_id = LeaderId {
        term: vote.term,
        node_id: vote.leader,
    };
    Ok(Vote {
        leader_id,
        committed: vote.committed,
    })
}

pub(crate) fn vote_to_bytes(vote: &Vote) -> bytes::Bytes {
    vote_to_proto(vote).encode_to_vec().into()
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> Result<Vote, Malformed> {
    vote_from_proto(&stored::Vote::decode(bytes)?)
}

pub(crate) fn committed_to_bytes(id: Option<&LogId>) -> bytes::Bytes {
    stored::Committed {
        format: FORMAT,
        id: id.map(log_id_to_proto),
    }
    .encode_to_vec()
    .into()
}

pub(crate) fn committed_from_bytes(bytes: &[u8]) -> Result<Option<LogId>, Malformed> {
    let committed = stored::Committed::decode(bytes)?;
    check_format("committed position", committed.format)?;
    Ok(maybe_log_id(committed.id.as_ref()))
}

// Memberships.

pub(crate) fn membership_to_proto(membership: &Membership) -> stored::Membership {
    stored::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| stored::Voters {
                replicas: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(replica, node)| stored::Member {
                replica: *replica,
                node: node.0,
            })
            .collect(),
    }
}

pub(crate) fn membership_from_proto(
    membership: &stored::Membership,
) -> Result<Membership, Malformed> {
    let configs = membership
        .configs
        .iter()
        .map(|voters| voters.replicas.iter().copied().collect())
        .collect();
    let nodes: std::collections::BTreeMap<u64, NodeId> = membership
        .members
        .iter()
        .map(|member| (member.replica, NodeId(member.node)))
        .collect();
    Membership::new(configs, nodes).map_err(|error| Malformed::Membership {
        reason: error.to_string(),
    })
}

fn membership_at_to_proto(stored: &StoredMembership) -> stored::MembershipAt {
    stored::MembershipAt {
        id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

fn membership_at_from_proto(at: &stored::MembershipAt) -> Result<StoredMembership, Malformed> {
    let membership = required(at.membership.as_ref(), "membership")?;
    // A replica that was never told of a membership holds the empty one, which is not "valid".
    let membership = if membership.configs.is_empty() && membership.members.is_empty() {
        Membership::default()
    } else {
        membership_from_proto(membership)?
    };
    Ok(StoredMembership::new(
        maybe_log_id(at.id.as_ref()),
        membership,
    ))
}

// Entries.

pub(crate) fn entry_to_proto(entry: &Entry) -> stored::LogEntry {
    let payload = match &entry.payload {
        Payload::Blank => stored::log_entry::Payload::Blank(stored::Blank {}),
        Payload::Normal(command) => stored::log_entry::Payload::Command(command.0.clone()),
        Payload::Membership(membership) => {
            stored::log_entry::Payload::Membership(membership_to_proto(membership))
        }
    };
    stored::LogEntry {
        format: FORMAT,
        id: Some(log_id_to_proto(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(crate) fn entry_from_proto(entry: stored::LogEntry) -> Result<Entry, Malformed> {
    check_format("log entry", entry.format)?;
    let id = required(entry.id, "log entry id")?;
    let payload = match required(entry.payload, "log entry payload")? {
        stored::log_entry::Payload::Blank(stored::Blank {}) => Payload::Blank,
        stored::log_entry::Payload::Command(bytes) => Payload::Normal(Command(bytes)),
        stored::log_entry::Payload::Membership(membership) => {
            Payload::Membership(membership_from_proto(&membership)?)
        }
    };
    Ok(Entry {
        log_id: log_id_from_proto(&id),
        payload,
    })
}

pub(crate) fn entry_to_bytes(entry: &Entry) -> bytes::Bytes {
    entry_to_proto(entry).encode_to_vec().into()
}

/// Decodes a stored entry; a command in it shares the memory of `bytes`.
pub(crate) fn entry_from_bytes(bytes: bytes::Bytes) -> Result<Entry, Malformed> {
    entry_from_proto(stored::LogEntry::decode(bytes)?)
}

// Snapshots.

pub(crate) fn snapshot_meta_to_proto(meta: &SnapshotMeta) -> stored::SnapshotMeta {
    stored::SnapshotMeta {
        format: FORMAT,
        last: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership: Some(membership_at_to_proto(&meta.last_membership)),
    }
}

pub(crate) fn snapshot_meta_from_proto(
    meta: &stored::SnapshotMeta,
) -> Result<SnapshotMeta, Malformed> {
    check_format("snapshot", meta.format)?;
    let membership = required(meta.membership.as_ref(), "snapshot membership")?;
    Ok(SnapshotMeta {
        last_log_id: maybe_log_id(meta.last.as_ref()),
        last_membership: membership_at_from_proto(membership)?,
    })
}

pub(crate) fn snapshot_meta_to_bytes(meta: &SnapshotMeta) -> bytes::Bytes {
    snapshot_meta_to_proto(meta).encode_to_vec().into()
}

pub(crate) fn snapshot_meta_from_bytes(bytes: &[u8]) -> Result<SnapshotMeta, Malformed> {
    snapshot_meta_from_proto(&stored::SnapshotMeta::decode(bytes)?)
}

// Requests and replies.

pub(crate) fn append_to_proto(request: &AppendEntriesRequest<Types>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_proto),
        committed: request.leader_commit.as_ref().map(log_id_to_proto),
        entries: request.entries.iter().map(entry_to_proto).collect(),
        // Whoever carries it knows.
        freshness: None,
        asks_last: false,
    }
}

pub(crate) fn append_from_proto(
    request: wire::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote_from_proto(required(request.vote.as_ref(), "vote")?)?,
        prev_log_id: maybe_log_id(request.previous.as_ref()),
        leader_commit: maybe_log_id(request.committed.as_ref()),
        entries: request
            .entries
            .into_iter()
            .map(entry_from_proto)
            .collect::<Result<_, _>>()?,
    })
}

/// Encodes how a replica took a request. A partial success does not occur: openraft's own
/// `Raft::append_entries` answers everything or nothing; were it ever to, the leader must hear of
/// no more than it said, so it is told as a conflict and probes.
pub(crate) fn append_reply_to_proto(response: &AppendEntriesResponse<Types>) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let result = match response {
        AppendEntriesResponse::Success => Reply::Accepted(wire::Accepted {}),
        AppendEntriesResponse::Conflict | AppendEntriesResponse::PartialSuccess(_) => {
            Reply::Conflict(wire::Conflict {})
        }
        AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote(vote_to_proto(vote)),
    };
    wire::AppendReply {
        result: Some(result),
        // Whoever carries it knows.
        moment: 0,
        last: None,
    }
}

pub(crate) fn append_reply_from_proto(
    reply: &wire::AppendReply,
) -> Result<AppendEntriesResponse<Types>, Malformed> {
    use wire::append_reply::Result as Reply;
    Ok(
        match required(reply.result.as_ref(), "append reply result")? {
            Reply::Accepted(wire::Accepted {}) => AppendEntriesResponse::Success,
            Reply::Conflict(wire::Conflict {}) => AppendEntriesResponse::Conflict,
            Reply::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_from_proto(vote)?),
        },
    )
}

pub(crate) fn vote_request_to_proto(request: &VoteRequest<Types>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_proto(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_proto),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_proto(
    request: &wire::VoteRequest,
) -> Result<VoteRequest<Types>, Malformed> {
    Ok(VoteRequest {
        vote: vote_from_proto(required(request.vote.as_ref(), "vote")?)?,
        last_log_id: maybe_log_id(request.last.as_ref()),
        leadership_transfer: request.transfer,
    })
}

pub(crate) fn vote_reply_to_proto(response: &VoteResponse<Types>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_proto),
    }
}

pub(crate) fn vote_reply_from_proto(
    reply: &wire::VoteReply,
) -> Result<VoteResponse<Types>, Malformed> {
    Ok(VoteResponse {
        vote: vote_from_proto(required(reply.vote.as_ref(), "vote")?)?,
        vote_granted: reply.granted,
        last_log_id: maybe_log_id(reply.last.as_ref()),
    })
}

pub(crate) fn transfer_to_proto(request: &TransferLeaderRequest<Types>) -> wire::TransferRequest {
    wire::TransferRequest {
        vote: Some(vote_to_proto(request.from_leader())),
        replica: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to_proto),
    }
}

pub(crate) fn transfer_from_proto(
    request: &wire::TransferRequest,
) -> Result<TransferLeaderRequest<Types>, Malformed> {
    let vote = vote_from_proto(required(request.vote.as_ref(), "vote")?)?;
    Ok(TransferLeaderRequest::new(
        vote,
        request.replica,
        maybe_log_id(request.last.as_ref()),
    ))
}

pub(crate) fn transfer_reply_to_proto(
    response: &TransferLeaderResponse<Types>,
) -> wire::TransferReply {
    use wire::transfer_reply::Result as Reply;
    let result = match response {
        Ok(()) => Reply::Accepted(wire::Accepted {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            Reply::VoteChanged(vote_to_proto(actual))
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            let flushed = actual.as_ref().map(log_id_to_proto);
            Reply::NotFlushed(wire::NotFlushed { flushed })
        }
    };
    wire::TransferReply {
        result: Some(result),
    }
}

/// Decodes the answer to `request`.
pub(crate) fn transfer_reply_from_proto(
    reply: &wire::TransferReply,
    request: &TransferLeaderRequest<Types>,
) -> Result<TransferLeaderResponse<Types>, Malformed> {
    use wire::transfer_reply::Result as Reply;
    Ok(
        match required(reply.result.as_ref(), "transfer reply result")? {
            Reply::Accepted(wire::Accepted {}) => Ok(()),
            Reply::VoteChanged(vote) => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: vote_from_proto(vote)?,
            }),
            Reply::NotFlushed(progress) => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: maybe_log_id(progress.flushed.as_ref()),
            }),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn id(term: u64, leader: u64, index: u64) -> LogId {
        LogId::new(
            LeaderId {
                term,
                node_id: leader,
            },
            index,
        )
    }

    fn membership() -> Membership {
        let nodes = BTreeMap::from([(1, NodeId(10)), (2, NodeId(20)), (3, NodeId(30))]);
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn entries_survive_a_round_trip() {
        for payload in [
            Payload::Blank,
            Payload::Normal(Command(bytes::Bytes::from_static(b"attach"))),
            Payload::Normal(Command(bytes::Bytes::new())),
            Payload::Membership(membership()),
        ] {
            let entry = Entry {
                log_id: id(3, 7, 42),
                payload,
            };
            assert_eq!(entry_from_bytes(entry_to_bytes(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn votes_and_positions_survive_a_round_trip() {
        for committed in [false, true] {
            let vote = Vote {
                leader_id: LeaderId {
                    term: 9,
                    node_id: 4,
                },
                committed,
            };
            assert_eq!(vote_from_bytes(&vote_to_bytes(&vote)).unwrap(), vote);
        }
        for position in [None, Some(id(1, 1, 0)), Some(id(2, 5, 9))] {
            let bytes = committed_to_bytes(position.as_ref());
            assert_eq!(committed_from_bytes(&bytes).unwrap(), position);
        }
    }

    #[test]
    fn snapshot_descriptions_survive_a_round_trip() {
        for meta in [
            SnapshotMeta::default(),
            SnapshotMeta {
                last_log_id: Some(id(2, 1, 8)),
                last_membership: StoredMembership::new(Some(id(1, 1, 3)), membership()),
            },
        ] {
            assert_eq!(
                snapshot_meta_from_bytes(&snapshot_meta_to_bytes(&meta)).unwrap(),
                meta
            );
        }
    }

    #[test]
    fn what_a_later_release_wrote_is_refused() {
        let vote = stored::Vote {
            format: 2,
            term: 1,
            leader: 1,
            committed: true,
        };
        assert_eq!(
            vote_from_proto(&vote),
            Err(Malformed::UnknownFormat {
                what: "vote",
                format: 2
            })
        );
        let entry = stored::LogEntry {
            format: 1,
            id: Some(log_id_to_proto(&id(1, 1, 1))),
            payload: None,
        };
        assert_eq!(
            entry_from_proto(entry),
            Err(Malformed::Missing {
                field: "log entry payload"
            })
        );
    }

    #[test]
    fn a_membership_with_a_voter_that_is_no_member_is_refused() {
        let membership = stored::Membership {
            configs: vec![stored::Voters { replicas: vec![1] }],
            members: vec![],
        };
        assert!(matches!(
            membership_from_proto(&membership),
            Err(Malformed::Membership { .. })
        ));
    }
}
