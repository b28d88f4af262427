//! Clients that take a connection from one node to another (R8).
//!
//! ```text
//!  client ──resume──▶ this node ──release──▶ its old node: ends the connection there,
//!                         │                  as if it had been closed
//!      counts here ◀──────┴── released, or the old node's lease has ended
//! ```
//!
//! A connection lives and dies with its node, so the client has a new one here. As long as the old
//! one may be counted in the sums of the same region, the new one is *held*: it does everything but
//! count. In another region both count until the old one is ended or its grace is over.

use std::sync::Arc;
use std::time::Duration;

use headcount_access::ClientIdRule;
use headcount_model::{AppId, NodeId};
use tokio::sync::oneshot;

use super::Core;
use super::mailbox::{Release, Released as Answer};
use super::registry::Key;
use crate::ports::{HandingOver, NotReleased, OldConnection, Released, Whereabouts};
use crate::server::{Phase, until};
use crate::telemetry;

/// The pause before an old node that did not answer is asked again; doubles up to the longest one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long owners are given to acknowledge that a connection does not count any more. Who does not
/// by then has the client counted twice for a moment, rather than not at all for long.
const SETTLING: Duration = Duration::from_secs(1);

/// What keeps a connection from counting: resolves, with an error, when nothing does any more.
pub(crate) type Held = oneshot::Receiver<()>;

/// Waits until nothing holds a connection any more; for ever if nothing did.
pub(super) async fn let_count(held: &mut Option<Held>) {
    match held {
        Some(held) => drop(held.await),
        None => std::future::pending().await,
    }
}

/// Has a client's old connection ended at its node, for as long as it may count there if that node
/// does not answer: `patience`. Returns what holds the new one.
pub(super) fn begin(
    realtime: &Arc<Core>,
    app: &AppId,
    key: Key,
    identity: &ClientIdRule,
    patience: Duration,
) -> Option<Held> {
    let handing = Arc::clone(&realtime.ports.handing);
    let whereabouts = handing.whereabouts(key.node);
    if whereabouts == Whereabouts::Nowhere {
        telemetry::handed_over("removed");
        return None;
    }
    let Ok(slot) = Arc::clone(&realtime.handovers).try_acquire_owned() else {
        telemetry::rejected("realtime_handovers");
        telemetry::handed_over("full");
        return None;
    };
    let old = OldConnection {
        app: app.clone(),
        connection: key.connection,
        secret: key.secret,
        identity: identity.clone(),
    };
    let (open, held) = oneshot::channel();
    // Asked for now, as it is the lease of now that is meant.
    let lease_ended = handing.lease_ended(key.node);
    let mut phase = realtime.phase();
    realtime.tasks.spawn(async move {
        let _entered = telemetry::realtime_handovers.enter();
        let outcome = tokio::select! {
            released = ask(&*handing, key.node, &old) => match released {
                Released::Ended => "released",
                Released::Unknown => "unknown",
            },
            () = lease_ended => "lease_ended",
            () = tokio::time::sleep(patience) => "timed_out",
            () = until(&mut phase, Phase::Draining) => "draining",
        };
        telemetry::handed_over(outcome);
        drop((open, slot));
    });
    (whereabouts == Whereabouts::Here).then_some(held)
}

/// Asks a node until it answers.
async fn ask(handing: &dyn HandingOver, node: NodeId, old: &OldConnection) -> Released {
    let mut pause = PAUSE;
    loop {
        match handing.release(node, old.clone()).await {
            Ok(released) => return released,
            Err(error) => {
                tracing::debug!(
                    target: "api", %node, connection = %old.connection, %error,
                    "asking again"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Ends a connection of this node; returns once nothing of it counts.
pub(super) async fn release(realtime: &Core, old: OldConnection) -> Result<Released, NotReleased> {
    let OldConnection {
        app,
        connection,
        secret,
        identity,
    } = old;
    let later = |reason: &str| NotReleased {
        reason: reason.to_owned(),
    };
    let found = realtime.registry.find(&app, connection.as_str(), &secret);
    let (answer, answered) = oneshot::channel();
    let asked = found.is_some_and(|mailbox| mailbox.release(Release { identity, answer }).is_ok());
    let released = if asked {
        match answered.await {
            Ok(Answer::Ended) => {
                telemetry::realtime_releases_total.count(1);
                Released::Ended
            }
            Ok(Answer::Foreign) => Released::Unknown,
            Ok(Answer::Held) => return Err(later("it does not count here yet")),
            Err(_) => return Err(later("it is being asked for by somebody else, too")),
        }
    } else {
        Released::Unknown
    };
    // One that is unknown may have ended a moment ago.
    let settled = realtime.ports.counting.settled();
    if tokio::time::timeout(SETTLING, settled).await.is_err() {
        tracing::debug!(target: "api", %connection, "the owners have not acknowledged in time");
    }
    Ok(released)
}
