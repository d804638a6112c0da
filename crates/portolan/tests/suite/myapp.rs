//! One node with the examples: every kind of Service is reached by name and by address from a pod, the node and the
//! host; spreads its connections; and follows its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use testkit::{Kind, Net, Outcome, Outside, System, eventually};

use crate::{MYAPP, PORTOLAN};

const REDIS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/redis-like");
const NODE: &str = "172.30.0.11";

#[test]
fn the_examples_answer_by_every_name_and_address_and_follow_their_pods() {
    let system = System::up(PORTOLAN, &["-f", MYAPP, "-f", REDIS]);
    system.step("up");
    let places = Places::find(&system);
    names_resolve_and_answer(&system);
    connections_spread_evenly(&system, &places);
    only_the_services_port_answers(&system, &places);
    dns_answers(&system);
    a_missed_name_resolves_once_its_service_exists(&system);
    not_ready_addresses_are_published_where_asked_for(&system);
    traffic_goes_to_hand_written_addresses(&system, &places);
    a_new_pod_has_the_variables_of_the_services(&system);
    everything_follows_the_pods(&system, &places);
}

#[test]
fn the_examples_answer_in_iptables_mode_too() {
    let system = System::up(PORTOLAN, &["--proxy-mode", "iptables", "-f", MYAPP, "-f", REDIS]);
    system.step("up");
    let places = Places::find(&system);
    let rules = system.on_node("node-1", &["iptables-save", "-t", "nat"]).ok();
    assert!(rules.contains("--comment \"default/myapp:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-"), "{rules}");
    names_resolve_and_answer(&system);
    connections_spread_evenly(&system, &places);
    only_the_services_port_answers(&system, &places);
    traffic_goes_to_hand_written_addresses(&system, &places);
    everything_follows_the_pods(&system, &places);
}

#[test]
fn the_examples_answer_in_userspace_mode_too() {
    let system = System::up(PORTOLAN, &["--proxy-mode", "userspace", "-f", MYAPP, "-f", REDIS]);
    system.step("up");
    let places = Places::find(&system);
    let rules = system.on_node("node-1", &["nft", "list", "map", "ip", "portolan-userspace", "frontends"]).ok();
    assert!(rules.contains(&cluster_ip(&system, "myapp")), "{rules}");
    names_resolve_and_answer(&system);
    connections_spread_evenly(&system, &places);
    traffic_goes_to_hand_written_addresses(&system, &places);
}

/// Where clients are.
struct Places {
    pod: Net,
    node: Net,
    host: Net,
}

impl Places {
    fn find(system: &System) -> Self {
        let (pod, node) = (system.pod_net("default/client"), system.node_net("node-1"));
        Places { pod, node, host: system.host().clone() }
    }

