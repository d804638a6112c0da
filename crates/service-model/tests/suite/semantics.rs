//! Each behaviour a Service promises, as objects in and a verdict or a packet's outcome out.

use serde_json::{Value, json};
use service_model::{
    Affinity, Change, Deny, Event, ForwardingTable, IpFamily, NodeView, Outcome, Packet, Port, Protocol, ServiceModel,
    ServicePort, Source, Verdict,
};

const HERE: &str = "here";

fn node() -> NodeView {
    let mut node = NodeView::named(HERE);
    node.observe(
        &serde_json::from_value(json!({
            "metadata": {"name": HERE, "labels": {"topology.kubernetes.io/zone": "z1"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"},
                                     {"type": "Hostname", "address": "here"}]}
        }))
        .unwrap(),
    );
    node
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "svc"}, "spec": spec})
}

fn cluster_ip() -> Value {
    json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"name": "p", "port": 80}]})
}

fn load_balancer(policy: &str) -> Value {
    let mut object = service(json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.10"], "externalIPs": ["192.0.2.9"],
        "externalTrafficPolicy": policy, "healthCheckNodePort": 32000,
        "ports": [{"name": "p", "port": 80, "nodePort": 30080}]
    }));
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"},
                                                           {"hostname": "lb.example"}]}});
    object
}

fn slice(endpoints: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "svc-1", "labels": {"kubernetes.io/service-name": "svc"}},
           "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints})
}

fn resolve(service: Value, slices: Vec<Value>) -> ForwardingTable {
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Relist(vec![serde_json::from_value(service).unwrap()])));
    let slices = slices.into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect();
    model.apply(Event::EndpointSlice(Change::Relist(slices)));
    model.apply(Event::ServiceCidr(Change::Relist(vec![
        serde_json::from_value(json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}))
            .unwrap(),
    ])));
    model.resolve(&node(), IpFamily::V4)
}

fn port(table: &ForwardingTable) -> &ServicePort {
    table.ports.values().next().expect("one port")
}

fn addresses(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Forward(endpoints) => endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(),
        other => vec![other.to_string()],
    }
}

fn send(table: &ForwardingTable, source: Source, to: &str, port: u16) -> Outcome {
    let port = Port::new(port).unwrap();
    table.lookup(&Packet { source, destination: to.parse().unwrap(), protocol: Protocol::Tcp, port })
}

fn pod() -> Source {
    Source::LocalPod("10.244.1.7".parse().unwrap())
}

fn outside() -> Source {
    Source::Outside("198.51.100.1".parse().unwrap())
}

fn the_node() -> Source {
    Source::Node("172.30.0.11".parse().unwrap())
}

