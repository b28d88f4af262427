//! From what was written to what the stages take: what can only be judged by looking at several
//! settings, or by making something of one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use headcount_model::control::{PINS_MAX, Pin, Settings, TEXT_BYTES_MAX, TimingProfile};
use headcount_model::{AppId, NodeId, Rate, RegionName, ReportLimits, SHARDS_MAX};
use tracing_subscriber::EnvFilter;

use super::fault::{Fault, Origin};
use super::layers::Layers;
use super::raw::RawConfig;
use super::value::RawPin;
use super::{AppConfig, ClusterConfig, Config, ListenConfig, NodeConfig, TelemetryConfig, apps};
use crate::telemetry::LogFormat;

/// Shortest token that is accepted, in characters: below it, guessing is worth a try.
const TOKEN_CHARS_MIN: usize = 16;

/// The check of one configuration.
pub(super) struct Check<'a> {
    layers: &'a Layers,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Check<'a> {
    pub(super) fn new(layers: &'a Layers, faults: &'a mut Vec<Fault>) -> Self {
        Self { layers, faults }
    }

    /// Makes the configuration; `None` if something is missing that nothing can stand for. What is
    /// wrong is added to the faults.
    pub(super) fn run(mut self, raw: &RawConfig, apps_origin: &Origin) -> Option<Config> {
        let node = self.node(raw);
        let listen = self.listen(raw);
        let pins = self.pins(raw);
        let cluster = self.cluster(raw, pins);
        self.relations(raw);
        let admin = self.admin(raw);
        let telemetry = self.telemetry(raw);
        let apps = apps::check(raw, apps_origin, self.faults);
        let (node, listen, cluster, telemetry) = (node?, listen?, cluster?, telemetry?);
        let (apps, app_settings) = apps?;
        Some(Config {
            settings: Settings {
                occupancy_interval: raw.coordinator.occupancy_interval,
                copies: raw.placement.copies,
                ..Settings::default()
            },
            lease: lease(raw),
            traffic: traffic(raw),
            gateway: gateway(raw),
            region: region(raw),
            gossip: gossip(raw),
            feed: feed(raw),
            timing: timing(cluster.timing),
            limits: limits(raw),
            store: store(raw),
            network: network(raw),
            peer_connections_max: raw.network.connections_max,
            reporter_connections_max: raw.reporter.connections_max,
            reporter: reporter(raw),
            watch: headcount_rpc::watch::Config {
                watchers_max: raw.feed.watchers_max,
            },
            api: api(raw),
            realtime: realtime(raw, &app_settings),
            node,
            listen,
            cluster,
            admin,
            telemetry,
            apps: Arc::new(apps),
            app_settings,
        })
    }

    /// Adds a fault, unless the setting has one already, of which this would be an echo.
    fn fault(&mut self, section: &str, key: &str, what: impl Into<String>) {
        let origin = self.layers.origin(section, key);
        let key = format!("{section}.{key}");
        if !self.faults.iter().any(|fault| fault.key == key) {
            self.faults.push(Fault {
                key,
                origin,
                what: what.into(),
            });
        }
    }

    fn node(&mut self, raw: &RawConfig) -> Option<NodeConfig> {
        let raw = &raw.node;
        let region = if raw.region.is_empty() {
            self.fault(
                "node",
                "region",
                "must be set: the name of the node's region",
            );
            None
        } else {
            let region = RegionName::new(&raw.region);
            region
                .map_err(|error| self.fault("node", "region", error.to_string()))
                .ok()
        };
        if raw.zone.len() > TEXT_BYTES_MAX {
            self.fault(
                "node",
                "zone",
                format!("is longer than {TEXT_BYTES_MAX} bytes"),
            );
        }
        if raw.data_dir.is_empty() {
            self.fault("node", "data_dir", "must not be empty");
        }
        let host = raw.advertise_host.as_str();
        if host.contains(['/', ' ']) || host.len() > 200 {
            self.fault(
                "node",
                "advertise_host",
                "expected a host name or an address, no port",
            );
        } else if host.rsplit_once(':').is_some() && host.parse::<std::net::Ipv6Addr>().is_err() {
            let what = "expected a host without port: ports are those listened on";
            self.fault("node", "advertise_host", what);
        }
        for peer in &raw.join {
            if !is_host_and_port(peer) {
                let what = format!("expected peers such as \"host:8082\", found {peer:?}");
                self.fault("node", "join", what);
            }
        }
        Some(NodeConfig {
            region: region?,
            zone: raw.zone.clone(),
            name: raw.name.clone(),
            data_dir: PathBuf::from(&raw.data_dir),
            advertise_host: Some(raw.advertise_host.clone()).filter(|host| !host.is_empty()),
            join: raw.join.clone(),
            replaces: (raw.replaces > 0).then_some(NodeId(raw.replaces)),
        })
    }

    fn listen(&mut self, raw: &RawConfig) -> Option<ListenConfig> {
        let raw = &raw.listen;
        let client = self.address("client", &raw.client);
        let reporter = self.address("reporter", &raw.reporter);
        let peer = self.address("peer", &raw.peer);
        let admin = self.address("admin", &raw.admin);
        let listen = ListenConfig {
            client: client?,
            reporter: reporter?,
            peer: peer?,
            admin: admin?,
        };
        let all = [
            ("client", listen.client),
            ("reporter", listen.reporter),
            ("peer", listen.peer),
            ("admin", listen.admin),
        ];
        for (index, (key, address)) in all.iter().enumerate() {
            let taken = all[..index].iter().find(|(_, other)| other == address);
            if let Some((other, _)) = taken.filter(|_| address.port() != 0) {
                self.fault(
                    "listen",
                    key,
                    format!("{address} is taken by listen.{other}"),
                );
            }
        }
        Some(listen)
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = SocketAddr::from_str(text).ok();
        if parsed.is_none() {
            let what = format!("expected address:port such as \"0.0.0.0:8080\", found {text:?}");
            self.fault("listen", key, what);
        }
        parsed
    }

    fn pins(&mut self, raw: &RawConfig) -> Vec<Pin> {
        let mut pins = Vec::new();
        let mut wrong = |what: String| self.fault("placement", "pins", what);
        for RawPin {
            prefix,
            home,
            shards,
        } in &raw.placement.pins.0
        {
            if prefix.is_empty() || prefix.len() > TEXT_BYTES_MAX {
                wrong(format!(
                    "{prefix:?}: a prefix must have 1 to {TEXT_BYTES_MAX} bytes"
                ));
            }
            if prefix.starts_with('[') {
                wrong(format!(
                    "{prefix:?}: names that begin with [ are no channels to pin"
                ));
            }
            if !(1..=SHARDS_MAX).contains(shards) {
                wrong(format!(
                    "{prefix:?}: shards must be from 1 to {SHARDS_MAX}, not {shards}"
                ));
            }
            match RegionName::new(home) {
                Ok(home) => pins.push(Pin {
                    prefix: prefix.clone(),
                    home,
                    shards: *shards,
                }),
                Err(error) => wrong(format!("{prefix:?}: home: {error}")),
            }
        }
        pins.sort();
        if let Some(pair) = pins
            .windows(2)
            .find(|pair| pair[0].prefix == pair[1].prefix)
        {
            wrong(format!("{:?} is pinned twice", pair[0].prefix));
        }
        if pins.len() > PINS_MAX {
            wrong(format!(
                "there are {}, at most {PINS_MAX} are allowed",
                pins.len()
            ));
        }
        let pinned = pins.iter().map(|pin| u64::from(pin.shards));
        let all = u64::from(raw.cluster.shards) + pinned.sum::<u64>();
        if all > u64::from(SHARDS_MAX) {
            wrong(format!(
                "with cluster.shards there are {all} shards, at most {SHARDS_MAX} may be"
            ));
        }
        pins
    }

    fn cluster(&mut self, raw: &RawConfig, pins: Vec<Pin>) -> Option<ClusterConfig> {
        let raw = &raw.cluster;
        if raw.name.is_empty() || raw.name.len() > TEXT_BYTES_MAX {
            self.fault(
                "cluster",
                "name",
                format!("must have 1 to {TEXT_BYTES_MAX} bytes"),
            );
        } else if raw.name.chars().any(char::is_control) {
            self.fault("cluster", "name", "must not hold control characters");
        }
        let timing = TimingProfile::from_name(&raw.timing);
        if timing.is_none() {
            let names = TimingProfile::ALL.map(TimingProfile::as_str).join(", ");
            let what = format!("expected one of {names}, found {:?}", raw.timing);
            self.fault("cluster", "timing", what);
        }
        Some(ClusterConfig {
            name: raw.name.clone(),
            shards: raw.shards,
            pins,
            timing: timing?,
        })
    }

    /// What no setting alone can break.
    fn relations(&mut self, raw: &RawConfig) {
        let gateway = &raw.gateway;
        if gateway.takeover_timeout < gateway.edge_grace {
            let what = "must be at least gateway.edge_grace, else a broken session ends early";
            self.fault("gateway", "takeover_timeout", what);
        }
        if raw.region.adoption_cap <= gateway.edge_grace.max(gateway.client_grace) {
            let what = "must exceed gateway.edge_grace and gateway.client_grace, else a restart \
                        makes channels flap";
            self.fault("region", "adoption_cap", what);
        }
        if raw.placement.suspect_after >= raw.placement.lease {
            let what = "must be below placement.lease: a suspect's lease still runs";
            self.fault("placement", "suspect_after", what);
        }
        if raw.consensus.snapshot_entries_kept > raw.consensus.snapshot_entries {
            let what = "must not exceed consensus.snapshot_entries";
            self.fault("consensus", "snapshot_entries_kept", what);
        }
        for (key, what) in apps::contradictions(&raw.limits, raw.realtime.frame_bytes_max) {
            self.fault("limits", key, what);
        }
        let store = &raw.store;
        if store.batch_bytes > store.queue_bytes {
            self.fault("store", "batch_bytes", "must not exceed store.queue_bytes");
        }
        if store.journal_segment_bytes.0 > store.journal_bytes.0 {
            self.fault(
                "store",
                "journal_segment_bytes",
                "must not exceed store.journal_bytes",
            );
        }
        if store.journal_block_bytes.0 > store.journal_segment_bytes.0 {
            let what = "must not exceed store.journal_segment_bytes";
            self.fault("store", "journal_block_bytes", what);
        }
        if raw.feed.batch_events_max as u64 > raw.feed.ring_events_max {
            self.fault(
                "feed",
                "batch_events_max",
                "must not exceed feed.ring_events_max",
            );
        }
    }

    fn admin(&mut self, raw: &RawConfig) -> crate::admin::Config {
        let token = raw.admin.token.clone();
        if token
            .expose()
            .is_some_and(|token| token.chars().count() < TOKEN_CHARS_MIN)
        {
            let what = format!("must have at least {TOKEN_CHARS_MIN} characters, or be empty");
            self.fault("admin", "token", what);
        }
        if token
            .expose()
            .is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            self.fault("admin", "token", "must be printable ASCII without blanks");
        }
        crate::admin::Config {
            token: token.expose().is_some().then_some(token),
            open_on_loopback: raw.admin.open_on_loopback,
            connections_max: raw.admin.connections_max,
        }
    }

    fn telemetry(&mut self, raw: &RawConfig) -> Option<TelemetryConfig> {
        let raw = &raw.telemetry;
        if let Err(error) = EnvFilter::try_new(&raw.log) {
            let what = format!("{error}; write levels by stage, such as \"info,gossip=debug\"");
            self.fault("telemetry", "log", what);
        }
        let log_format = match raw.log_format.as_str() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            other => {
                let what = format!("expected text or json, found {other:?}");
                self.fault("telemetry", "log_format", what);
                None
            }
        };
        Some(TelemetryConfig {
            log: raw.log.clone(),
            log_format: log_format?,
        })
    }
}

