//! The tenants: `[[app]]` and `[[app.key]]`.

use std::collections::BTreeMap;

use headcount_access::{AppSpec, Apps, KeySpec, Secret};
use headcount_model::AppId;
use serde::Deserialize;

use super::AppConfig;
use super::fault::{Fault, Origin};
use super::raw::RawApp;

/// Reads what stands at `app`; what is wrong with one app hides no other.
pub(super) fn read(written: toml::Value, origin: &Origin, faults: &mut Vec<Fault>) -> Vec<RawApp> {
    let toml::Value::Array(apps) = written else {
        let what = "expected tables [[app]]".to_owned();
        faults.push(Fault {
            key: "app".to_owned(),
            origin: origin.clone(),
            what,
        });
        return Vec::new();
    };
    let mut read = Vec::new();
    for (index, app) in apps.into_iter().enumerate() {
        let id = app.get("id").and_then(toml::Value::as_str);
        let key = format!(
            "app {}",
            id.map_or_else(|| (index + 1).to_string(), str::to_owned)
        );
        match RawApp::deserialize(app) {
            Ok(app) => read.push(app),
            Err(error) => {
                let what = error.message().trim_end().to_owned();
                faults.push(Fault {
                    key,
                    origin: origin.clone(),
                    what,
                });
            }
        }
    }
    read
}

/// What comes of the tenants: their keys, and what else is known about each.
type CheckedApps = (Apps, BTreeMap<AppId, AppConfig>);

/// Checks the tenants.
pub(super) fn check(
    raw: &[RawApp],
    origin: &Origin,
    faults: &mut Vec<Fault>,
) -> Option<CheckedApps> {
    let specs = raw.iter().map(|app| AppSpec {
        id: app.id.clone(),
        keys: app
            .key
            .iter()
            .map(|key| KeySpec {
                id: key.id.clone(),
                secret: Secret::new(key.secret.clone()),
                capability: capability_text(&key.capability),
                enabled: key.enabled,
            })
            .collect(),
    });
    match Apps::new(specs.collect()) {
        Ok(apps) => {
            let settings = raw.iter().filter_map(|app| {
                let id = AppId::new(&app.id).ok()?;
                Some((
                    id,
                    AppConfig {
                        lifecycle_occupancy: app.lifecycle.occupancy,
                    },
                ))
            });
            Some((apps, settings.collect()))
        }
        Err(wrong) => {
            faults.extend(wrong.into_iter().map(|fault| Fault {
                key: "app".to_owned(),
                origin: origin.clone(),
                what: fault.to_string(),
            }));
            None
        }
    }
}

/// Returns a capability's JSON text, whether it was written as such or as a table.
fn capability_text(written: &toml::Value) -> String {
    match written {
        toml::Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}
