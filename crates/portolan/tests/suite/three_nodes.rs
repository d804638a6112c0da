//! Three nodes: pods reach each other across them, NodePorts answer on all, the traffic policies keep to a node what is
//! to stay there, and ClientIP affinity holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Kind, Net, Outcome, System, eventually};

use crate::{MYAPP, PORTOLAN};

const NODES: [&str; 3] = ["172.30.0.11", "172.30.0.12", "172.30.0.13"];
const HOST: &str = "172.30.0.1";

#[test]
fn services_work_across_nodes_with_their_policies_and_affinity() {
    let system = System::up(PORTOLAN, &["--nodes", "3", "-f", MYAPP]);
    system.step("up");
    let clients = client_pods(&system);
    pods_reach_each_other_and_see_who_asks(&system, &clients);
    the_cluster_ip_answers_on_every_node(&system, &clients);
    node_ports_answer_on_every_node(&system, &clients);
    the_external_policy_local_keeps_the_client_and_the_node(&system, &clients);
    the_internal_policy_local_stays_on_the_node(&system, &clients);
    a_client_stays_with_its_pod(&system, &clients);
    many_clients_spread(&system);
    a_client_is_forgotten_after_the_timeout(&system);
}

/// A pod on a node (counted from 1) by its labels, running the test server.
fn pod(name: &str, app: &str, node: usize, args: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": format!("node-{node}")},
            "containers": [{"name": "c", "image": "portolan.local/testserver:latest", "imagePullPolicy": "IfNotPresent", "args": args}]}})
}

