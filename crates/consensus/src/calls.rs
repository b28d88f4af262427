//! Calls to peers that wait for their answer, by number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use headcount_model::NodeId;
use headcount_wire::proto::consensus::v1::envelope::Body;
use tokio::sync::oneshot;

/// The open calls of one group. Bounded by what openraft has on its way to each follower: appends
/// by their limit, votes and transfers by one each.
#[derive(Debug)]
pub(crate) struct Calls {
    /// The next number, shared by all groups of the host.
    next: Arc<AtomicU64>,
    /// `None` after the group stopped.
    open: Mutex<Option<BTreeMap<u64, Waiting>>>,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Waiting {
    /// The node that was called.
    node: NodeId,
    answer: oneshot::Sender<Body>,
}

impl Calls {
    pub(crate) fn new(next: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            next,
            open: Mutex::new(Some(BTreeMap::new())),
        })
    }

    /// Opens a call to a node, or `None` after [`Self::close`].
    pub(crate) fn open(self: &Arc<Self>, node: NodeId) -> Option<Call> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            node,
            answer: sender,
        };
        self.lock().as_mut()?.insert(number, waiting);
        Some(Call {
            number,
            calls: Arc::clone(self),
            answer,
        })
    }

    /// Hands `body` to whoever waits for the answer to the call `number`; nobody may.
    pub(crate) fn complete(&self, number: u64, body: Body) {
        let waiting = self.lock().as_mut().and_then(|open| open.remove(&number));
        if let Some(waiting) = waiting {
            // The caller may have given up between the two lines; then nobody wants the answer.
            drop(waiting.answer.send(body));
        }
    }

    /// Fails every open call to a node: the answers may be lost.
    pub(crate) fn lose(&self, node: NodeId) {
        if let Some(open) = self.lock().as_mut() {
            open.retain(|_, waiting| waiting.node != node);
        }
    }

    /// Fails every open call, and every later one.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<u64, Waiting>>> {
        // No code under the lock can panic half-way, so what a poisoned lock guards is whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open call. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    calls: Arc<Calls>,
    /// Resolves to the answer, or to an error when that may be lost, or the group stops.
    pub(crate) answer: oneshot::Receiver<Body>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(open) = self.calls.lock().as_mut() {
            open.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use headcount_wire::proto::consensus::v1::{Accepted, AppendReply, append_reply};

    use super::*;

    const NODE: NodeId = NodeId(2);

    fn accepted() -> Body {
        let result = Some(append_reply::Result::Accepted(Accepted {}));
        Body::AppendReply(AppendReply {
            result,
            ..AppendReply::default()
        })
    }

    fn calls() -> Arc<Calls> {
        Calls::new(Arc::new(AtomicU64::new(100)))
    }

    #[test]
    fn an_answer_reaches_its_call_and_no_other() {
        let calls = calls();
        let mut first = calls.open(NODE).unwrap();
        let mut second = calls.open(NODE).unwrap();
        calls.complete(second.number, accepted());
        assert!(first.answer.try_recv().is_err());
        assert_eq!(second.answer.try_recv().unwrap(), accepted());
    }

    #[test]
    fn calls_to_a_node_fail_when_their_answers_may_be_lost() {
        let calls = calls();
        let mut lost = calls.open(NODE).unwrap();
        let mut other = calls.open(NodeId(3)).unwrap();
        calls.lose(NODE);
        assert_eq!(
            lost.answer.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        );
        calls.complete(other.number, accepted());
        assert_eq!(other.answer.try_recv().unwrap(), accepted());
        assert!(calls.open(NODE).is_some(), "the next is not lost");
    }

    #[test]
    fn a_call_that_was_given_up_leaves_nothing_behind() {
        let calls = calls();
        let number = calls.open(NODE).unwrap().number;
        assert!(calls.lock().as_ref().unwrap().is_empty());
        calls.complete(number, accepted());
    }

    #[test]
    fn closing_fails_open_and_later_calls() {
        let calls = calls();
        let mut call = calls.open(NODE).unwrap();
        calls.close();
        assert!(call.answer.try_recv().is_err());
        assert!(calls.open(NODE).is_none());
    }
}
