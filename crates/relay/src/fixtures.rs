//! Short names for what tests relay.

use std::sync::Arc;
use std::time::Duration;

use headcount_model::{AppId, ConnectionId, MemberId, Monotonic, Now, RegionName};

use crate::{Change, Member, MemberKey, Message, Newness, RelayChannel};

pub(crate) fn channel(number: u64) -> RelayChannel {
    let app = AppId::new("app").unwrap();
    RelayChannel::new(app, &format!("c{number}")).unwrap()
}

pub(crate) fn region(number: u64) -> RegionName {
    RegionName::new(&format!("r{number}")).unwrap()
}

pub(crate) fn key(connection: u64, id: u64) -> MemberKey {
    MemberKey {
        connection: ConnectionId::new(&format!("conn{connection}")).unwrap(),
        id: MemberId::new(&format!("id{id}")).unwrap(),
    }
}

pub(crate) fn member(connection: u64, id: u64, serial: u64) -> Member {
    Member {
        key: key(connection, id),
        newness: Newness { serial, index: 0 },
        data: Arc::from(serial.to_be_bytes()),
    }
}

pub(crate) fn now(millis: u64) -> Now {
    Now {
        monotonic: Monotonic(Duration::from_millis(millis)),
        ..Now::default()
    }
}

pub(crate) fn message(number: u64, publisher: &str, serial: u64) -> Message {
    Message {
        channel: channel(number),
        publisher: ConnectionId::new(publisher).unwrap(),
        body: Arc::from(serial.to_be_bytes()),
    }
}

pub(crate) fn put(connection: u64, id: u64, serial: u64) -> Change {
    Change::Put(member(connection, id, serial))
}

pub(crate) fn leave(connection: u64, id: u64, serial: u64) -> Change {
    Change::Leave(member(connection, id, serial))
}
