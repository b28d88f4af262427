//! What holds after every step, as `DESIGN.md` numbers it.

use crate::owner::{Owner, Phase};
use crate::roster::Source;

impl Owner {
    /// Checks I1 to I5; walks over everything.
    pub(crate) fn check_invariants(&self) {
        for (name, channel) in &self.channels {
            assert!(!channel.gateways.is_empty(), "I1: {name} is of interest");
            for node in channel.gateways.keys() {
                let link = &self.gateways[node];
                assert!(link.channels.contains(name), "I1: {node} knows {name}");
            }
            let seen = |source: &Source| match source {
                Source::Node(node) => channel.gateways.contains_key(node),
                Source::Region(region) => channel.remotes.contains_key(region),
            };
            let known = channel.roster.view(seen).count();
            assert_eq!(known, channel.roster.len(), "I2: holders are known");
            assert!(channel.version <= self.version, "I3: versions are shared");
            let members = channel.roster.view(Source::is_node).count();
            assert!(channel.version > 0 || members == 0, "I3: 0 is empty");
            assert!(channel.roster.len() <= self.config.members_max, "I5");
            let waits = channel.latest.map(|latest| (latest, name.clone()));
            let waits = waits.is_some_and(|waits| self.waiting.contains(&waits));
            let serving = self.phase == Phase::Serving;
            assert_eq!(channel.open, serving && !waits, "I4: {name} opens");
        }
        for (node, link) in &self.gateways {
            for name in &link.channels {
                let channel = &self.channels[name];
                assert!(channel.gateways.contains_key(node), "I1: {name} of {node}");
            }
            let live = self.live.as_ref().and_then(|live| live.get(node));
            assert_eq!(live, Some(&link.incarnation), "I1: {node} holds a lease");
        }
        for (region, name) in &self.pulls {
            assert!(self.channels.contains_key(name), "I4: {name} is pulled");
            assert!(self.peers[region].link.is_some(), "I4: {region} is pulled");
        }
        assert!(self.waiting.len() <= self.channels.len(), "I4");
        assert!(self.channels.len() <= self.config.channels_max, "I5");
        assert!(self.told.len() <= self.config.told_max, "I5");
    }
}
