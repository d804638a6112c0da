//! A scene: one Service with its endpoints on a node of a certain setup, as the API's objects, and rows saying what
//! everybody meets there. Not responsible for the rows' contents: each subject of the table has a file of its own.

use serde_json::{Value, json};
use service_model::{IpFamily, NodePortAddresses, NodeView, Protocol, SERVICE_NAME_LABEL};

use super::expected::Expected;
use super::probe::{Place, Pod, SERVICE_PORT, Sender, Target};
use crate::battery::World;

pub const NAMESPACE: &str = "table";

/// What a node is told, besides Services. Scenes of one setup share a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setup {
    /// The node's pods are known by their range; node ports answer on all its addresses.
    Usual,
    /// Nobody knows where the node's pods have their addresses.
    PodsUnknown,
    MasqueradeAll,
    /// Node ports answer on the node's first address only.
    FirstAddress,
    /// Node ports answer on the node's first address and on localhost, IPv4's: no kernel routes IPv6's.
    Localhost,
}

/// An endpoint, as a slice has it.
#[derive(Clone, Debug)]
pub struct Member {
    pub pod: Pod,
    /// `ready`, `serving`, `terminating`; what is `None` is left out.
    conditions: [Option<bool>; 3],
    zones: Vec<&'static str>,
    nodes: Vec<&'static str>,
}

/// Who meets what, crossed with the families and protocols.
#[derive(Clone, Debug)]
pub struct Row {
    pub senders: Vec<Sender>,
    pub targets: Vec<Target>,
    pub families: Vec<IpFamily>,
    /// `None`: those of the Service.
    pub protocols: Option<Vec<Protocol>>,
    pub expected: Expected,
}

#[derive(Clone, Debug)]
pub struct Scene {
    pub name: &'static str,
    pub setup: Setup,
    /// Given when the table is put together.
    pub place: Place,
    pub protocols: Vec<Protocol>,
    pub rows: Vec<Row>,
    families: Vec<IpFamily>,
    kind: &'static str,
    external_ip: bool,
    /// The `ipMode` of the load balancer's address, if there is one.
    load_balancer: Option<&'static str>,
    policies: Vec<(&'static str, Value)>,
    labels: Vec<(&'static str, &'static str)>,
    slice_labels: Vec<(&'static str, &'static str)>,
    members: Vec<Member>,
}

impl Setup {
    pub const ALL: [Setup; 5] =
        [Setup::Usual, Setup::PodsUnknown, Setup::MasqueradeAll, Setup::FirstAddress, Setup::Localhost];

