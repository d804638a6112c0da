//! What every plan must satisfy, over generated histories and over the cases of the specification.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::labels::{self, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME};
use crate::legacy::{self, EndpointsPlan};
use crate::{HintsDisabled, Notice, Options, SlicePlan, Topology, TriggerTimes, mirror, plan};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

fn service(spec: Value) -> Service {
    let metadata = json!({ "name": "web", "namespace": "default", "uid": "svc-1", "labels": { "team": "a" } });
    parse(json!({ "metadata": metadata, "spec": spec }))
}

fn web() -> Service {
    service(json!({
        "selector": { "app": "web" }, "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.9",
        "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
    }))
}

fn pod(number: usize, ready: bool) -> Pod {
    parse(json!({
        "metadata": { "name": format!("web-{number}"), "namespace": "default", "uid": format!("pod-{number}"),
                      "labels": { "app": "web" } },
        "spec": { "nodeName": format!("n{}", number % 3), "containers": [
            { "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": format!("10.244.{}.{}", number / 250, number % 250 + 2) }],
                    "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" },
                                     "lastTransitionTime": format!("2026-01-01T00:00:{:02}Z", number % 60) }] },
    }))
}

fn nodes() -> Topology {
    let nodes: Vec<Node> = (0..3)
        .map(|n| {
            parse(json!({
                "metadata": { "name": format!("n{n}"), "labels": { "topology.kubernetes.io/zone": format!("z{n}") } },
                "status": { "allocatable": { "cpu": "4" }, "conditions": [{ "type": "Ready", "status": "True" }] },
            }))
        })
        .collect();
    Topology::new(&nodes)
}

/// An API server of slices: names, versions, and nothing else.
#[derive(Default)]
struct Cluster {
    slices: BTreeMap<String, EndpointSlice>,
    counter: u64,
    writes: usize,
}

impl Cluster {
    fn apply(&mut self, plan: &SlicePlan) {
        for slice in &plan.create {
            self.counter += 1;
            let mut slice = slice.clone();
            let name = format!("{}{:05}", slice.metadata.generate_name.clone().unwrap(), self.counter);
            slice.metadata.name = Some(name.clone());
            self.store(name, slice);
        }
        for slice in &plan.update {
            let name = slice.metadata.name.clone().unwrap();
            let held = self.slices.get(&name).expect("an update is of an existing slice");
            assert_eq!(
                held.metadata.resource_version, slice.metadata.resource_version,
                "an update is based on what is"
            );
            assert_eq!(held.address_type, slice.address_type, "addressType is immutable");
            self.store(name, slice.clone());
        }
        for slice in &plan.delete {
            assert!(self.slices.remove(slice.metadata.name.as_ref().unwrap()).is_some());
            self.writes += 1;
        }
    }

    fn store(&mut self, name: String, mut slice: EndpointSlice) {
        self.counter += 1;
        self.writes += 1;
        slice.metadata.resource_version = Some(self.counter.to_string());
        self.slices.insert(name, slice);
    }

    fn refs(&self) -> Vec<&EndpointSlice> {
        self.slices.values().collect()
    }

    /// Plans, applies, and shows that the next plan is empty.
    fn settle(&mut self, service: &Service, pods: &[&Pod], options: &Options) -> SlicePlan {
        let first = plan(service, pods, &nodes(), &self.refs(), options);
        assert_eq!(first, plan(service, pods, &nodes(), &self.refs(), options), "plans are deterministic");
        self.apply(&first);
        let second = plan(service, pods, &nodes(), &self.refs(), options);
        assert!(second.is_empty(), "a second plan writes nothing:\n{second}");
        first
    }

    fn endpoints(&self) -> Vec<&Endpoint> {
        self.slices.values().flat_map(crate::endpoints_of).collect()
    }

    fn addresses(&self) -> BTreeMap<String, bool> {
        let ready = |e: &Endpoint| e.conditions.as_ref().unwrap().ready.unwrap();
        self.endpoints().into_iter().map(|e| (e.addresses[0].clone(), ready(e))).collect()
    }
}