/// Whether `text` can be dialled: a host and a port that is not 0.
fn is_host_and_port(text: &str) -> bool {
    let parts = text
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    let Some((host, Ok(port))) = parts else {
        return false;
    };
    let plain = !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']);
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    port != 0 && plain && !bare_v6
}

fn timing(profile: TimingProfile) -> headcount_consensus::Timing {
    match profile {
        TimingProfile::Local => headcount_consensus::Timing::LOCAL,
        TimingProfile::Regional => headcount_consensus::Timing::REGIONAL,
        TimingProfile::Wan => headcount_consensus::Timing::WAN,
    }
}

fn lease(raw: &RawConfig) -> headcount_placement::LeaseConfig {
    headcount_placement::LeaseConfig {
        duration: raw.placement.lease,
        suspect_after: raw.placement.suspect_after,
        patience: raw.placement.replace_after,
    }
}

fn traffic(raw: &RawConfig) -> headcount_placement::TrafficConfig {
    headcount_placement::TrafficConfig {
        follow: raw.placement.follow_traffic,
        factor: raw.placement.traffic_factor,
        steady: raw.placement.traffic_steady,
        share_max: raw.placement.traffic_share_max,
    }
}

fn gateway(raw: &RawConfig) -> headcount_gateway::Config {
    let settings = &raw.gateway;
    headcount_gateway::Config {
        shards: raw.cluster.shards.into(),
        flush_interval: settings.flush_interval,
        grace: settings.edge_grace,
        takeover: settings.takeover_timeout,
        recovery: settings.edge_grace.max(settings.client_grace),
        edge_memory: settings.edge_memory,
        ack_timeout: settings.ack_timeout,
        update_items_max: settings.update_items_max,
        window_updates: settings.window_updates,
        window_batches: raw.reporter.window_batches as usize,
        edges_max: settings.edges_max,
        entries_max: settings.entries_max,
        activity_max: settings.activity_max,
        // Drawn by the node when it starts: a seed that is written down is no secret.
        hash_seed: 0,
    }
}

