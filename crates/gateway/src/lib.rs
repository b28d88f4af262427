//! What is attached to this node: sessions of edges, direct clients, and the registers that they
//! add up to.
//!
//! ```text
//! edge / client ──attach──▶ GATEWAY ──registers──▶ region ──▶ gossip ──▶ coordinator ──▶ feed
//! ```
//!
//! * [`Gateway`] is the stage; [`Input`] and [`Effect`] are all it hears and asks for.
//! * A *source* counts: one session of an edge, or the node's own clients (R8). Each source has a
//!   register per channel, absolute counts that are sent when they changed, coalesced.
//! * A shard's *uplink* carries the registers to the regional owner under its fence, as numbered
//!   streams of numbered updates (R13). Whatever goes wrong with it ends in a new stream that
//!   tells the whole set.
//!
//! An attach never waits for another node: it is counted, acknowledged, and sent later.
//!
//! Driver's duties:
//! 1. Number the streams of edges, and say [`Input::Broken`] for each that ends without a
//!    [`Input::Goodbye`] and without an [`Effect::Close`].
//! 2. Carry out the effects in order. [`Effect::Ack`]s and [`Effect::Welcome`]s of one stream stay
//!    in order; nothing here needs to be durable.
//! 3. Say [`Input::Owner`] when a shard's owner or its fence is new; never send an update to an
//!    owner with another fence. Updates of one stream stay in order, and none is left out alone.
//!    Say [`Input::WayReopened`] when the way to an owner broke and is open again; what is not said
//!    costs the time to miss an acknowledgement.
//! 4. Check a credential's permission for each channel before an item gets here.
//! 5. Wait with an edge's next batch until the last one is acknowledged, or at least bound how many
//!    wait, to [`Config::window_batches`].
//! 6. Call [`Stage::on_deadline`](headcount_model::Stage) when
//!    [`next_deadline`](headcount_model::Stage::next_deadline) has come; flushes hang on it.
//! 7. Say [`Input::Reborn`] when the node got a new incarnation while it ran.
//!
//! What it does not do: no sockets, no credentials, no linger and no activity of channels (the
//! region's), no sums over nodes (the region's), no grace for direct clients (their front end's).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod attachments;
mod config;
mod gateway;
mod index;
mod io;
mod sessions;
mod slab;
mod table;
mod uplink;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use gateway::{Gateway, Stats};
pub use io::{Effect, Input, StreamId};
