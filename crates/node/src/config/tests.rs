//! Configuration as people meet it: layers, faults, masks, the reference file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::*;

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    owned.collect()
}

fn try_load(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, ConfigError> {
    let environment = environment(variables);
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    load(Sources {
        base: RawConfig::default(),
        file: Some(("node.toml".to_owned(), file.to_owned())),
        environment: Some(&environment),
        flags: &flags,
    })
}

fn faults(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    let error = try_load(file, variables, flags).unwrap_err();
    error.faults.iter().map(ToString::to_string).collect()
}

const REGION: &str = "[node]\nregion = \"here\"\n";

#[test]
fn each_layer_goes_over_the_one_before() {
    let file = "[node]\nregion = \"a\"\nzone = \"za\"\nname = \"na\"\n";
    let variables = [
        ("HEADCOUNT__NODE__ZONE", "zb"),
        ("HEADCOUNT__NODE__NAME", "nb"),
    ];
    let loaded = try_load(file, &variables, &["node.name=nc"]).unwrap();
    let node = &loaded.config.node;
    assert_eq!(
        (node.region.as_str(), node.zone.as_str(), node.name.as_str()),
        ("a", "zb", "nc")
    );
    assert_eq!(loaded.config.listen.client.port(), 8080, "the default");
}

#[test]
fn text_needs_no_quotes_and_values_of_other_kinds_are_toml() {
    let flags = [
        "node.region=7",
        "node.join=[\"a:1\", \"b:2\"]",
        "gossip.interval=75ms",
        "store.journal_bytes=2GiB",
        "admin.open_on_loopback=true",
        "telemetry.log=info,gossip=debug",
    ];
    let config = try_load("", &[], &flags).unwrap().config;
    assert_eq!(config.node.region.as_str(), "7");
    assert_eq!(config.node.join, ["a:1", "b:2"]);
    assert_eq!(config.gossip.interval, Duration::from_millis(75));
    assert_eq!(config.store.journal_bytes, 2 << 30);
    assert!(config.admin.open_on_loopback);
    assert_eq!(config.telemetry.log, "info,gossip=debug");
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let file = "[nod]\nregion = \"x\"\n[gateway]\nflush = 5\nflush_interval = 5\n\
        [listen]\nclient = \"8080\"\nadmin = \"127.0.0.1:8082\"\n\
        [cluster]\nshards = 0\ntiming = \"slow\"\n\
        [[app]]\nid = \"a b\"\n[[app]]\nkey = []\n\
        [[app]]\nid = \"c\"\n[[app.key]]\nid = \"k\"\nsecret = \"s\"\ncapability = \"{\"\n";
    let variables = [
        ("HEADCOUNT__GATEWAY__EDGES_MAX", "many"),
        ("HEADCOUNT__ADMIN", "x"),
    ];
    let flags = ["region.linger=20m", "api", "gossip.window_batches=0"];
    let told = faults(file, &variables, &flags);
    let expected = [
        "nod.region (node.toml): unknown section; there are node, listen,",
        "gateway.flush (node.toml): unknown key; [gateway] has flush_interval, edge_grace,",
        "gateway.flush_interval (node.toml): expected a duration such as",
        "gateway.edges_max (environment HEADCOUNT__GATEWAY__EDGES_MAX): expected a whole number",
        "admin (environment HEADCOUNT__ADMIN): names no setting",
        "region.linger (--set): must be from \"0s\" to \"10m\", found \"20m\"",
        "api (--set): expected section.key=value",
        "gossip.window_batches (--set): must be from 1 to 1000, found 0",
        "listen.client (node.toml): expected address:port",
        "cluster.shards (node.toml): must be from 1 to 1024, found 0",
        "cluster.timing (node.toml): expected one of local, regional, wan, found \"slow\"",
        "node.region (default): must be set",
        "app (node.toml): the id \"a b\" is not",
        "app 2 (node.toml): missing field `id`",
        "app (node.toml): the capability of the key c.k is invalid",
    ];
    for beginning in expected {
        let found = told.iter().any(|fault| fault.starts_with(beginning));
        assert!(found, "{beginning}\nis not among\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
}

#[test]
fn two_listeners_cannot_share_an_address_unless_the_system_picks() {
    let file = format!("{REGION}[listen]\npeer = \"127.0.0.1:8080\"\n");
    assert_eq!(
        faults(&file, &[], &[]),
        ["listen.peer (node.toml): 127.0.0.1:8080 is taken by listen.client"]
    );
    let free = ["client", "reporter", "peer", "admin"].map(|key| format!("listen.{key}=[::1]:0"));
    let free: Vec<&str> = free.iter().map(String::as_str).collect();
    assert!(try_load(REGION, &[], &free).is_ok());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let contradictions = [
        (
            "gateway.edge_grace=2m",
            vec!["gateway.takeover_timeout", "region.adoption_cap"],
        ),
        ("gateway.client_grace=20s", vec!["region.adoption_cap"]),
        ("placement.lease=1s", vec!["placement.suspect_after"]),
        (
            "store.journal_bytes=2MiB",
            vec!["store.journal_segment_bytes"],
        ),
        ("store.queue_bytes=1MiB", vec!["store.batch_bytes"]),
        (
            "consensus.snapshot_entries=500",
            vec!["consensus.snapshot_entries_kept"],
        ),
        ("feed.ring_events_max=100", vec!["feed.batch_events_max"]),
        (
            "realtime.frame_bytes_max=128KiB",
            vec!["limits.message_bytes_max"],
        ),
        (
            "limits.channel_bytes_per_second=63KiB",
            vec!["limits.channel_bytes_per_second"],
        ),
    ];
    for (flag, keys) in contradictions {
        let error = try_load(REGION, &[], &[flag]).unwrap_err();
        let told: Vec<&str> = error
            .faults
            .iter()
            .map(|fault| fault.key.as_str())
            .collect();
        assert_eq!(told, keys, "{flag}: {error}");
    }
}

#[test]
fn peers_must_be_such_that_they_can_be_dialled() {
    for good in [
        "a:1",
        "node-0.headcount.svc:8082",
        "10.0.0.1:8082",
        "[::1]:8082",
    ] {
        let flag = format!("node.join=[{good:?}]");
        assert!(try_load(REGION, &[], &[&flag]).is_ok(), "{good}");
    }
    for bad in [
        "a",
        "a:0",
        "a:70000",
        ":1",
        "http://a:1",
        "::1:8082",
        "a:1/x",
    ] {
        let flag = format!("node.join=[{bad:?}]");
        assert_eq!(faults(REGION, &[], &[&flag]).len(), 1, "{bad}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let told = faults("[node]\nregion = here\n", &[], &["node.region=x"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("the file (node.toml): ") && told[0].contains("line 2"),
        "{told:?}"
    );
}

#[test]
fn secrets_are_masked_wherever_settings_are_shown() {
    let file = format!(
        "{REGION}[admin]\ntoken = \"a-token-of-some-length\"\n[[app]]\nid = \"shop\"\n\
         [[app.key]]\nid = \"k\"\nsecret = \"a-secret-of-some-length\"\ncapability = '{{\"*\":[\"*\"]}}'\n"
    );
    let loaded = try_load(&file, &[], &[]).unwrap();
    let shown = [
        secrets_masked(&loaded.raw),
        format!("{:?}", loaded.raw),
        format!("{loaded:?}"),
    ];
    for text in shown {
        assert!(!text.contains("of-some-length"), "{text}");
    }
    assert!(secrets_masked(&loaded.raw).contains("token = \"***\""));
    let wrong = faults(
        &format!("{REGION}[admin]\ntoken = \"short-hush\"\n"),
        &[],
        &[],
    );
    assert!(
        wrong[0].starts_with("admin.token (node.toml): must have at least 16"),
        "{wrong:?}"
    );
    assert!(!wrong[0].contains("hush"), "{wrong:?}");
}

#[test]
fn what_is_printed_is_read_back_the_same() {
    let file = format!(
        "{REGION}[[app]]\nid = \"shop\"\nlifecycle.occupancy = true\n[[app.key]]\nid = \"k\"\n\
         secret = \"s\"\ncapability = {{ \"a:*\" = [\"subscribe\"] }}\n"
    );
    let loaded = try_load(&file, &[], &["region.linger=90s"]).unwrap();
    let printed = toml::to_string(&loaded.raw.to_table(Secrets::Shown)).unwrap();
    assert_eq!(try_load(&printed, &[], &[]).unwrap().raw, loaded.raw);
    let app = AppId::new("shop").unwrap();
    assert!(loaded.config.app_settings[&app].lifecycle_occupancy);
    let key = loaded.config.apps.key("shop.k").unwrap();
    assert_eq!(key.capability().to_string(), "{\"a:*\":[\"subscribe\"]}");
}

#[test]
fn an_app_has_limits_of_its_own_over_those_of_all() {
    let file = format!(
        "{REGION}[limits]\nchannel_messages_per_second = 70\n\
         [[app]]\nid = \"usual\"\n[[app]]\nid = \"lively\"\nlimits.message_bytes_max = \"8KiB\"\n\
         limits.app_connections_max = 7\n"
    );
    let loaded = try_load(&file, &[], &[]).unwrap();
    let realtime = &loaded.config.realtime;
    assert_eq!(realtime.limits.channel_messages.per_second, 70);
    assert_eq!(realtime.limits.channel_messages.burst, 280);
    let lively = AppId::new("lively").unwrap();
    let expected = headcount_api::AppLimits {
        connections_max: 7,
        message_bytes_max: 8 << 10,
        ..realtime.limits
    };
    assert_eq!(
        realtime.app_limits,
        BTreeMap::from([(lively, expected)]),
        "who says nothing has what all have"
    );
    let printed = toml::to_string(&loaded.raw.to_table(Secrets::Shown)).unwrap();
    assert_eq!(try_load(&printed, &[], &[]).unwrap().raw, loaded.raw);
}

#[test]
fn wrong_limits_of_an_app_are_told_by_name() {
    let file = format!(
        "{REGION}[[app]]\nid = \"shop\"\nlimits.channel_members_max = 0\n\
         limits.app_messages_per_second = \"many\"\nlimits.message_bytes_max = \"1MiB\"\n\
         limits.messages = 5\n"
    );
    let told = faults(&file, &[], &[]);
    let expected = [
        "app shop: limits.channel_members_max (node.toml): must be from 1 to 1000000, found 0",
        "app shop: limits.app_messages_per_second (node.toml): expected a whole number",
        "app shop: limits.message_bytes_max (node.toml): must not exceed realtime.frame_bytes_max",
        "app shop: limits.messages (node.toml): unknown key; [limits] has app_connections_max,",
    ];
    for beginning in expected {
        let found = told.iter().any(|fault| fault.starts_with(beginning));
        assert!(found, "{beginning}\nis not among\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
}

/// `UPDATE=1` writes the file anew.
#[test]
fn the_reference_file_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/node.toml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, reference(), "run this test with UPDATE=1");

    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table, RawConfig::default().to_table(Secrets::Shown));
    let error = try_load(&text, &[], &[]).unwrap_err();
    assert_eq!(
        error.faults.len(),
        1,
        "only the region must be named: {error}"
    );
    let loaded = try_load(&text, &[], &["node.region=here"]).unwrap();
    let mut expected = RawConfig::default();
    "here".clone_into(&mut expected.node.region);
    assert_eq!(loaded.raw, expected);
}

#[test]
fn the_example_of_an_app_in_the_reference_file_is_good() {
    let reference = reference();
    let (_, example) = reference.split_once("# [[app]]\n").unwrap();
    let lines = example
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(""));
    let settings: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    let file = format!(
        "{REGION}[[app]]\n{}\n",
        settings.join("\n").replace("# ", "")
    );
    let loaded = try_load(&file, &[], &[]).unwrap();
    assert_eq!(loaded.raw.app[0].key.len(), 1);
    assert!(loaded.config.apps.key("shop.backend").is_some());
}

/// Whoever changes a crate's default changes the table, or says here why they differ.
#[test]
fn defaults_are_those_of_the_crates() {
    let config = try_load(REGION, &[], &[]).unwrap().config;
    assert_eq!(config.gateway, headcount_gateway::Config::default());
    assert_eq!(config.region, headcount_region::Config::default());
    assert_eq!(config.gossip, headcount_gossip::Config::default());
    assert_eq!(config.feed, headcount_feed::Config::default());
    assert_eq!(config.lease, headcount_placement::LeaseConfig::default());
    assert_eq!(
        config.traffic,
        headcount_placement::TrafficConfig::default()
    );
    assert_eq!(config.limits, headcount_consensus::Limits::default());
    assert_eq!(
        config.store,
        headcount_consensus::store::StoreConfig::default()
    );
    assert_eq!(
        config.network,
        headcount_rpc::peers::NetworkConfig::default()
    );
    assert_eq!(config.reporter, headcount_rpc::reporter::Config::default());
    assert_eq!(config.watch, headcount_rpc::watch::Config::default());
    assert_eq!(config.api, headcount_api::Config::default());
    assert_eq!(config.realtime, headcount_api::RealtimeConfig::default());
    assert_eq!(config.settings, Settings::default());
}

#[test]
fn every_key_and_section_is_explained() {
    for section in section_docs() {
        assert!(!section.about.is_empty(), "[{}]", section.section);
        for key in &section.keys {
            let place = format!("{}.{}", section.section, key.key);
            assert!(
                key.about.len() > 20 && key.about.ends_with('.'),
                "{place}: {}",
                key.about
            );
        }
    }
}

#[test]
fn dev_has_the_ports_and_keys_of_the_design() {
    for (index, port) in [8080, 8090, 8100].into_iter().enumerate() {
        let config = Config::dev(index, Path::new("/tmp/x"));
        assert_eq!(config.node.region.as_str(), DEV_REGIONS[index]);
        let listen = &config.listen;
        let ports = [listen.client, listen.reporter, listen.peer, listen.admin].map(|a| a.port());
        assert_eq!(ports, [port, port + 1, port + 2, port + 3]);
        assert!(listen.client.ip().is_loopback() && config.admin.open_on_loopback);
        assert_eq!(config.cluster.shards, 16);
        for name in ["dev.root", "dev.nometa", "dev.meta"] {
            assert!(config.apps.key(name).is_some(), "{name}");
        }
        assert!(config.warnings().is_empty());
    }
    let joins = [0, 1, 2].map(|index| Config::dev(index, Path::new("/tmp/x")).node.join);
    assert_eq!(joins[0], [""; 0]);
    assert_eq!(joins[1], ["127.0.0.1:8082"]);
    assert_eq!(joins[1], joins[2]);
}

#[test]
fn the_fingerprint_is_fixed_for_ever_and_sees_each_setting() {
    let cluster = |name: &str, shards, timing| ClusterConfig {
        name: name.into(),
        shards,
        pins: Vec::new(),
        timing,
    };
    let one = cluster("a", 64, TimingProfile::Wan).fingerprint();
    assert_eq!(one.to_string(), "39b9d8d6952be68d");
    for other in [
        cluster("b", 64, TimingProfile::Wan),
        cluster("a", 65, TimingProfile::Wan),
        cluster("a", 64, TimingProfile::Local),
    ] {
        assert_ne!(one, other.fingerprint(), "{other:?}");
    }
    let pinned = |prefix: &str, home: &str, shards| ClusterConfig {
        pins: vec![Pin {
            prefix: prefix.to_owned(),
            home: RegionName::new(home).unwrap(),
            shards,
        }],
        ..cluster("a", 64, TimingProfile::Wan)
    };
    let two = pinned("eu:", "eu", 4).fingerprint();
    assert_eq!(
        two,
        pinned("eu:", "us", 4).fingerprint(),
        "homes may change"
    );
    for other in [
        one,
        pinned("ap:", "eu", 4).fingerprint(),
        pinned("eu:", "eu", 5).fingerprint(),
    ] {
        assert_ne!(two, other);
    }
}

#[test]
fn pins_are_written_in_three_ways_and_checked() {
    let short = "[node]\nregion = \"a\"\n[[placement]]\nprefix = \"eu:\"\nhome = \"eu-west-1\"\n";
    let long = "[node]\nregion = \"a\"\n[placement]\ncopies = 1\n[[placement.pins]]\n\
                prefix = \"eu:\"\nhome = \"eu-west-1\"\nshards = 4\n";
    let flag = "placement.pins=[{ prefix = \"eu:\", home = \"eu-west-1\" }]";
    let pins = |loaded: Loaded| loaded.config.cluster.pins;
    let one = pins(try_load(short, &[], &[]).unwrap());
    assert_eq!(one[0].prefix, "eu:");
    assert_eq!((one[0].home.as_str(), one[0].shards), ("eu-west-1", 4));
    assert_eq!(pins(try_load(long, &[], &[]).unwrap()), one);
    let by_flag = try_load(REGION, &[], &[flag]).unwrap();
    assert_eq!(by_flag.config.cluster.shard_map().count(), 68);
    // What is printed is read back.
    let table = by_flag.raw.to_table(Secrets::Shown).to_string();
    assert_eq!(pins(try_load(&table, &[], &[]).unwrap()), one);

    for (pins, wrong) in [
        ("[{ prefix = \"\", home = \"eu\" }]", "must have 1 to"),
        (
            "[{ prefix = \"[meta]\", home = \"eu\" }]",
            "no channels to pin",
        ),
        ("[{ prefix = \"a\", home = \"e u\" }]", "home: "),
        (
            "[{ prefix = \"a\", home = \"eu\", shards = 0 }]",
            "shards must be",
        ),
        (
            "[{ prefix = \"a\", home = \"eu\", shards = 1000 }]",
            "1064 shards",
        ),
        (
            "[{ prefix = \"a\", home = \"eu\" }, { prefix = \"a\", home = \"us\" }]",
            "pinned twice",
        ),
        ("[{ prefix = \"a\" }]", "expected a list of pins"),
        ("3", "expected a list of pins"),
    ] {
        let told = faults(REGION, &[], &[&format!("placement.pins={pins}")]);
        let named = told.len() == 1 && told[0].starts_with("placement.pins");
        assert!(named && told[0].contains(wrong), "{pins}: {told:?}");
    }
}

#[test]
fn a_cluster_does_not_divide_its_channels_anew() {
    let flag = "placement.pins=[{ prefix = \"eu:\", home = \"eu\" }]";
    let born = try_load(REGION, &[], &[flag]).unwrap().config.cluster;
    let facts = ClusterFacts {
        id: headcount_model::control::ClusterId(1),
        name: born.name.clone(),
        shards: born.shard_map().count(),
        pins: born.pins.clone(),
        timing: born.timing,
        era: headcount_model::Era(0),
        format: 1,
        fingerprint: born.fingerprint(),
    };
    assert_eq!(facts.shard_map(), born.shard_map());
    assert!(born.check_settled(&facts).is_ok());
    let moved = "placement.pins=[{ prefix = \"eu:\", home = \"us\" }]";
    let moved = try_load(REGION, &[], &[moved]).unwrap().config.cluster;
    assert!(moved.check_settled(&facts).is_ok(), "homes may differ");
    for (flags, key) in [
        (
            vec![],
            "placement.pins: the cluster was founded with \"eu:\" in 4 shards",
        ),
        (
            vec![flag, "cluster.shards=65"],
            "cluster.shards: the cluster was founded with 64",
        ),
    ] {
        let other = try_load(REGION, &[], &flags).unwrap().config.cluster;
        let told = other.check_settled(&facts).unwrap_err().to_string();
        assert!(told.starts_with(key), "{told}");
    }
}

#[test]
fn others_are_told_an_address_that_they_can_dial() {
    let told = |host: &str, bound: &str| {
        let flag = format!("node.advertise_host={host}");
        let node = try_load(REGION, &[], &[&flag]).unwrap().config.node;
        node.advertised(bound.parse::<SocketAddr>().unwrap(), "machine")
    };
    assert_eq!(told("", "127.0.0.1:8082"), "127.0.0.1:8082");
    assert_eq!(told("", "[::1]:8082"), "[::1]:8082");
    assert_eq!(told("", "0.0.0.0:8082"), "machine:8082");
    assert_eq!(
        told("node-1.example.org", "0.0.0.0:8082"),
        "node-1.example.org:8082"
    );
    assert_eq!(told("fd00::1", "[::]:8082"), "[fd00::1]:8082");
    assert_eq!(
        faults(REGION, &[], &["node.advertise_host=a:8082"]).len(),
        1
    );
}

#[test]
fn operators_are_warned_of_what_is_no_fault() {
    let warnings = try_load(REGION, &[], &[]).unwrap().config.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn a_lease_that_a_dead_connection_outlasts_is_warned_of() {
    let warned = |lease: &str| {
        let flags = [format!("placement.lease={lease}")];
        let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
        let warnings = try_load(REGION, &[], &flags).unwrap().config.warnings();
        let of_lease = |warning: &&String| warning.starts_with("placement.lease: ");
        warnings.iter().filter(of_lease).count()
    };
    assert_eq!((warned("3500ms"), warned("3400ms")), (0, 1));
}