fn settled(service: &Service, pods: &[Pod]) -> (Cluster, SlicePlan) {
    let mut cluster = Cluster::default();
    let plan = cluster.settle(service, &pods.iter().collect::<Vec<_>>(), &Options::default());
    (cluster, plan)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Through any history of pods coming, going and changing, slices hold exactly the pods, none holds more than the
    /// limit, and a second plan is empty.
    #[test]
    fn slices_hold_exactly_the_pods(
        history in prop::collection::vec(prop::collection::btree_map(0_usize..260, any::<bool>(), 0..260), 1..6),
        max in prop::sample::select(vec![1_usize, 7, 100]),
    ) {
        let (service, mut cluster) = (web(), Cluster::default());
        let options = Options { max_endpoints: max, trigger: None };
        for state in history {
            let pods: Vec<Pod> = state.iter().map(|(number, ready)| pod(*number, *ready)).collect();
            cluster.settle(&service, &pods.iter().collect::<Vec<_>>(), &options);
            let wanted: BTreeMap<String, bool> = pods.iter().zip(state.values())
                .map(|(pod, ready)| (crate::pods::addresses(pod)[0].to_string(), *ready)).collect();
            prop_assert_eq!(cluster.addresses(), wanted);
            prop_assert_eq!(cluster.endpoints().len(), state.len(), "no endpoint twice");
            prop_assert!(cluster.slices.values().all(|slice| crate::endpoints_of(slice).len() <= max));
            prop_assert!(!cluster.slices.is_empty(), "there is always at least a placeholder");
        }
    }

    /// Converges from any slices that carry our labels, and leaves other controllers' alone.
    #[test]
    fn converges_from_garbage(
        garbage in prop::collection::vec((any::<bool>(), any::<bool>(), 0_usize..5, 0_usize..9), 0..12),
        count in 0_usize..12,
    ) {
        let (service, mut cluster) = (web(), Cluster::default());
        for (index, (ours, owned, first, length)) in garbage.into_iter().enumerate() {
            let by = if ours { labels::CONTROLLER } else { "somebody.else" };
            let endpoints: Vec<Value> = (first..first + length)
                .map(|n| json!({ "addresses": [format!("10.244.0.{}", n + 2)], "conditions": { "ready": false } }))
                .collect();
            let mut slice: EndpointSlice = parse(json!({
                "metadata": { "name": format!("g{index}"), "namespace": "default",
                              "labels": { SERVICE_NAME: "web", MANAGED_BY: by } },
                "addressType": "IPv4", "endpoints": endpoints,
            }));
            if owned {
                slice.metadata.owner_references = Some(vec![labels::controller_of(&service.metadata, "v1", "Service")]);
            }
            cluster.store(format!("g{index}"), slice);
        }
        let foreign: Vec<EndpointSlice> = cluster.slices.values()
            .filter(|slice| !labels::has(&slice.metadata, MANAGED_BY, labels::CONTROLLER)).cloned().collect();
        let pods: Vec<Pod> = (0..count).map(|n| pod(n, true)).collect();
        cluster.settle(&service, &pods.iter().collect::<Vec<_>>(), &Options::default());
        for slice in foreign {
            prop_assert_eq!(cluster.slices.remove(slice.metadata.name.as_ref().unwrap()), Some(slice));
        }
        prop_assert_eq!(cluster.addresses().len(), count);
    }
}

