//! What is below `/channels/{id}`: the channel's state, its messages and its members.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headcount_access::{AccessError, ClientIdRule, Credential, Operation};
use headcount_model::{AppId, ChannelStatus, Occupancy};
use headcount_realtime::{Format as FrameFormat, Message, PresenceMessage};
use http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;

use crate::credentials;
use crate::exchange::Exchange;
use crate::format::Format;
use crate::history::{HistoryParams, Place};
use crate::links::{self, Walk, seal, tell_links, unseal};
use crate::path::{Channel, ChannelPath, Verb};
use crate::ports::{HistoryQuery, ReadLevel};
use crate::problem::Problem;
use crate::realtime::{Core, LIFECYCLE, lifecycle_message};
use crate::routes::{Shared, app_of, collect, details, tell_freshness};

/// The client id of a caller with a key, in base64.
const CLIENT_ID: &str = "x-ably-clientid";

/// A request about a channel, of somebody who was authenticated.
struct Asked {
    shared: Arc<Shared>,
    exchange: Exchange,
    credential: Credential,
    app: AppId,
    /// The channel as the path names it, decoded.
    name: String,
}

impl Asked {
    fn new(
        shared: Arc<Shared>,
        exchange: Exchange,
        headers: &HeaderMap,
        path: &ChannelPath<'_>,
    ) -> Result<Self, Problem> {
        let credential = credentials::authenticate(&shared, headers, &exchange.query)?;
        let name = path.name()?;
        Ok(Self {
            app: app_of(&credential),
            shared,
            exchange,
            credential,
            name,
        })
    }

    /// Returns the channel, if the caller may do that with it.
    fn permitted(&self, operation: Operation) -> Result<Channel<'_>, Problem> {
        let channel = Channel::parse(self.app.clone(), &self.name)?;
        self.credential.may(operation, &self.name)?;
        if let Channel::Normal(channel) = &channel {
            let shard = self.shared.realtime.shards.of(channel);
            tracing::Span::current()
                .record("channel", channel.name.as_str())
                .record("shard", shard.0);
        }
        Ok(channel)
    }

    /// Answers a page.
    fn answer(&self, items: &[impl Serialize], links: &[String]) -> Response {
        let mut response = self.exchange.answer(&items);
        tell_links(response.headers_mut(), links);
        response
    }
}

/// `GET` of a channel or what belongs to it.
pub(crate) async fn read(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let path = ChannelPath::parse(uri.path());
    let asked = Asked::new(shared, exchange, &headers, &path)?;
    match path.verb {
        None => status(&asked).await,
        // Boxed, lest each status read has the room that these take.
        Some(Verb::Messages) => Box::pin(history(&asked, "messages")).await,
        Some(Verb::History) => Box::pin(history(&asked, "history")).await,
        Some(Verb::Presence) => Box::pin(presence(&asked)).await,
        Some(Verb::PresenceHistory) => presence_history(&asked),
    }
}

/// `POST /channels/{id}/messages`: publishes.
pub(crate) async fn write(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let path = ChannelPath::parse(uri.path());
    if path.verb != Some(Verb::Messages) {
        return Err(Problem::MethodNotAllowed);
    }
    let asked = Asked::new(shared, exchange, &headers, &path)?;
    publish(&asked, &headers, body).await
}

/// The global state of the channel.
async fn status(asked: &Asked) -> Result<Response, Problem> {
    let Asked {
        shared, exchange, ..
    } = asked;
    let channel = asked.permitted(Operation::ChannelMetadata)?;
    let level = match exchange.query.given("consistency") {
        None | Some("local") => ReadLevel::Local,
        Some("strong") => ReadLevel::Strong,
        Some(_) => {
            return Err(Problem::Parameter {
                name: "consistency",
                reason: "it must be local or strong",
            });
        }
    };
    let channel = match channel {
        Channel::Normal(channel) => channel,
        Channel::Meta(name) => {
            let region = &shared.ports.source.region;
            let inactive = ChannelStatus::new(false, Occupancy::ZERO);
            return Ok(exchange.answer(&details(&name, region, inactive)));
        }
    };
    let name = channel.name.clone();
    let read = shared
        .read(shared.ports.directory.status(channel, level))
        .await?;
    let details = details(name.as_str(), &read.coordinator, read.status);
    let mut response = exchange.answer(&details);
    tell_freshness(response.headers_mut(), &read.freshness);
    Ok(response)
}

/// A page of the channel's past: of lifecycle events what the journals hold, of anything else what
/// this node remembers.
async fn history(asked: &Asked, word: &'static str) -> Result<Response, Problem> {
    let Asked {
        shared,
        exchange,
        app,
        ..
    } = asked;
    let channel = asked.permitted(Operation::History)?;
    let name = match &channel {
        Channel::Normal(channel) => channel.name.as_str(),
        Channel::Meta(name) if Core::is_metachannel(name) => name,
        Channel::Meta(_) => return Err(Problem::NoMetachannel),
    };
    let params = HistoryParams::parse(&exchange.query, word, name)?;
    if name == LIFECYCLE {
        let query = HistoryQuery {
            app: app.clone(),
            kinds: shared.realtime.lifecycle_kinds(app),
            from: params.start,
            to: params.end,
            newest_first: params.backwards,
            after: params.after_point()?,
            limit: params.limit,
        };
        let read = shared.ports.directory.history(query);
        let read = shared.read(read).await?;
        let events = read.events.iter();
        let messages: Vec<Message> = events
            .map(|event| lifecycle_message(&event.event))
            .collect();
        return Ok(asked.answer(&messages, &params.links_to_point(read.next)));
    }
    let until = exchange.query.given("from_serial");
    let messages = shared.realtime.messages(app, name, until);
    let messages = messages.map_err(|_| Problem::Parameter {
        name: "from_serial",
        reason: "this node does not know the serial",
    })?;
    let (messages, links) = params.cut(messages, |message| Place {
        at: message.timestamp_ms.unwrap_or_default(),
        id: message.id.clone().unwrap_or_default(),
    })?;
    Ok(asked.answer(&messages, &links))
}