/// `[(address, node, ready, serving, terminating)]`
fn endpoints(list: &[(&str, &str, bool, bool, bool)]) -> Value {
    list.iter()
        .map(|(address, node, ready, serving, terminating)| {
            json!({"addresses": [address], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect()
}

fn two_nodes() -> Value {
    endpoints(&[("10.244.1.5", HERE, true, true, false), ("10.244.2.5", "there", true, true, false)])
}

fn forwarded(outcome: Outcome) -> (Vec<String>, bool) {
    match outcome {
        Outcome::Forwarded { endpoints, masquerade } => {
            (endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(), masquerade)
        }
        other => panic!("expected to be forwarded, got {other:?}"),
    }
}

#[test]
fn ready_endpoints_are_chosen_and_others_are_not() {
    let slices = vec![slice(endpoints(&[
        ("10.244.2.6", "there", true, true, false),
        ("10.244.2.5", "there", false, true, true),
        ("10.244.2.4", "there", false, false, false),
    ]))];
    let table = resolve(service(cluster_ip()), slices);
    assert_eq!(addresses(&port(&table).internal), ["10.244.2.6"]);
}

#[test]
fn serving_and_terminating_endpoints_are_the_fallback() {
    let slices = vec![slice(endpoints(&[
        ("10.244.2.5", "there", false, true, true),
        ("10.244.2.4", "there", false, false, true),
        ("10.244.2.3", "there", false, true, false),
    ]))];
    let table = resolve(service(cluster_ip()), slices);
    assert_eq!(addresses(&port(&table).internal), ["10.244.2.5"]);
}

#[test]
fn absent_conditions_mean_ready() {
    let table = resolve(service(cluster_ip()), vec![slice(json!([{"addresses": ["10.244.2.5"]}]))]);
    assert_eq!(addresses(&port(&table).internal), ["10.244.2.5"]);
}

#[test]
fn no_endpoint_anywhere_rejects_on_every_path() {
    for policy in ["Cluster", "Local"] {
        let table = resolve(load_balancer(policy), vec![]);
        for to in [("10.96.0.10", 80), ("192.0.2.1", 80), ("192.0.2.9", 80), ("172.30.0.11", 30080)] {
            for source in [pod(), outside(), the_node()] {
                assert_eq!(send(&table, source, to.0, to.1), Outcome::Denied(Deny::Rejected), "{policy} {to:?}");
            }
        }
    }
}

#[test]
fn internal_policy_local_uses_local_endpoints_or_drops() {
    let mut spec = cluster_ip();
    spec["internalTrafficPolicy"] = json!("Local");
    let table = resolve(service(spec.clone()), vec![slice(two_nodes())]);
    assert_eq!(addresses(&port(&table).internal), ["10.244.1.5"]);
    let elsewhere = endpoints(&[("10.244.2.5", "there", true, true, false)]);
    let table = resolve(service(spec.clone()), vec![slice(elsewhere)]);
    assert_eq!(send(&table, pod(), "10.96.0.10", 80), Outcome::Denied(Deny::Dropped));
    let going = endpoints(&[("10.244.1.5", HERE, false, true, true), ("10.244.2.5", "there", true, true, false)]);
    let table = resolve(service(spec), vec![slice(going)]);
    assert_eq!(addresses(&port(&table).internal), ["10.244.1.5"]);
}

#[test]
fn external_policy_local_keeps_the_client_and_short_circuits_local_traffic() {
    let table = resolve(load_balancer("Local"), vec![slice(two_nodes())]);
    for to in [("192.0.2.1", 80), ("192.0.2.9", 80), ("172.30.0.11", 30080)] {
        assert_eq!(forwarded(send(&table, outside(), to.0, to.1)), (vec!["10.244.1.5".into()], false));
        let both = vec!["10.244.1.5".to_owned(), "10.244.2.5".to_owned()];
        assert_eq!(forwarded(send(&table, pod(), to.0, to.1)), (both.clone(), false));
        assert_eq!(forwarded(send(&table, the_node(), to.0, to.1)), (both, true));
    }
}

#[test]
fn external_policy_local_without_local_endpoint_drops_outsiders_only() {
    let elsewhere = endpoints(&[("10.244.2.5", "there", true, true, false)]);
    let table = resolve(load_balancer("Local"), vec![slice(elsewhere)]);
    for to in [("192.0.2.1", 80), ("192.0.2.9", 80), ("172.30.0.11", 30080)] {
        assert_eq!(send(&table, outside(), to.0, to.1), Outcome::Denied(Deny::Dropped));
        assert_eq!(forwarded(send(&table, pod(), to.0, to.1)).0, ["10.244.2.5"]);
        assert_eq!(forwarded(send(&table, the_node(), to.0, to.1)).0, ["10.244.2.5"]);
    }
    assert_eq!(forwarded(send(&table, outside(), "10.96.0.10", 80)).0, ["10.244.2.5"]);
}

#[test]
fn masquerading_depends_on_who_asks_what() {
    let table = resolve(load_balancer("Cluster"), vec![slice(two_nodes())]);
    let masqueraded = |source, to, port| forwarded(send(&table, source, to, port)).1;
    assert!(!masqueraded(pod(), "10.96.0.10", 80));
    assert!(masqueraded(the_node(), "10.96.0.10", 80));
    assert!(masqueraded(outside(), "10.96.0.10", 80));
    assert!(masqueraded(Source::RemotePod("10.244.2.7".parse().unwrap()), "10.96.0.10", 80));
    for source in [pod(), the_node(), outside()] {
        assert!(masqueraded(source, "192.0.2.1", 80));
        assert!(masqueraded(source, "172.30.0.11", 30080));
    }
    let itself = "10.244.1.5".parse().unwrap();
    let hairpin = send(&table, Source::LocalPod(itself), "10.96.0.10", 80);
    assert!(hairpin.masquerades(itself, itself));
    assert!(!hairpin.masquerades(itself, "10.244.2.5".parse().unwrap()));
}

#[test]
fn without_pod_cidr_cluster_ip_traffic_keeps_its_source() {
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service(cluster_ip())).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice(two_nodes())).unwrap())));
    let mut node = NodeView::named(HERE);
    let table = model.resolve(&node, IpFamily::V4);
    assert!(!forwarded(send(&table, outside(), "10.96.0.10", 80)).1);
    node.masquerade_all = true;
    let table = model.resolve(&node, IpFamily::V4);
    assert!(forwarded(send(&table, pod(), "10.96.0.10", 80)).1);
}