#[test]
fn one_pod_becomes_one_endpoint_with_everything() {
    let (cluster, plan) = settled(&web(), &[pod(1, true)]);
    assert_eq!(plan.to_string(), "create web- IPv4 endpoints=1\n");
    let slice = cluster.refs()[0];
    assert_eq!(
        serde_json::to_value(&crate::endpoints_of(slice)[0]).unwrap(),
        json!({
            "addresses": ["10.244.0.3"], "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "n1", "zone": "z1",
            "targetRef": { "kind": "Pod", "namespace": "default", "name": "web-1", "uid": "pod-1" },
        })
    );
    assert_eq!(
        serde_json::to_value(&slice.ports).unwrap(),
        json!([{ "name": "http", "port": 8080, "protocol": "TCP" }])
    );
    let labels = slice.metadata.labels.clone().unwrap();
    assert_eq!(labels[SERVICE_NAME], "web");
    assert_eq!(labels["team"], "a");
    assert!(!labels.contains_key(labels::HEADLESS));
    assert!(labels::is_controlled_by(&slice.metadata, Some(&"svc-1".to_owned())));
}

#[test]
fn a_terminating_pod_stays_serving_but_not_ready() {
    let mut leaving = pod(1, true);
    leaving.metadata.deletion_timestamp = Some(parse(json!("2026-01-01T00:00:00Z")));
    let (cluster, _) = settled(&web(), &[leaving.clone()]);
    let conditions = cluster.endpoints()[0].conditions.clone().unwrap();
    assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (Some(false), Some(true), Some(true)));

    let mut service = web();
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let (cluster, _) = settled(&service, &[leaving.clone()]);
    assert_eq!(cluster.endpoints()[0].conditions.as_ref().unwrap().ready, Some(true));

    leaving.status.as_mut().unwrap().phase = Some("Failed".into());
    assert!(settled(&web(), &[leaving]).0.endpoints().is_empty());
}

#[test]
fn unresolved_port_names_are_told_and_the_pod_is_in_a_slice_without_ports() {
    let mut service = web();
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port = Some(parse(json!("htpt")));
    let (cluster, plan) = settled(&service, &[pod(1, true)]);
    let notice = Notice::PortNotFound { pod: "web-1".into(), port: "htpt".into(), protocol: "TCP".into() };
    assert!(notice.to_string().starts_with("port name \"htpt\" (TCP) not found in pod web-1"));
    assert_eq!(plan.notices, [notice]);
    assert_eq!(cluster.refs()[0].ports.as_deref(), Some([].as_slice()));
    assert_eq!(cluster.endpoints().len(), 1);
}

#[test]
fn pods_that_number_a_port_differently_are_in_slices_of_their_own() {
    let mut other = pod(2, true);
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let (cluster, _) = settled(&web(), &[pod(1, true), other]);
    let ports: BTreeSet<_> = cluster.slices.values().map(|s| s.ports.as_ref().unwrap()[0].port).collect();
    assert_eq!(ports, BTreeSet::from([Some(8080), Some(9090)]));
}

#[test]
fn losing_the_selector_or_becoming_external_cleans_up() {
    for change in [
        json!({ "type": "ExternalName", "externalName": "x.example", "selector": { "app": "web" } }),
        json!({ "clusterIP": "10.96.0.9" }),
        json!({ "clusterIP": "10.96.0.9", "selector": {} }),
    ] {
        let (mut cluster, _) = settled(&web(), &[pod(1, true)]);
        cluster.settle(&service(change), &[&pod(1, true)], &Options::default());
        assert!(cluster.slices.is_empty());
    }
}

#[test]
fn a_full_slice_is_left_alone_when_one_more_pod_comes() {
    let pods: Vec<Pod> = (0..100).map(|n| pod(n, true)).collect();
    let (mut cluster, _) = settled(&web(), &pods);
    let more: Vec<Pod> = (0..101).map(|n| pod(n, true)).collect();
    let plan = cluster.settle(&web(), &more.iter().collect::<Vec<_>>(), &Options::default());
    assert_eq!(plan.to_string(), "create web- IPv4 endpoints=1\n");
    let fewer: Vec<Pod> = (1..101).map(|n| pod(n, true)).collect();
    let plan = cluster.settle(&web(), &fewer.iter().collect::<Vec<_>>(), &Options::default());
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0), "one change, one write:\n{plan}");
}

