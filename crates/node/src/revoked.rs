//! Tokens that were revoked: the control group's word, as this node enforces it.
//!
//! The control group remembers revocations, so they hold in the whole cluster, survive restarts,
//! and reach each node with its replica's next entry. A node that is cut off goes on with what it
//! knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use headcount_access::{AccessError, Credential, RevocationTarget, Revocations};
use headcount_api::ports::{RevokeError, Revoking};
use headcount_model::Timestamp;
use headcount_placement::{
    Control, ControlCommand, REVOCATIONS_MAX, REVOKING_VERSION, Refusal, Revocation, RevokedTokens,
};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::control::{ControlError, ControlHandle};

/// How long this node's own replica may take to know what the control group has confirmed.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What is revoked. A cheap handle.
#[derive(Clone)]
pub(crate) struct Revoked {
    handle: ControlHandle,
    clock: Clock,
    control: watch::Receiver<Arc<Control>>,
    /// What is revoked, written by whoever finds it out of date.
    known: watch::Sender<Arc<Known>>,
    /// How often there was more of it; told after it was written.
    changes: watch::Sender<u64>,
}

/// What is revoked, at some time.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    in_force: Revocations,
    /// What will be in force, with what is.
    announced: Revocations,
}

impl Known {
    fn of(revoked: &RevokedTokens, now: Timestamp) -> Self {
        Self {
            in_force: by(revoked, now),
            announced: by(revoked, Timestamp(u64::MAX)),
        }
    }
}

impl Revoked {
    pub(crate) fn new(
        handle: ControlHandle,
        clock: Clock,
        control: watch::Receiver<Arc<Control>>,
    ) -> Self {
        let nothing = Known::of(&RevokedTokens::default(), Timestamp(0));
        Self {
            handle,
            clock,
            control,
            known: watch::Sender::new(Arc::new(nothing)),
            changes: watch::Sender::new(0),
        }
    }

    /// Says whether a credential was revoked.
    pub(crate) fn check(&self, credential: &Credential) -> Result<(), AccessError> {
        self.known.borrow().in_force.check(credential)
    }

    /// Returns whether a credential is revoked, be it for a time to come.
    pub(crate) fn is_announced(&self, credential: &Credential) -> bool {
        self.known.borrow().announced.check(credential).is_err()
    }

    /// Resolves with the reason once a credential is good no more: it has expired, or was revoked.
    pub(crate) async fn ended(self, credential: Credential) -> AccessError {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let now = self.clock.wall();
            let good = self.check(&credential);
            if let Err(error) = good.and_then(|()| credential.check_expiry(now.0)) {
                return error;
            }
            let expiry = async {
                match credential.expires_at_ms() {
                    Some(at_ms) => {
                        let left = Duration::from_millis(at_ms.saturating_sub(now.0));
                        tokio::time::sleep(left).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _told = changes.changed() => {}
                () = expiry => {}
            }
        }
    }

    /// Returns what changes whenever more may be refused.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Runs for ever: puts into force what the control group says, when it says.
    pub(crate) async fn run(self) {
        let mut control = self.control.clone();
        loop {
            let known = Arc::clone(control.borrow_and_update().revocations());
            let now = self.clock.wall();
            self.enforce(&known, now);
            let next = next_after(&known, now);
            let due = async {
                match next {
                    Some(at) => {
                        let left_ms = at.0.saturating_sub(self.clock.wall().0);
                        tokio::time::sleep(Duration::from_millis(left_ms)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let news = control.wait_for(|control| !Arc::ptr_eq(control.revocations(), &known));
            tokio::select! {
                told = news => if told.is_err() { return },
                () = due => {}
            }
        }
    }

    fn enforce(&self, known: &RevokedTokens, now: Timestamp) {
        let known = Arc::new(Known::of(known, now));
        let changed = self.known.send_if_modified(|before| {
            let changes = **before != *known;
            *before = known;
            changes
        });
        if changed {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Revokes in the whole cluster.
    pub(crate) async fn revoke(&self, revoking: Revoking) -> Result<(), RevokeError> {
        let unconfirmed = |reason: String| RevokeError::Unconfirmed { reason };
        if self.control.borrow().understood() < REVOKING_VERSION {
            let reason = "a member has not started yet, or is of a release that cannot revoke";
            return Err(unconfirmed(reason.to_owned()));
        }
        let targets = revoking.targets.iter().map(RevocationTarget::to_string);
        let targets: BTreeSet<String> = targets.collect();
        let revocation = Revocation {
            issued_before: revoking.issued_before,
            applies_at: revoking.applies_at,
        };
        let command = ControlCommand::RevokeTokens {
            key: revoking.key_name.clone(),
            targets: targets.clone(),
            revocation,
            now: self.clock.wall(),
        };
        self.handle
            .propose(command)
            .await
            .map_err(|error| match error {
                ControlError::Refused(Refusal::TooMuch { max, .. }) => RevokeError::Full {
                    max: usize::try_from(max).unwrap_or(usize::MAX),
                },
                other => unconfirmed(other.to_string()),
            })?;
        let mut control = self.control.clone();
        let knows = |control: &Arc<Control>| {
            targets.iter().all(|target| {
                let place = (revoking.key_name.clone(), target.clone());
                let known = control.revocations().get(&place);
                known.is_some_and(|known| known.iter().any(|it| it.covers(revocation)))
            })
        };
        let known = tokio::time::timeout(CATCH_UP, control.wait_for(knows)).await;
        if let Ok(Ok(control)) = known {
            let known = Arc::clone(control.revocations());
            drop(control);
            self.enforce(&known, self.clock.wall());
        }
        Ok(())
    }
}

/// Returns what of all that was revoked is in force by a time.
fn by(revoked: &RevokedTokens, time: Timestamp) -> Revocations {
    let mut revocations = Revocations::new(REVOCATIONS_MAX);
    for ((key, target), known) in revoked.iter() {
        let due = known.iter().filter(|it| it.applies_at <= time);
        let Some(before) = due.map(|it| it.issued_before.0).max() else {
            continue;
        };
        // A release that knows more kinds of targets may have revoked one of those.
        let Ok(target) = target.parse() else {
            continue;
        };
        if revocations.revoke(key, target, before).is_err() {
            tracing::error!(target: "node", "more tokens are revoked than can be");
        }
    }
    revocations
}

/// Returns when the next comes into force.
fn next_after(known: &RevokedTokens, now: Timestamp) -> Option<Timestamp> {
    let times = known.values().flatten().map(|it| it.applies_at);
    times.filter(|at| *at > now).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_revoked_for_later_waits_for_its_time() {
        let revocation = |issued, applies| Revocation {
            issued_before: Timestamp(issued),
            applies_at: Timestamp(applies),
        };
        let place = |target: &str| ("dev.k".to_owned(), target.to_owned());
        let known = [
            (place("clientId:a"), vec![revocation(5, 5)]),
            (place("clientId:b"), vec![revocation(5, 30)]),
            (place("moonPhase:full"), vec![revocation(5, 5)]),
        ];
        let known: RevokedTokens = Arc::new(known.into());
        let counts = |now| {
            let known = Known::of(&known, Timestamp(now));
            (known.in_force.len(), known.announced.len())
        };
        assert_eq!([4, 5, 29, 30].map(counts), [(0, 2), (1, 2), (1, 2), (2, 2)]);
        assert_eq!(next_after(&known, Timestamp(5)), Some(Timestamp(30)));
        assert_eq!(next_after(&known, Timestamp(30)), None);
    }
}
