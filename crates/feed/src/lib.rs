//! A shard's ordered events to many bounded subscribers: `coordinator → FEED → people`.
//!
//! A [`ShardFeed`] takes what the local replica of a shard applied ([`Logged`]) and what the local
//! region's owner decided and the log does not have yet (early transitions), puts both into one
//! order and keeps the newest of it in a bounded ring. A [`Subscription`] is one subscriber: a
//! filter and a place in each ring. Its resume point is a [`headcount_model::Cursor`], which any
//! node in any region continues; what is older than the ring is read from the journal, and what is
//! older than the journal is told as a gap. Why it is exact is in `DESIGN.md`.
//!
//! The driver's duties:
//! 1. Make one [`ShardFeed`] for each shard that the node replicates, with [`Start`] read from the
//!    replica's state, before the replica applies anything more.
//! 2. After each applied entry, first append its [`Logged`] record to the journal, then step the
//!    feed with it: whoever falls out of the ring reads the journal. Entries without events and
//!    marks may be told by [`Input::Advanced`] alone.
//! 3. Bring every transition of the local region's owner to each node of that region as
//!    [`Input::Early`], in the body that its batch will carry, with what the replica says of its
//!    channel at that moment: step it where entries are applied. To lose one costs latency only.
//! 4. When a replica is replaced by a snapshot, fetch the journal of what it skipped from a peer,
//!    then step [`Input::Jumped`].
//! 5. On [`Effect::Wake`] let the subscriptions of the shard [`Subscription::read`]; when one can
//!    be written to, [`Subscription::take`] until there is nothing, and read again whatever is not
//!    [`Subscription::is_caught_up`]. Carry out [`Subscription::take_fetches`] and answer each with
//!    [`Subscription::page`], or end it by [`Subscription::finish`].
//! 6. Give a stuck write a time limit, and tell [`Subscription::heartbeat`] now and then, so that
//!    an idle subscriber's cursor does not grow older than the journal.
//! 7. Bound the number of subscriptions.
//!
//! It does not decide events (the coordinator does), encode them, or know who may see them.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod ahead;
mod config;
mod log;
mod overlay;
mod ring;
mod shard;
mod subscription;
mod waiting;

pub use config::Config;
pub use headcount_model::{Logged, Mark};
pub use log::Page;
pub use shard::{Effect, Input, ShardFeed, Start, Stats};
pub use subscription::{Fetch, Subscription};
