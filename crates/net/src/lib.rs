//! The seam below all connections of a node: where they come in, where they go out, and what they
//! are. In earnest that is TCP, at the cost of a branch; a simulation puts its own in its place.
//!
//! ```text
//! listeners of a node ──accept──▶ [`Stream`] ◀──dial── [`Dialer`] of nodes and edges
//! ```

mod dialer;
mod listener;
mod stream;

pub use dialer::{Connector, Dial, Dialer, Dialling};
pub use listener::{Accepted, Listen, Listener};
pub use stream::{Socket, Stream};
