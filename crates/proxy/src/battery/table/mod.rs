//! The packet table: scenes of one Service each, and for every sender, target, family and protocol the one thing that has
//! to happen, written down by hand. Whatever forwards packets is run against it: the modes of this proxy, and the
//! original. Its own test holds it against the oracle, so that neither can be wrong alone. Not responsible for namespaces
//! nor for sending packets: the caller does.

mod affinity;
mod cluster_ip;
mod differences;
mod expected;
mod external_ip;
mod hairpin;
mod load_balancer;
mod localhost;
mod node_port;
mod policies;
mod probe;
mod protocols;
mod readiness;
mod scene;
mod setups;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};
use service_model::{Change, Event, IpFamily, NodeView, Protocol, ServiceModel};

use crate::battery::World;
pub use differences::{Difference, Mode, differences};
pub use expected::{Expected, Seen, Sees, answers};
pub use probe::{OTHER_NODE_PORT, OTHER_PORT, Place, Pod, Probe, SERVICE_PORT, Sender, Target};
pub use scene::{Member, Row, Scene, Setup};

/// The Service range, in which the scenes' cluster IPs lie.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// Where the scenes' external and load-balancer addresses lie. Like the Service range, all of it is routed to somebody
/// beyond the node who would answer.
pub const OUTER_NETS: [&str; 4] = ["192.0.2.0/24", "198.51.100.0/24", "fd00:192::/64", "fd00:198::/64"];

/// Who stands where in most scenes: pods that are endpoints, and those who ask.
mod cast {
    pub use super::probe::Target::*;
    pub use super::probe::{Pod, Sender};

    pub const A: Pod = Pod::Here(0);
    pub const B: Pod = Pod::Here(1);
    pub const C: Pod = Pod::There(0);

    /// A pod of the node that is nobody's endpoint.
    pub const NEIGHBOUR: Sender = Sender::Pod(Pod::Here(2));
    /// A pod of another node that is nobody's endpoint.
    pub const STRANGER: Sender = Sender::Pod(Pod::There(1));
    pub const NODE: Sender = Sender::Node;
    pub const OUTSIDE: Sender = Sender::Outside(0);
    /// Outside too, in the other half of the network.
    pub const FAR: Sender = Sender::Outside(1);

    pub const EVERYBODY: [Sender; 4] = [NEIGHBOUR, STRANGER, NODE, OUTSIDE];
    pub const OUTER: [super::Target; 3] = [NodePort, ExternalIp, LoadBalancerIp];
    pub const ALL_FOUR: [super::Target; 4] = [ClusterIp, NodePort, ExternalIp, LoadBalancerIp];
}

#[derive(Clone, Debug)]
pub struct Case {
    pub scene: &'static str,
    pub probe: Probe,
    pub expected: Expected,
}

/// Everything that can be asked of one node at once.
#[derive(Clone, Debug)]
pub struct Stage {
    pub setup: Setup,
    pub scenes: Vec<Scene>,
    pub cases: Vec<Case>,
}

/// All scenes, each at its place.
pub fn scenes() -> Vec<Scene> {
    let subjects: [fn() -> Vec<Scene>; 12] = [
        cluster_ip::scenes,
        node_port::scenes,
        external_ip::scenes,
        load_balancer::scenes,
        policies::scenes,
        readiness::scenes,
        topology::scenes,
        affinity::scenes,
        hairpin::scenes,
        protocols::scenes,
        setups::scenes,
        localhost::scenes,
    ];
    let mut scenes: Vec<Scene> = subjects.iter().flat_map(|subject| subject()).collect();
    for (place, scene) in (1..=250).zip(&mut scenes) {
        scene.place = Place(place);
    }
    scenes
}

/// The stages of all scenes whose Services have no other protocols than these: not every kernel has SCTP.
pub fn stages(protocols: &[Protocol]) -> Vec<Stage> {
    let playable = |scene: &Scene| scene.protocols.iter().all(|protocol| protocols.contains(protocol));
    let mut stages: BTreeMap<Setup, Vec<Scene>> = BTreeMap::new();
    for scene in scenes().into_iter().filter(playable) {
        stages.entry(scene.setup).or_default().push(scene);
    }
    let stage = |(setup, scenes): (Setup, Vec<Scene>)| {
        let cases = scenes.iter().flat_map(Scene::cases).collect();
        Stage { setup, scenes, cases }
    };
    stages.into_iter().map(stage).collect()
}