    fn all(&self) -> [(&'static str, &Net); 3] {
        [("pod", &self.pod), ("node", &self.node), ("host", &self.host)]
    }
}

fn cluster_ip(system: &System, service: &str) -> String {
    system.api().get(Kind::SERVICE, service)["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned()
}

/// Names of the pods that run the app, without those that are going.
fn app_pods(system: &System) -> BTreeSet<String> {
    let pods = system.api().list(Kind::POD, "app=myapp");
    pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()).map(name).collect()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn names_resolve_and_answer(system: &System) {
    let pods = app_pods(system);
    assert_eq!(pods.len(), 3);
    for host in ["myapp", "myapp.default", "myapp.default.svc", "myapp.default.svc.cluster.local"] {
        let said =
            system.in_pod("default/client", &["curl", "-sS", "--max-time", "5", &format!("http://{host}/hostname")]);
        let answered = said.ok();
        assert!(pods.contains(&answered), "{host}: {answered} is none of {pods:?}");
    }
    let headless =
        system.in_pod("default/client", &["curl", "-sS", "--max-time", "5", "http://myapp-headless/hostname"]);
    assert!(pods.contains(&headless.ok()));
    let redis = system.in_pod("default/client", &["curl", "-sS", "--max-time", "5", "http://redis:9527/hostname"]);
    assert_eq!(redis.ok(), "redis", "the Service's port is another than the pod's");
    system.step("names");
}

fn connections_spread_evenly(system: &System, places: &Places) {
    const CONNECTIONS: usize = 3_000;
    let to = format!("{}:80", cluster_ip(system, "myapp"));
    let answers = places.pod.spread(&to, CONNECTIONS);
    assert_even(system, "ClusterIP from a pod", &answers);
    assert_eq!(answers.keys().cloned().collect::<BTreeSet<_>>(), app_pods(system));
    for (place, net) in [("node", &places.node), ("host", &places.host)] {
        assert_even(system, &format!("ClusterIP from the {place}"), &net.spread(&to, CONNECTIONS / 10));
    }
    let node_port = format!("{NODE}:31234");
    for (place, net) in places.all() {
        assert_even(system, &format!("NodePort from the {place}"), &net.spread(&node_port, CONNECTIONS / 10));
    }
}

/// Three endpoints with equal chances: chi-square with two degrees of freedom, whose tail is exp(-x/2).
fn assert_even(system: &System, what: &str, answers: &BTreeMap<String, usize>) {
    assert_eq!(answers.len(), 3, "{what}: {answers:?}");
    let expected = answers.values().sum::<usize>() as f64 / 3.0;
    let chi_square: f64 = answers.values().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
    let p = (-chi_square / 2.0).exp();
    assert!(p > 1e-6, "{what}: {answers:?} has p = {p:e}");
    system.step(&format!("{what}: {:?}, chi-square {chi_square:.2}, p {p:.3}", answers.values().collect::<Vec<_>>()));
}

fn only_the_services_port_answers(system: &System, places: &Places) {
    let ip = cluster_ip(system, "myapp");
    for (place, net) in places.all() {
        assert_eq!(net.get(&format!("{ip}:81"), "/"), Outcome::Refused, "another port, from the {place}");
        assert_eq!(net.udp(&format!("{ip}:80"), "hostname"), Outcome::Refused, "another protocol, from the {place}");
        // The NodePort Service's ClusterIP doesn't answer on the NodePort.
        let node_port = format!("{}:31234", cluster_ip(system, "myapp-nodeport"));
        assert_eq!(net.get(&node_port, "/"), Outcome::Refused, "the NodePort on the ClusterIP, from the {place}");
    }
    for ping in [
        system.in_pod("default/client", &["ping", "-c", "1", "-W", "1", &ip]),
        system.on_node("node-1", &["ping", "-c", "1", "-W", "1", &ip]),
        system.on_host(&["ping", "-c", "1", "-W", "1", &ip]),
    ] {
        assert!(!ping.status.success(), "a ClusterIP is no host: {ping:?}");
    }
    // It's said at once, by the node: such a packet must not come back from where it was sent to.
    let nobody = system.in_pod("default/client", &["ping", "-c", "1", "-W", "5", "10.244.0.250"]);
    assert!(nobody.out.contains("Unreachable"), "an address no pod has: {nobody:?}");
    system.step("other ports, ping");
}

/// What dig prints of the answer to a question asked from the client pod.
fn dig(system: &System, words: &[&str]) -> BTreeSet<String> {
    let said = system.in_pod("default/client", &[&["dig", "+short", "+tries=1", "+time=3"], words].concat()).ok();
    said.lines().map(str::to_owned).collect()
}

/// The header's status and the answers' count.
fn dig_status(system: &System, words: &[&str]) -> (String, usize, String) {
    let said = system.in_pod("default/client", &[&["dig", "+tries=1", "+time=3"], words].concat()).ok();
    let after =
        |mark: &str| said.split(mark).nth(1).and_then(|t| t.split(',').next()).unwrap_or_default().trim().to_owned();
    (after("status:"), after("ANSWER:").parse().unwrap_or(usize::MAX), said)
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

fn dns_answers(system: &System) {
    let ip = cluster_ip(system, "myapp");
    let pods = system.api().list(Kind::POD, "app=myapp");
    let addresses: BTreeSet<String> =
        pods.iter().map(|p| p["status"]["podIP"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(dig(system, &["+search", "myapp"]), set([&ip]));
    assert_eq!(dig(system, &["myapp-headless.default.svc.cluster.local"]), addresses);
    assert_eq!(dig(system, &["+tcp", "myapp-headless.default.svc.cluster.local"]), addresses);
    let srv = dig(system, &["SRV", "_http._tcp.myapp.default.svc.cluster.local"]);
    assert_eq!(srv.len(), 1);
    assert!(srv.iter().all(|s| s.ends_with(" 80 myapp.default.svc.cluster.local.")), "{srv:?}");
    // A headless Service's SRV names each pod's own name, which has its address.
    let targets = dig(system, &["SRV", "_http._tcp.myapp-headless.default.svc.cluster.local"]);
    let targets: BTreeSet<String> = targets.iter().filter_map(|s| s.split(' ').nth(3)).map(str::to_owned).collect();
    let behind: BTreeSet<String> = targets.iter().flat_map(|t| dig(system, &[t])).collect();
    assert_eq!((targets.len(), behind), (3, addresses.clone()));
    assert_eq!(dig(system, &["-x", &ip]), set(["myapp.default.svc.cluster.local."]));
    let kubernetes = cluster_ip(system, "kubernetes");
    assert_eq!(dig(system, &["-x", &kubernetes]), set(["kubernetes.default.svc.cluster.local."]));
    let harbor = dig(system, &["CNAME", "harbor.default.svc.cluster.local"]);
    assert_eq!(harbor, set(["harbor.example."]));
    let dashed = addresses.iter().next().expect("three pods").replace('.', "-");
    let pod = dig(system, &[&format!("{dashed}.default.pod.cluster.local")]);
    assert_eq!(pod, set([&dashed.replace('-', ".")]));

    let (status, answers, said) = dig_status(system, &["nobody.default.svc.cluster.local"]);
    assert_eq!((status.as_str(), answers), ("NXDOMAIN", 0), "{said}");
    assert!(said.contains("SOA"), "a negative answer says how long it holds: {said}");
    for question in [
        ["AAAA", "myapp.default.svc.cluster.local"],
        ["MX", "myapp.default.svc.cluster.local"],
        ["A", "default.svc.cluster.local"],
    ] {
        let (status, answers, said) = dig_status(system, &question);
        assert_eq!((status.as_str(), answers), ("NOERROR", 0), "{said}");
        assert!(said.contains("SOA"), "{said}");
    }
    assert_eq!(dig_on_node(system, "myapp.default.svc.cluster.local"), ip);
    system.step("DNS");
}

fn dig_on_node(system: &System, name: &str) -> String {
    system.on_node("node-1", &["dig", "+short", "+tries=1", "+time=3", name]).ok().trim().to_owned()
}

fn a_missed_name_resolves_once_its_service_exists(system: &System) {
    let name = "late.default.svc.cluster.local";
    assert_eq!(dig_status(system, &[name]).0, "NXDOMAIN");
    let made = system.api().create(
        Kind::SERVICE,
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"},
            "spec": {"selector": {"app": "myapp"}, "ports": [{"port": 80}]}}),
    );
    let ip = made["spec"]["clusterIP"].as_str().expect("a ClusterIP");
    // A negative answer may be kept for seconds by its SOA; this one must not be.
    let mut asked = 0;
    eventually("a name that was missed", || {
        asked += 1;
        let found = dig(system, &[name]);
        if found == set([ip]) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert!(asked <= 3, "it took {asked} questions");
    system.api().delete(Kind::SERVICE, "late");
    eventually("a name whose Service is gone", || match dig_status(system, &[name]) {
        (status, ..) if status == "NXDOMAIN" => Ok(()),
        (.., said) => Err(said),
    });
    system.step(&format!("a missed name resolves after {asked} question(s)"));
}

/// A pod that is never ready, behind two headless Services of which one publishes it all the same.
fn not_ready_addresses_are_published_where_asked_for(system: &System) {
    let api = system.api();
    let probe = json!({"exec": {"command": ["/testserver", "false"]}, "periodSeconds": 1});
    api.create(
        Kind::POD,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unready", "labels": {"app": "unready"}},
            "spec": {"terminationGracePeriodSeconds": 1, "hostname": "first", "subdomain": "early",
                "containers": [{"name": "c", "image": "portolan.local/testserver:latest", "imagePullPolicy": "IfNotPresent",
                "args": ["netexec"], "readinessProbe": probe}]}}),
    );
    for (name, publish) in [("early", true), ("strict", false)] {
        let spec = json!({"clusterIP": "None", "publishNotReadyAddresses": publish, "selector": {"app": "unready"},
            "ports": [{"name": "http", "port": 8080}]});
        api.create(
            Kind::SERVICE,
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}),
        );
    }
    let pod = api.until(Kind::POD, "unready", "running", |p| {
        p["status"]["phase"] == "Running" && p["status"]["podIP"].is_string()
    });
    let address = pod["status"]["podIP"].as_str().expect("an address");
    eventually("an address that isn't ready but published", || {
        let found = dig(system, &["early.default.svc.cluster.local"]);
        if found == set([address]) { Ok(()) } else { Err(format!("{found:?}, not {address}")) }
    });
    assert_eq!(dig(system, &["first.early.default.svc.cluster.local"]), set([address]), "by hostname and subdomain");
    assert_eq!(dig(system, &["strict.default.svc.cluster.local"]), BTreeSet::new());
    for (kind, name) in [(Kind::SERVICE, "early"), (Kind::SERVICE, "strict"), (Kind::POD, "unready")] {
        api.delete(kind, name);
    }
    system.step("addresses that aren't ready");
}

fn traffic_goes_to_hand_written_addresses(system: &System, places: &Places) {
    let link = system.record()["hostLink"].as_str().expect("the host's link").to_owned();
    let servers: Vec<Outside> = [("172.30.0.201", "first"), ("172.30.0.202", "second")]
        .map(|(address, name)| {
            system.on_host(&["ip", "address", "add", &format!("{address}/32"), "dev", &link]).ok();
            Outside::start(system.host(), &format!("{address}:5432"), name)
        })
        .into();
    let to = format!("{}:5432", cluster_ip(system, "outside-db"));
    let point = |addresses: &[&str]| {
        let addresses: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
        let subsets = json!([{"addresses": addresses, "ports": [{"name": "db", "port": 5432}]}]);
        system.api().merge(Kind::ENDPOINTS, "outside-db", &json!({"subsets": subsets}));
    };
    for (addresses, names) in [
        (&["172.30.0.201"][..], set(["first"])),
        (&["172.30.0.202"], set(["second"])),
        (&["172.30.0.201", "172.30.0.202"], set(["first", "second"])),
    ] {
        point(addresses);
        let expected: BTreeSet<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
        system.api().until_ready("outside-db", "mirrored", |ready| *ready == expected);
        answered_by(&places.pod, &to, &names);
    }
    answered_by(&places.host, &to, &set(["first", "second"]));
    system.api().merge(Kind::ENDPOINTS, "outside-db", &json!({"subsets": []}));
    system.api().until_ready("outside-db", "mirrored", BTreeSet::is_empty);
    eventually("a Service without endpoints", || match places.pod.get(&to, "/") {
        Outcome::Refused => Ok(()),
        other => Err(other.to_string()),
    });
    drop(servers);
    system.step("hand-written Endpoints");
}

/// Waits until exactly these answer; from then on nobody else may.
fn answered_by(net: &Net, to: &str, names: &BTreeSet<String>) {
    const CONNECTIONS: usize = 40;
    let who = |answers: BTreeMap<String, usize>| answers.into_keys().collect::<BTreeSet<String>>();
    eventually(&format!("{to} is answered by {names:?}"), || {
        let found = who(net.spread(to, CONNECTIONS));
        if found == *names { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(who(net.spread(to, CONNECTIONS)), *names, "who answers at {to}");
}

fn a_new_pod_has_the_variables_of_the_services(system: &System) {
    let api = system.api();
    api.create(
        Kind::POD,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "variables"},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "portolan.local/testserver:latest",
                "imagePullPolicy": "IfNotPresent", "args": ["env"], "env": [{"name": "OWN", "value": "$(MYAPP_SERVICE_HOST)!"}]}]}}),
    );
    api.until(Kind::POD, "variables", "succeeded", |p| p["status"]["phase"] == "Succeeded");
    let kubectl = testkit::Kubectl::all().pop().expect("a kubectl");
    let log = kubectl.run(system, &["logs", "variables"]).ok();
    let found: BTreeSet<String> = log.lines().map(str::to_owned).collect();

    let mut expected: BTreeSet<String> = set(["HOSTNAME=variables"]);
    for service in api.list(Kind::SERVICE, "") {
        expected.extend(variables(&service));
    }
    expected.insert(format!("OWN={}!", cluster_ip(system, "myapp")));
    let (path, found): (BTreeSet<_>, BTreeSet<_>) =
        found.into_iter().partition(|v| v.starts_with("PATH=") || v.starts_with("HOME="));
    assert!(!path.is_empty());
    assert_eq!(found, expected);
    let host = format!("REDIS_PORT_9527_TCP_ADDR={}", cluster_ip(system, "redis"));
    assert!(found.contains(&host), "{found:?}");
    api.delete(Kind::POD, "variables");
    system.step(&format!("{} variables", found.len()));
}

