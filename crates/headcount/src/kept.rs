//! What `headcount dev --data-dir` keeps beside its nodes' data: what cannot change from one start
//! to the next.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli::Dev;
use crate::failure::Failure;

const FILE: &str = "dev.json";

/// How a development cluster was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What `--port` was.
    pub(crate) port: u16,
    pub(crate) shards: u32,
    /// The ports of each region's listeners: client, reporter, peer, admin.
    pub(crate) ports: Vec<[u16; 4]>,
}

impl Kept {
    /// Reads what an earlier start left, if there was one.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, Failure> {
        let file = directory.join(FILE);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::failed(error)),
        };
        let kept = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not readable", file.display()))?;
        Ok(Some(kept))
    }

    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        let file = directory.join(FILE);
        let text = serde_json::to_vec(self).map_err(Failure::failed)?;
        std::fs::write(&file, text)
            .with_context(|| format!("{} cannot be written", file.display()))
            .map_err(Failure::from)
    }

    /// Refuses flags that do not fit what was begun.
    pub(crate) fn check(&self, arguments: &Dev) -> Result<(), Failure> {
        let directory = arguments.data_dir.as_deref().unwrap_or(Path::new("."));
        let directory = directory.display();
        if arguments.port != self.port {
            let ports: Vec<String> = self.ports.iter().flatten().map(u16::to_string).collect();
            return Err(Failure::usage(format!(
                "--port {}: the nodes in {directory} know each other on ports {}; use --port {}, or \
                 another --data-dir",
                arguments.port,
                ports.join(", "),
                self.port,
            )));
        }
        match arguments.shards {
            Some(shards) if shards != self.shards => Err(Failure::usage(format!(
                "--shards {shards}: the cluster in {directory} was born with {} shards, which is \
                 for ever; leave the flag out, or use another --data-dir",
                self.shards
            ))),
            _ => Ok(()),
        }
    }
}
