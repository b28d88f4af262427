//! Wiring of one node: tasks, configuration, telemetry, admin port, drain.
