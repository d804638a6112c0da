//! The generated cluster: Services of every kind, slices by hand, pods in every phase. Not responsible for questions.

use anyhow::{Context, Result, ensure};
use conformance::ADDRESS;
use kube::Client;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::side::{Side, Write};

/// With the label that `namespace_labels` of a setup looks for, or without it.
const NAMESPACES: [(&str, &str); 5] =
    [("alpha", "a"), ("beta", "a"), ("gamma", "b"), ("delta", "b"), ("kube-system", "")];
/// What `labels` of a setup looks for, and what it doesn't find.
const TIERS: [&str; 2] = ["front", "back"];
pub const PODS: usize = 90;

/// Everything that is created.
pub struct World {
    namespaces: Vec<Value>,
    pub services: Vec<Value>,
    pub slices: Vec<Value>,
    pub pods: Vec<Value>,
}

impl World {
    /// The name of a Service that is created after everything else; of two, the one that has the label.
    pub fn last(&self, labelled: bool) -> String {
        let name = if labelled { "last-front" } else { "last" };
        format!("{name}.alpha.svc.cluster.local")
    }

    /// The name that an ExternalName Service stands for.
    pub fn external_name(&self, service: &str, namespace: &str) -> Option<&str> {
        let found = self
            .services
            .iter()
            .find(|s| s["metadata"]["name"] == service && s["metadata"]["namespace"] == namespace)?;
        found["spec"]["externalName"].as_str()
    }
}

pub fn generate(dice: &mut Dice, count: usize) -> World {
    let namespaces = NAMESPACES
        .iter()
        .filter(|(name, _)| *name != "kube-system")
        .map(|(name, team)| json!({ "metadata": { "name": name, "labels": { "team": team } } }));
    let mut world =
        World { namespaces: namespaces.collect(), services: Vec::new(), slices: Vec::new(), pods: Vec::new() };
    for n in 0..count {
        let namespace = NAMESPACES[dice.below(4)].0;
        let name = format!("s{n}");
        let service = service(dice, &name, namespace, n);
        if service["spec"]["type"] != "ExternalName" && dice.chance(85) {
            slices(dice, &mut world.slices, &service);
        }
        world.services.push(service);
    }
    // Without a Service. One without even the name of one is left out: to the reverse name of an address in such a slice
    // CoreDNS sends nothing at all, as the name it would give has an empty label.
    for n in 0..6 {
        world.slices.push(slice(dice, &format!("orphan-{n}"), "alpha", "nobody", n % 2 == 0, "IPv4"));
    }
    name_server(&mut world);
    world.pods = (0..PODS).map(|n| pod(dice, n)).collect();
    for (name, tier) in [("last-front", TIERS[0]), ("last", TIERS[1])] {
        let metadata = json!({ "name": name, "namespace": "alpha", "labels": { "tier": tier } });
        let mut spec = json!({ "ports": [{ "port": 80 }] });
        addresses(&mut spec, 5000 + usize::from(name == "last"), &["IPv4"]);
        world.services.push(json!({ "metadata": metadata, "spec": spec }));
        let mut slice = slice(dice, &format!("{name}-1"), "alpha", name, true, "IPv4");
        slice["metadata"]["labels"]["tier"] = json!(tier);
        slice["endpoints"] = json!([{ "addresses": ["10.244.250.1"] }]);
        world.slices.push(slice);
    }
    world
}