fn region(raw: &RawConfig) -> headcount_region::Config {
    headcount_region::Config {
        linger: raw.region.linger,
        adoption_cap: raw.region.adoption_cap,
        hash_seed: 0,
    }
}

fn gossip(raw: &RawConfig) -> headcount_gossip::Config {
    headcount_gossip::Config {
        interval: raw.gossip.interval,
        items_max: raw.gossip.batch_items_max,
        window: raw.gossip.window_batches,
        resend_after: raw.gossip.resend_after,
        pending_max: raw.gossip.transitions_max,
    }
}

fn feed(raw: &RawConfig) -> headcount_feed::Config {
    headcount_feed::Config {
        ring_events_max: raw.feed.ring_events_max,
        rollup_lag_events: raw.feed.rollup_lag_events,
        batch_events_max: raw.feed.batch_events_max,
        early_waiting_max: raw.feed.early_waiting_max,
        early_channels_max: raw.feed.early_channels_max,
        early_kept_max: raw.feed.early_kept_max,
    }
}

fn limits(raw: &RawConfig) -> headcount_consensus::Limits {
    headcount_consensus::Limits {
        proposals_in_flight: raw.consensus.proposals_in_flight_max,
        propose_timeout: raw.consensus.propose_timeout,
        snapshot_entries: raw.consensus.snapshot_entries,
        snapshot_bytes: raw.consensus.snapshot_bytes.0,
        snapshot_entries_kept: raw.consensus.snapshot_entries_kept,
        snapshot_sends: raw.consensus.snapshot_sends_max,
        snapshot_timeout: raw.consensus.snapshot_timeout,
        ..headcount_consensus::Limits::default()
    }
}

