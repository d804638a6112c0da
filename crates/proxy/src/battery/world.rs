//! A small world of Services, endpoints and senders, few enough that everything meets everything, drawn from a seed. Every
//! address in it can be given to a namespace.

use std::net::IpAddr;

use service_model::{
    Change, ClientIpConfig, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Event, ForName,
    ForwardingTable, IpFamily, LoadBalancerIngress, LoadBalancerStatus, Meta, NodeView, ObjectName, Packet, Port,
    Protocol, SERVICE_NAME_LABEL, Service, ServiceCidr, ServiceCidrSpec, ServiceModel, ServicePortSpec, ServiceSpec,
    ServiceStatus, SessionAffinityConfig, SliceEndpoint, Source, Word,
};

const SERVICES: u64 = 6;
const SLICES_PER_SERVICE: u64 = 2;

/// A generator whose whole state is its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Who is there, for one family.
#[derive(Clone, Debug)]
pub struct World {
    pub family: IpFamily,
    pub node: NodeView,
    pub node_address: IpAddr,
    /// Another address the node may have beside it.
    pub second_node_address: IpAddr,
    /// Which the node has towards its pods, and shows them when it masquerades.
    pub gateway: IpAddr,
    /// Pods of this node, of others, and clients from outside. Pods are endpoints and senders.
    pub local_pods: Vec<IpAddr>,
    pub remote_pods: Vec<IpAddr>,
    pub outsiders: Vec<IpAddr>,
    /// Pods listen on these, TCP and UDP.
    pub endpoint_ports: [u16; 2],
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.below(from.len() as u64);
        usize::try_from(index).ok().and_then(|index| from.get(index))
    }
}

impl World {
    pub fn new(family: IpFamily) -> World {
        let mut node = NodeView::named("here");
        node.zone = Some("z1".to_owned());
        node.pod_cidrs = vec![net("10.244.1.0/24"), net("fd00:244:1::/64")];
        node.addresses = [address("172.30.0.11"), address("fd00:172::11")].into();
        let of = |last: &[u8], v4: &str, v6: &str| -> Vec<IpAddr> {
            last.iter()
                .map(|last| match family {
                    IpFamily::V4 => address(&format!("{v4}{last}")),
                    IpFamily::V6 => address(&format!("{v6}{last}")),
                })
                .collect()
        };
        World {
            family,
            node,
            node_address: of(&[11], "172.30.0.", "fd00:172::")[0],
            second_node_address: of(&[12], "172.30.0.", "fd00:172::")[0],
            gateway: of(&[1], "10.244.1.", "fd00:244:1::")[0],
            local_pods: of(&[5, 6, 7], "10.244.1.", "fd00:244:1::"),
            remote_pods: of(&[5, 6], "10.244.2.", "fd00:244:2::"),
            outsiders: of(&[1, 200], "172.30.0.", "fd00:172::"),
            endpoint_ports: [8080, 9090],
        }
    }

    /// Whether it is an address of the node itself.
    pub fn is_the_nodes(&self, address: IpAddr) -> bool {
        [self.node_address, self.second_node_address, self.gateway].contains(&address)
    }

    pub fn cluster_ip(&self, service: u64) -> IpAddr {
        self.number("10.96.0.", "fd00:96::", 10 + service)
    }

    pub fn external_ip(&self, number: u64) -> IpAddr {
        self.number("192.0.2.", "fd00:192::", 1 + number)
    }

    pub fn load_balancer_ip(&self, number: u64) -> IpAddr {
        self.number("192.0.2.", "fd00:192::", 100 + number)
    }

    fn number(&self, v4: &str, v6: &str, last: u64) -> IpAddr {
        match self.family {
            IpFamily::V4 => address(&format!("{v4}{last}")),
            IpFamily::V6 => address(&format!("{v6}{last:x}")),
        }
    }

    /// A model with a Service CIDR and a few Services.
    pub fn model(&self, random: &mut Random) -> ServiceModel {
        let mut model = ServiceModel::new();
        let cidrs = vec!["10.96.0.0/16".to_owned(), "fd00:96::/112".to_owned()];
        let cidr = ServiceCidr { metadata: meta("kubernetes"), spec: ServiceCidrSpec { cidrs } };
        model.apply(Event::ServiceCidr(Change::Relist(vec![cidr])));
        for number in 0..SERVICES {
            model.apply(Event::Service(Change::Upsert(self.service(random, number))));
            for slice in 0..SLICES_PER_SERVICE {
                model.apply(Event::EndpointSlice(Change::Upsert(self.slice(random, number, slice))));
            }
        }
        model
    }

    /// Something that happens.
    pub fn event(&self, random: &mut Random) -> Event {
        let number = random.below(SERVICES);
        let slice = random.below(SLICES_PER_SERVICE);
        let named = |name: String| ObjectName { namespace: "ns".to_owned(), name };
        match random.below(10) {
            0..3 => Event::Service(Change::Upsert(self.service(random, number))),
            3 => Event::Service(Change::Delete(named(format!("s{number}")))),
            4..9 => Event::EndpointSlice(Change::Upsert(self.slice(random, number, slice))),
            _ => Event::EndpointSlice(Change::Delete(named(format!("s{number}-{slice}")))),
        }
    }

