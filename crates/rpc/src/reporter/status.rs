//! How refusals look as gRPC status.

use headcount_model::SessionError;
use headcount_wire::WireError;
use tonic::{Code, Status};

use super::ports::Denied;

/// Metadata of a stale session's status: the highest incarnation that was seen of the edge.
pub const SEEN_INCARNATION: &str = "headcount-seen-incarnation";
/// As [`SEEN_INCARNATION`]: the highest session seen in that incarnation.
pub const SEEN_SESSION: &str = "headcount-seen-session";

pub(super) fn of_denied(denied: Denied) -> Status {
    match denied {
        Denied::Unauthenticated(message) => Status::unauthenticated(message),
        Denied::PermissionDenied(message) => Status::permission_denied(message),
    }
}

pub(super) fn of_session(error: &SessionError) -> Status {
    let code = match error {
        SessionError::Stale { .. } | SessionError::Hole { .. } => Code::FailedPrecondition,
        SessionError::Superseded { .. } => Code::Aborted,
        SessionError::Overloaded { .. } => Code::ResourceExhausted,
        SessionError::Draining | SessionError::Stopped => Code::Unavailable,
    };
    let mut status = Status::new(code, error.to_string());
    if let SessionError::Stale {
        seen_incarnation,
        seen_session,
        ..
    } = error
    {
        let metadata = status.metadata_mut();
        metadata.insert(SEEN_INCARNATION, seen_incarnation.0.into());
        metadata.insert(SEEN_SESSION, (*seen_session).into());
    }
    status
}

pub(super) fn of_hello(error: &WireError) -> Status {
    Status::invalid_argument(format!("hello.{error}"))
}

/// Says what is wrong with a message that could not be received; `None` if the stream is broken
/// and nobody listens.
pub(super) fn of_receive(error: &Status, bytes_max: u32) -> Option<Status> {
    match error.code() {
        Code::OutOfRange | Code::ResourceExhausted => Some(Status::invalid_argument(format!(
            "message: above limits.batch_bytes_max of {bytes_max}: {}",
            error.message()
        ))),
        Code::Internal | Code::InvalidArgument | Code::Unimplemented => Some(
            Status::invalid_argument(format!("message: {}", error.message())),
        ),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}
