//! The admin listener: health, readiness, metrics, and the operator API.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process can do its work, else 503; `{"healthy", "broken"}` |
//! | `GET /readyz` | 200 while the node serves, else 503; `{"ready", "missing"}` |
//! | `GET /metrics` | the process's metrics in Prometheus' text format |
//! | `GET /v1/status` | a [`ClusterStatus`] |
//! | `POST /v1/init` | founds a cluster with this node |
//! | `POST /v1/nodes/{id}/drain`, `/undrain`, `/remove` | carries it out |
//! | `PUT /v1/weights` | `{"region": weight}`: the regions' shares of coordinators |
//! | `PUT /v1/homes` | `{"prefix": "region"}`: where the coordinators of pinned channels are |
//! | `PUT /v1/settings` | `{"occupancy_interval_ms"?, "copies"?}` |
//!
//! Below `/v1/` operators bring `Authorization: Bearer TOKEN`, see [`Config`]. Errors are
//! `{"error", "remedy"?}`.

mod ports;
mod server;
pub mod status;

#[cfg(test)]
mod tests;

pub use ports::{Health, Operator, OperatorCommand, OperatorError, Readiness};
pub use server::serve;
pub use status::ClusterStatus;

use crate::config::SecretText;

/// Who may operate the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What operators must bring; without one nobody may, save for the next setting.
    pub token: Option<SecretText>,
    /// Whether callers on this machine need no token, if there is none.
    pub open_on_loopback: bool,
    /// Most connections at once; further ones are closed. Default 256.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token: None,
            open_on_loopback: false,
            connections_max: 256,
        }
    }
}