/// What a Service gives every container that starts after it in its namespace.
fn variables(service: &Value) -> Vec<String> {
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let (Ok(IpAddr::V4(ip)), Some(ports)) = (ip.parse(), service["spec"]["ports"].as_array()) else {
        return Vec::new();
    };
    let prefix = name(service).to_uppercase().replace('-', "_");
    let first = &ports[0];
    let url =
        |port: &Value| format!("{}://{ip}:{}", port["protocol"].as_str().unwrap_or("TCP").to_lowercase(), port["port"]);
    let mut all = vec![
        format!("{prefix}_SERVICE_HOST={ip}"),
        format!("{prefix}_SERVICE_PORT={}", first["port"]),
        format!("{prefix}_PORT={}", url(first)),
    ];
    for port in ports {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if let Some(named) = port["name"].as_str() {
            let named = named.to_uppercase().replace('-', "_");
            all.push(format!("{prefix}_SERVICE_PORT_{named}={}", port["port"]));
        }
        let link = format!("{prefix}_PORT_{}_{protocol}", port["port"]);
        all.push(format!("{link}={}", url(port)));
        all.push(format!("{link}_PROTO={}", protocol.to_lowercase()));
        all.push(format!("{link}_PORT={}", port["port"]));
        all.push(format!("{link}_ADDR={ip}"));
    }
    all
}