fn store(raw: &RawConfig) -> headcount_consensus::store::StoreConfig {
    headcount_consensus::store::StoreConfig {
        segment_bytes: raw.store.segment_bytes.0,
        queue_bytes: raw.store.queue_bytes.as_usize(),
        batch_bytes: raw.store.batch_bytes.as_usize(),
        floor_interval: raw.store.floor_interval,
        journal_retention: raw.store.journal_retention,
        journal_bytes: raw.store.journal_bytes.0,
        journal_segment_bytes: raw.store.journal_segment_bytes.0,
        journal_block_bytes: raw.store.journal_block_bytes.as_usize(),
    }
}

fn network(raw: &RawConfig) -> headcount_rpc::peers::NetworkConfig {
    headcount_rpc::peers::NetworkConfig {
        envelopes_max: raw.network.envelopes_max,
        parcels_max: raw.network.parcels_max,
        relay_max: raw.network.relay_max,
        relay_bytes_max: raw.network.relay_bytes_max.as_usize(),
        batch_max: raw.network.batch_items_max,
        connect_timeout: raw.network.connect_timeout,
        keep_alive: (
            raw.network.keep_alive_interval,
            raw.network.keep_alive_timeout,
        ),
    }
}

fn reporter(raw: &RawConfig) -> headcount_rpc::reporter::Config {
    headcount_rpc::reporter::Config {
        limits: ReportLimits {
            window_batches: raw.reporter.window_batches,
            batch_items_max: raw.reporter.batch_items_max,
            batch_bytes_max: u32::try_from(raw.reporter.batch_bytes_max.0).unwrap_or(u32::MAX),
            grace: raw.gateway.edge_grace,
        },
        hello_timeout: raw.reporter.hello_timeout,
        stall_timeout: raw.reporter.stall_timeout,
        streams_max: raw.reporter.streams_max,
        keep_alive_interval: raw.reporter.keep_alive_interval,
        keep_alive_timeout: raw.reporter.keep_alive_timeout,
    }
}

