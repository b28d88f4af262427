//! The rules of `proto/README.md` that a program can check.

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Longest a file may be, comments included; a longer one is two subjects.
const LINES_MAX: usize = 250;

#[test]
fn every_file_keeps_the_rules() {
    let faults: Vec<String> = crate::files().iter().flat_map(faults_of).collect();
    assert!(
        faults.is_empty(),
        "{} faults:\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
    for file in crate::files() {
        let path = crate::proto_directory().join(file.name());
        let text = std::fs::read_to_string(&path).expect("a compiled file exists");
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines, at most {LINES_MAX}",
            file.name()
        );
    }
}

#[test]
fn each_rule_can_be_broken() {
    let broken = |source: &str| {
        let directory = std::env::temp_dir().join(format!("headcount-wire-{}", std::process::id()));
        let path = directory.join("headcount/a/v1/a.proto");
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
        std::fs::write(&path, format!("syntax = \"proto3\";\n{source}")).expect("can be written");
        let set = protox::compile([&path], [&directory]).expect("compiles");
        std::fs::remove_dir_all(&directory).expect("can be removed");
        set.file.iter().flat_map(faults_of).count()
    };
    assert_eq!(
        broken("package headcount.a.v1; message M { uint32 count = 1; }"),
        0
    );
    assert_eq!(
        broken("package headcount.b.v1;"),
        1,
        "package and path differ"
    );
    assert_eq!(
        broken("package headcount.a.v1; message M { double x = 1; }"),
        1,
        "a float"
    );
    assert_eq!(
        broken("package headcount.a.v1; enum E { E_NONE = 0; }"),
        1,
        "zero means something"
    );
    assert_eq!(
        broken("package headcount.a.v1; message M { enum E { E_UNSPECIFIED = 0; F_ONE = 1; } }"),
        1,
        "a value without its enum's prefix"
    );
    let service = "package headcount.a.v1; message GoRequest {} message GoResponse {} message X {}";
    let rpc = |line: &str| format!("{service} service S {{ {line} }}");
    assert_eq!(
        broken(&rpc("rpc Go(stream GoRequest) returns (GoResponse);")),
        0
    );
    assert_eq!(
        broken(&rpc("rpc Go(X) returns (GoResponse);")),
        1,
        "a shared request"
    );
    assert_eq!(
        broken(&rpc("rpc Go(GoRequest) returns (X);")),
        1,
        "a shared response"
    );
    assert_eq!(
        broken(&format!("{service} service S {{}} service T {{}}")),
        1,
        "two services"
    );
}

fn faults_of(file: &FileDescriptorProto) -> Vec<String> {
    let mut faults = Vec::new();
    let directory = file
        .name()
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    if file.package() != directory.replace('/', ".") {
        faults.push(format!("package {} is not the path", file.package()));
    }
    if file.service.len() > 1 {
        faults.push(format!("{} services; one per file", file.service.len()));
    }
    for method in file.service.iter().flat_map(|service| &service.method) {
        for (found, suffix) in [
            (method.input_type(), "Request"),
            (method.output_type(), "Response"),
        ] {
            let wanted = format!("{}{suffix}", method.name());
            if found.rsplit_once('.').map_or(found, |(_, last)| last) != wanted {
                faults.push(format!("rpc {}: {found} must be {wanted}", method.name()));
            }
        }
    }
    for message in &file.message_type {
        check_message(message, &mut faults);
    }
    for item in &file.enum_type {
        check_enum(item, &mut faults);
    }
    faults
        .iter()
        .map(|fault| format!("{}: {fault}", file.name()))
        .collect()
}

fn check_message(message: &DescriptorProto, faults: &mut Vec<String>) {
    for field in &message.field {
        if matches!(field.r#type(), Type::Double | Type::Float) {
            faults.push(format!("{}.{}: no floats", message.name(), field.name()));
        }
    }
    for nested in &message.nested_type {
        check_message(nested, faults);
    }
    for item in &message.enum_type {
        check_enum(item, faults);
    }
}

fn check_enum(item: &EnumDescriptorProto, faults: &mut Vec<String>) {
    let prefix = screaming(item.name());
    for value in &item.value {
        let name = value.name();
        if !name.starts_with(&format!("{prefix}_")) {
            faults.push(format!("{name} must begin with {prefix}_"));
        }
        if value.number() == 0 && name != format!("{prefix}_UNSPECIFIED") {
            faults.push(format!(
                "{name} must be {prefix}_UNSPECIFIED: zero is what was not said"
            ));
        }
    }
}

/// `ErrorKind` as `ERROR_KIND`.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.char_indices() {
        if c.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
}