#[test]
fn node_hints_win_over_zone_hints_and_partial_hints_count_for_nothing() {
    let hinted = |zones: [Option<&str>; 3], nodes: [Option<&str>; 3]| -> Value {
        let names = |hint: Option<&str>| hint.map(|name| json!([{"name": name}]));
        (0..3)
            .map(|i| {
                json!({"addresses": [format!("10.244.2.{}", i + 1)], "nodeName": "there",
                       "hints": {"forZones": names(zones[i]), "forNodes": names(nodes[i])}})
            })
            .collect()
    };
    let chosen = |zones, nodes| {
        let table = resolve(service(cluster_ip()), vec![slice(hinted(zones, nodes))]);
        addresses(&port(&table).internal).join(" ")
    };
    let all = "10.244.2.1 10.244.2.2 10.244.2.3";
    let (z1, z2, none) = (Some("z1"), Some("z2"), None);
    assert_eq!(chosen([z1, z2, z1], [none; 3]), "10.244.2.1 10.244.2.3");
    assert_eq!(chosen([z1, none, z1], [none; 3]), all);
    assert_eq!(chosen([z2, z2, z2], [none; 3]), all);
    assert_eq!(chosen([z1, z2, z1], [Some(HERE), Some("x"), Some("y")]), "10.244.2.1");
    assert_eq!(chosen([z1, z2, z1], [Some("w"), Some("x"), Some("y")]), "10.244.2.1 10.244.2.3");
    assert_eq!(chosen([none; 3], [Some(HERE), none, Some("y")]), all);
}

#[test]
fn source_ranges_guard_load_balancer_addresses_only() {
    let mut object = load_balancer("Cluster");
    object["spec"]["loadBalancerSourceRanges"] = json!(["198.51.100.0/25", " 172.30.0.0/24", "fd00::/8"]);
    let table = resolve(object.clone(), vec![slice(two_nodes())]);
    let stranger = Source::Outside("198.51.100.200".parse().unwrap());
    forwarded(send(&table, outside(), "192.0.2.1", 80));
    assert_eq!(send(&table, stranger, "192.0.2.1", 80), Outcome::Denied(Deny::Dropped));
    assert_eq!(send(&table, pod(), "192.0.2.1", 80), Outcome::Denied(Deny::Dropped));
    forwarded(send(&table, stranger, "192.0.2.9", 80));
    forwarded(send(&table, stranger, "172.30.0.11", 30080));
    forwarded(send(&table, Source::Node("192.0.2.1".parse().unwrap()), "192.0.2.1", 80));
    object["spec"]["loadBalancerSourceRanges"] = json!(["nonsense"]);
    let table = resolve(object, vec![slice(two_nodes())]);
    assert_eq!(send(&table, outside(), "192.0.2.1", 80), Outcome::Denied(Deny::Dropped));
    assert_eq!(table.problems()[0].reason.code(), "InvalidSourceRange");
}

#[test]
fn proxy_mode_addresses_are_not_captured() {
    let table = resolve(load_balancer("Cluster"), vec![slice(two_nodes())]);
    assert_eq!(send(&table, outside(), "192.0.2.2", 80), Outcome::Untouched);
}

