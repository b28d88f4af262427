//! Rings for the drivers of those shards that a change of the control state concerns.
//!
//! Most changes concern one shard, or none: a replica that has caught up, a vote that moved. A
//! driver that looked at each of them would make the growth of a cluster quadratic in its shards.

use std::sync::Arc;

use headcount_placement::{Concern, Control};
use tokio::sync::watch;

use crate::shards::Shards;

/// Runs until the control state is gone. Drivers look once when they begin, after their shard came
/// into the table, so none misses a change.
pub(crate) async fn ring(mut control: watch::Receiver<Arc<Control>>, shards: Shards) {
    let mut before = control.borrow_and_update().clone();
    while control.changed().await.is_ok() {
        let now = control.borrow_and_update().clone();
        match now.concern_since(&before) {
            Concern::Everybody => {
                for hosted in shards.all().values() {
                    hosted.replica.placed.notify_one();
                }
            }
            Concern::Shards(concerned) => {
                for hosted in concerned.iter().filter_map(|shard| shards.get(*shard)) {
                    hosted.replica.placed.notify_one();
                }
            }
        }
        before = now;
    }
}
