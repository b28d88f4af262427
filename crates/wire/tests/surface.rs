//! Every message, field number, type and rpc, compared with `proto/surface.txt`, so that a change
//! which other releases notice is a visible difference in review.

use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, ServiceDescriptorProto,
};

#[test]
fn the_surface_is_the_recorded_one() {
    let mut surface = String::new();
    for file in crate::files() {
        let package = file.package();
        for message in &file.message_type {
            write_message(&mut surface, package, message);
        }
        for item in &file.enum_type {
            write_enum(&mut surface, package, item);
        }
        for service in &file.service {
            write_service(&mut surface, package, service);
        }
    }
    let path = crate::proto_directory().join("surface.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &surface).expect("proto/surface.txt can be written");
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = first_difference(&recorded, &surface);
    assert!(
        difference.is_none(),
        "{}\nif the change is meant and compatible, record it: make proto-surface",
        difference.unwrap_or_default()
    );
}

#[test]
fn a_changed_number_and_a_lost_line_are_noticed() {
    assert_eq!(first_difference("a\n  1 b\n", "a\n  1 b\n"), None);
    assert!(first_difference("a\n  1 b\n", "a\n  2 b\n").is_some_and(|told| told.contains("2 b")));
    assert!(first_difference("a\n  1 b\n", "a\n").is_some());
    assert!(first_difference("a\n", "a\n  1 b\n").is_some());
}

/// Tells the first line in which two surfaces differ, with the one above it.
fn first_difference(recorded: &str, found: &str) -> Option<String> {
    let (recorded, found): (Vec<_>, Vec<_>) = (recorded.lines().collect(), found.lines().collect());
    let line = (0..recorded.len().max(found.len())).find(|i| recorded.get(*i) != found.get(*i))?;
    let name = |lines: &[&str]| lines.get(line).copied().unwrap_or("(end)").to_owned();
    let above = line.checked_sub(1).map_or("(begin)", |above| found[above]);
    Some(format!(
        "proto/surface.txt:{}: after `{above}`\n  recorded: {}\n  found:    {}",
        line + 1,
        name(&recorded),
        name(&found)
    ))
}

fn write_message(out: &mut String, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    writeln!(out, "message {name}").expect("a string takes everything");
    let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    for field in fields {
        let line = format!("  {} {}", field.number(), describe(field, message));
        writeln!(out, "{line}").expect("a string takes everything");
    }
    for range in &message.reserved_range {
        // The descriptor's end is exclusive.
        writeln!(out, "  reserved {} to {}", range.start(), range.end() - 1)
            .expect("a string takes everything");
    }
    for reserved in &message.reserved_name {
        writeln!(out, "  reserved {reserved}").expect("a string takes everything");
    }
    for nested in message
        .nested_type
        .iter()
        .filter(|nested| !is_map_entry(nested))
    {
        write_message(out, &name, nested);
    }
    for nested in &message.enum_type {
        write_enum(out, &name, nested);
    }
}

/// A field without its number: `optional uint64 at_ms`, `repeated …`, `map<…> …`, `oneof body: …`.
fn describe(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let kind = type_name(field);
    let name = field.name();
    let entry = kind.rsplit_once('.').map(|(_, last)| last);
    let map = message
        .nested_type
        .iter()
        .find(|n| is_map_entry(n) && Some(n.name()) == entry);
    if let Some(map) = map {
        return format!(
            "map<{}, {}> {name}",
            type_name(&map.field[0]),
            type_name(&map.field[1])
        );
    }
    if field.label() == Label::Repeated {
        return format!("repeated {kind} {name}");
    }
    if field.proto3_optional() {
        return format!("optional {kind} {name}");
    }
    match field.oneof_index {
        Some(index) => {
            let index = usize::try_from(index).expect("an index into the message's oneofs");
            format!("oneof {}: {kind} {name}", message.oneof_decl[index].name())
        }
        None => format!("{kind} {name}"),
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}

/// The name of a field's type as a proto file writes it.
fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => {
            field.type_name().trim_start_matches('.').to_owned()
        }
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

fn write_enum(out: &mut String, scope: &str, item: &EnumDescriptorProto) {
    writeln!(out, "enum {scope}.{}", item.name()).expect("a string takes everything");
    for value in &item.value {
        writeln!(out, "  {} {}", value.number(), value.name()).expect("a string takes everything");
    }
    for range in &item.reserved_range {
        // Unlike in messages, the end is inclusive.
        writeln!(out, "  reserved {} to {}", range.start(), range.end())
            .expect("a string takes everything");
    }
}

fn write_service(out: &mut String, scope: &str, service: &ServiceDescriptorProto) {
    writeln!(out, "service {scope}.{}", service.name()).expect("a string takes everything");
    let direction = |streams: bool| if streams { "stream " } else { "" };
    for method in &service.method {
        let line = format!(
            "  {}({}{}) -> {}{}",
            method.name(),
            direction(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            direction(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        );
        writeln!(out, "{line}").expect("a string takes everything");
    }
}