    /// The node as a proxy knows it, both families in one.
    pub fn node(self) -> NodeView {
        let worlds = IpFamily::BOTH.map(World::new);
        let mut node = worlds[0].node.clone();
        node.addresses.extend(worlds.iter().map(|world| world.second_node_address));
        let first = worlds.iter().map(|world| world.node_address);
        match self {
            Setup::Usual => {}
            Setup::PodsUnknown => node.pod_cidrs.clear(),
            Setup::MasqueradeAll => node.masquerade_all = true,
            Setup::FirstAddress => node.node_ports = NodePortAddresses::Only(first.collect()),
            Setup::Localhost => {
                let loopback = Sender::NodeLoopback.address(&worlds[0]);
                node.node_ports = NodePortAddresses::Only(first.chain([loopback]).collect());
            }
        }
        node
    }
}

impl Member {
    /// With these hints for zones.
    pub fn for_zones<const N: usize>(mut self, zones: [&'static str; N]) -> Member {
        self.zones = zones.to_vec();
        self
    }

    /// With these hints for nodes.
    pub fn for_nodes<const N: usize>(mut self, nodes: [&'static str; N]) -> Member {
        self.nodes = nodes.to_vec();
        self
    }

    fn object(&self, world: &World) -> Value {
        let mut conditions = serde_json::Map::new();
        for (name, value) in ["ready", "serving", "terminating"].into_iter().zip(self.conditions) {
            conditions.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        let mut object = json!({
            "addresses": [self.pod.address(world)], "conditions": conditions, "nodeName": self.pod.node(),
        });
        let named = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        let mut hints = serde_json::Map::new();
        for (field, names) in [("forZones", &self.zones), ("forNodes", &self.nodes)] {
            if !names.is_empty() {
                hints.insert(field.to_owned(), json!(named(names)));
            }
        }
        if !hints.is_empty() {
            object["hints"] = hints.into();
        }
        object
    }
}

fn member(pod: Pod, ready: bool, serving: bool, terminating: bool) -> Member {
    let conditions = [Some(ready), Some(serving), Some(terminating)];
    Member { pod, conditions, zones: vec![], nodes: vec![] }
}

pub fn ready(pod: Pod) -> Member {
    member(pod, true, true, false)
}

/// Not ready, and not on its way out either.
pub fn unready(pod: Pod) -> Member {
    member(pod, false, false, false)
}

/// On its way out, still serving.
pub fn draining(pod: Pod) -> Member {
    member(pod, false, true, true)
}

/// On its way out, not serving any more.
pub fn ending(pod: Pod) -> Member {
    member(pod, false, false, true)
}

/// Serving, but neither ready nor on its way out.
pub fn serving(pod: Pod) -> Member {
    member(pod, false, true, false)
}

/// Of which nothing is said.
pub fn unsaid(pod: Pod) -> Member {
    Member { pod, conditions: [None; 3], zones: vec![], nodes: vec![] }
}

pub fn row<const S: usize, const T: usize>(senders: [Sender; S], targets: [Target; T], expected: Expected) -> Row {
    let families = IpFamily::BOTH.to_vec();
    Row { senders: senders.to_vec(), targets: targets.to_vec(), families, protocols: None, expected }
}

impl Row {
    /// In this family only.
    pub fn family(mut self, family: IpFamily) -> Row {
        self.families = vec![family];
        self
    }

    /// By this protocol, whether the Service has it or not.
    pub fn protocol(mut self, protocol: Protocol) -> Row {
        self.protocols = Some(vec![protocol]);
        self
    }
}

impl Scene {
    /// A Service with nothing but a cluster IP in each family, for TCP and UDP, without endpoints.
    pub fn new(name: &'static str) -> Scene {
        Scene {
            name,
            setup: Setup::Usual,
            place: Place(0),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            rows: vec![],
            families: IpFamily::BOTH.to_vec(),
            kind: "ClusterIP",
            external_ip: false,
            load_balancer: None,
            policies: vec![],
            labels: vec![],
            slice_labels: vec![],
            members: vec![],
        }
    }

    pub fn members<const N: usize>(mut self, members: [Member; N]) -> Scene {
        self.members = members.into();
        self
    }

    pub fn rows<const N: usize>(mut self, rows: [Row; N]) -> Scene {
        self.rows.extend(rows);
        self
    }

    pub fn node_port(mut self) -> Scene {
        self.kind = "NodePort";
        self
    }

    pub fn external_ip(mut self) -> Scene {
        self.external_ip = true;
        self
    }

    /// With an address of a load balancer, of this `ipMode`.
    pub fn load_balancer(mut self, mode: &'static str) -> Scene {
        self.kind = "LoadBalancer";
        self.load_balancer = Some(mode);
        self
    }

    /// Cluster IP, node port, external IP and a load balancer's.
    pub fn everywhere(self) -> Scene {
        self.load_balancer("VIP").external_ip()
    }

    pub fn external_local(self) -> Scene {
        self.with("externalTrafficPolicy", json!("Local"))
    }

    pub fn internal_local(self) -> Scene {
        self.with("internalTrafficPolicy", json!("Local"))
    }

    pub fn sticky(self) -> Scene {
        self.with("sessionAffinity", json!("ClientIP"))
    }

    pub fn source_ranges<const N: usize>(self, ranges: [&'static str; N]) -> Scene {
        self.with("loadBalancerSourceRanges", json!(ranges.to_vec()))
    }

    pub fn label(mut self, name: &'static str, value: &'static str) -> Scene {
        self.labels.push((name, value));
        self
    }

    /// On its EndpointSlices.
    pub fn slice_label(mut self, name: &'static str, value: &'static str) -> Scene {
        self.slice_labels.push((name, value));
        self
    }

    pub fn setup(mut self, setup: Setup) -> Scene {
        self.setup = setup;
        self
    }

    pub fn protocol(mut self, protocol: Protocol) -> Scene {
        self.protocols = vec![protocol];
        self
    }

    pub fn single_family(mut self, family: IpFamily) -> Scene {
        self.families = vec![family];
        self
    }

    fn with(mut self, field: &'static str, value: Value) -> Scene {
        self.policies.push((field, value));
        self
    }

    /// The Service, and an EndpointSlice for each of its families.
    pub fn objects(&self) -> Vec<Value> {
        let slices = self.families.iter().map(|family| self.slice(*family));
        std::iter::once(self.service()).chain(slices).collect()
    }

    fn service(&self) -> Value {
        let place = self.place;
        let all = |of: &dyn Fn(IpFamily) -> std::net::IpAddr| self.families.iter().map(|f| of(*f)).collect::<Vec<_>>();
        let addresses = all(&|family| place.cluster_ip(family));
        let ports: Vec<Value> = self.protocols.iter().map(|protocol| self.port(*protocol)).collect();
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let mut spec = json!({
            "type": self.kind, "clusterIP": addresses[0], "clusterIPs": addresses, "ports": ports,
            "ipFamilies": self.families.iter().map(|family| family.address_type()).collect::<Vec<_>>(),
            "ipFamilyPolicy": if self.families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        });
        let external_local = self.policies.contains(&("externalTrafficPolicy", json!("Local")));
        if self.kind == "LoadBalancer" && external_local {
            // Else an API server takes one by chance, maybe another scene's node port.
            spec["healthCheckNodePort"] = json!(place.health_check_port());
        }
        if self.external_ip {
            spec["externalIPs"] = json!(all(&|family| place.external_ip(family)));
        }
        for (field, value) in &self.policies {
            spec[*field] = value.clone();
        }
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": NAMESPACE, "name": self.name, "labels": labels}, "spec": spec,
        });
        if let Some(mode) = self.load_balancer {
            let ingress: Vec<Value> = all(&|family| place.load_balancer_ip(family))
                .into_iter()
                .map(|address| json!({"ip": address, "ipMode": mode}))
                .collect();
            service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
        service
    }

    fn port(&self, protocol: Protocol) -> Value {
        let name = protocol.to_string().to_lowercase();
        let mut port = json!({
            "name": name, "protocol": protocol.to_string(), "port": SERVICE_PORT,
            "targetPort": World::new(IpFamily::V4).endpoint_ports[0],
        });
        if self.kind != "ClusterIP" {
            port["nodePort"] = json!(self.place.node_port());
        }
        port
    }

    fn slice(&self, family: IpFamily) -> Value {
        let world = World::new(family);
        let target = world.endpoint_ports[0];
        let ports: Vec<Value> = self
            .protocols
            .iter()
            .map(|protocol| {
                let name = protocol.to_string().to_lowercase();
                json!({"name": name, "protocol": protocol.to_string(), "port": target})
            })
            .collect();
        let name = format!("{}-{}", self.name, family.address_type().to_lowercase());
        let labels = self.slice_labels.iter().copied().chain([(SERVICE_NAME_LABEL, self.name)]);
        let labels: serde_json::Map<String, Value> =
            labels.map(|(key, value)| (key.to_owned(), json!(value))).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": labels},
            "addressType": family.address_type(), "ports": ports,
            "endpoints": self.members.iter().map(|member| member.object(&world)).collect::<Vec<_>>(),
        })
    }
}
