//! From a websocket request to a connection: who is it, is it new, is there room?

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use headcount_realtime::{ConnectQuery, Format, ProtocolError, ServerFrame};

use super::Core;
use super::connection::Connection;
use super::registry::Key;
use super::transport::{Carrier, Transport};
use super::web_socket::{self, Socket};
use crate::credentials;
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::query::Query;
use crate::routes::{Shared, app_of};
use crate::telemetry;

/// `GET /` with an upgrade: the realtime protocol. What is wrong with the credential is told in the
/// protocol, since clients do not see the status of an upgrade that fails.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| Problem::NotFound)?;
    let max = shared.realtime.config.frame_bytes_max;
    let response = web_socket::configured(upgrade, max)
        .on_upgrade(move |socket| admit(&shared, &exchange.query, Socket::new(socket)));
    Ok(response)
}

/// Admits a client, or tells it why not. Judged before there is a future, which lives as long as the
/// connection, and has no room for what is needed only here.
fn admit(shared: &Shared, query: &Query, socket: Socket) -> BoxFuture<'static, ()> {
    let refuse = |socket: Socket, format, error| {
        let frame = ServerFrame::Error {
            channel: None,
            error,
        };
        async move { socket.end(format, &frame).await }.boxed()
    };
    let connect = match ConnectQuery::parse(query.pairs()) {
        Ok(connect) => connect,
        Err(error) => {
            let format = query.given("format").and_then(Format::from_name);
            return refuse(socket, format.unwrap_or_default(), error);
        }
    };
    match credentials::of_query(shared, query) {
        Ok(credential) => {
            let carrier = Carrier::WebSocket(socket);
            let transport = Box::new(Transport::new(carrier, connect, credential));
            enter(Arc::clone(&shared.realtime), transport).boxed()
        }
        Err(error) => {
            telemetry::rejected("realtime_credential");
            refuse(socket, connect.format, error.into())
        }
    }
}

/// Goes on with a connection, or begins a new one and lives until it is over.
pub(super) async fn enter(realtime: Arc<Core>, mut transport: Box<Transport>) {
    // Counted, so that the end of the server waits for it.
    let _entered = realtime.tasks.token();
    let app = app_of(&transport.credential);
    let (query, mut error) = (&transport.query, None);
    let key = query.resume.as_ref().or(query.recover.as_ref());
    let key = key.map(|text| Key::parse(text).ok_or_else(malformed));
    let key = key.transpose().unwrap_or_else(|malformed| {
        error = Some(malformed);
        None
    });
    // The client of another node's connection has a new one, and that one is ended over there.
    let mut elsewhere = None;
    if let Some(key) = key {
        error = Some(unknown());
        if key.node == realtime.ports.source.node {
            let (id, secret) = (key.connection.as_str(), &*key.secret);
            if let Some(mailbox) = realtime.registry.find(&app, id, secret) {
                match mailbox.resume(transport) {
                    Ok(()) => return,
                    Err(back) => transport = back,
                }
            }
        } else {
            elsewhere = Some(key);
        }
    }
    let quota = realtime.quotas.of(&app);
    if let Err(exceeded) = realtime.may_connect(&quota) {
        return disconnect(transport, exceeded.into()).await;
    }
    let Ok(_slot) = Arc::clone(&realtime.slots).try_acquire_owned() else {
        telemetry::rejected("realtime_connections");
        let max = realtime.config.connections_max;
        let message = format!("the node has {max} connections, as many as it may; try another");
        let error = ProtocolError::new(40111, 503, message);
        return disconnect(transport, error).await;
    };
    let named = transport.query.client_id.as_deref();
    let identity = transport.credential.client_id().narrow(named);
    let opened = identity
        .map_err(ProtocolError::from)
        .and_then(|identity| Connection::open(&realtime, app, quota, &transport, identity));
    match opened {
        Ok(mut connection) => {
            if let Some(key) = elsewhere {
                connection.come_from(key, &transport);
            }
            connection.run(transport, error).await;
        }
        Err(error) => {
            let channel = None;
            transport
                .finish(ServerFrame::Error { channel, error })
                .await;
        }
    }
}

/// Lets a client try again, here or elsewhere.
async fn disconnect(transport: Box<Transport>, error: ProtocolError) {
    transport.finish(ServerFrame::Disconnected { error }).await;
}

/// What a client is told whose key no node makes: it has a new connection.
fn malformed() -> ProtocolError {
    let message = "the connection key is malformed: this is a new one";
    ProtocolError::new(80018, 400, message)
}

/// What a client is told whose connection cannot be gone on with here: it has a new one.
fn unknown() -> ProtocolError {
    let message = "the connection is over, or another node's: this is a new one";
    ProtocolError::new(80008, 400, message)
}
