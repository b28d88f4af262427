//! Starts and stops the replicas that the control group places on this node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount_consensus::{GroupId as RaftGroupId, Host, InitializeError, Member, ReplicaConfig};
use headcount_coordinator::Shard;
use headcount_feed::{ShardFeed, Start};
use headcount_model::{Incarnation, NodeId, RegionName, ReplicaId, ShardId};
use headcount_placement::{Control, GroupId, Hosted as Placed};
use headcount_rpc::peers::Network;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::gateway::GatewayHandle;
use crate::relay::RelayHandle;
use crate::shard::{Driver, DriverConfig, DriverStats, Machine, Mail, Replica, mailbox};
use crate::shards::{Hosted, Shards, Wakers};
use crate::tasks::Tasks;

/// How long to wait before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How often it is looked whether what a replica lacks has come.
const LOOK: Duration = Duration::from_millis(20);

/// Whether all that is placed here is there.
struct Settled {
    /// All replicas are started.
    started: bool,
    /// All that stay are read.
    served: bool,
}

/// What hosting works with.
pub(crate) struct Hosting {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) clock: Clock,
    pub(crate) host: Host,
    pub(crate) store: headcount_consensus::store::Store,
    pub(crate) owner: headcount_region::Config,
    pub(crate) gossip: headcount_gossip::Config,
    pub(crate) feed: headcount_feed::Config,
    pub(crate) network: Network,
    pub(crate) gateway: GatewayHandle,
    pub(crate) relay: RelayHandle,
    pub(crate) shards: Shards,
    pub(crate) wakers: Wakers,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) incarnation: watch::Receiver<Incarnation>,
    /// True once the node is about to end.
    pub(crate) quiet: watch::Receiver<bool>,
    /// True once everything placed here was started.
    pub(crate) complete: watch::Sender<bool>,
    pub(crate) tasks: Tasks,
}

impl Hosting {
    /// Runs until the control state is gone.
    pub(crate) async fn run(mut self) {
        self.control.mark_changed();
        let mut wait = None;
        loop {
            let changed = async {
                if let Some(wait) = wait {
                    tokio::time::timeout(wait, self.control.changed())
                        .await
                        .unwrap_or(Ok(()))
                } else {
                    self.control.changed().await
                }
            };
            if changed.await.is_err() {
                return;
            }
            let control = self.control.borrow_and_update().clone();
            let Settled { started, served } = self.settle(&control).await;
            wait = match (started, served) {
                (false, _) => Some(RETRY),
                (true, false) => Some(LOOK),
                (true, true) => None,
            };
            self.complete.send_replace(started);
        }
    }

    /// Makes what runs here be what is placed here.
    async fn settle(&self, control: &Control) -> Settled {
        let placed: Vec<Placed> = control.replicas_of(self.node).collect();
        let mut settled = Settled {
            started: true,
            served: true,
        };
        for replica in &placed {
            let Some(shard) = replica.group.shard() else {
                continue;
            };
            let hosted = self.shards.get(shard);
            let other = hosted.is_some_and(|hosted| hosted.group.replica() != replica.replica);
            if other {
                // It left and another one came, and this node heard of both at once.
                self.stop(shard).await;
            }
            if self.shards.get(shard).is_none() && !replica.leaving {
                settled.started &= self.start(control, shard, replica).await;
            }
            // A replica that never caught up says nothing true, one that leaves nothing new.
            let group = control.group(replica.group);
            let ready = group.and_then(|group| group.on(self.node));
            let stays = ready.is_some_and(|(_, replica)| replica.ready) && !replica.leaving;
            let is_fit = self.shards.get(shard).is_some_and(|hosted| hosted.is_fit());
            self.serve(shard, stays && is_fit);
            settled.served &= !stays || is_fit;
        }
        let wanted: BTreeSet<ShardId> = placed
            .iter()
            .filter_map(|replica| replica.group.shard())
            .collect();
        let here: Vec<ShardId> = self.shards.all().keys().copied().collect();
        for shard in here.into_iter().filter(|shard| !wanted.contains(shard)) {
            self.stop(shard).await;
        }
        self.forget_removed(control, &placed).await;
        settled
    }

