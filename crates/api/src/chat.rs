//! What the chat client asks for besides the channels that its rooms are.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use headcount_access::Operation;
use headcount_model::Category;
use http::{HeaderMap, Uri};
use serde::Serialize;

use crate::credentials;
use crate::exchange::Exchange;
use crate::path::Channel;
use crate::percent;
use crate::ports::ReadLevel;
use crate::problem::Problem;
use crate::routes::{Shared, app_of, tell_freshness};

/// Where the names of rooms begin in a path.
pub(crate) const ROOMS: &str = "/chat/v4/rooms/";

/// A room's counts, as far as the chat client wants them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    connections: u32,
    presence_members: u32,
}

/// `GET /chat/v4/rooms/{room}/occupancy`: the counts of the room's channel (`contract.md` section
/// 3.9).
pub(crate) async fn occupancy(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let room = uri.path().strip_prefix(ROOMS);
    let room = room.and_then(|rest| rest.strip_suffix("/occupancy"));
    let room = room.filter(|room| !room.is_empty());
    let room = room.ok_or(Problem::NotFound)?;
    let credential = credentials::authenticate(&shared, &headers, &exchange.query)?;
    let room = percent::decode(room, false).ok_or(Problem::MalformedName)?;
    let name = format!("{room}::$chat");
    let channel = Channel::parse(app_of(&credential), &name)?;
    credential.may(Operation::ChannelMetadata, &name)?;
    let Channel::Normal(channel) = channel else {
        return Err(Problem::NotFound);
    };
    let read = shared.ports.directory.status(channel, ReadLevel::Local);
    let read = shared.read(read).await?;
    let metrics = read.status.occupancy.metrics;
    let mut response = exchange.answer(&Counts {
        connections: metrics.get(Category::Connections),
        presence_members: metrics.get(Category::PresenceMembers),
    });
    tell_freshness(response.headers_mut(), &read.freshness);
    Ok(response)
}
