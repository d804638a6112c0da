//! What the nodes say about zones and capacity. Not responsible for assigning hints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use crate::hints::HintsDisabled;

const ZONE: &str = "topology.kubernetes.io/zone";
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// The nodes as far as endpoints care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    zones: BTreeMap<String, Option<String>>,
    /// Thousandths of a CPU per zone over ready workers, or why hints by capacity are impossible.
    capacity: Result<BTreeMap<String, u64>, Missing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Zone,
    Cpu,
}

impl Topology {
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let (mut zones, mut capacity) = (BTreeMap::new(), Ok(BTreeMap::new()));
        for node in nodes {
            let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned();
            let zone = zone.filter(|zone| !zone.is_empty());
            if let Ok(by_zone) = &mut capacity
                && is_ready_worker(node)
            {
                match (&zone, milli_cpu(node)) {
                    (None, _) => capacity = Err(Missing::Zone),
                    (_, None) => capacity = Err(Missing::Cpu),
                    (Some(zone), Some(cpu)) => *by_zone.entry(zone.clone()).or_insert(0) += cpu,
                }
            }
            zones.insert(node.metadata.name.clone().unwrap_or_default(), zone);
        }
        Self { zones, capacity }
    }

    pub fn knows(&self, node: &str) -> bool {
        self.zones.contains_key(node)
    }

    pub fn zone(&self, node: &str) -> Option<&str> {
        self.zones.get(node)?.as_deref()
    }

    /// Each zone's share of the cluster's CPU, summing to 1.
    pub fn shares(&self) -> Result<BTreeMap<&str, f64>, HintsDisabled> {
        let capacity = self.capacity.as_ref().map_err(|missing| match missing {
            Missing::Zone => HintsDisabled::NodeWithoutZone,
            Missing::Cpu => HintsDisabled::NodeWithoutCpu,
        })?;
        let total: u64 = capacity.values().sum();
        if capacity.len() < 2 || total == 0 {
            return Err(HintsDisabled::TooFewZones);
        }
        Ok(capacity.iter().map(|(zone, cpu)| (zone.as_str(), *cpu as f64 / total as f64)).collect())
    }
}

fn is_ready_worker(node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let control_plane = labels.is_some_and(|labels| CONTROL_PLANE.iter().any(|key| labels.contains_key(*key)));
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    !control_plane && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// `allocatable.cpu`: whole cores (`4`, `0.5`) or thousandths (`500m`).
fn milli_cpu(node: &Node) -> Option<u64> {
    let quantity = &node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?.0;
    let milli = match quantity.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().ok()?,
        None => quantity.parse::<f64>().ok()? * 1000.0,
    };
    (milli.is_finite() && milli > 0.0).then_some(milli as u64)
}