#[test]
fn dual_stack_has_slices_per_family_and_dropping_one_deletes_them() {
    let mut service = web();
    service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
    let mut both = pod(1, true);
    both.status.as_mut().unwrap().pod_ips = parse(json!([{ "ip": "10.244.0.3" }, { "ip": "FD00:0:0::0003" }]));
    let (mut cluster, _) = settled(&service, &[both.clone()]);
    assert_eq!(cluster.addresses().keys().collect::<Vec<_>>(), ["10.244.0.3", "fd00::3"]);
    cluster.settle(&web(), &[&both], &Options::default());
    assert_eq!(cluster.addresses().keys().collect::<Vec<_>>(), ["10.244.0.3"]);
}

#[test]
fn headless_services_are_marked_and_know_hostnames() {
    let service = service(json!({ "selector": { "app": "web" }, "clusterIP": "None", "ipFamilies": ["IPv4"] }));
    let mut named = pod(1, true);
    let spec = named.spec.as_mut().unwrap();
    (spec.hostname, spec.subdomain) = (Some("h1".into()), Some("web".into()));
    let (cluster, _) = settled(&service, &[named, pod(2, true)]);
    let slice = cluster.refs()[0];
    assert_eq!(slice.metadata.labels.as_ref().unwrap()[labels::HEADLESS], "");
    assert_eq!(slice.ports.as_deref(), Some([].as_slice()));
    let hostnames: BTreeSet<_> = crate::endpoints_of(slice).iter().map(|e| e.hostname.clone()).collect();
    assert_eq!(hostnames, BTreeSet::from([None, Some("h1".into())]));
}

#[test]
fn a_pod_of_an_unknown_node_waits_for_it_and_is_named() {
    let mut early = pod(1, true);
    early.spec.as_mut().unwrap().node_name = Some("new".into());
    let made = plan(&web(), &[&early], &nodes(), &[], &Options::default());
    assert_eq!(made.unknown_nodes, ["new"]);
    assert!(crate::endpoints_of(&made.create[0]).is_empty());
}

#[test]
fn slices_of_an_earlier_service_of_this_name_are_replaced_and_labels_follow() {
    let (mut cluster, _) = settled(&web(), &[pod(1, true)]);
    let mut reborn = web();
    reborn.metadata.uid = Some("svc-2".into());
    cluster.settle(&reborn, &[&pod(1, true)], &Options::default());
    assert!(labels::is_controlled_by(&cluster.refs()[0].metadata, Some(&"svc-2".to_owned())));
    reborn.metadata.labels.as_mut().unwrap().insert("team".into(), "b".into());
    let plan = cluster.settle(&reborn, &[&pod(1, true)], &Options::default());
    assert_eq!(plan.update.len(), 1);
    assert_eq!(cluster.refs()[0].metadata.labels.as_ref().unwrap()["team"], "b");
}

#[test]
fn trigger_times_are_the_oldest_change_and_vanish_without_one() {
    let mut times = TriggerTimes::default();
    let mut service = web();
    service.metadata.creation_timestamp = Some(parse(json!("2026-01-01T00:00:30Z")));
    let at = |seconds: &str| format!("2026-01-01T00:00:{seconds}Z").parse::<Timestamp>().unwrap();
    assert_eq!(times.look(&service, &[&pod(40, true)]), Some(at("30")));
    assert_eq!(times.look(&service, &[&pod(40, true)]), None);
    assert_eq!(times.look(&service, &[&pod(40, true), &pod(50, true), &pod(45, true)]), Some(at("45")));

    let mut cluster = Cluster::default();
    let stamped = Options { trigger: Some(at("45")), ..Options::default() };
    cluster.settle(&service, &[&pod(1, true)], &stamped);
    assert_eq!(cluster.refs()[0].metadata.annotations.as_ref().unwrap()[TRIGGER_TIME], "2026-01-01T00:00:45Z");
    cluster.settle(&service, &[], &Options::default());
    assert_eq!(cluster.refs()[0].metadata.annotations, None);
}