fn service(name: &str, app: &str, spec: Value) -> Value {
    let mut whole = json!({"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole})
}

/// A client on each node, and its network.
fn client_pods(system: &System) -> [Net; 3] {
    let names = [1, 2, 3].map(|node| {
        system.api().create(Kind::POD, &pod(&format!("client-{node}"), "clients", node, &["pause"]));
        format!("client-{node}")
    });
    names.map(|name| {
        system.api().until_pod_ready(&name);
        system.pod_net(&name)
    })
}

/// Makes a Service with a pod on each of these nodes, named `APP-NODE`, and waits until it's complete; its ClusterIP.
fn deploy(system: &System, app: &str, nodes: &[usize], spec: Value) -> String {
    let api = system.api();
    let made = api.create(Kind::SERVICE, &service(app, app, spec));
    for node in nodes {
        api.create(Kind::POD, &pod(&format!("{app}-{node}"), app, *node, &["netexec"]));
    }
    api.until_ready(app, "endpoints", |ready| ready.len() == nodes.len());
    made["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned()
}

fn address(pod: &Value) -> String {
    pod["status"]["podIP"].as_str().expect("a pod's address").to_owned()
}

/// Waits for an outcome that a change of objects brings about.
fn becomes(what: &str, wanted: &Outcome, ask: impl Fn() -> Outcome) {
    eventually(what, || {
        let found = ask();
        if found == *wanted { Ok(()) } else { Err(format!("{found}, not {wanted}")) }
    });
}

fn pods_reach_each_other_and_see_who_asks(system: &System, clients: &[Net; 3]) {
    let pods = system.api().list(Kind::POD, "app=myapp");
    let nodes: BTreeSet<&str> = pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes.len(), 3, "the scheduler spreads three replicas over three nodes: {nodes:?}");
    for (node, client) in (1..).zip(clients) {
        let own = address(&system.api().get(Kind::POD, &format!("client-{node}")));
        for target in &pods {
            let seen = client.get(&format!("{}:80", address(target)), "/clientip").text();
            assert_eq!(seen.split(':').next(), Some(own.as_str()), "the address a pod is seen with");
        }
    }
    let target = format!("{}:80", address(&pods[0]));
    assert!(matches!(system.host().get(&target, "/"), Outcome::Answered(_)), "a pod from the host");
    system.step("pod to pod");
}

fn the_cluster_ip_answers_on_every_node(system: &System, clients: &[Net; 3]) {
    let ip = system.api().get(Kind::SERVICE, "myapp")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    for (node, client) in (1..).zip(clients) {
        for net in [client.clone(), system.node_net(&format!("node-{node}"))] {
            let answers = net.spread(&format!("{ip}:80"), 300);
            assert_eq!(answers.len(), 3, "{answers:?}");
            let (least, most) = (answers.values().min().copied(), answers.values().max().copied());
            assert!(least > Some(50) && most < Some(160), "{answers:?}");
            assert_eq!(net.get(&format!("{ip}:81"), "/"), Outcome::Refused);
        }
        for name in ["myapp", "myapp.default", "myapp.default.svc", "myapp.default.svc.cluster.local"] {
            let url = format!("http://{name}/hostname");
            system.in_pod(&format!("client-{node}"), &["curl", "-sS", "--max-time", "5", &url]).ok();
        }
    }
    system.step("ClusterIP and names from every node");
}

fn node_ports_answer_on_every_node(system: &System, clients: &[Net; 3]) {
    system.api().merge(Kind::DEPLOYMENT, "myapp", &json!({"spec": {"replicas": 1}}));
    let left = system.api().until_ready("myapp-nodeport", "one pod", |ready| ready.len() == 1);
    let pods = system.api().list(Kind::POD, "app=myapp");
    let pod = pods.iter().find(|p| left.contains(p["status"]["podIP"].as_str().unwrap_or_default())).expect("the pod");
    let name = Outcome::Answered(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    for node in NODES {
        let to = format!("{node}:31234");
        becomes(&to, &name, || system.host().get(&to, "/hostname"));
        for client in clients {
            becomes(&to, &name, || client.get(&to, "/hostname"));
        }
        assert_eq!(system.host().get(&format!("{node}:31235"), "/"), Outcome::Refused, "a port that is nobody's");
    }
    system.step("NodePort on every node, with a pod on one");
}

fn the_external_policy_local_keeps_the_client_and_the_node(system: &System, clients: &[Net; 3]) {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 31300}]);
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports});
    let ip = deploy(system, "outer", &[2], spec);
    let host = system.host();
    eventually("the node with the pod", || match host.get("172.30.0.12:31300", "/clientip") {
        Outcome::Answered(seen) if seen.split(':').next() == Some(HOST) => Ok(()),
        other => Err(format!("{other}: the client is {HOST}")),
    });
    for node in [NODES[0], NODES[2]] {
        assert_eq!(host.get(&format!("{node}:31300"), "/"), Outcome::TimedOut, "a node without a pod, {node}");
    }
    // The policy is for what comes from outside: ClusterIP and the cluster's own pods see the whole Service.
    for client in clients {
        assert_eq!(client.get(&format!("{ip}:80"), "/hostname"), Outcome::Answered("outer-2".to_owned()));
    }
    assert_eq!(clients[0].get(&format!("{}:31300", NODES[0]), "/hostname"), Outcome::Answered("outer-2".to_owned()));
    // With the policy Cluster the pod sees a node instead.
    system.api().merge(Kind::SERVICE, "outer", &json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    eventually("a node without a pod, policy Cluster", || match host.get("172.30.0.11:31300", "/clientip") {
        Outcome::Answered(seen) if seen.split(':').next() == Some(NODES[0]) => Ok(()),
        other => Err(other.to_string()),
    });
    system.step("externalTrafficPolicy");
}

fn the_internal_policy_local_stays_on_the_node(system: &System, clients: &[Net; 3]) {
    let ip = deploy(system, "inner", &[2, 3], json!({"internalTrafficPolicy": "Local"}));
    let to = format!("{ip}:80");
    for (node, client) in [(2, &clients[1]), (3, &clients[2])] {
        let own = format!("inner-{node}");
        becomes(&to, &Outcome::Answered(own.clone()), || client.get(&to, "/hostname"));
        assert_eq!(client.spread(&to, 50), BTreeMap::from([(own, 50)]));
    }
    assert_eq!(clients[0].get(&to, "/"), Outcome::TimedOut, "on a node without a pod");
    assert_eq!(system.node_net("node-1").get(&to, "/"), Outcome::TimedOut, "from a node without a pod");
    system.step("internalTrafficPolicy");
}

