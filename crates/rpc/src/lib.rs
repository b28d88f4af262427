//! gRPC servers and clients: reporter API, peers, forwarding.