#[test]
fn traffic_distribution_hints_own_zone_and_node() {
    for (distribution, node) in [("PreferClose", None), ("PreferSameZone", None), ("PreferSameNode", Some("n1"))] {
        let mut service = web();
        service.spec.as_mut().unwrap().traffic_distribution = Some(distribution.into());
        let (cluster, _) = settled(&service, &[pod(1, true), pod(2, false)]);
        for endpoint in cluster.endpoints() {
            let hints = endpoint.hints.clone();
            if endpoint.node_name.as_deref() == Some("n1") {
                let hints = hints.unwrap();
                assert_eq!(hints.for_zones.unwrap()[0].name, "z1");
                assert_eq!(hints.for_nodes.map(|nodes| nodes[0].name.clone()).as_deref(), node);
            } else {
                assert_eq!(hints, None, "an endpoint that is not ready has no hints");
            }
        }
    }
}

#[test]
fn topology_mode_auto_shares_endpoints_out_or_says_why_not() {
    let mut service = web();
    let mode = BTreeMap::from([("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())]);
    service.metadata.annotations = Some(mode);
    // Seven endpoints in z0, one each in z1 and z2: zones of equal capacity need ceil(3 / 1.2) = 3 each.
    let mut pods: Vec<Pod> = (0..7).map(|n| pod(n * 3, true)).collect();
    pods.extend([pod(1, true), pod(2, true)]);
    let (cluster, made) = settled(&service, &pods);
    assert_eq!(made.notices, []);
    let mut zones = BTreeMap::new();
    for endpoint in cluster.endpoints() {
        *zones.entry(endpoint.hints.clone().unwrap().for_zones.unwrap()[0].name.clone()).or_insert(0) += 1;
    }
    assert_eq!(zones, BTreeMap::from([("z0".into(), 3), ("z1".into(), 3), ("z2".into(), 3)]));

    let (cluster, made) = settled(&service, &[pod(0, true), pod(1, true)]);
    let reason = HintsDisabled::TooFewEndpoints { endpoints: 2, zones: 3 };
    assert_eq!(made.notices, [Notice::HintsDisabled(reason)]);
    assert!(cluster.endpoints().iter().all(|endpoint| endpoint.hints.is_none()));
}

#[test]
fn hand_written_endpoints_are_mirrored_until_they_go() {
    let service = service(json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] }));
    let endpoints: Endpoints = parse(json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "ep-1", "labels": { "x": "y" },
                      "annotations": { "note": "kept", labels::LAST_APPLIED: "{}" } },
        "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }],
                      "notReadyAddresses": [{ "ip": "192.0.2.2" }, { "ip": "192.0.2.03" }],
                      "ports": [{ "port": 8080, "name": "" }] }],
    }));
    let mut cluster = Cluster::default();
    let mirror_of =
        |cluster: &Cluster, endpoints, service| mirror::plan("default", "web", endpoints, service, &cluster.refs());
    let first = mirror_of(&cluster, Some(&endpoints), Some(&service));
    assert_eq!(first.notices, [Notice::InvalidAddress { address: "192.0.2.03".into() }]);
    cluster.apply(&first);
    assert!(mirror_of(&cluster, Some(&endpoints), Some(&service)).is_empty());
    assert_eq!(cluster.slices.len(), 2, "one slice per family");
    let ready: BTreeMap<_, _> = cluster.addresses();
    assert_eq!(
        ready,
        BTreeMap::from([("192.0.2.1".into(), true), ("192.0.2.2".into(), false), ("2001:db8::1".into(), true)])
    );
    assert_eq!(cluster.endpoints()[0].conditions.as_ref().unwrap().serving, None);
    assert_eq!(cluster.refs()[0].metadata.annotations, Some(BTreeMap::from([("note".into(), "kept".into())])));

    let mut skipped = endpoints.clone();
    skipped.metadata.labels.as_mut().unwrap().insert(labels::SKIP_MIRROR.into(), "true".into());
    for (endpoints, service) in [
        (Some(&skipped), Some(&service)),
        (Some(&endpoints), None),
        (None, Some(&service)),
        (Some(&endpoints), Some(&web())),
    ] {
        assert_eq!(mirror_of(&cluster, endpoints, service).delete.len(), 2);
    }
}

