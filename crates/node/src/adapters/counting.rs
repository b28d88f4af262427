//! Realtime clients of this node, as its gateway counts them.

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_api::ports::Counting;
use headcount_model::{AppId, ConnectionId, Refusal, ReportItem};

use crate::gateway::GatewayHandle;

/// Counts realtime clients at this node's gateway.
pub(crate) struct NodeCounting {
    gateway: GatewayHandle,
}

impl NodeCounting {
    pub(crate) fn new(gateway: GatewayHandle) -> Self {
        Self { gateway }
    }
}

impl Counting for NodeCounting {
    fn report(&self, app: AppId, items: Vec<ReportItem>) -> BoxFuture<'_, Vec<Refusal>> {
        self.gateway.clients(app, items).boxed()
    }

    fn uncount(&self, app: AppId, items: Vec<ReportItem>) {
        self.gateway.clients_left(app, items);
    }

    fn forget(&self, app: AppId, connection: ConnectionId) {
        let item = ReportItem::ConnectionClosed { connection };
        self.gateway.clients_left(app, vec![item]);
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        self.gateway.settled().boxed()
    }
}
