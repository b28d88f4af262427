//! Public HTTP: REST and server-sent events on one port of every node.
//!
//! ```text
//! edge ──▶ gateway ──▶ region ──▶ gossip ──▶ coordinator ──▶ feed ──▶ API ──▶ people and programs
//! ```
//!
//! A shell without decisions of its own: it reads requests, asks `access` whether they may be, asks
//! the node through [`ports`], and writes the contract's answers. What is decided here is how
//! things look on the wire, in small pure modules with their own tests: names in paths (`path`),
//! pages, cursors and links (`page`), formats (`format`), versions (`version`), event blocks
//! (`sse`), and one table of public error codes ([`CODES`]).
//!
//! | request | answer |
//! |---|---|
//! | `GET /channels/{id}` | the channel's global `ChannelDetails`; never activates it |
//! | `GET /channels` | a page of the sorted walk over active channels, with links |
//! | `GET /channels/{id}/messages`, `…/history` | a page of the channel's past, with links |
//! | `POST /channels/{id}/messages` | publishes one message or a list of them, 201 |
//! | `GET /channels/{id}/presence` | a page of its members, with links |
//! | `GET /channels/{id}/presence/history` | a page of what happened to them, with links |
//! | `GET /chat/v4/rooms/{room}/occupancy` | two counts of the room's channel |
//! | `GET /events` | lifecycle events as server-sent events |
//! | `GET /sse` | messages of channels and metachannels as server-sent events |
//! | `GET /time` | `[milliseconds since the epoch]` |
//! | `POST /keys/{keyName}/requestToken` | a token, 201 |
//! | `POST /keys/{keyName}/revokeTokens` | ends tokens of a key before their time, 201 |
//! | `GET /` with an upgrade | the realtime protocol over a websocket |
//!
//! * A channel's id is everything between `/channels/` and a known verb at the end. `[?params]` in it
//!   are dropped; `[meta]…` is inactive with zeros. `consistency=strong` asks the coordinator.
//! * A list takes `limit` (1 to 1000, else 100), `prefix`, `by` (`id` or `value`; by default values
//!   up to protocol version 2) and `cursor`. It lists metachannels only for a prefix with `[`.
//! * A history takes `limit`, `direction` (`backwards`, or `forwards`), `start` and `end` in ms, and
//!   `cursor`. `[meta]channel.lifecycle` is read from the journals of all shards, in the order of
//!   their logs; other channels from this node's memory of the last minutes, where `from_serial`
//!   ends it with the message of that serial. Members take `limit`, `clientId`, `connectionId`.
//! * Tokens are revoked by `targets` (`clientId:x`, `revocationKey:x`, `channel:x`), as far as they
//!   were issued before `issuedBefore`; with `allowReauthMargin` in 30 s. It holds in the whole
//!   cluster, and ends connections and event streams. The answer tells of each target, in
//!   `{successCount, failureCount, results}` from protocol version 3 on or with
//!   `newBatchResponse=true`, else as a list.
//! * Events take `prefix`, `kinds` (names separated by commas), and `Last-Event-ID` or `cursor`.
//!
//! Answers are JSON or MessagePack (`Accept`, else `format=`), errors included. A credential comes
//! as Basic, Bearer, or in the query as `key`, `access_token` or `accessToken`. `X-Request-Id`
//! names the request in the answer and in the node's log; `request_id=` chooses it.
//!
//! # Freshness
//!
//! A read is answered from a replica's memory, so it says what it rests on. Status and enumeration
//! carry:
//!
//! * `Headcount-Source`: `region/node` of the replica that answered.
//! * `Headcount-Age-Ms`: how old the replica's knowledge is, the time since it last heard from the
//!   coordinator; of several replicas, the oldest. 0 for a strong read.
//! * `Headcount-Unheard-Regions`: regions of which nothing is heard at present, separated by commas,
//!   so that their share of the counts may be out of date. Absent if all are heard.
//!
//! Metachannels are answered by the node itself and carry none of them.
//!
//! # Event streams
//!
//! Each event is a block with `event:` its name and `data:` `{id, name, timestamp, data}`, where
//! `data` is the contract's `ChannelDetails` and `id` is the same for the same fact on every node.
//! `id:` is the resume point; of events that came together only the last has one, so that who is
//! cut off in between gets them again. `event: gap` says that events are missing and how to
//! re-sync, `event: end` that the node ends the stream, and why. A quiet stream carries comments.
//! The stream needs the capability `subscribe` on `[meta]channel.lifecycle`.
//!
//! # Bounds
//!
//! Everything that a client can make large or slow has a bound in [`Config`], an error of its own
//! where there is still somebody to tell, and a reason in the metric `api_rejected_total`. What an
//! app may do is in [`AppLimits`]; its rates are judged by this node alone, and what one of them
//! refuses uses up nothing of the others.
//!
//! # Driver's duties
//!
//! 1. Bind the listener; [`serve`] takes it, and anything that resolves as the shutdown. Until what
//!    [`serve`] needs exists, [`serve_unready`] answers on it.
//! 2. Implement [`ports`]; keep watches bounded.
//! 3. Hand [`Realtime::release`] what other nodes ask to end; once [`Realtime::left`] resolves at a
//!    drain, tell them, so that nobody who comes from here waits for this node's lease.
//! 4. Install recorders for metrics and traces before; this crate names both by `api`.
//!
//! What it does not do: TLS, and anything about channels that the node does not say.

mod body;
mod channel;
mod chat;
mod config;
mod connection;
mod credentials;
mod events;
mod exchange;
mod format;
mod history;
mod limits;
mod links;
mod page;
mod path;
mod percent;
pub mod ports;
mod problem;
mod query;
mod realtime;
mod revocations;
mod routes;
mod server;
mod sse;
mod telemetry;
mod unready;
mod version;

pub use config::Config;
pub use limits::AppLimits;
pub use problem::{CODES, Code};
pub use realtime::{Loss, NodeIdentity, Realtime, RealtimeConfig};
pub use server::serve;
pub use unready::{Reason, serve_unready};