#[test]
fn other_ports_of_a_cluster_ip_reject_and_unallocated_addresses_drop() {
    let table = resolve(load_balancer("Cluster"), vec![slice(two_nodes())]);
    assert_eq!(send(&table, pod(), "10.96.0.10", 81), Outcome::Denied(Deny::Rejected));
    assert_eq!(send(&table, pod(), "10.96.9.9", 80), Outcome::Denied(Deny::Dropped));
    assert_eq!(send(&table, pod(), "192.0.2.1", 81), Outcome::Untouched);
    assert_eq!(send(&table, pod(), "127.0.0.1", 30080), Outcome::Untouched);
}

#[test]
fn affinity_has_its_default_and_its_timeout() {
    let mut spec = cluster_ip();
    spec["sessionAffinity"] = json!("ClientIP");
    let table = resolve(service(spec.clone()), vec![]);
    assert_eq!(port(&table).affinity, Some(Affinity { timeout_seconds: 10_800 }));
    spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
    let table = resolve(service(spec), vec![]);
    assert_eq!(port(&table).affinity, Some(Affinity { timeout_seconds: 60 }));
}

#[test]
fn health_checks_count_local_ready_endpoints() {
    let going = endpoints(&[("10.244.1.5", HERE, false, true, true), ("10.244.1.6", HERE, true, true, false)]);
    let table = resolve(load_balancer("Local"), vec![slice(going)]);
    let check = port(&table).health_check.unwrap();
    assert_eq!((check.port.number(), check.local_ready_endpoints), (32000, 1));
    assert_eq!(port(&resolve(load_balancer("Cluster"), vec![])).health_check, None);
}

#[test]
fn services_that_are_not_ours_are_left_alone() {
    let mut object = service(cluster_ip());
    object["metadata"]["labels"] = json!({(service_model::PROXY_NAME_LABEL): ""});
    assert!(resolve(object, vec![]).ports.is_empty());
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "a.example"}),
        json!({"clusterIP": "", "ports": [{"port": 80}]}),
    ] {
        assert!(resolve(service(spec), vec![]).ports.is_empty());
    }
}

#[test]
fn slices_for_headless_services_are_left_alone_whatever_their_service_is_labelled() {
    let mut labelled = service(cluster_ip());
    labelled["metadata"]["labels"] = json!({(service_model::HEADLESS_LABEL): ""});
    let mut headless = slice(two_nodes());
    headless["metadata"]["labels"][service_model::HEADLESS_LABEL] = json!("");
    assert_eq!(addresses(&port(&resolve(labelled.clone(), vec![slice(two_nodes())])).internal).len(), 2);
    assert_eq!(port(&resolve(labelled, vec![headless])).internal, Verdict::Reject);
}

#[test]
fn families_are_separate() {
    let mut spec = cluster_ip();
    spec["clusterIPs"] = json!(["10.96.0.10", "fd00:96::10"]);
    let mut six = slice(json!([{"addresses": ["fd00:244:2::5"]}]));
    six["metadata"]["name"] = json!("svc-6");
    six["addressType"] = json!("IPv6");
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service(spec)).unwrap())));
    for slice in [slice(two_nodes()), six] {
        model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
    }
    let table = model.resolve(&node(), IpFamily::V6);
    assert_eq!(addresses(&port(&table).internal), ["fd00:244:2::5"]);
    assert_eq!(port(&table).frontends[0].address(), Some("fd00:96::10".parse().unwrap()));
}

#[test]
fn a_bad_field_is_named_and_stops_nothing_else() {
    let spec = json!({"clusterIPs": ["10.96.0.10"], "externalIPs": ["not-an-ip", "127.0.0.1"],
                      "ports": [{"name": "p", "port": 80}, {"name": "q", "port": 99999}, {"name": "r", "port": 81, "protocol": "DCCP"}]});
    let table = resolve(service(spec), vec![slice(two_nodes())]);
    assert_eq!(table.ports.len(), 1);
    let codes: Vec<&str> = table.problems().iter().map(|problem| problem.reason.code()).collect();
    assert_eq!(
        codes,
        ["InvalidServiceAddress", "InvalidServiceAddress", "InvalidServicePort", "UnknownServiceProtocol"]
    );
}