/// The DNS Service, whose endpoint is the address both servers find on their machine.
fn name_server(world: &mut World) {
    let mut spec =
        json!({ "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }] });
    addresses(&mut spec, 6000, &["IPv4", "IPv6"]);
    let metadata = json!({ "name": "kube-dns", "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } });
    world.services.push(json!({ "metadata": metadata, "spec": spec }));
    let metadata = json!({ "name": "kube-dns-1", "namespace": "kube-system",
        "labels": { "kubernetes.io/service-name": "kube-dns" } });
    world.slices.push(json!({ "metadata": metadata, "addressType": "IPv4",
        "endpoints": [{ "addresses": [ADDRESS.to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }] }));
}

fn service(dice: &mut Dice, name: &str, namespace: &str, n: usize) -> Value {
    let tier = dice.pick(&TIERS);
    let metadata = json!({ "name": name, "namespace": namespace, "labels": { "tier": tier } });
    let families: &[&str] = match dice.below(10) {
        0..4 => &["IPv4"],
        4..6 => &["IPv6"],
        6..8 => &["IPv4", "IPv6"],
        _ => &["IPv6", "IPv4"],
    };
    let mut spec = match dice.below(100) {
        0..45 => {
            let kind = *dice.pick(&["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"]);
            let mut spec = json!({ "type": kind, "ports": ports(dice) });
            addresses(&mut spec, n, families);
            spec
        }
        45..80 => {
            let ports = if dice.chance(20) { json!([]) } else { ports(dice) };
            let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
            json!({ "clusterIP": "None", "ports": ports, "ipFamilies": families, "ipFamilyPolicy": policy })
        }
        _ => json!({ "type": "ExternalName", "externalName": external_name(dice, namespace, n) }),
    };
    if dice.chance(20) && spec["type"] != "ExternalName" {
        spec["publishNotReadyAddresses"] = json!(true);
    }
    json!({ "metadata": metadata, "spec": spec })
}

fn addresses(spec: &mut Value, n: usize, families: &[&str]) {
    let address = |family: &&str| match *family {
        "IPv4" => format!("10.96.{}.{}", 1 + n / 250, 1 + n % 250),
        _ => format!("fd00:10:96::{:x}", 0x100 + n),
    };
    let all: Vec<String> = families.iter().map(address).collect();
    spec["clusterIP"] = json!(all[0]);
    spec["clusterIPs"] = json!(all);
    spec["ipFamilies"] = json!(families);
    spec["ipFamilyPolicy"] = json!(if all.len() == 2 { "RequireDualStack" } else { "SingleStack" });
}

fn external_name(dice: &mut Dice, namespace: &str, n: usize) -> String {
    match dice.below(12) {
        0..3 => format!("h{}.outside.example", dice.below(6)),
        3 => "Nobody.outside.example".to_lowercase(),
        4 => format!("192.0.2.{}", n % 250),
        5 => "missing.alpha.svc.cluster.local".to_owned(),
        6 => format!("s{n}.{namespace}.svc.cluster.local"),
        7 => "nowhere.cluster.local".to_owned(),
        8 => "h1.outside.example.".to_owned(),
        // To another Service, often an alias itself, and sometimes in a circle.
        _ => format!("s{}.{}.svc.cluster.local", dice.below(n + 20), NAMESPACES[dice.below(4)].0),
    }
}

fn ports(dice: &mut Dice) -> Value {
    match dice.below(6) {
        0 => json!([{ "port": 80 }]),
        1 | 2 => json!([{ "name": "http", "port": 80 }]),
        3 => json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }]),
        4 => json!([{ "name": "http", "port": 80 }, { "name": "https", "port": 443 }, { "name": "m-0", "port": 9 }]),
        _ => json!([{ "name": "sig", "port": 5060, "protocol": "SCTP" }, { "name": "http", "port": 8080 }]),
    }
}

/// One to three for each of a Service's families.
fn slices(dice: &mut Dice, into: &mut Vec<Value>, service: &Value) {
    let (name, namespace) = (text(&service["metadata"]["name"]), text(&service["metadata"]["namespace"]));
    for family in service["spec"]["ipFamilies"].as_array().into_iter().flatten() {
        for n in 0..=dice.below(3) {
            let full = format!("{name}-{}-{n}", text(family).to_lowercase());
            let with_ports = service["spec"]["ports"].as_array().is_some_and(|ports| !ports.is_empty());
            let mut slice = slice(dice, &full, &namespace, &name, with_ports, &text(family));
            slice["metadata"]["labels"]["tier"] = service["metadata"]["labels"]["tier"].clone();
            into.push(slice);
        }
    }
}

fn slice(dice: &mut Dice, name: &str, namespace: &str, service: &str, with_ports: bool, family: &str) -> Value {
    let endpoints: Vec<Value> = (0..dice.below(6)).map(|_| endpoint(dice, family)).collect();
    let labels = json!({ "kubernetes.io/service-name": service });
    let ports = match (with_ports, dice.below(8)) {
        (false, _) | (_, 0) => json!([]),
        (_, 1) => json!([{ "port": 80, "protocol": "TCP" }]),
        (_, 2 | 3) => json!([{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }]),
        _ => json!([{ "name": "http", "port": 8000 + dice.below(3) }, { "name": "https", "port": 8443 }]),
    };
    json!({ "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "addressType": family, "endpoints": endpoints, "ports": ports })
}

/// Addresses from a small range, so that several Services have some of them.
fn endpoint(dice: &mut Dice, family: &str) -> Value {
    let mut address = || match family {
        "IPv4" => format!("10.244.{}.{}", dice.below(3), 1 + dice.below(200)),
        _ => format!("fd00:10:244::{:x}{}", 1 + dice.below(0xff), if dice.chance(10) { ":0" } else { "" }),
    };
    let addresses = vec![address()];
    let addresses = if dice.chance(8) {
        [addresses, vec![if family == "IPv4" { "10.244.9.9" } else { "fd00:10:244::9:9" }.to_owned()]].concat()
    } else {
        addresses
    };
    let mut endpoint = json!({ "addresses": addresses });
    match dice.below(10) {
        0..6 => endpoint["conditions"] = json!({ "ready": true }),
        6 => endpoint["conditions"] = json!({ "ready": false, "serving": true, "terminating": true }),
        7 => endpoint["conditions"] = json!({ "ready": false }),
        _ => {}
    }
    if dice.chance(35) {
        endpoint["hostname"] = json!(format!("host-{}", dice.below(4)));
    }
    if dice.chance(50) {
        let long = dice.chance(10);
        let name = if long { "p".repeat(64) } else { format!("p{}", dice.below(PODS)) };
        endpoint["targetRef"] = json!({ "kind": "Pod", "name": name });
    }
    if dice.chance(60) {
        endpoint["zone"] = json!(dice.pick(&["eu-1a", "eu-1b", "corp.example.com"]));
    }
    endpoint
}

fn pod(dice: &mut Dice, n: usize) -> Value {
    let namespace = NAMESPACES[dice.below(4)].0;
    let v4 = format!("10.244.{}.{}", dice.below(3), 1 + dice.below(200));
    let v6 = format!("fd00:10:244::{:x}", 1 + dice.below(0xff));
    let phase = *dice.pick(&["Running", "Running", "Running", "Running", "Pending", "Succeeded", "Failed"]);
    let addresses = match dice.below(4) {
        0 => json!([{ "ip": v6 }]),
        1 => json!([{ "ip": v4 }]),
        _ => json!([{ "ip": v4 }, { "ip": v6 }]),
    };
    let mut metadata =
        json!({ "name": format!("p{n}"), "namespace": namespace, "labels": { "tier": dice.pick(&TIERS) } });
    if dice.chance(10) {
        // Deleted at the end, it stays on its way out.
        metadata["finalizers"] = json!(["example.com/hold"]);
    }
    let spec = json!({ "containers": [{ "name": "c", "image": "i" }], "automountServiceAccountToken": false });
    let status = json!({ "phase": phase, "podIP": addresses[0]["ip"], "podIPs": addresses });
    json!({ "metadata": metadata, "spec": spec, "status": status })
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Creates all of it, what is waited for last.
pub async fn create(client: &Client, world: &World) -> Result<()> {
    let side = Side::new("the API server", client.clone());
    for namespace in &world.namespaces {
        send(&side, Write::post("/api/v1/namespaces", namespace.clone())).await?;
    }
    for pod in &world.pods {
        let (name, namespace) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["namespace"]));
        let all = format!("/api/v1/namespaces/{namespace}/pods");
        send(&side, Write::post(&all, pod.clone())).await?;
        send(&side, Write::patch(format!("{all}/{name}/status"), json!({ "status": pod["status"] }))).await?;
        if pod["metadata"]["finalizers"].is_array() {
            send(&side, Write::delete(format!("{all}/{name}"), json!({ "gracePeriodSeconds": 0 }))).await?;
        }
    }
    for slice in &world.slices {
        let namespace = text(&slice["metadata"]["namespace"]);
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        send(&side, Write::post(path, slice.clone())).await?;
    }
    for service in &world.services {
        let namespace = text(&service["metadata"]["namespace"]);
        send(&side, Write::post(format!("/api/v1/namespaces/{namespace}/services"), service.clone())).await?;
    }
    Ok(())
}

async fn send(side: &Side, write: Write) -> Result<()> {
    let answer = side.send(&write).await.with_context(|| write.path.clone())?;
    ensure!(answer.code < 300, "{} {} {}: {}", write.method, write.path, write.body, answer.body["message"]);
    Ok(())
}