#[test]
fn a_mirrored_subset_is_cut_at_a_thousand_ready_first() {
    let service = service(json!({ "clusterIP": "10.96.0.9" }));
    let address = |n: usize| json!({ "ip": format!("192.0.{}.{}", n / 250, n % 250 + 1) });
    let endpoints: Endpoints = parse(json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "ep-1" },
        "subsets": [{ "notReadyAddresses": (0..700).map(address).collect::<Vec<_>>(),
                      "addresses": (700..1100).map(address).collect::<Vec<_>>() }],
    }));
    let made = mirror::plan("default", "web", Some(&endpoints), Some(&service), &[]);
    assert_eq!(made.notices, [Notice::TooManyAddresses { dropped: 100 }]);
    assert_eq!(crate::endpoints_of(&made.create[0]).len(), 1000);
    let ready = crate::endpoints_of(&made.create[0])
        .iter()
        .filter(|e| e.conditions.as_ref().unwrap().ready == Some(true))
        .count();
    assert_eq!(ready, 400);
}

#[test]
fn legacy_endpoints_split_ready_from_not_ready_and_settle() {
    let mut leaving = pod(3, true);
    leaving.metadata.deletion_timestamp = Some(parse(json!("2026-01-01T00:00:00Z")));
    let pods = [pod(1, true), pod(2, false), leaving];
    let refs: Vec<&Pod> = pods.iter().collect();
    let EndpointsPlan::Create(made) = legacy::plan(Some(&web()), &refs, None, &Options::default()) else {
        panic!("expected a create")
    };
    let subset = &made.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.244.0.3");
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.244.0.4");
    assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
    assert_eq!(made.metadata.labels.as_ref().unwrap()[labels::ENDPOINTS_MANAGED_BY], labels::ENDPOINTS_CONTROLLER);
    let again =
        |service: Option<&Service>, pods: &[&Pod]| legacy::plan(service, pods, Some(&made), &Options::default());
    assert_eq!(again(Some(&web()), &refs), EndpointsPlan::Keep);
    assert!(matches!(again(Some(&web()), &refs[..1]), EndpointsPlan::Update(_)));
    assert_eq!(again(None, &[]), EndpointsPlan::Delete);
}

#[test]
fn legacy_endpoints_are_truncated_in_proportion_and_marked() {
    let pods: Vec<Pod> = (0..1200).map(|n| pod(n, n < 900)).collect();
    let refs: Vec<&Pod> = pods.iter().collect();
    let EndpointsPlan::Create(made) = legacy::plan(Some(&web()), &refs, None, &Options::default()) else {
        panic!("expected a create")
    };
    let subset = &made.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 900);
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 100);
    assert_eq!(made.metadata.annotations.as_ref().unwrap()[labels::OVER_CAPACITY], "truncated");
    assert_eq!(legacy::plan(Some(&web()), &refs, Some(&made), &Options::default()), EndpointsPlan::Keep);
}

#[test]
fn a_port_that_leads_to_all_pods_is_one_subset_with_all_of_them() {
    // As kube-controller-manager has it: subsets are made per port, then ports with equal addresses are joined.
    let mut service = web();
    service.spec.as_mut().unwrap().ports = parse(json!([
        { "name": "http", "port": 80, "targetPort": "http" }, { "name": "metrics", "port": 9100, "targetPort": 9100 },
    ]));
    let mut other = pod(2, false);
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let EndpointsPlan::Create(made) = legacy::plan(Some(&service), &[&pod(1, true), &other], None, &Options::default())
    else {
        panic!("expected a create")
    };
    let told: BTreeSet<(i32, usize, usize)> = made
        .subsets
        .iter()
        .flatten()
        .map(|subset| {
            let count = |list: &Option<Vec<_>>| list.as_ref().map_or(0, Vec::len);
            (subset.ports.as_ref().unwrap()[0].port, count(&subset.addresses), count(&subset.not_ready_addresses))
        })
        .collect();
    assert_eq!(told, BTreeSet::from([(8080, 1, 0), (9090, 0, 1), (9100, 1, 1)]));
}

