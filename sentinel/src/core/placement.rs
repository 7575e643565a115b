//! Where the founding replicas go.
//!
//! Each shard's replicas sit on distinct nodes, in distinct zones as far as there are zones, and
//! both replicas and first choices for primary are spread evenly. Greedy and deterministic: the same
//! nodes give the same placement.

use std::collections::{BTreeMap, BTreeSet};

/// A node that can take replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub node: u64,
    pub zone: String,
}

/// Nodes of each shard, the preferred primary first. `None` while there are too few sites.
pub fn place(sites: &[Site], shards: u32, replicas: u32) -> Option<Vec<Vec<u64>>> {
    if replicas == 0 || sites.len() < replicas as usize {
        return None;
    }
    let mut load = Load::new(sites);
    Some((0..shards).map(|_| load.place_shard(replicas)).collect())
}

struct Load<'a> {
    sites: BTreeMap<u64, &'a str>,
    primaries: BTreeMap<u64, u32>,
    replicas: BTreeMap<u64, u32>,
    zone_replicas: BTreeMap<&'a str, u32>,
}

impl<'a> Load<'a> {
    fn new(sites: &'a [Site]) -> Self {
        Self {
            sites: sites.iter().map(|s| (s.node, s.zone.as_str())).collect(),
            primaries: sites.iter().map(|s| (s.node, 0)).collect(),
            replicas: sites.iter().map(|s| (s.node, 0)).collect(),
            zone_replicas: sites.iter().map(|s| (s.zone.as_str(), 0)).collect(),
        }
    }

    fn place_shard(&mut self, replicas: u32) -> Vec<u64> {
        let mut nodes = Vec::with_capacity(replicas as usize);
        let mut zones = BTreeSet::new();
        while nodes.len() < replicas as usize {
            let node = self.pick(&nodes, &zones);
            let zone = self.sites[&node];
            if nodes.is_empty() {
                *self.primaries.entry(node).or_default() += 1;
            }
            *self.replicas.entry(node).or_default() += 1;
            *self.zone_replicas.entry(zone).or_default() += 1;
            zones.insert(zone);
            nodes.push(node);
        }
        nodes
    }

    /// The best node for the next replica: a new zone first, then (for the first replica) few
    /// primaries, then few replicas on the node, in its zone, and as primary.
    fn pick(&self, taken: &[u64], zones: &BTreeSet<&str>) -> u64 {
        let free = self.sites.iter().filter(|(node, _)| !taken.contains(node));
        free.min_by_key(|(node, zone)| {
            let first = if taken.is_empty() { self.primaries[*node] } else { 0 };
            let known_zone = zones.contains(**zone);
            (known_zone, first, self.replicas[*node], self.zone_replicas[**zone], **node)
        })
        .map(|(node, _)| *node)
        .expect("there are at least as many sites as replicas")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(zones: &[&str]) -> Vec<Site> {
        let number = (1..).zip(zones);
        number.map(|(node, zone)| Site { node, zone: (*zone).to_owned() }).collect()
    }

    fn counts(nodes: impl Iterator<Item = u64>) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for node in nodes {
            *counts.entry(node).or_default() += 1;
        }
        counts
    }

    #[test]
    fn waits_for_enough_nodes() {
        assert_eq!(place(&sites(&["a", "b"]), 3, 3), None);
    }

    #[test]
    fn primaries_are_spread_over_the_nodes() {
        let placed = place(&sites(&["a", "b", "c"]), 6, 3).unwrap();
        assert_eq!(placed.len(), 6);
        let primaries = counts(placed.iter().map(|nodes| nodes[0]));
        assert_eq!(primaries.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
        for nodes in &placed {
            assert_eq!(counts(nodes.iter().copied()).len(), 3, "{nodes:?} are distinct");
        }
    }

    #[test]
    fn replicas_are_spread_over_zones_and_nodes() {
        let sites = sites(&["a", "a", "b", "b", "c", "c"]);
        let placed = place(&sites, 6, 3).unwrap();
        let zone = |node: u64| sites[node as usize - 1].zone.clone();
        for nodes in &placed {
            let zones: BTreeSet<String> = nodes.iter().map(|n| zone(*n)).collect();
            assert_eq!(zones.len(), 3, "{nodes:?} are in three zones");
        }
        let load = counts(placed.iter().flatten().copied());
        assert_eq!(load.values().copied().collect::<Vec<_>>(), [3; 6]);
        assert_eq!(counts(placed.iter().map(|n| n[0])).len(), 6);
    }

    #[test]
    fn one_zone_is_no_obstacle() {
        let placed = place(&sites(&["", "", "", ""]), 4, 2).unwrap();
        let load = counts(placed.iter().flatten().copied());
        assert_eq!(load.values().copied().collect::<Vec<_>>(), [2; 4]);
    }
}
