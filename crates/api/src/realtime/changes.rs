//! The last presence changes of a channel, for those who ask what happened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headcount_realtime::Broadcast;
use tokio::time::Instant;

use super::config::RealtimeConfig;

/// What happened to a channel's members, as long as messages are remembered and within the same
/// bounds.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    remembered: VecDeque<(Instant, Arc<Broadcast>)>,
    bytes: usize,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.remembered.is_empty()
    }

    /// Remembers a change, and adds its size to what all channels remember.
    pub(crate) fn remember(
        &mut self,
        now: Instant,
        broadcast: &Arc<Broadcast>,
        total: &AtomicUsize,
    ) {
        self.bytes += broadcast.size();
        total.fetch_add(broadcast.size(), Ordering::Relaxed);
        self.remembered.push_back((now, Arc::clone(broadcast)));
    }

    /// Forgets what is too old or too much; and when all channels together remember too much,
    /// everything.
    pub(crate) fn forget(&mut self, config: &RealtimeConfig, now: Instant, total: &AtomicUsize) {
        while let Some((at, oldest)) = self.remembered.front() {
            let fits = self.remembered.len() <= config.memory_messages_max
                && self.bytes <= config.memory_bytes_max;
            let all = total.load(Ordering::Relaxed) <= config.memory_total_max;
            if fits && all && now - *at <= config.memory {
                break;
            }
            self.bytes -= oldest.size();
            total.fetch_sub(oldest.size(), Ordering::Relaxed);
            self.remembered.pop_front();
        }
    }

    /// Returns what is remembered, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Broadcast>> {
        let remembered = self.remembered.iter();
        remembered
            .map(|(_, broadcast)| Arc::clone(broadcast))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headcount_realtime::{Content, Envelope, Payload, PresenceAction, PresenceMessage};

    use super::*;

    fn entered(data: &str) -> Arc<Broadcast> {
        let item = PresenceMessage {
            id: None,
            action: PresenceAction::Enter,
            client_id: None,
            connection_id: None,
            data: Payload::Text(data.to_owned()),
            encoding: None,
            extras: None,
            timestamp_ms: None,
        };
        Arc::new(Broadcast::new(
            Envelope::default(),
            Content::Presence(vec![item]),
        ))
    }

    #[test]
    fn changes_are_bounded_in_number_size_and_age() {
        let start = Instant::now();
        let config = RealtimeConfig {
            memory_messages_max: 2,
            memory_bytes_max: 1_000,
            ..RealtimeConfig::default()
        };
        let (mut changes, total) = (Changes::default(), AtomicUsize::new(0));
        for data in ["a", "b", "c"] {
            changes.remember(start, &entered(data), &total);
            changes.forget(&config, start, &total);
        }
        assert_eq!(changes.all().len(), 2);
        changes.remember(start, &entered(&"x".repeat(800)), &total);
        changes.forget(&config, start, &total);
        assert_eq!(changes.all().len(), 1);
        changes.forget(&config, start + config.memory, &total);
        assert!(!changes.is_empty());
        changes.forget(
            &config,
            start + config.memory + Duration::from_millis(1),
            &total,
        );
        assert_eq!((changes.is_empty(), changes.bytes), (true, 0));
        assert_eq!(total.load(Ordering::Relaxed), 0);
        changes.remember(
            start,
            &entered("a"),
            &AtomicUsize::new(config.memory_total_max),
        );
        let all = AtomicUsize::new(config.memory_total_max + changes.bytes);
        changes.forget(&config, start, &all);
        assert!(changes.is_empty(), "there is no room for anybody's");
    }
}
