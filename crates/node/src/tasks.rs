//! The tasks of a node: begun together, ended together, nothing global.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks have to end by themselves once they are told to.
const GRACE: Duration = Duration::from_secs(5);

/// The node's tasks. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    ended: CancellationToken,
}

impl Tasks {
    /// Spawns a task that is dropped where it stands when the node ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        drop(self.tracker.spawn(async move {
            // Listeners end by themselves; they wait for the same word.
            tokio::pin!(task);
            tokio::select! {
                biased;
                () = &mut task => {}
                () = ended.cancelled() => {
                    drop(tokio::time::timeout(Duration::from_millis(100), task).await);
                }
            }
        }));
    }

    /// Returns what tells that the node ends.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends all tasks and waits for them.
    pub(crate) async fn end(&self) {
        self.ended.cancel();
        self.tracker.close();
        if tokio::time::timeout(GRACE, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(target: "node", tasks = self.tracker.len(), "tasks did not end in time");
        }
    }
}
