//! Lifecycle events as messages of `[meta]channel.lifecycle`, encoded once for all subscribers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use headcount_model::{Event, WatchEvent};
use headcount_realtime::{Broadcast, Content, Envelope, Message, Payload};

/// The channel.
pub(crate) const LIFECYCLE: &str = "[meta]channel.lifecycle";

/// Events whose encodings are kept: more than subscribers are apart who keep up.
const KEPT_MAX: usize = 4_096;

/// The encodings of the last events, so that ten thousand subscribers share one.
#[derive(Debug, Default)]
pub(crate) struct Encodings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By the event's address, which is its own as long as the event is kept here.
    by_address: HashMap<usize, (Arc<WatchEvent>, Arc<Broadcast>)>,
    order: VecDeque<usize>,
}

impl Encodings {
    /// Returns the message of an event that a node's watchers share.
    pub(crate) fn of(&self, event: &Arc<WatchEvent>) -> Arc<Broadcast> {
        let address = Arc::as_ptr(event) as usize;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, broadcast)) = kept.by_address.get(&address) {
            return Arc::clone(broadcast);
        }
        let broadcast = Arc::new(broadcast(&event.event));
        let entry = (Arc::clone(event), Arc::clone(&broadcast));
        kept.by_address.insert(address, entry);
        kept.order.push_back(address);
        if kept.order.len() > KEPT_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_address.remove(&oldest);
        }
        broadcast
    }
}

/// Returns the message of an event (`contract.md` sections 1.2 and 1.4).
pub(crate) fn message(event: &Event) -> Message {
    let details = event.details();
    let data = serde_json::to_string(&details).expect("details have string keys");
    Message {
        id: Some(event.id.to_string()),
        name: Some(event.kind.as_str().to_owned()),
        data: Payload::Text(data),
        encoding: Some("json".to_owned()),
        timestamp_ms: Some(event.at.0),
        ..Message::default()
    }
}

fn broadcast(event: &Event) -> Broadcast {
    let envelope = Envelope {
        id: Some(event.id.to_string()),
        timestamp_ms: Some(event.at.0),
        connection_id: None,
    };
    Broadcast::new(envelope, Content::Messages(vec![message(event)]))
}
