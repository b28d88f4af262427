//! Edges against gateways, in one process over loopback: `headcount-client` reports through
//! `headcount-rpc` to the stage of `headcount-gateway`, while streams break, nodes go and come
//! back, and items are refused. All of it is in `tests/`.
