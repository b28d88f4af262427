//! In-band occupancy: what the log says of an app's channels, told on the channels themselves.

use std::time::Duration;

use headcount_model::{AppId, Category, ChannelKey, ChannelName, Occupancy};
use headcount_realtime::{Message, MessageAction, OccupancyParam, Payload};

use super::Core;
use crate::ports::ReadLevel;

/// The name of the messages.
const NAME: &str = "[meta]occupancy";

/// How long after it attached a follower knows more than the log may.
const AHEAD: Duration = Duration::from_secs(5);

/// Reads the counts of every channel that is followed, after something may have been missed.
pub(super) async fn sync(realtime: &Core, app: &AppId) {
    for place in realtime.hub.followed(app) {
        let Ok(name) = ChannelName::new(&place.name) else {
            continue;
        };
        if let Some(occupancy) = read(realtime, app, &name).await {
            realtime.hub.occupancy(&place, occupancy, AHEAD);
        }
    }
}

async fn read(realtime: &Core, app: &AppId, name: &ChannelName) -> Option<Occupancy> {
    let channel = ChannelKey {
        app: app.clone(),
        name: name.clone(),
    };
    let read = realtime.ports.directory.status(channel, ReadLevel::Local);
    let read = tokio::time::timeout(super::READ_TIMEOUT, read).await;
    Some(read.ok()?.ok()?.status.occupancy.metrics)
}

/// Returns a channel's counts as the log knows them; zeros if that cannot be read.
pub(super) async fn logged(realtime: &Core, app: &AppId, name: &ChannelName) -> Occupancy {
    read(realtime, app, name).await.unwrap_or(Occupancy::ZERO)
}

/// Returns a channel's counts for somebody who has just attached with `own`, and had `before`: as
/// the log knew them, with what it could not know yet.
pub(super) fn with_own(logged: Occupancy, before: Occupancy, own: Occupancy) -> Occupancy {
    let mut now = Occupancy::ZERO;
    for category in Category::ALL {
        let others = logged.get(category).saturating_sub(before.get(category));
        now.set(category, others.saturating_add(own.get(category)));
    }
    now
}

/// Returns the message that tells counts (`contract.md` section 2).
pub(super) fn message(param: OccupancyParam, occupancy: &Occupancy) -> Message {
    Message {
        name: Some(NAME.to_owned()),
        data: Payload::Text(param.data(occupancy)),
        encoding: Some("json".to_owned()),
        action: MessageAction::Meta,
        ..Message::default()
    }
}
