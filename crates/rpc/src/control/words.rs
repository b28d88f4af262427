//! Traffic and standings as protobuf, and back; an error names the field.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_model::control::{REGIONS_MAX, Standing};
use headcount_model::{NodeId, RegionName, SHARDS_MAX, ShardId};
use headcount_wire::proto::control::v1 as proto;

use super::ports::{ShardsTraffic, Standings};

pub(super) fn put_traffic(traffic: &ShardsTraffic) -> Vec<proto::ShardTraffic> {
    let shards = traffic.iter().map(|(shard, regions)| {
        let regions = regions.iter().map(|(region, items)| proto::RegionItems {
            region: region.to_string(),
            items: *items,
        });
        proto::ShardTraffic {
            shard: shard.0,
            regions: regions.collect(),
        }
    });
    shards.collect()
}

pub(super) fn take_traffic(traffic: Vec<proto::ShardTraffic>) -> Result<ShardsTraffic, String> {
    if traffic.len() > SHARDS_MAX as usize {
        return Err(format!("traffic: more than {SHARDS_MAX} shards"));
    }
    let shards = traffic.into_iter().map(|shard| {
        if shard.regions.len() > REGIONS_MAX {
            return Err(format!("traffic.regions: more than {REGIONS_MAX}"));
        }
        let regions = shard.regions.into_iter().map(|items| {
            let region = RegionName::new(&items.region);
            let region = region.map_err(|error| format!("traffic.regions.region: {error}"))?;
            Ok((region, items.items))
        });
        let regions = regions.collect::<Result<BTreeMap<_, _>, String>>()?;
        Ok((ShardId(shard.shard), regions))
    });
    shards.collect()
}

pub(super) fn put_standings(standings: &Standings) -> proto::StandingsResponse {
    let nodes = standings.nodes.iter().map(|(node, (standing, age))| {
        let standing = match standing {
            Standing::Live => proto::Standing::Live,
            Standing::Suspect => proto::Standing::Suspect,
            Standing::Dead => proto::Standing::Dead,
        };
        proto::NodeStanding {
            node: node.0,
            standing: standing.into(),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    });
    proto::StandingsResponse {
        nodes: nodes.collect(),
        traffic: put_traffic(&standings.traffic),
    }
}

pub(super) fn take_standings(told: proto::StandingsResponse) -> Result<Standings, String> {
    let nodes = told.nodes.into_iter().map(|node| {
        let standing = match proto::Standing::try_from(node.standing) {
            Ok(proto::Standing::Live) => Standing::Live,
            Ok(proto::Standing::Suspect) => Standing::Suspect,
            Ok(proto::Standing::Dead) => Standing::Dead,
            Ok(proto::Standing::Unspecified) | Err(_) => {
                return Err(format!("nodes.standing {}", node.standing));
            }
        };
        let age = Duration::from_millis(node.age_ms);
        Ok((NodeId(node.node), (standing, age)))
    });
    Ok(Standings {
        nodes: nodes.collect::<Result<_, String>>()?,
        traffic: take_traffic(told.traffic)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standings_cross_the_wire() {
        let region = |name| RegionName::new(name).unwrap();
        let told = [Standing::Live, Standing::Suspect, Standing::Dead];
        let nodes = (1..).zip(told).map(|(node, standing)| {
            let age = Duration::from_millis(node * 700);
            (NodeId(node), (standing, age))
        });
        let items = BTreeMap::from([(region("eu"), 7), (region("us"), u64::MAX)]);
        let standings = Standings {
            nodes: nodes.collect(),
            traffic: BTreeMap::from([(ShardId(3), items), (ShardId(9), BTreeMap::new())]),
        };
        assert_eq!(take_standings(put_standings(&standings)), Ok(standings));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        let bad = proto::ShardTraffic {
            shard: 1,
            regions: vec![proto::RegionItems {
                region: "a b".to_owned(),
                items: 1,
            }],
        };
        let refused = take_traffic(vec![bad]).unwrap_err();
        assert!(refused.starts_with("traffic.regions.region: "), "{refused}");
        let many = vec![proto::ShardTraffic::default(); SHARDS_MAX as usize + 1];
        assert!(take_traffic(many).is_err());
        let unknown = proto::StandingsResponse {
            nodes: vec![proto::NodeStanding::default()],
            traffic: Vec::new(),
        };
        assert_eq!(take_standings(unknown), Err("nodes.standing 0".to_owned()));
    }
}
