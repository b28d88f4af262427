//! Which sessions edges have at this node, and which streams carry them (R8).

use std::collections::{BTreeMap, VecDeque};

use headcount_model::{AppId, EdgeId, Hello, Incarnation, Monotonic, ReportAck, SessionError};

use crate::io::StreamId;
use crate::slab::Slab;

/// An edge of an app. Edges of different apps never meet, whatever their names.
pub(crate) type EdgeKey = (AppId, EdgeId);

/// One session of an edge.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) edge: EdgeKey,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    /// Its source in the table.
    pub(crate) source: u32,
    /// The stream that carries it; none in its grace.
    pub(crate) stream: Option<StreamId>,
    /// When its stream broke.
    pub(crate) broken_at: Option<Monotonic>,
    /// When its grace is looked at next; set as long as it has no stream.
    pub(crate) deadline: Option<Monotonic>,
    /// The last batch applied.
    pub(crate) last_sequence: u64,
    /// What was refused of recent batches, ascending, for edges that ask again.
    refused: VecDeque<ReportAck>,
}

impl Session {
    /// Keeps an acknowledgement as long as an edge may ask for it again.
    pub(crate) fn keep(&mut self, ack: &ReportAck, window: usize) {
        let oldest = ack.sequence.saturating_sub(window as u64);
        while self
            .refused
            .front()
            .is_some_and(|kept| kept.sequence <= oldest)
        {
            let _forgotten = self.refused.pop_front();
        }
        if !ack.refusals.is_empty() {
            self.refused.push_back(ack.clone());
        }
    }

    /// Returns the acknowledgement of a batch that was applied before.
    pub(crate) fn repeat(&self, sequence: u64) -> ReportAck {
        let kept = self.refused.iter().find(|kept| kept.sequence == sequence);
        kept.cloned().unwrap_or(ReportAck {
            sequence,
            refusals: Vec::new(),
        })
    }
}

/// What is known of an edge.
#[derive(Debug)]
struct Edge {
    /// The highest incarnation and session seen.
    highest: (Incarnation, u64),
    /// Its sessions, oldest first; empty while it is only remembered.
    sessions: Vec<u32>,
    /// When it will be forgotten; set while it has no sessions.
    forget_at: Option<Monotonic>,
}

/// What becomes of a hello.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The edge goes on with this session.
    Resume(u32),
    /// A session is to be opened; none of these older ones keeps its stream.
    Open {
        /// Oldest first.
        older: Vec<u32>,
    },
}

/// All sessions of the node.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) slots: Slab<Session>,
    edges: BTreeMap<EdgeKey, Edge>,
    streams: BTreeMap<StreamId, u32>,
    edges_max: usize,
}

impl Sessions {
    pub(crate) fn new(edges_max: usize) -> Self {
        Self {
            slots: Slab::new(),
            edges: BTreeMap::new(),
            streams: BTreeMap::new(),
            edges_max,
        }
    }

    /// Returns the session that a stream carries.
    pub(crate) fn on(&self, stream: StreamId) -> Option<u32> {
        self.streams.get(&stream).copied()
    }

    pub(crate) fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Decides what a hello leads to.
    pub(crate) fn admit(&self, key: &EdgeKey, hello: &Hello) -> Result<Admission, SessionError> {
        let Some(edge) = self.edges.get(key) else {
            if self.edges.len() >= self.edges_max {
                return Err(SessionError::Overloaded {
                    what: "edges",
                    limit: self.edges_max,
                });
            }
            return Ok(Admission::Open { older: Vec::new() });
        };
        if let (Some(resume), Some(newest)) = (hello.resume, edge.sessions.last()) {
            let session = self.slots.at(*newest);
            if (session.incarnation, session.number) == (hello.incarnation, resume) {
                return Ok(Admission::Resume(*newest));
            }
        }
        if (hello.incarnation, hello.session) <= edge.highest {
            return Err(SessionError::Stale {
                asked_incarnation: hello.incarnation,
                asked_session: hello.session,
                seen_incarnation: edge.highest.0,
                seen_session: edge.highest.1,
            });
        }
        let older = edge.sessions.clone();
        Ok(Admission::Open { older })
    }

    /// Adds a session that [`Sessions::admit`] let in.
    pub(crate) fn open(&mut self, edge: EdgeKey, hello: &Hello, source: u32) -> u32 {
        let session = self.slots.insert(Session {
            edge: edge.clone(),
            incarnation: hello.incarnation,
            number: hello.session,
            source,
            stream: None,
            broken_at: None,
            deadline: None,
            last_sequence: 0,
            refused: VecDeque::new(),
        });
        let known = self.edges.entry(edge).or_insert_with(|| Edge {
            highest: (hello.incarnation, hello.session),
            sessions: Vec::new(),
            forget_at: None,
        });
        known.highest = (hello.incarnation, hello.session);
        known.sessions.push(session);
        session
    }

    /// Puts a session on a stream; returns the stream that carried it.
    pub(crate) fn attach(&mut self, session: u32, stream: StreamId) -> Option<StreamId> {
        let before = self.detach(session);
        let held = self.slots.at_mut(session);
        held.stream = Some(stream);
        held.broken_at = None;
        self.streams.insert(stream, session);
        before
    }

    /// Takes a session off its stream; returns the stream.
    pub(crate) fn detach(&mut self, session: u32) -> Option<StreamId> {
        let stream = self.slots.at_mut(session).stream.take()?;
        self.streams.remove(&stream);
        Some(stream)
    }

    /// Returns the older sessions of the same edge, oldest first.
    pub(crate) fn older(&self, session: u32) -> Vec<u32> {
        let edge = &self.edges[&self.slots.at(session).edge];
        let older = edge.sessions.iter().take_while(|other| **other != session);
        older.copied().collect()
    }

    /// Returns whether a newer session of the same edge has a stream, so that it may still tell
    /// what replaces this one.
    pub(crate) fn is_being_replaced(&self, session: u32) -> bool {
        let edge = &self.edges[&self.slots.at(session).edge];
        let mut newer = edge
            .sessions
            .iter()
            .rev()
            .take_while(|other| **other != session);
        newer.any(|other| self.slots.at(*other).stream.is_some())
    }

    /// Takes a session out; returns it, and whether it was the last of its edge.
    pub(crate) fn remove(&mut self, session: u32) -> (Session, bool) {
        let _stream = self.detach(session);
        let held = self.slots.remove(session);
        let edge = self.edges.get_mut(&held.edge);
        let edge = edge.expect("an edge is known as long as it has sessions");
        edge.sessions.retain(|other| *other != session);
        let is_last = edge.sessions.is_empty();
        (held, is_last)
    }

    /// Sets until when an edge is remembered; returns the time set before.
    pub(crate) fn remember(
        &mut self,
        key: &EdgeKey,
        until: Option<Monotonic>,
    ) -> Option<Monotonic> {
        let edge = self.edges.get_mut(key)?;
        std::mem::replace(&mut edge.forget_at, until)
    }

    /// Forgets an edge whose time has come.
    pub(crate) fn forget(&mut self, key: &EdgeKey) {
        self.edges.remove(key);
    }
}