fn api(raw: &RawConfig) -> headcount_api::Config {
    headcount_api::Config {
        basic_over_plain_http: raw.api.basic_over_plain_http,
        connections_max: raw.api.connections_max,
        header_timeout: raw.api.header_timeout,
        body_timeout: raw.api.body_timeout,
        write_timeout: raw.api.write_timeout,
        idle_timeout: raw.api.idle_timeout,
        header_bytes_max: raw.api.header_bytes_max.as_usize(),
        target_bytes_max: raw.api.target_bytes_max.as_usize(),
        body_bytes_max: raw.api.body_bytes_max.as_usize(),
        read_timeout: raw.api.read_timeout,
        nonces_max: raw.api.nonces_max,
        event_streams_max: raw.api.event_streams_max,
        heartbeat_interval: raw.api.heartbeat_interval,
        drain_timeout: raw.api.drain_timeout,
    }
}

fn realtime(raw: &RawConfig, apps: &BTreeMap<AppId, AppConfig>) -> headcount_api::RealtimeConfig {
    let limits = apps::app_limits(&raw.limits);
    let own = |(app, settings): (&AppId, &AppConfig)| Some((app.clone(), settings.limits?));
    let (grace, raw) = (raw.gateway.client_grace, &raw.realtime);
    headcount_api::RealtimeConfig {
        connections_max: raw.connections_max,
        connect_rate: Rate::over(2, raw.connects_per_second),
        limits,
        app_limits: apps.iter().filter_map(own).collect(),
        frame_rate: Rate::over(2, raw.frames_per_second),
        frame_bytes_max: raw.frame_bytes_max.as_usize(),
        grace,
        resume_window: raw.resume_window,
        handovers_max: raw.handovers_max,
        heartbeat_interval: raw.heartbeat_interval,
        memory: raw.memory,
        memory_messages_max: raw.memory_messages_max,
        memory_bytes_max: raw.memory_bytes_max.as_usize(),
        memory_total_max: raw.memory_total_max.as_usize(),
        outbound_max: raw.outbound_max,
        outbound_bytes_max: raw.outbound_bytes_max.as_usize(),
    }
}
