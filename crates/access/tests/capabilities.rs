//! Capabilities: matching, covering, intersecting, printing.

use headcount_access::{
    CAPABILITY_BYTES_MAX, Capability, CapabilityError, NameFault, Operation, Operations,
    RESOURCES_MAX,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::BTreeMap;

fn capability(text: &str) -> Capability {
    Capability::parse(text).unwrap()
}

fn intersected(one: &str, two: &str) -> String {
    capability(one)
        .intersection(&capability(two))
        .unwrap()
        .to_string()
}

fn matches(pattern: &str, resource: &str) -> bool {
    let text = serde_json::json!({ pattern: ["subscribe"] }).to_string();
    capability(&text).permits(Operation::Subscribe, resource)
}

#[test]
fn resources_match_by_whole_segments() {
    let table = [
        (
            "*",
            &["a", "a:b", "a:b:c", "*", "foo::$chat"][..],
            &["[meta]log", "[queue]a"][..],
        ),
        (
            "[meta]*",
            &["[meta]log", "[meta]channel.lifecycle", "[meta]a:b"],
            &["log", "[queue]log"],
        ),
        ("[queue]*", &["[queue]a"], &["a", "[meta]a"]),
        ("[*]*", &["a", "a:b", "[meta]log", "[queue]a"], &[]),
        ("[*]log", &["log", "[meta]log"], &["[meta]logs", "a"]),
        ("[meta]log", &["[meta]log"], &["log", "[meta]log:push"]),
        (
            "foo",
            &["foo"],
            &["foo:a", "fo", "Foo", "foobar", "f\u{43e}o"],
        ),
        (
            "foo:*",
            &["foo", "foo:a", "foo:a:b", "foo:"],
            &["foobar", "fo", "a:foo"],
        ),
        ("foo*", &["foo*"], &["foo", "foobar", "foo:a"]),
        (
            "foo:*:baz",
            &["foo:bar:baz", "foo::baz"],
            &["foo:baz", "foo:a:b:baz", "foo:bar"],
        ),
        ("*:baz", &["a:baz", ":baz"], &["baz", "a:b:baz"]),
        ("foo:*:*", &["foo:a", "foo:a:b", "foo:a:b:c"], &["foo"]),
        ("foo:", &["foo:"], &["foo", "foo:a"]),
        (
            "[?rewind=1]foo",
            &["foo", "[?occupancy=metrics]foo"],
            &["[meta]foo"],
        ),
        (
            "[meta?rewind=1]log",
            &["[meta]log", "[meta?rewind=5]log"],
            &["log"],
        ),
    ];
    for (pattern, permitted, denied) in table {
        for resource in permitted {
            assert!(
                matches(pattern, resource),
                "{pattern} must match {resource}"
            );
        }
        for resource in denied {
            assert!(
                !matches(pattern, resource),
                "{pattern} must not match {resource}"
            );
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_permitted() {
    let everything = Capability::everything();
    for resource in [
        "",
        "[",
        "[]a",
        "[meta",
        "[meta]",
        "[m ta]log",
        "[?rewind=1][meta]log",
        "[[a]",
    ] {
        assert_eq!(
            everything.operations_on(resource),
            Operations::NONE,
            "{resource}"
        );
    }
}

#[test]
fn a_plain_star_grants_nothing_on_metachannels_in_any_disguise() {
    let plain = capability(r#"{"*":["*"]}"#);
    for resource in [
        "[meta]log",
        "[meta?rewind=1]log",
        "[?rewind=1][meta]log",
        "[?][meta]log",
    ] {
        assert!(!plain.permits(Operation::Subscribe, resource), "{resource}");
    }
}

#[test]
fn metachannels_are_never_written() {
    for text in [
        r#"{"[*]*":["*"]}"#,
        r#"{"[meta]*":["publish","presence","history"]}"#,
    ] {
        let capability = capability(text);
        for operation in [
            Operation::Publish,
            Operation::Presence,
            Operation::OccupancyReport,
        ] {
            assert!(
                !capability.permits(operation, "[meta]channel.lifecycle"),
                "{operation}"
            );
        }
        assert!(capability.permits(Operation::History, "[meta]channel.lifecycle"));
    }
}

#[test]
fn a_star_among_operations_holds_the_projects_own() {
    assert!(capability(r#"{"*":["*"]}"#).permits(Operation::OccupancyReport, "room"));
    assert!(
        capability(r#"{"*":["occupancy-report"]}"#).permits(Operation::OccupancyReport, "room")
    );
}

#[test]
fn malformed_capabilities_are_refused_by_name() {
    use CapabilityError as E;
    let resource = |text: &str| text.to_owned();
    let table = [
        ("", E::NotAnObjectOfLists),
        ("[]", E::NotAnObjectOfLists),
        ("null", E::NotAnObjectOfLists),
        (r#""{}""#, E::NotAnObjectOfLists),
        (r#"{"a":"subscribe"}"#, E::NotAnObjectOfLists),
        (r#"{"a":[1]}"#, E::NotAnObjectOfLists),
        (
            r#"{"a":[]}"#,
            E::NoOperations {
                resource: resource("a"),
            },
        ),
        (
            r#"{"a":["*","publish"]}"#,
            E::WildcardNotAlone {
                resource: resource("a"),
            },
        ),
        (
            r#"{"a":["publish","*"]}"#,
            E::WildcardNotAlone {
                resource: resource("a"),
            },
        ),
        (
            r#"{"a":["publish_"]}"#,
            E::UnknownOperation {
                resource: resource("a"),
                operation: resource("publish_"),
            },
        ),
        (
            r#"{"a":["Publish"]}"#,
            E::UnknownOperation {
                resource: resource("a"),
                operation: resource("Publish"),
            },
        ),
        (
            r#"{"":["*"]}"#,
            E::MalformedResource {
                resource: resource(""),
                fault: NameFault::Empty,
            },
        ),
        (
            r#"{"[meta":["*"]}"#,
            E::MalformedResource {
                resource: resource("[meta"),
                fault: NameFault::UnclosedQualifier,
            },
        ),
        (
            r#"{"[*][meta]log":["*"]}"#,
            E::MalformedResource {
                resource: resource("[*][meta]log"),
                fault: NameFault::SecondQualifier,
            },
        ),
    ];
    for (text, fault) in table {
        assert_eq!(Capability::parse(text), Err(fault), "{text}");
    }
}

#[test]
fn the_canonical_text_is_sorted_and_without_params() {
    let text = r#"{"z":["subscribe","publish","history"], "[?rewind=1]a":["publish"],
        "a":["subscribe"], "[meta]log":["*"]}"#;
    assert_eq!(
        capability(text).to_string(),
        r#"{"[meta]log":["*"],"a":["publish","subscribe"],"z":["history","publish","subscribe"]}"#
    );
}

#[test]
fn a_list_of_all_operations_is_not_the_star() {
    let names: Vec<_> = Operation::ALL
        .iter()
        .map(|operation| operation.name())
        .collect();
    let text = serde_json::json!({ "a": names }).to_string();
    assert_ne!(capability(&text).to_string(), r#"{"a":["*"]}"#);
    assert_eq!(
        capability(&capability(&text).to_string()),
        capability(&text)
    );
}

/// The expectations are those of Ably's own client tests.
#[test]
fn intersections_are_those_that_official_clients_expect() {
    let three = r#"{"channel2":["publish","subscribe"],"channel6":["*"]}"#;
    let namespaces = concat!(
        r#"{"cansubscribe:*":["subscribe"],"canpublish:*":["publish"],"#,
        r#""canpublish:andpresence":["presence","publish"]}"#
    );
    let table = [
        (namespaces, namespaces, namespaces),
        (namespaces, r#"{"canpublish:test":["subscribe"]}"#, "{}"),
        (three, r#"{"channelx":["publish"]}"#, "{}"),
        (
            three,
            r#"{"channel2":["presence","subscribe"],"channelx":["subscribe"]}"#,
            r#"{"channel2":["subscribe"]}"#,
        ),
        (
            three,
            r#"{"channel2":["*"]}"#,
            r#"{"channel2":["publish","subscribe"]}"#,
        ),
        (
            three,
            r#"{"channel6":["publish","subscribe"]}"#,
            r#"{"channel6":["publish","subscribe"]}"#,
        ),
        (
            r#"{"*":["subscribe"]}"#,
            r#"{"a":["subscribe"]}"#,
            r#"{"a":["subscribe"]}"#,
        ),
        (
            r#"{"*":["subscribe"]}"#,
            r#"{"a:*":["subscribe"]}"#,
            r#"{"a:*":["subscribe"]}"#,
        ),
        (
            namespaces,
            r#"{"canpublish:check":["publish"]}"#,
            r#"{"canpublish:check":["publish"]}"#,
        ),
    ];
    for (key, requested, expected) in table {
        assert_eq!(
            capability(&intersected(key, requested)),
            capability(expected)
        );
    }
}

#[test]
fn patterns_intersect_to_what_both_match() {
    let table = [
        ("a:*", "a", Some("a")),
        ("a:*", "*:b", Some("a:b")),
        ("a:*:c", "*:b:*", Some("a:b:c")),
        ("a:*:*", "a:*", Some("a:*:*")),
        ("a:*:*", "a", None),
        ("[*]*", "[meta]*", Some("[meta]*")),
        ("[*]a:*", "[meta]*:b", Some("[meta]a:b")),
        ("[*]*", "a:*", Some("a:*")),
        ("[meta]*", "*", None),
        ("[meta]*", "[queue]*", None),
        ("a", "b", None),
    ];
    for (one, two, expected) in table {
        let text = |pattern: &str| serde_json::json!({ pattern: ["subscribe"] }).to_string();
        let expected = expected.map_or("{}".to_owned(), text);
        assert_eq!(
            intersected(&text(one), &text(two)),
            expected,
            "{one} and {two}"
        );
        assert_eq!(
            intersected(&text(two), &text(one)),
            expected,
            "{two} and {one}"
        );
    }
}

#[test]
fn enumeration_needs_a_resource_that_covers_the_prefix() {
    let covers = |pattern: &str, prefix: &str| {
        let text = serde_json::json!({ pattern: ["channel-metadata"] }).to_string();
        capability(&text).permits_prefix(Operation::ChannelMetadata, prefix)
    };
    let table = [
        (
            "*",
            &["", "a", "a:", "a:b"][..],
            &["[meta]", "[", "[meta]log"][..],
        ),
        ("[*]*", &["", "a", "[meta]", "[", "[meta]log", "[met"], &[]),
        (
            "[meta]*",
            &["[meta]", "[meta]channel."],
            &["", "a", "[", "[met", "[queue]"],
        ),
        ("a:*", &["a:", "a:b", "a:b:"], &["", "a", "ab:", "b:"]),
        ("a:*:*", &["a:", "a:b", "a:b:c"], &["", "a"]),
        ("a:*:c:*", &["a:b:c:", "a:b:c:d"], &["a:b:c", "a:b:"]),
        ("a:b", &[], &["", "a", "a:", "a:b"]),
        ("*:*", &["", "a"], &[]),
    ];
    for (pattern, covered, uncovered) in table {
        for prefix in covered {
            assert!(covers(pattern, prefix), "{pattern} must cover {prefix:?}");
        }
        for prefix in uncovered {
            assert!(
                !covers(pattern, prefix),
                "{pattern} must not cover {prefix:?}"
            );
        }
    }
    let subscriber = capability(r#"{"[*]*":["subscribe"]}"#);
    assert!(!subscriber.permits_prefix(Operation::ChannelMetadata, ""));
    assert!(!Capability::everything().permits_prefix(Operation::Publish, "[meta]"));
}

#[test]
fn sizes_are_bounded() {
    let listed = |count: usize| {
        let resources: BTreeMap<_, _> = (0..count)
            .map(|index| (format!("r{index}"), ["subscribe"]))
            .collect();
        Capability::parse(&serde_json::to_string(&resources).unwrap())
    };
    assert_eq!(listed(RESOURCES_MAX).unwrap().len(), RESOURCES_MAX);
    let too_many = CapabilityError::TooManyResources;
    assert_eq!(listed(RESOURCES_MAX + 1), Err(too_many));
    let bytes = CAPABILITY_BYTES_MAX + 1;
    assert_eq!(
        Capability::parse(&" ".repeat(bytes)),
        Err(CapabilityError::TooLong { bytes })
    );

    let crossing = |pattern: &dyn Fn(usize) -> String| {
        let resources: BTreeMap<_, _> = (0..40)
            .map(|index| (pattern(index), ["subscribe"]))
            .collect();
        Capability::parse(&serde_json::to_string(&resources).unwrap()).unwrap()
    };
    let rows = crossing(&|index| format!("r{index}:*"));
    let columns = crossing(&|index| format!("*:c{index}"));
    assert_eq!(
        rows.intersection(&columns),
        Err(CapabilityError::TooManyResources)
    );

    let long = |pattern: &dyn Fn(usize) -> String| {
        let resources: BTreeMap<_, _> = (0..10)
            .map(|index| (pattern(index), ["subscribe"]))
            .collect();
        Capability::parse(&serde_json::to_string(&resources).unwrap()).unwrap()
    };
    let rows = long(&|index| format!("{}{index}:*", "r".repeat(500)));
    let columns = long(&|index| format!("*:c{index}"));
    let too_long = rows.intersection(&columns).unwrap_err();
    assert!(
        matches!(too_long, CapabilityError::TooLong { .. }),
        "{too_long}"
    );
    let object = serde_json::json!({ "x".repeat(CAPABILITY_BYTES_MAX): ["subscribe"] });
    let too_long = Capability::from_value(&object).unwrap_err();
    assert!(
        matches!(too_long, CapabilityError::TooLong { .. }),
        "{too_long}"
    );
}

type Listed = BTreeMap<String, Vec<&'static str>>;

/// A second opinion on matching, written on strings and by recursion.
mod naive {
    pub(super) fn permits(listed: &super::Listed, operation: &str, resource: &str) -> bool {
        let writes = !["subscribe", "history", "channel-metadata"].contains(&operation);
        if resource.starts_with("[meta]") && writes {
            return false;
        }
        listed.iter().any(|(pattern, operations)| {
            matches(pattern, resource)
                && (operations.contains(&"*") || operations.contains(&operation))
        })
    }

    fn matches(pattern: &str, resource: &str) -> bool {
        let (qualifier, segments) = cut(pattern);
        let (wanted, name) = cut(resource);
        (qualifier == "*" || qualifier == wanted) && segments_match(&segments, &name)
    }

    fn cut(text: &str) -> (String, Vec<&str>) {
        let (qualifier, base) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap(),
            None => ("", text),
        };
        (
            qualifier.split('?').next().unwrap().to_owned(),
            base.split(':').collect(),
        )
    }

    fn segments_match(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            (["*"], _) | ([], []) => true,
            (["*", pattern @ ..], [_, name @ ..]) => segments_match(pattern, name),
            ([one, pattern @ ..], [two, name @ ..]) => one == two && segments_match(pattern, name),
            _ => false,
        }
    }
}

fn base(alphabet: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(alphabet), 1..4)
        .prop_map(|segments| segments.join(":"))
        .prop_filter("a base name is not empty", |base| !base.is_empty())
}

fn pattern() -> impl Strategy<Value = String> {
    let qualifiers = vec![
        "",
        "",
        "[meta]",
        "[*]",
        "[queue]",
        "[?rewind=1]",
        "[meta?rewind=1]",
    ];
    (
        select(qualifiers).prop_map(str::to_owned),
        base(&["a", "b", "*", "*", "a*", ""]),
    )
        .prop_map(|(qualifier, base)| qualifier + &base)
}

fn resource() -> impl Strategy<Value = String> {
    let qualifiers = vec!["", "", "[meta]", "[queue]"];
    (
        select(qualifiers).prop_map(str::to_owned),
        base(&["a", "b", "c", "a*", ""]),
    )
        .prop_map(|(qualifier, base)| qualifier + &base)
}

fn operation() -> impl Strategy<Value = Operation> {
    select(
        &[
            Operation::Subscribe,
            Operation::Publish,
            Operation::History,
            Operation::Stats,
        ][..],
    )
}

fn listed() -> impl Strategy<Value = Listed> {
    let some = subsequence(vec!["subscribe", "publish", "history"], 1..3);
    let operations = prop_oneof![3 => some, 1 => Just(vec!["*"])];
    btree_map(pattern(), operations, 0..5)
}

fn of(listed: &Listed) -> Capability {
    capability(&serde_json::to_string(listed).unwrap())
}

proptest! {
    #[test]
    fn matching_agrees_with_a_naive_model(
        listed in listed(), operation in operation(), resource in resource()
    ) {
        prop_assert_eq!(
            of(&listed).permits(operation, &resource),
            naive::permits(&listed, operation.name(), &resource)
        );
    }

    #[test]
    fn an_intersection_permits_what_both_permit(
        one in listed(), two in listed(), operation in operation(), resource in resource()
    ) {
        let (one, two) = (of(&one), of(&two));
        let both = one.permits(operation, &resource) && two.permits(operation, &resource);
        let forth = one.intersection(&two).unwrap();
        let back = two.intersection(&one).unwrap();
        prop_assert_eq!(forth.permits(operation, &resource), both);
        prop_assert_eq!(&capability(&forth.to_string()), &forth);
        prop_assert_eq!(back, forth);
    }

    #[test]
    fn intersecting_is_idempotent_and_has_an_identity(
        listed in listed(), operation in operation(), resource in resource()
    ) {
        let one = of(&listed);
        let twice = one.intersection(&one).unwrap();
        prop_assert_eq!(
            twice.permits(operation, &resource), one.permits(operation, &resource)
        );
        prop_assert_eq!(one.intersection(&Capability::everything()).unwrap(), one);
    }

    #[test]
    fn the_canonical_text_reads_back(listed in listed()) {
        let one = of(&listed);
        let text = one.to_string();
        let read = capability(&text);
        prop_assert_eq!(&read.to_string(), &text);
        prop_assert_eq!(read, one);
    }

    #[test]
    fn a_covered_prefix_covers_each_name(
        listed in listed(), operation in operation(), resource in resource(), length in 0usize..12
    ) {
        let one = of(&listed);
        let prefix = &resource[..length.min(resource.len())];
        // Metachannels are only listed for prefixes that begin with a bracket.
        let listed = resource.starts_with('[') == prefix.starts_with('[');
        if listed && one.permits_prefix(operation, prefix) {
            prop_assert!(one.permits(operation, &resource), "{prefix:?} of {resource:?}");
        }
    }

    #[test]
    fn nothing_panics(text in any::<String>(), resource in any::<String>()) {
        drop(Capability::parse(&text));
        let with_resource = serde_json::json!({ &resource: ["subscribe"] }).to_string();
        if let Ok(one) = Capability::parse(&with_resource) {
            one.permits(Operation::Subscribe, &text);
            one.permits_prefix(Operation::Subscribe, &text);
            prop_assert_eq!(&capability(&one.to_string()), &one);
            // A resource is a pattern of itself, params aside.
            prop_assert!(one.permits(Operation::Subscribe, &resource) || resource.contains('*'));
        }
    }
}