/// The pod a client is with: exactly one for this many connections.
fn the_one(net: &Net, to: &str, connections: usize) -> String {
    let answers = net.spread(to, connections);
    assert_eq!(answers.len(), 1, "{connections} connections of one client to {to}: {answers:?}");
    answers.into_keys().next().unwrap_or_default()
}

fn a_client_stays_with_its_pod(system: &System, clients: &[Net; 3]) {
    const CONNECTIONS: usize = 1_000;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 31310}]);
    let ip = deploy(
        system,
        "sticky",
        &[1, 2, 3],
        json!({"type": "NodePort", "sessionAffinity": "ClientIP", "ports": ports}),
    );
    let (cluster_ip, node_port) = (format!("{ip}:80"), format!("{}:31310", NODES[0]));
    eventually("the Service", || match system.host().get(&cluster_ip, "/") {
        Outcome::Answered(_) => Ok(()),
        other => Err(other.to_string()),
    });
    // The host's way to ClusterIPs is by the first node, whose NodePort knows the client too.
    let by_cluster_ip = the_one(system.host(), &cluster_ip, CONNECTIONS);
    assert_eq!(the_one(system.host(), &node_port, CONNECTIONS), by_cluster_ip);
    for (node, client) in NODES.iter().zip(clients) {
        let by_cluster_ip = the_one(client, &cluster_ip, CONNECTIONS);
        assert_eq!(the_one(client, &format!("{node}:31310"), CONNECTIONS), by_cluster_ip);
    }
    system.step("affinity: 8,000 connections");
    system.api().delete(Kind::POD, &by_cluster_ip);
    system.api().until_ready("sticky", "two pods", |ready| ready.len() == 2);
    eventually("another pod", || {
        let found = system.host().get(&cluster_ip, "/hostname");
        match &found {
            Outcome::Answered(name) if *name != by_cluster_ip => Ok(()),
            _ => Err(format!("{found}")),
        }
    });
    assert_ne!(the_one(system.host(), &cluster_ip, CONNECTIONS), by_cluster_ip);
    system.step("affinity moves when the pod goes");
}

fn many_clients_spread(system: &System) {
    let link = system.record()["hostLink"].as_str().expect("the host's link").to_owned();
    let ip = system.api().get(Kind::SERVICE, "sticky")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..20u8 {
        let own = IpAddr::from([172, 30, 0, 100 + n]);
        system.on_host(&["ip", "address", "add", &format!("{own}/32"), "dev", &link]).ok();
        let answers: BTreeSet<Outcome> =
            (0..10).map(|_| system.host().get_from(own, &format!("{ip}:80"), "/hostname")).collect();
        assert_eq!(answers.len(), 1, "{own}: {answers:?}");
        *met.entry(answers.into_iter().next().map(Outcome::text).unwrap_or_default()).or_default() += 1;
    }
    // Two pods are left: all on one has a chance of 2 in a million.
    assert_eq!(met.len(), 2, "{met:?}");
    system.step(&format!("20 clients: {met:?}"));
}

fn a_client_is_forgotten_after_the_timeout(system: &System) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let config = json!({"clientIP": {"timeoutSeconds": TIMEOUT.as_secs()}});
    let spec = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
    let ip = deploy(system, "brief", &[1, 2, 3], spec);
    let to = format!("{ip}:80");
    eventually("the Service", || match system.host().get(&to, "/") {
        Outcome::Answered(_) => Ok(()),
        other => Err(other.to_string()),
    });
    // Whoever is forgotten may meet the same pod again: one in three.
    let mut met = BTreeSet::new();
    for _ in 0..20 {
        met.insert(the_one(system.host(), &to, 20));
        if met.len() > 1 {
            break;
        }
        // The passing of time is what is tested.
        std::thread::sleep(TIMEOUT + Duration::from_millis(200));
    }
    assert!(met.len() > 1, "20 timeouts and still {met:?}");
    system.step("affinity ends with its timeout");
}
