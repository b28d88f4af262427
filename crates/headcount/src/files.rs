//! How many files the process may have open: each connection is one.

use headcount_node::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the highest that the process may set by itself. Systems begin processes with
/// a low one for the sake of programs from before `poll`.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Some systems refuse what they say is possible; then the limit stays, and a node warns of it.
    let _left = setrlimit(Resource::Nofile, raised);
}

/// Says that a node with these settings may run out of files, if it may.
pub(crate) fn warning(config: &Config) -> Option<String> {
    let limit = getrlimit(Resource::Nofile).current;
    missing(limit, config.connections_max())
}

fn missing(limit: Option<u64>, connections_max: usize) -> Option<String> {
    let limit = limit.filter(|limit| *limit < connections_max as u64)?;
    Some(format!(
        "the process may have {limit} files open, fewer than the {connections_max} connections that \
         api, realtime, reporter, network and admin.connections_max allow together: raise the limit \
         (ulimit -n, LimitNOFILE) or lower those"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_files_are_told() {
        assert_eq!(missing(None, 1_000_000), None);
        assert_eq!(missing(Some(1_024), 1_024), None);
        let warning = missing(Some(1_024), 1_025).unwrap();
        assert!(
            warning.contains("1024 files") && warning.contains("1025"),
            "{warning}"
        );
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