/// Deleted, unready, scaled, replaced: slices, connections and names say the same.
fn everything_follows_the_pods(system: &System, places: &Places) {
    let api = system.api();
    let before = app_pods(system);
    let victim = before.first().expect("a pod").clone();
    api.delete(Kind::POD, &victim);
    settled(system, places, "a pod deleted", |pods| pods.len() == 3 && !pods.contains(&victim));

    let sick = app_pods(system).pop_first().expect("a pod");
    let address = api.get(Kind::POD, &sick)["status"]["podIP"].as_str().expect("an address").to_owned();
    places.pod.get(&format!("{address}:80"), "/healthz/fail").text();
    settled(system, places, "a pod unready", |pods| pods.len() == 2 && !pods.contains(&sick));
    places.pod.get(&format!("{address}:80"), "/healthz/pass").text();
    settled(system, places, "ready again", |pods| pods.len() == 3 && pods.contains(&sick));

    for replicas in [1, 4] {
        api.merge(Kind::DEPLOYMENT, "myapp", &json!({"spec": {"replicas": replicas}}));
        settled(system, places, &format!("scaled to {replicas}"), |pods| pods.len() == replicas);
    }
    let old = app_pods(system);
    let template = json!({"metadata": {"annotations": {"revision": "2"}}});
    api.merge(Kind::DEPLOYMENT, "myapp", &json!({"spec": {"template": template}}));
    settled(system, places, "replaced", |pods| pods.len() == 4 && pods.is_disjoint(&old));
    let deployment = api.until(Kind::DEPLOYMENT, "myapp", "rolled out", |d| {
        d["status"]["updatedReplicas"] == 4 && d["status"]["availableReplicas"] == 4 && d["status"]["replicas"] == 4
    });
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");

    api.merge(Kind::DEPLOYMENT, "myapp", &json!({"spec": {"replicas": 0}}));
    api.until_ready("myapp", "nobody", BTreeSet::is_empty);
    let to = format!("{}:80", cluster_ip(system, "myapp"));
    for (place, net) in places.all() {
        eventually(&format!("a Service without pods, from the {place}"), || match net.get(&to, "/") {
            Outcome::Refused => Ok(()),
            other => Err(other.to_string()),
        });
    }
    eventually("the name of nobody", || {
        let found = dig(system, &["myapp-headless.default.svc.cluster.local"]);
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    system.step("scaled to 0");
}

/// Waits until the slices hold exactly the ready pods wanted; then connections and names must be theirs alone.
fn settled(system: &System, places: &Places, what: &str, wanted: impl Fn(&BTreeSet<String>) -> bool) {
    let api = system.api();
    let ready_pods = |slices: &[Value]| -> BTreeSet<String> {
        let endpoints = slices.iter().filter_map(|s| s["endpoints"].as_array()).flatten();
        let ready = endpoints.filter(|e| e["conditions"]["ready"] == true);
        ready.filter_map(|e| e["targetRef"]["name"].as_str()).map(str::to_owned).collect()
    };
    let selector = |service: &str| format!("kubernetes.io/service-name={service}");
    let slices = api.until_all(Kind::SLICE, &selector("myapp"), what, |slices| wanted(&ready_pods(slices)));
    let (pods, addresses) = (ready_pods(&slices), testkit::ready(&slices));
    answered_by(&places.pod, &format!("{}:80", cluster_ip(system, "myapp")), &pods);
    answered_by(&places.host, &format!("{NODE}:31234"), &pods);
    api.until_ready("myapp-headless", what, |ready| *ready == addresses);
    eventually(&format!("{what}: DNS"), || {
        let found = dig(system, &["myapp-headless.default.svc.cluster.local"]);
        if found == addresses { Ok(()) } else { Err(format!("{found:?}, not {addresses:?}")) }
    });
    api.until(Kind::ENDPOINTS, "myapp", what, |legacy| {
        legacy["subsets"][0]["addresses"].as_array().map_or(0, Vec::len) == pods.len()
    });
    system.step(what);
}
