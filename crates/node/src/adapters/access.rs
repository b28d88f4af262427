//! Keys for the public listener and the reporter port.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_access::{AccessError, Apps, Credential, Operation, Presented, authenticate};
use headcount_api::ports::{Access, Clock as ApiClock, Entropy, RevokeError, Revoking};
use headcount_model::{AppId, Timestamp};
use headcount_rpc::{reporter, watch as watching};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{AppConfig, Config};
use crate::revoked::Revoked;

/// The channel whose `subscribe` permits to watch.
const LIFECYCLE: &str = "[meta]channel.lifecycle";

/// The configured keys, and what was revoked of their tokens.
#[derive(Clone)]
pub(crate) struct Keys {
    apps: Arc<Apps>,
    /// What else is configured of each app.
    settings: Arc<BTreeMap<AppId, AppConfig>>,
    revoked: Revoked,
    clock: Clock,
}

impl Keys {
    pub(crate) fn new(config: &Config, revoked: Revoked, clock: Clock) -> Self {
        Self {
            revoked,
            clock,
            apps: Arc::clone(&config.apps),
            settings: Arc::new(config.app_settings.clone()),
        }
    }

    fn credential(&self, authorization: &str) -> Result<Credential, AccessError> {
        let presented = Presented::from_authorization(authorization)?;
        let credential = authenticate(&self.apps, presented, self.clock.wall().0)?;
        self.revoked.check(&credential)?;
        Ok(credential)
    }

    /// Resolves with what its bearer is told once a credential is good no more.
    fn ended(&self, credential: &Credential) -> BoxFuture<'static, String> {
        let ended = self.revoked.clone().ended(credential.clone());
        let told = |error: AccessError| format!("{error} ({})", error.code());
        ended.map(told).boxed()
    }
}

impl Access for Keys {
    fn apps(&self) -> Arc<Apps> {
        Arc::clone(&self.apps)
    }

    fn check(&self, credential: &Credential) -> Result<(), AccessError> {
        self.revoked.check(credential)
    }

    fn is_announced(&self, credential: &Credential) -> bool {
        self.revoked.is_announced(credential)
    }

    fn revoked(&self) -> watch::Receiver<u64> {
        self.revoked.changes()
    }

    fn revoke(&self, revoking: Revoking) -> BoxFuture<'_, Result<(), RevokeError>> {
        self.revoked.revoke(revoking).boxed()
    }

    fn tells_occupancy(&self, app: &str) -> bool {
        let settings = self.settings.get(app);
        settings.is_some_and(|settings| settings.lifecycle_occupancy)
    }
}

/// What an edge's credential permits.
pub(crate) struct EdgeGrant {
    app: AppId,
    credential: Credential,
    keys: Keys,
}

impl reporter::Grant for EdgeGrant {
    fn app(&self) -> &AppId {
        &self.app
    }

    fn may_report_all(&self) -> bool {
        self.credential.may_everywhere(Operation::OccupancyReport)
    }

    fn may_report(&self, channel: &str) -> bool {
        self.credential
            .may(Operation::OccupancyReport, channel)
            .is_ok()
    }

    fn ended(&self) -> BoxFuture<'static, String> {
        self.keys.ended(&self.credential)
    }
}

impl reporter::Authorize for Keys {
    type Grant = EdgeGrant;

    fn authorize(&self, authorization: Option<&str>) -> Result<EdgeGrant, reporter::Denied> {
        let unauthenticated = |reason: String| reporter::Denied::Unauthenticated(reason);
        let Some(authorization) = authorization else {
            let reason = "metadata authorization is missing: send Basic with a key or Bearer with a \
                          token";
            return Err(unauthenticated(reason.to_owned()));
        };
        let credential = self.credential(authorization);
        let credential = credential.map_err(|error| unauthenticated(error.to_string()))?;
        let app = AppId::new(credential.app());
        let app = app.map_err(|error| unauthenticated(error.to_string()))?;
        Ok(EdgeGrant {
            app,
            credential,
            keys: self.clone(),
        })
    }
}

impl watching::Admission for Keys {
    fn admit_watcher<'a>(
        &'a self,
        authorization: &'a str,
    ) -> BoxFuture<'a, Result<watching::Admitted, watching::Denied>> {
        let admitted = || {
            let unauthenticated = |reason: String| watching::Denied::Unauthenticated(reason);
            let credential = self.credential(authorization);
            let credential = credential.map_err(|error| unauthenticated(error.to_string()))?;
            let permitted = credential.may(Operation::Subscribe, LIFECYCLE);
            permitted.map_err(|error| watching::Denied::PermissionDenied(error.to_string()))?;
            let app = AppId::new(credential.app());
            Ok(watching::Admitted {
                app: app.map_err(|error| unauthenticated(error.to_string()))?,
                ended: self.ended(&credential),
            })
        };
        let admitted = admitted();
        async move { admitted }.boxed()
    }
}

/// The wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock(pub(crate) Clock);

impl ApiClock for WallClock {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }
}

/// The system's randomness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes(&self) -> [u8; 16] {
        rand::random()
    }
}
