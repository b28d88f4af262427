//! Sessions of edges over the gateway's task.

use headcount_api::Realtime;
use headcount_gateway::{Input, StreamId};
use headcount_model::{
    AppId, EdgeId, Hello, Refusal, ReportAck, ReportBatch, SessionError, Welcome,
};
use headcount_rpc::reporter::{Session, Sessions};
use tokio::sync::mpsc;

use crate::gateway::{Answer, GatewayHandle};
use crate::telemetry;

/// Opens sessions at this node's gateway.
#[derive(Clone, Debug)]
pub(crate) struct NodeSessions {
    gateway: GatewayHandle,
    /// Writes to the log what was refused.
    realtime: Realtime,
}

impl NodeSessions {
    pub(crate) fn new(gateway: GatewayHandle, realtime: Realtime) -> Self {
        Self { gateway, realtime }
    }
}

/// One session's stream.
#[derive(Debug)]
pub(crate) struct NodeSession {
    gateway: GatewayHandle,
    realtime: Realtime,
    app: AppId,
    edge: EdgeId,
    stream: StreamId,
    answers: mpsc::UnboundedReceiver<Answer>,
    /// An end that was read while something else was waited for.
    ended: Option<SessionError>,
}

impl Sessions for NodeSessions {
    type Session = NodeSession;

    async fn open(&self, app: AppId, hello: Hello) -> Result<(Welcome, NodeSession), SessionError> {
        let (stream, answers) = self.gateway.open_stream();
        let mut session = NodeSession {
            gateway: self.gateway.clone(),
            realtime: self.realtime.clone(),
            app: app.clone(),
            edge: hello.edge.clone(),
            stream,
            answers,
            ended: None,
        };
        if !self.gateway.say(Input::Open { stream, app, hello }).await {
            return Err(SessionError::Stopped);
        }
        match session.answers.recv().await {
            Some(Answer::Welcome(welcome)) => Ok((welcome, session)),
            Some(Answer::Close(error)) => {
                session.ended = Some(error.clone());
                Err(error)
            }
            Some(Answer::Ack(_)) | None => Err(SessionError::Stopped),
        }
    }
}

impl Session for NodeSession {
    async fn apply(&mut self, batch: ReportBatch) -> Result<ReportAck, SessionError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        telemetry::items_taken(batch.items.len());
        let (stream, sequence) = (self.stream, batch.sequence);
        if !self.gateway.say(Input::Batch { stream, batch }).await {
            return Err(SessionError::Stopped);
        }
        loop {
            match self.answers.recv().await {
                Some(Answer::Ack(ack)) if ack.sequence == sequence => return Ok(ack),
                // Answers to a batch whose caller gave up waiting.
                Some(Answer::Ack(_) | Answer::Welcome(_)) => {}
                Some(Answer::Close(error)) => {
                    self.ended = Some(error.clone());
                    return Err(error);
                }
                None => return Err(SessionError::Stopped),
            }
        }
    }

    fn refused(&self, refusals: &[Refusal]) {
        self.realtime.edge_refused(&self.app, &self.edge, refusals);
    }

    async fn closed(&mut self) -> SessionError {
        if let Some(error) = &self.ended {
            return error.clone();
        }
        loop {
            match self.answers.recv().await {
                Some(Answer::Close(error)) => {
                    self.ended = Some(error.clone());
                    return error;
                }
                Some(Answer::Ack(_) | Answer::Welcome(_)) => {}
                None => return SessionError::Stopped,
            }
        }
    }

    async fn goodbye(mut self) {
        let stream = self.stream;
        if self.gateway.say(Input::Goodbye { stream }).await {
            self.ended = Some(SessionError::Stopped);
        }
    }
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        self.gateway.forget_stream(self.stream);
        if self.ended.is_none() {
            self.gateway.broken(self.stream);
        }
    }
}