    pub fn service(&self, random: &mut Random, number: u64) -> Service {
        let policy = |random: &mut Random| Word::from(if random.chance(35) { "Local" } else { "Cluster" });
        let node_ports = random.chance(60);
        let protocols: &[&str] = if random.chance(50) { &["TCP", "UDP"] } else { &["TCP"] };
        let ports = protocols
            .iter()
            .enumerate()
            .map(|(index, protocol)| ServicePortSpec {
                name: format!("p{index}"),
                protocol: (*protocol).into(),
                port: 80,
                node_port: if node_ports { 30_000 + i64::try_from(number).unwrap_or(0) } else { 0 },
            })
            .collect();
        let mut ranges = Vec::new();
        if random.chance(30) {
            let choices = match self.family {
                IpFamily::V4 => ["172.30.0.0/25", "10.244.1.0/24", "0.0.0.0/0"],
                IpFamily::V6 => ["fd00:172::/121", "fd00:244:1::/64", "::/0"],
            };
            ranges.extend(random.pick(&choices).map(|range| (*range).to_owned()));
        }
        let sticky = random.chance(30);
        let timeout = Some(if random.chance(50) { 60 } else { 10_800 });
        Service {
            metadata: Meta { namespace: "ns".to_owned(), ..meta(&format!("s{number}")) },
            spec: ServiceSpec {
                type_: if node_ports { "LoadBalancer" } else { "ClusterIP" }.into(),
                cluster_ips: vec![self.cluster_ip(number).to_string()],
                external_ips: if random.chance(40) {
                    vec![self.external_ip(random.below(3)).to_string()]
                } else {
                    vec![]
                },
                ports,
                load_balancer_source_ranges: ranges,
                session_affinity: if sticky { "ClientIP" } else { "None" }.into(),
                session_affinity_config: sticky
                    .then_some(SessionAffinityConfig { client_ip: Some(ClientIpConfig { timeout_seconds: timeout }) }),
                external_traffic_policy: policy(random),
                internal_traffic_policy: policy(random),
                ..ServiceSpec::default()
            },
            status: ServiceStatus {
                load_balancer: LoadBalancerStatus {
                    ingress: if node_ports && random.chance(70) {
                        let ip_mode = random.chance(20).then(|| "Proxy".to_owned());
                        vec![LoadBalancerIngress { ip: self.load_balancer_ip(number).to_string(), ip_mode }]
                    } else {
                        vec![]
                    },
                },
            },
        }
    }

    pub fn slice(&self, random: &mut Random, service: u64, slice: u64) -> EndpointSlice {
        let pods: Vec<(IpAddr, &str)> = self
            .local_pods
            .iter()
            .map(|pod| (*pod, "here"))
            .chain(self.remote_pods.iter().map(|pod| (*pod, "there")))
            .collect();
        let hinted = random.chance(20);
        let mut endpoints = Vec::new();
        for (pod, node) in pods {
            if random.chance(55) {
                continue;
            }
            endpoints.push(SliceEndpoint {
                address: pod.into(),
                conditions: conditions(random),
                node_name: Some(node.into()),
                hints: hinted.then(|| Box::new(hints(random))),
            });
        }
        let target = i64::from(self.endpoint_ports[usize::from(random.chance(30))]);
        let port = |name: &str, protocol: &str| EndpointPort {
            name: name.to_owned(),
            protocol: protocol.to_owned().into(),
            port: Some(target),
        };
        let mut metadata = Meta { namespace: "ns".to_owned(), ..meta(&format!("s{service}-{slice}")) };
        metadata.labels.insert(SERVICE_NAME_LABEL, format!("s{service}"));
        EndpointSlice {
            metadata,
            address_type: self.family.address_type().into(),
            endpoints,
            ports: vec![port("p0", "TCP"), port("p1", "UDP")],
        }
    }

    /// A packet that has a good chance of meeting something.
    pub fn packet(&self, random: &mut Random, table: &ForwardingTable) -> Packet {
        let pick = |random: &mut Random, from: &[IpAddr]| random.pick(from).copied().unwrap_or(self.node_address);
        let source = match random.below(4) {
            0 => Source::Node(self.node_address),
            1 => Source::LocalPod(pick(random, &self.local_pods)),
            2 => Source::RemotePod(pick(random, &self.remote_pods)),
            _ => Source::Outside(pick(random, &self.outsiders)),
        };
        let mut ports: Vec<(Protocol, Option<IpAddr>, Port)> = Vec::new();
        for port in table.ports.values() {
            ports.extend(port.frontends.iter().map(|frontend| (port.protocol, frontend.address(), frontend.port())));
        }
        let known = random.chance(80).then(|| random.pick(&ports).copied()).flatten();
        if let Some((protocol, to, port)) = known {
            return Packet { source, destination: to.unwrap_or(self.node_address), protocol, port };
        }
        let destination = match random.below(4) {
            0 => self.cluster_ip(random.below(SERVICES + 2)),
            1 => self.external_ip(random.below(3)),
            2 => self.load_balancer_ip(random.below(SERVICES)),
            _ => self.node_address,
        };
        let numbers = [80, 81, 30_000, 30_001, 30_099].map(|number| Port::new(number).expect("not zero"));
        let port = numbers[random.below(5) as usize % numbers.len()];
        let protocol = if random.chance(70) { Protocol::Tcp } else { Protocol::Udp };
        Packet { source, destination, protocol, port }
    }
}

fn conditions(random: &mut Random) -> EndpointConditions {
    let (ready, serving, terminating) = match random.below(10) {
        0 => (false, true, true),
        1 => (false, false, true),
        2 => (false, false, false),
        _ => (true, true, false),
    };
    EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }
}

fn hints(random: &mut Random) -> EndpointHints {
    let zone = if random.chance(70) { "z1" } else { "z2" };
    let node = if random.chance(50) { vec![ForName { name: "here".to_owned() }] } else { vec![] };
    EndpointHints { for_zones: vec![ForName { name: zone.to_owned() }], for_nodes: node }
}

fn meta(name: &str) -> Meta {
    Meta { name: name.to_owned(), ..Meta::default() }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address of ours")
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a network of ours")
}
