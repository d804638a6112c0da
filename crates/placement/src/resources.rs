//! What pods ask for and nodes have: processor, memory, disk, places for pods, host ports. Pure.
//!
//! Not responsible for extended resources, which no node of ours has: they count as not there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts by resource: thousandths of a core, whole units of everything else.
type Amounts = BTreeMap<String, i128>;

/// What a pod takes of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    amounts: Amounts,
    /// Protocol, address (empty is all), number.
    ports: BTreeSet<(String, String, i32)>,
}

/// What is taken of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    amounts: Amounts,
    /// With how many pods have them.
    ports: BTreeMap<(String, String, i32), usize>,
    pods: usize,
}

impl Taken {
    pub fn add(&mut self, demand: &Demand) {
        for (name, amount) in &demand.amounts {
            *self.amounts.entry(name.clone()).or_default() += amount;
        }
        for port in &demand.ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
        self.pods += 1;
    }

    /// Takes back what was added.
    pub fn remove(&mut self, demand: &Demand) {
        for (name, amount) in &demand.amounts {
            *self.amounts.entry(name.clone()).or_default() -= amount;
        }
        for port in &demand.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
            }
        }
        self.ports.retain(|_, count| *count > 0);
        self.pods -= 1;
    }

    pub fn pods(&self) -> usize {
        self.pods
    }
}

/// What the pod asks for: the sum of its containers and sidecars, or more if an init container needs more at its time.
pub fn demand(pod: &Pod) -> Demand {
    let Some(spec) = &pod.spec else { return Demand::default() };
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, own);
        } else {
            add(&mut own, sidecars.clone());
            raise(&mut most, own);
        }
    }
    let mut amounts = sidecars;
    spec.containers.iter().for_each(|container| add(&mut amounts, requests(container)));
    raise(&mut amounts, most);
    let overhead =
        spec.overhead.iter().flatten().filter_map(|(name, quantity)| Some((name.clone(), amount(name, quantity)?)));
    add(&mut amounts, overhead.collect());
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = port.host_port.filter(|number| *number != 0)?;
        let address = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
        Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), address, number))
    });
    Demand { amounts, ports: ports.collect() }
}

/// What the node lacks for the pod, in upstream's words; nothing when it has room. A node that hasn't said yet what it has
/// is not held against it.
pub fn lacks(node: &Node, taken: &Taken, demand: &Demand) -> Vec<String> {
    let mut reasons = Vec::new();
    if ports_clash(taken, demand) {
        reasons.push("node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return reasons };
    for shortage in shortages(allocatable, taken, demand) {
        reasons.push(match shortage.resource.as_str() {
            PODS => "Too many pods".to_owned(),
            resource => format!("Insufficient {resource}"),
        });
    }
    reasons
}

const PODS: &str = "pods";

/// Too little of something, in thousandths of a core or in whole units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    pub requested: i128,
    pub used: i128,
    pub capacity: i128,
}

pub fn shortages(allocatable: &BTreeMap<String, Quantity>, taken: &Taken, demand: &Demand) -> Vec<Shortage> {
    let has = |name: &str| allocatable.get(name).and_then(|quantity| amount(name, quantity));
    let wanted = demand.amounts.iter().filter(|(_, wanted)| **wanted > 0).filter_map(|(name, wanted)| {
        // Our nodes say nothing of their disk, which is their machine's.
        let capacity = has(name).or((name != "ephemeral-storage").then_some(0))?;
        let used = taken.amounts.get(name).copied().unwrap_or(0);
        Some(Shortage { resource: name.clone(), requested: *wanted, used, capacity })
    });
    let places = has(PODS).map(|capacity| Shortage {
        resource: PODS.to_owned(),
        requested: 1,
        used: taken.pods as i128,
        capacity,
    });
    places.into_iter().chain(wanted).filter(|it| it.used + it.requested > it.capacity).collect()
}

/// Whether the pod wants a port of the node's that is taken.
pub fn ports_clash(taken: &Taken, demand: &Demand) -> bool {
    demand.ports.iter().any(|wanted| {
        taken.ports.keys().any(|known| {
            (&known.0, known.2) == (&wanted.0, wanted.2)
                && (known.1.is_empty() || wanted.1.is_empty() || known.1 == wanted.1)
        })
    })
}

fn requests(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref()).into_iter().flatten();
    requests.filter_map(|(name, quantity)| Some((name.clone(), amount(name, quantity)?))).collect()
}

fn amount(name: &str, quantity: &Quantity) -> Option<i128> {
    let quantity: api::quantity::Quantity = quantity.0.parse().ok()?;
    Some(if name == "cpu" { quantity.milli() } else { quantity.value() })
}

fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        *total.entry(name).or_default() += amount;
    }
}

fn raise(least: &mut Amounts, wanted: Amounts) {
    for (name, amount) in wanted {
        let known = least.entry(name).or_default();
        *known = amount.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn asks(cpu: &str, memory: &str) -> Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn a_node_lacks_what_others_have_taken() {
        let allocatable = json!({ "cpu": "2", "memory": "1Gi", "pods": "3" });
        let node: Node = serde_json::from_value(json!({ "status": { "allocatable": allocatable } })).unwrap();
        let mut taken = Taken::default();
        let big = pod(json!({ "containers": [asks("1500m", "600Mi")] }));
        assert!(lacks(&node, &taken, &demand(&big)).is_empty());
        taken.add(&demand(&big));
        assert_eq!(lacks(&node, &taken, &demand(&big)), ["Insufficient cpu", "Insufficient memory"]);
        assert!(lacks(&node, &taken, &demand(&pod(json!({ "containers": [asks("500m", "1Mi")] })))).is_empty());
        let extended =
            pod(json!({ "containers": [{ "name": "c", "resources": { "requests": { "example.com/gpu": "1" } } }] }));
        assert_eq!(lacks(&node, &taken, &demand(&extended)), ["Insufficient example.com/gpu"]);
        let none = pod(json!({ "containers": [] }));
        (0..2).for_each(|_| taken.add(&demand(&none)));
        assert_eq!(lacks(&node, &taken, &demand(&none)), ["Too many pods"]);
        assert!(lacks(&Node::default(), &taken, &demand(&big)).is_empty(), "it hasn't said what it has");
    }

    #[test]
    fn init_containers_count_at_their_time_and_sidecars_always() {
        let mut sidecar = asks("1", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        let demand = demand(&pod(json!({
            "initContainers": [sidecar, asks("3", "1Mi")], "containers": [asks("500m", "8Mi")]
        })));
        assert_eq!(demand.amounts["cpu"], 4000);
        assert_eq!(demand.amounts["memory"], 9 << 20);
    }

    #[test]
    fn a_host_port_is_had_once_for_each_address() {
        let node = Node::default();
        let with = |ip: &str, protocol: &str| {
            let port = json!({ "containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol });
            pod(json!({ "containers": [{ "name": "c", "ports": [port] }] }))
        };
        let mut taken = Taken::default();
        taken.add(&demand(&with("10.0.0.1", "TCP")));
        let refused = |pod: &Pod| !lacks(&node, &taken, &demand(pod)).is_empty();
        assert!(refused(&with("", "TCP")) && refused(&with("10.0.0.1", "TCP")) && refused(&with("0.0.0.0", "TCP")));
        assert!(!refused(&with("10.0.0.2", "TCP")) && !refused(&with("", "UDP")));
    }
}