#[test]
fn mirrors_say_what_the_endpoints_say_and_not_ready_wins() {
    let service = service(json!({ "clusterIP": "10.96.0.9" }));
    let endpoints: Endpoints = parse(json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "ep-1",
                      "labels": { labels::HEADLESS: "", "x": "y" } },
        "subsets": [
            { "addresses": [{ "ip": "192.0.2.1" }, { "ip": "192.0.2.2" }], "ports": [{ "port": 80, "name": "http" }] },
            { "notReadyAddresses": [{ "ip": "192.0.2.2" }],
              "ports": [{ "port": 80, "name": "http" }, { "port": 81, "name": "other" }] },
        ],
    }));
    let mut cluster = Cluster::default();
    cluster.apply(&mirror::plan("default", "web", Some(&endpoints), Some(&service), &[]));
    assert!(cluster.slices.values().all(|slice| labels::has(&slice.metadata, labels::HEADLESS, "")));
    let told: BTreeSet<(String, String, bool)> = cluster
        .slices
        .values()
        .flat_map(|slice| {
            let ports = slice.ports.as_ref().unwrap().iter().map(|port| port.name.clone().unwrap()).collect::<Vec<_>>();
            let ready = |e: &Endpoint| e.conditions.as_ref().unwrap().ready.unwrap();
            crate::endpoints_of(slice)
                .iter()
                .map(|e| (ports.join(","), e.addresses[0].clone(), ready(e)))
                .collect::<Vec<_>>()
        })
        .collect();
    let line = |ports: &str, address: &str, ready| (ports.to_owned(), address.to_owned(), ready);
    assert_eq!(
        told,
        BTreeSet::from([
            line("http", "192.0.2.1", true),
            line("http", "192.0.2.2", false),
            line("other", "192.0.2.2", false),
        ])
    );
}

#[test]
fn a_pod_without_a_node_is_published_only_where_anything_is() {
    let mut early = pod(1, true);
    early.spec.as_mut().unwrap().node_name = None;
    assert!(settled(&web(), std::slice::from_ref(&early)).0.endpoints().is_empty());
    let mut service = web();
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    assert_eq!(settled(&service, &[early]).0.endpoints().len(), 1);
}

#[test]
fn hints_by_capacity_stay_where_they_fit() {
    let mut service = web();
    let mode = BTreeMap::from([("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())]);
    service.metadata.annotations = Some(mode);
    let options = Options { max_endpoints: 3, trigger: None };
    let mut cluster = Cluster::default();
    let pods: Vec<Pod> = (0..6).map(|n| pod(n, true)).collect();
    cluster.settle(&service, &pods.iter().collect::<Vec<_>>(), &options);
    // The same with one more pod: the slices that have their hints are left alone.
    let more: Vec<Pod> = (0..7).map(|n| pod(n, true)).collect();
    let plan = cluster.settle(&service, &more.iter().collect::<Vec<_>>(), &options);
    assert_eq!(plan.to_string(), "create web- IPv4 endpoints=1\n");
    assert!(cluster.endpoints().iter().all(|endpoint| endpoint.hints.is_some()));
    // Without the annotation they go, everywhere.
    service.metadata.annotations = None;
    cluster.settle(&service, &more.iter().collect::<Vec<_>>(), &options);
    assert!(cluster.endpoints().iter().all(|endpoint| endpoint.hints.is_none()));
}
