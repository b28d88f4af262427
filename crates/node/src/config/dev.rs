//! What `headcount dev` runs with: three regions on loopback and keys that everybody knows.

use std::path::Path;

use super::raw::{RawApp, RawConfig, RawKey, RawLifecycle};

/// The regions of `headcount dev`, in the order of their ports.
pub const DEV_REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];

/// Shards of `headcount dev`: enough to spread, few enough to idle.
pub const DEV_SHARDS: u32 = 16;

/// The first port of the first region; each further region is ten above.
const PORT: u16 = 8080;

/// A key of `headcount dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevKey {
    /// Its app.
    pub app: &'static str,
    /// Its name inside the app.
    pub id: &'static str,
    /// Its secret, which is none.
    pub secret: &'static str,
    /// What it may do.
    pub capability: &'static str,
}

/// The keys of `headcount dev`: everything, everything but metachannels, metachannels alone.
pub const DEV_KEYS: [DevKey; 3] = [
    DevKey {
        app: "dev",
        id: "root",
        secret: "root-secret",
        capability: r#"{"[*]*":["*"]}"#,
    },
    DevKey {
        app: "dev",
        id: "nometa",
        secret: "nometa-secret",
        capability: r#"{"*":["*"]}"#,
    },
    DevKey {
        app: "dev",
        id: "meta",
        secret: "meta-secret",
        capability: r#"{"[meta]*":["subscribe","history"]}"#,
    },
];

/// Returns the port of a region's listener: 0 is the client's, then reporter, peer and admin.
#[must_use]
pub fn dev_port(region_index: usize, listener: u16) -> u16 {
    PORT + 10 * u16::try_from(region_index).unwrap_or(0) + listener
}

impl RawConfig {
    /// Returns the settings of `headcount dev` for the region of that index.
    ///
    /// # Panics
    /// If there is no such region.
    #[must_use]
    pub fn dev(region_index: usize, data_dir: &Path) -> Self {
        let address = |listener| format!("127.0.0.1:{}", dev_port(region_index, listener));
        let mut raw = Self::default();
        DEV_REGIONS[region_index].clone_into(&mut raw.node.region);
        raw.node.data_dir = data_dir.display().to_string();
        if region_index > 0 {
            raw.node.join = vec![format!("127.0.0.1:{}", dev_port(0, 2))];
        }
        raw.listen.client = address(0);
        raw.listen.reporter = address(1);
        raw.listen.peer = address(2);
        raw.listen.admin = address(3);
        "dev".clone_into(&mut raw.cluster.name);
        raw.cluster.shards = DEV_SHARDS;
        "wan".clone_into(&mut raw.cluster.timing);
        raw.admin.open_on_loopback = true;
        raw.app = vec![RawApp {
            id: "dev".to_owned(),
            lifecycle: RawLifecycle { occupancy: true },
            limits: toml::Table::new(),
            key: DEV_KEYS
                .iter()
                .map(|key| RawKey {
                    id: key.id.to_owned(),
                    secret: key.secret.to_owned(),
                    capability: key.capability.into(),
                    enabled: true,
                })
                .collect(),
        }];
        raw
    }
}
