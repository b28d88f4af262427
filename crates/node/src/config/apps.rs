//! The tenants: `[[app]]` and `[[app.key]]`.

use std::collections::BTreeMap;

use headcount_access::{AppSpec, Apps, KeySpec, Secret};
use headcount_api::AppLimits;
use headcount_model::{AppId, Rate};
use serde::Deserialize;

use super::fault::{Fault, Origin};
use super::layers::Layers;
use super::raw::{Limits, RawApp, RawConfig};
use super::value::Bytes;
use super::{AppConfig, docs};

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
    raw: &RawConfig,
    origin: &Origin,
    faults: &mut Vec<Fault>,
) -> Option<CheckedApps> {
    let limits: Vec<_> = raw
        .app
        .iter()
        .map(|app| own_limits(raw, app, origin, faults))
        .collect();
    let raw = &raw.app;
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
            let settings = raw.iter().zip(limits).filter_map(|(app, limits)| {
                let id = AppId::new(&app.id).ok()?;
                Some((
                    id,
                    AppConfig {
                        lifecycle_occupancy: app.lifecycle.occupancy,
                        limits,
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

/// Returns what a tenant may do, if that is not what all may: its own keys over those of `[limits]`.
fn own_limits(
    raw: &RawConfig,
    app: &RawApp,
    origin: &Origin,
    faults: &mut Vec<Fault>,
) -> Option<AppLimits> {
    if app.limits.is_empty() {
        return None;
    }
    let mut layers = Layers::of_section("limits", &app.limits, origin);
    let mut found = Vec::new();
    let limits = raw.limits.clone().read(&mut layers, &mut found);
    docs::unknown_keys(&layers, &mut found);
    let contradictions = contradictions(&limits, raw.realtime.frame_bytes_max);
    found.extend(contradictions.map(|(key, what)| Fault {
        key: format!("limits.{key}"),
        origin: origin.clone(),
        what: what.to_owned(),
    }));
    faults.extend(found.into_iter().map(|fault| Fault {
        key: format!("app {}: {}", app.id, fault.key),
        ..fault
    }));
    Some(app_limits(&limits))
}

/// Says what is wrong with limits as a whole: the key, and why.
pub(super) fn contradictions(
    limits: &Limits,
    frame_bytes_max: Bytes,
) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    let at_once = app_limits(limits).channel_bytes.burst;
    let wrong = [
        (
            limits.message_bytes_max > frame_bytes_max,
            "message_bytes_max",
            "must not exceed realtime.frame_bytes_max",
        ),
        (
            limits.message_bytes_max.0 > u64::from(at_once),
            "channel_bytes_per_second",
            "must be at least a quarter of message_bytes_max, else the largest message never passes",
        ),
    ];
    let wrong = wrong.into_iter().filter(|(is, ..)| *is);
    wrong.map(|(_, key, what)| (key, what))
}

/// Makes of limits what realtime and the client listener take.
pub(super) fn app_limits(limits: &Limits) -> AppLimits {
    let bytes = u32::try_from(limits.channel_bytes_per_second.0).unwrap_or(u32::MAX);
    AppLimits {
        connections_max: limits.app_connections_max,
        connects: Rate::over(2, limits.app_connects_per_second),
        channels: Rate::over(2, limits.app_channels_per_second),
        messages: Rate::over(2, limits.app_messages_per_second),
        requests: Rate::over(2, limits.app_requests_per_second),
        connection_channels_max: limits.connection_channels_max,
        connection_messages: Rate::over(4, limits.connection_messages_per_second),
        channel_messages: Rate::over(4, limits.channel_messages_per_second),
        channel_bytes: Rate::over(4, bytes),
        channel_members_max: limits.channel_members_max,
        message_bytes_max: limits.message_bytes_max.as_usize(),
    }
}

/// Returns a capability's JSON text, whether it was written as such or as a table.
fn capability_text(written: &toml::Value) -> String {
    match written {
        toml::Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}