/// The answer to a publish.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Published<'a> {
    channel: &'a str,
    message_id: String,
    serials: Vec<String>,
}

/// Publishes one message, or several together.
async fn publish(asked: &Asked, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let Asked { shared, app, .. } = asked;
    // Before the body is read: who may not publish shall not send much either.
    let Channel::Normal(channel) = asked.permitted(Operation::Publish)? else {
        // Nothing grants this; it is a metachannel's only answer.
        return Err(Problem::Access(AccessError::NotPermitted {
            operation: Operation::Publish,
            resource: asked.name.chars().take(64).collect(),
        }));
    };
    let limits = shared.realtime.publish_limits(app);
    let body = collect(&shared.config, limits.frame_bytes_max, body).await?;
    let format = match Format::of_body(headers) {
        Format::Json => FrameFormat::Json,
        Format::MessagePack => FrameFormat::MessagePack,
    };
    let messages = Message::decode_body(format, &body, &limits)?;
    let identity = identity(&asked.credential, headers)?;
    let messages = messages.into_iter().map(|message| {
        let client_id = identity.publisher(message.client_id.as_deref())?;
        Ok::<_, AccessError>(Message {
            client_id: client_id.map(str::to_owned),
            ..message
        })
    });
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let realtime = &shared.realtime;
    let (message_id, serials) = realtime.publish_messages(app, &channel.name, messages)?;
    let published = Published {
        channel: channel.name.as_str(),
        message_id,
        serials,
    };
    Ok((StatusCode::CREATED, asked.exchange.answer(&published)).into_response())
}

/// Who publishes: whom the credential is for, or whom the caller says to be if it lets him.
fn identity(credential: &Credential, headers: &HeaderMap) -> Result<ClientIdRule, AccessError> {
    let unreadable = || AccessError::InvalidClientId {
        reason: "the header X-Ably-ClientId is not text in base64",
    };
    let named = headers.get(CLIENT_ID).map(|value| {
        let decoded = STANDARD.decode(value).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(unreadable)
    });
    credential.client_id().narrow(named.transpose()?.as_deref())
}

/// A page of the presence set, in the order of connections and client ids.
async fn presence(asked: &Asked) -> Result<Response, Problem> {
    let Asked {
        shared,
        exchange,
        app,
        ..
    } = asked;
    let query = &exchange.query;
    let channel = asked.permitted(Operation::Subscribe)?;
    let name = match &channel {
        Channel::Normal(channel) => channel.name.as_str(),
        Channel::Meta(name) => name,
    };
    let limit = links::limit(query)?;
    let filters = ["clientId", "connectionId"].map(|filter| (filter, query.given(filter)));
    let [(_, client_id), (_, connection_id)] = filters;
    let scope = format!("presence/{name}");
    let after = query.given("cursor").map(|token| {
        let member = unseal(&scope, token).and_then(|content| String::from_utf8(content).ok());
        member.ok_or(Problem::HistoryCursor)
    });
    let after = after.transpose()?;
    let mut members = match &channel {
        Channel::Normal(_) => shared.realtime.members(app, name).await,
        // Nobody is ever present on one.
        Channel::Meta(_) => Vec::new(),
    };
    members.retain(|member| {
        let is = |wanted: Option<&str>, value: &Option<String>| {
            wanted.is_none_or(|wanted| value.as_deref() == Some(wanted))
        };
        is(client_id, &member.client_id)
            && is(connection_id, &member.connection_id)
            && after.as_ref().is_none_or(|after| key(member) > *after)
    });
    members.sort_by_cached_key(key);
    let more = members.len() > limit;
    members.truncate(limit);
    let next = members.last().filter(|_| more);
    let next = next.map(|last| seal(&scope, key(last).as_bytes()));
    let mut written = vec![("limit", limit.to_string())];
    let given = filters.into_iter();
    written.extend(given.filter_map(|(filter, value)| Some((filter, value?.to_owned()))));
    let walk = Walk::new("presence", written, query);
    let links = walk.links(query.given("cursor"), next.as_deref());
    Ok(asked.answer(&members, &links))
}

/// What orders members: no id of a connection has a line break in it.
fn key(member: &PresenceMessage) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!(
        "{}\n{}",
        text(&member.connection_id),
        text(&member.client_id)
    )
}

/// A page of what happened to the channel's members, as far as this node remembers it.
fn presence_history(asked: &Asked) -> Result<Response, Problem> {
    let channel = asked.permitted(Operation::History)?;
    let name = match &channel {
        Channel::Normal(channel) => channel.name.as_str(),
        Channel::Meta(name) => name,
    };
    // Of what the path ends with, the links have the last segment. The verb before it keeps the
    // cursors of messages and members apart.
    let scope = format!("presence/{name}");
    let params = HistoryParams::parse(&asked.exchange.query, "history", &scope)?;
    let changes = asked.shared.realtime.presence_changes(&asked.app, name);
    let (changes, links) = params.cut(changes, |change| Place {
        at: change.timestamp_ms.unwrap_or_default(),
        id: change.id.clone().unwrap_or_default(),
    })?;
    Ok(asked.answer(&changes, &links))
}
