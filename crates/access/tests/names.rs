//! Channel names with qualifiers and params.

use headcount_access::{NAME_PARAMS_MAX, NameFault, QualifiedName};
use proptest::prelude::*;

#[test]
fn names_are_taken_apart() {
    let table = [
        ("room:1", false, "room:1", "room:1", vec![]),
        ("[meta]log", true, "log", "[meta]log", vec![]),
        ("[meta]log:push", true, "log:push", "[meta]log:push", vec![]),
        (
            "[?occupancy=metrics]x",
            false,
            "x",
            "x",
            vec![("occupancy", "metrics")],
        ),
        (
            "[meta?rewind=1]log",
            true,
            "log",
            "[meta]log",
            vec![("rewind", "1")],
        ),
        (
            "[?a=1&b=%5B2%5d&c]x:y",
            false,
            "x:y",
            "x:y",
            vec![("a", "1"), ("b", "[2]"), ("c", "")],
        ),
        ("[?]x", false, "x", "x", vec![]),
        ("x[meta]", false, "x[meta]", "x[meta]", vec![]),
        ("[?a=b+c]x", false, "x", "x", vec![("a", "b+c")]),
    ];
    for (text, metachannel, base, channel, params) in table {
        let name = QualifiedName::parse(text).unwrap();
        assert_eq!(name.is_metachannel(), metachannel, "{text}");
        assert_eq!(name.base(), base, "{text}");
        assert_eq!(name.channel(), channel, "{text}");
        let read: Vec<_> = name
            .params()
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
            .collect();
        assert_eq!(read, params, "{text}");
    }
}

#[test]
fn the_last_of_repeated_params_counts() {
    let name = QualifiedName::parse("[?rewind=1&rewind=2]x").unwrap();
    assert_eq!(name.param("rewind"), Some("2"));
    assert_eq!(name.param("occupancy"), None);
}

#[test]
fn bad_qualifiers_are_refused() {
    let many = format!("[?{}]x", "a=1&".repeat(NAME_PARAMS_MAX + 1));
    let table = [
        ("", NameFault::Empty),
        ("[meta]", NameFault::Empty),
        ("[?a=1]", NameFault::Empty),
        ("[meta", NameFault::UnclosedQualifier),
        ("[]x", NameFault::UnknownQualifier),
        ("[*]x", NameFault::UnknownQualifier),
        ("[queue]x", NameFault::UnknownQualifier),
        ("[Meta]log", NameFault::UnknownQualifier),
        ("[ meta]log", NameFault::UnknownQualifier),
        ("[?a=1][meta]log", NameFault::SecondQualifier),
        ("[meta][?a=1]log", NameFault::SecondQualifier),
        ("[?a=%]x", NameFault::MalformedParams),
        ("[?a=%zz]x", NameFault::MalformedParams),
        ("[?a=%ff]x", NameFault::MalformedParams),
        (many.as_str(), NameFault::MalformedParams),
    ];
    for (text, fault) in table {
        assert_eq!(QualifiedName::parse(text), Err(fault), "{text}");
    }
}

proptest! {
    #[test]
    fn a_channel_reads_back_as_itself(text in "(\\[[?a-z=&%1]{0,6}\\])?[\\[\\]:a-z\\PC]{0,6}") {
        if let Ok(name) = QualifiedName::parse(&text) {
            let channel = name.channel();
            let again = QualifiedName::parse(&channel).unwrap();
            prop_assert_eq!(again.channel(), channel.clone());
            prop_assert_eq!(again.is_metachannel(), name.is_metachannel());
            prop_assert!(again.params().is_empty());
        }
    }
}
