//! From a websocket request to a connection: who is it, is it new, is there room?

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use headcount_realtime::{ConnectQuery, Format, ProtocolError, ServerFrame};

use super::Core;
use super::connection::Connection;
use super::registry::Unresumable;
use super::transport::{Carrier, Transport};
use super::web_socket::Socket;
use crate::credentials;
use crate::exchange::Exchange;
use crate::problem::Problem;
use crate::query::Query;
use crate::routes::{Shared, app_of};
use crate::telemetry;

/// Bytes that a connection's read buffer begins with. Each connection has one, and most frames are
/// smaller.
const READ_BUFFER: usize = 1024;

/// Bytes that are gathered before they are written, if nobody flushes before.
const WRITE_BUFFER: usize = 16 * 1024;

/// `GET /` with an upgrade: the realtime protocol. What is wrong with the credential is told in the
/// protocol, since clients do not see the status of an upgrade that fails.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| Problem::NotFound)?;
    let max = shared.realtime.config.frame_bytes_max;
    let response = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(usize::MAX)
        .max_frame_size(max)
        .max_message_size(max)
        .on_upgrade(move |socket| Box::pin(admit(shared, exchange.query, socket)));
    Ok(response)
}

/// Admits a client, or tells it why not.
async fn admit(shared: Arc<Shared>, query: Arc<Query>, socket: WebSocket) {
    let socket = Socket(socket);
    let refuse = |error| ServerFrame::Error {
        channel: None,
        error,
    };
    let connect = match ConnectQuery::parse(query.pairs()) {
        Ok(connect) => connect,
        Err(error) => {
            let format = query.given("format").and_then(Format::from_name);
            return socket.end(format.unwrap_or_default(), &refuse(error)).await;
        }
    };
    match credentials::of_query(&shared, &query) {
        Ok(credential) => {
            let carrier = Carrier::WebSocket(socket);
            enter(
                &shared.realtime,
                Transport::new(carrier, connect, credential),
            )
            .await;
        }
        Err(error) => {
            telemetry::rejected("realtime_credential");
            socket.end(connect.format, &refuse(error.into())).await;
        }
    }
}

/// Goes on with a connection, or begins a new one and lives until it is over.
pub(super) async fn enter(realtime: &Arc<Core>, mut transport: Transport) {
    // Counted, so that the end of the server waits for it.
    let _entered = realtime.tasks.token();
    let app = app_of(&transport.credential);
    let (query, mut error) = (&transport.query, None);
    let key = query.resume.as_ref().or(query.recover.as_ref()).cloned();
    if let Some(key) = key {
        match realtime.registry.find(&app, &key) {
            Ok(mailbox) => match mailbox.resume(Box::new(transport)) {
                Ok(()) => return,
                Err(back) => {
                    transport = *back;
                    error = Some(unresumable(Unresumable::Unknown));
                }
            },
            Err(why) => error = Some(unresumable(why)),
        }
    }
    if !realtime.may_connect() {
        telemetry::rejected("connect_rate");
        let rate = realtime.config.connect_rate.per_second;
        let message =
            format!("more than {rate} new connections in a second (metric = connections.maxRate)");
        return disconnect(transport, ProtocolError::new(80021, 429, message)).await;
    }
    let Ok(_slot) = Arc::clone(&realtime.slots).try_acquire_owned() else {
        telemetry::rejected("realtime_connections");
        let max = realtime.config.connections_max;
        let message = format!("the node has {max} connections, as many as it may; try another");
        return disconnect(transport, ProtocolError::new(40111, 503, message)).await;
    };
    let named = transport.query.client_id.as_deref();
    let identity = transport.credential.client_id().narrow(named);
    let opened = identity
        .map_err(ProtocolError::from)
        .and_then(|identity| Connection::open(realtime, app, &transport, identity));
    match opened {
        Ok(connection) => connection.run(transport, error).await,
        Err(error) => {
            let frame = ServerFrame::Error {
                channel: None,
                error,
            };
            transport.end(&frame).await;
        }
    }
}

/// Lets a client try again, here or elsewhere.
async fn disconnect(transport: Transport, error: ProtocolError) {
    transport.end(&ServerFrame::Disconnected { error }).await;
}

/// What a client is told whose connection cannot be gone on with: it has a new one.
fn unresumable(why: Unresumable) -> ProtocolError {
    match why {
        Unresumable::Malformed => ProtocolError::new(
            80018,
            400,
            "the connection key is malformed: this is a new one",
        ),
        Unresumable::Unknown => ProtocolError::new(
            80008,
            400,
            "the connection is over, or another node's: this is a new one",
        ),
    }
}
