//! `headcount config`, and where the settings of a node come from.

use headcount_node::config::{
    Loaded, ProcessEnvironment, Secrets, Sources, load, reference, secrets_masked, section_docs,
};
use serde_json::json;

use crate::cli::{Config, Settings};
use crate::failure::Failure;
use crate::files;
use crate::output::{Output, complain};

/// Loads a node's settings; tells warnings.
pub(crate) fn loaded(settings: &Settings) -> Result<Loaded, Failure> {
    let mut sources = Sources {
        environment: Some(&ProcessEnvironment),
        flags: &settings.set,
        ..Sources::defaults()
    };
    if let Some(path) = &settings.config {
        sources.read_file(path)?;
    }
    Ok(load(sources)?)
}

pub(crate) fn run(command: &Config, output: Output) -> Result<(), Failure> {
    match command {
        Config::Check(settings) => check(settings, output),
        Config::Print(settings) => {
            let raw = loaded(settings)?.raw;
            output.show(&raw.to_table(Secrets::Masked), |_| secrets_masked(&raw))
        }
        Config::Docs => output.show(&section_docs(), |_| reference()),
    }
}

fn check(settings: &Settings, output: Output) -> Result<(), Failure> {
    let loaded = match loaded(settings) {
        Err(Failure::Config(error)) if output.is_json() => {
            let faults: Vec<_> = error
                .faults
                .iter()
                .map(|fault| {
                    json!({ "key": fault.key, "from": fault.origin.to_string(), "what": fault.what })
                })
                .collect();
            output.json(&json!({ "good": false, "faults": faults, "warnings": [] }))?;
            return Err(Failure::Config(error));
        }
        other => other?,
    };
    let mut warnings = loaded.config.warnings();
    warnings.extend(files::warning(&loaded.config));
    if output.is_json() {
        return output.json(&json!({ "good": true, "faults": [], "warnings": warnings }));
    }
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
    output.line("the configuration is good")
}