    /// Forgets replicas whose removal this node had applied when it ended, and had no time to act on.
    /// Their logs would stay on its disk for ever, and with them all that was written beside them.
    async fn forget_removed(&self, control: &Control, placed: &[Placed]) {
        let placed = placed.iter().map(|hosted| hosted.replica);
        let running = self.host.groups().into_iter().map(|group| group.replica());
        let kept: BTreeSet<ReplicaId> = placed.chain(running).collect();
        let given = control.parts().last_replica;
        let on_disk = self.store.groups().into_iter().map(ReplicaId);
        for replica in on_disk.filter(|replica| *replica <= given && !kept.contains(replica)) {
            match self.host.forget_replica(replica).await {
                Ok(()) => {
                    tracing::info!(target: "consensus", %replica, "forgotten: it was removed");
                }
                Err(error) => {
                    tracing::error!(target: "consensus", %replica, %error, "not forgotten");
                }
            }
        }
    }

    async fn start(&self, control: &Control, shard: ShardId, placed: &Placed) -> bool {
        let era = control
            .facts()
            .map_or_else(Default::default, |facts| facts.era);
        let feed = ShardFeed::new(
            self.feed.clone(),
            era,
            shard,
            self.region.clone(),
            Start::default(),
        );
        let replica = Replica::new(
            self.region.clone(),
            Shard::new(shard, era),
            feed,
            self.wakers.clone(),
        );
        let replica = Arc::new(replica);
        let machine = Machine::new(Arc::clone(&replica), self.store.journal(), self.clock);
        let config = ReplicaConfig {
            group: RaftGroupId(GroupId::Shard(shard).number()),
            replica: placed.replica,
            journal: Some(u64::from(shard.0)),
        };
        let group = match self.host.start_group(config, Box::new(machine)).await {
            Ok(group) => group,
            Err(error) => {
                tracing::error!(target: "consensus", shard = shard.0, %error, "not started");
                return false;
            }
        };
        if placed.founder {
            let founder = Member {
                replica: placed.replica,
                node: self.node,
            };
            match group.initialize(&[founder]).await {
                // Formed before the node restarted.
                Ok(()) | Err(InitializeError::Already) => {}
                Err(error) => {
                    tracing::warn!(target: "consensus", shard = shard.0, %error, "not formed");
                }
            }
        }
        let (mailbox, mail) = mailbox();
        let stats = Arc::default();
        let hosted = Hosted::new(
            Arc::clone(&replica),
            group.clone(),
            mailbox,
            Arc::clone(&stats),
            self.clock,
        );
        // Before its driver begins, so that the driver is rung for whatever it did not see then.
        self.shards.insert(shard, hosted);
        self.drive(replica, group, mail, stats);
        true
    }

    fn drive(
        &self,
        replica: Arc<Replica>,
        group: headcount_consensus::Group,
        mail: mpsc::Receiver<Mail>,
        stats: Arc<Mutex<DriverStats>>,
    ) {
        let config = DriverConfig {
            node: self.node,
            region: self.region.clone(),
            clock: self.clock,
            owner: self.owner,
            gossip: self.gossip,
            network: self.network.clone(),
            gateway: self.gateway.clone(),
            relay: self.relay.clone(),
            control: self.control.clone(),
            incarnation: self.incarnation.clone(),
            quiet: self.quiet.clone(),
        };
        let driver = Driver::new(config, replica, group, mail, stats);
        // Ends when its mailbox is dropped, with the shard's place in the table.
        self.tasks.spawn(driver.run());
    }

    /// Says whether a shard is read here; watchers that read it elsewhere so far are sent away.
    fn serve(&self, shard: ShardId, serving: bool) {
        if self.shards.serve(shard, serving) {
            self.wakers.wake(shard);
        }
    }

    async fn stop(&self, shard: ShardId) {
        self.serve(shard, false);
        // Dropping the mailbox ends the driver.
        drop(self.shards.remove(shard));
        let group = RaftGroupId(GroupId::Shard(shard).number());
        if let Err(error) = self.host.stop_group(group, true).await {
            tracing::error!(target: "consensus", shard = shard.0, %error, "not forgotten");
        }
    }
}
