//! What a session holds, by the rules of the reporter API.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{
    Category, ChannelName, ConnectionId, MemberId, Modes, Occupancy, ReportItem,
};

/// The books of one session: what it said that it has, by channel.
#[derive(Debug, Default)]
pub(super) struct Books(BTreeMap<ChannelName, Page>);

#[derive(Debug, Default)]
struct Page {
    attached: BTreeMap<ConnectionId, Attached>,
    counted: Occupancy,
}

#[derive(Debug)]
struct Attached {
    modes: Modes,
    members: BTreeSet<MemberId>,
}

impl Books {
    /// Enters items in order; returns the channels that they concern, with their counts.
    ///
    /// # Panics
    /// If an item is one that nodes refuse: a member without an attachment that may have one.
    pub(super) fn report(&mut self, items: &[ReportItem]) -> BTreeMap<String, Occupancy> {
        let mut changed = BTreeSet::new();
        for item in items {
            match item {
                ReportItem::Attach {
                    connection,
                    channel,
                    modes,
                } => {
                    changed.insert(channel.clone());
                    let page = self.0.entry(channel.clone()).or_default();
                    let attached = page.attached.entry(connection.clone());
                    let attached = attached.or_insert_with(|| Attached {
                        modes: *modes,
                        members: BTreeSet::new(),
                    });
                    attached.modes = *modes;
                    if !modes.contains(Modes::PRESENCE) {
                        attached.members.clear();
                    }
                }
                ReportItem::Detach {
                    connection,
                    channel,
                } => {
                    changed.insert(channel.clone());
                    let page = self.0.entry(channel.clone()).or_default();
                    page.attached.remove(connection);
                }
                ReportItem::PresenceEnter {
                    connection,
                    channel,
                    member,
                } => {
                    changed.insert(channel.clone());
                    let members = self.members(channel, connection);
                    let members = members.expect("who enters presence is attached for it");
                    members.insert(member.clone());
                }
                ReportItem::PresenceLeave {
                    connection,
                    channel,
                    member,
                } => {
                    changed.insert(channel.clone());
                    if let Some(members) = self.members(channel, connection) {
                        members.remove(member);
                    }
                }
                ReportItem::ConnectionClosed { connection } => {
                    for (channel, page) in &mut self.0 {
                        if page.attached.remove(connection).is_some() {
                            changed.insert(channel.clone());
                        }
                    }
                }
                ReportItem::Counts { channel, occupancy } => {
                    changed.insert(channel.clone());
                    self.0.entry(channel.clone()).or_default().counted = *occupancy;
                }
                ReportItem::Activity { .. } => {}
            }
        }
        let pages = changed.into_iter().map(|channel| {
            let counts = self
                .0
                .get(&channel)
                .map_or(Occupancy::ZERO, Page::occupancy);
            (channel.to_string(), counts)
        });
        pages.collect()
    }

    fn members(
        &mut self,
        channel: &ChannelName,
        connection: &ConnectionId,
    ) -> Option<&mut BTreeSet<MemberId>> {
        let attached = self.0.get_mut(channel)?.attached.get_mut(connection)?;
        let may = attached.modes.contains(Modes::PRESENCE);
        may.then_some(&mut attached.members)
    }
}

impl Page {
    fn occupancy(&self) -> Occupancy {
        let attached = self.attached.values().map(|attached| {
            let mut counts = attached.modes.occupancy();
            let members = attached.members.len();
            let members = u32::try_from(members).expect("a run has few members");
            counts.set(Category::PresenceMembers, members);
            counts
        });
        attached.fold(self.counted, Occupancy::plus)
    }
}