impl Scene {
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for row in &self.rows {
            for &family in &row.families {
                let world = World::new(family);
                for &protocol in row.protocols.as_ref().unwrap_or(&self.protocols) {
                    for &target in &row.targets {
                        let to = target.socket(self.place, &world);
                        cases.extend(row.senders.iter().map(|&sender| {
                            let from = sender.address(&world);
                            let probe = Probe { sender, target, family, protocol, from, to };
                            Case { scene: self.name, probe, expected: row.expected.clone() }
                        }));
                    }
                }
            }
        }
        cases
    }
}

impl Stage {
    pub fn node(&self) -> NodeView {
        self.setup.node()
    }

    /// What an API server would hold.
    pub fn objects(&self) -> Vec<Value> {
        let range = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": SERVICE_CIDRS},
        });
        std::iter::once(range).chain(self.scenes.iter().flat_map(Scene::objects)).collect()
    }

    /// The same, as a proxy would have read it.
    pub fn model(&self) -> ServiceModel {
        let mut model = ServiceModel::new();
        for object in self.objects() {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            model.apply(event(&kind, object).expect("the table's objects decode"));
        }
        model
    }

    /// Addresses beyond the node at which somebody should listen, so that what must not arrive there would be answered.
    pub fn strangers(&self) -> BTreeSet<(SocketAddr, Protocol)> {
        let elsewhere = self.cases.iter().filter(|case| !case.probe.target.is_the_nodes());
        let unforwarded = elsewhere.filter(|case| !matches!(case.expected, Expected::Reaches { .. }));
        unforwarded.map(|case| (case.probe.to, case.probe.protocol)).collect()
    }

    /// Cases that have to be asked one after the other stand together: what a client meets first, it sticks to.
    pub fn in_turn(&self) -> Vec<Vec<usize>> {
        let mut turns: Vec<Vec<usize>> = Vec::new();
        let mut clients = BTreeMap::new();
        for (index, case) in self.cases.iter().enumerate() {
            let turn = match case.client() {
                Some(client) => *clients.entry(client).or_insert(turns.len()),
                None => turns.len(),
            };
            if turn == turns.len() {
                turns.push(Vec::new());
            }
            turns[turn].push(index);
        }
        turns
    }

    /// What is wrong with what was seen of each case, in a mode that may differ as far as it is written down.
    pub fn complaints(&self, mode: Mode, seen: &[Vec<Seen>]) -> Vec<String> {
        assert_eq!(seen.len(), self.cases.len(), "every case is asked");
        let mut complaints = Vec::new();
        let mut met: BTreeMap<_, BTreeSet<SocketAddr>> = BTreeMap::new();
        for (case, seen) in self.cases.iter().zip(seen) {
            let judged = case.expected.judge(case, seen);
            let judged = match differences().into_iter().find(|one| one.concerns(mode, case)) {
                Some(one) if judged.is_ok() => Err(format!("it differs no longer, though {}", one.reason)),
                Some(one) => (one.expected)(&case.expected).judge(case, seen),
                None => judged,
            };
            complaints.extend(judged.err().map(|reason| format!("{case}: {reason}")));
            if mode.remembers_by_service()
                && let Some(client) = case.client()
            {
                met.entry(client).or_default().extend(answers(seen));
            }
        }
        let torn = met.into_iter().filter(|(_, met)| met.len() > 1);
        complaints.extend(torn.map(|((scene, sender, family, protocol), met)| {
            format!("{scene}: {protocol} {family} from {sender}: meets {met:?} at the Service's addresses")
        }));
        complaints
    }
}

/// One client of one Service, as session affinity tells them apart.
type Client = (&'static str, Sender, IpFamily, Protocol);

impl Case {
    fn client(&self) -> Option<Client> {
        let Probe { sender, family, protocol, .. } = self.probe;
        self.expected.sticks().then_some((self.scene, sender, family, protocol))
    }
}

fn event(kind: &str, object: Value) -> serde_json::Result<Event> {
    Ok(match kind {
        "Service" => Event::Service(Change::Upsert(serde_json::from_value(object)?)),
        "EndpointSlice" => Event::EndpointSlice(Change::Upsert(serde_json::from_value(object)?)),
        _ => Event::ServiceCidr(Change::Upsert(serde_json::from_value(object)?)),
    })
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.scene, self.probe)
    }
}
