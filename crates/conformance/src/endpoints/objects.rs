//! The objects that histories are made of, with every property that endpoints depend on. Not responsible for when they
//! appear.

use serde_json::{Value, json};

use crate::dice::Dice;

pub const POD_SHAPES: usize = 12;
const APPS: [&str; 2] = ["a", "b"];
const TIERS: [&str; 2] = ["x", "y"];

/// A Service of any kind; whether it has a selector, and whether it is an ExternalName.
pub fn service(dice: &mut Dice, name: &str) -> (Value, bool, bool) {
    if name == "hand" {
        return (bare_service(dice, name), false, false);
    }
    let mut spec = json!({ "selector": selector(dice), "ports": ports(dice) });
    let mut external = false;
    match dice.below(100) {
        0..45 => {}
        45..70 => {
            spec["clusterIP"] = json!("None");
            if dice.chance(25) {
                spec["ports"] = json!([]);
            }
        }
        70..80 => spec["type"] = json!("NodePort"),
        80..90 => spec["type"] = json!("LoadBalancer"),
        _ => {
            external = true;
            spec["type"] = json!("ExternalName");
            spec["externalName"] = json!("elsewhere.example");
        }
    }
    if !external {
        match dice.below(100) {
            0..60 => {}
            60..75 => spec["ipFamilyPolicy"] = json!("PreferDualStack"),
            75..90 => {
                spec["ipFamilyPolicy"] = json!("RequireDualStack");
                spec["ipFamilies"] = json!(["IPv6", "IPv4"]);
            }
            _ => spec["ipFamilies"] = json!(["IPv6"]),
        }
        if dice.chance(20) {
            spec["publishNotReadyAddresses"] = json!(true);
        }
        spec["trafficDistribution"] = distribution(dice);
    }
    let mut metadata = json!({ "name": name, "labels": service_labels(dice) });
    if dice.chance(15) {
        metadata["annotations"] = json!({ "service.kubernetes.io/topology-mode": "Auto" });
    }
    (json!({ "kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": spec }), true, external)
}

/// One whose endpoints are written by hand.
pub fn bare_service(dice: &mut Dice, name: &str) -> Value {
    let mut spec = json!({ "ports": ports(dice) });
    if dice.chance(30) {
        spec["clusterIP"] = json!("None");
    }
    json!({ "kind": "Service", "apiVersion": "v1", "metadata": { "name": name }, "spec": spec })
}

pub fn service_labels(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!({ "team": "blue", "kubernetes.io/service-name": "mine", "service.kubernetes.io/headless": "no" }),
        1 => json!({ "team": null }),
        2 => json!({ "team": "red", "release": "1" }),
        _ => json!({ "team": "blue" }),
    }
}

fn selector(dice: &mut Dice) -> Value {
    match dice.below(3) {
        0 => json!({ "app": dice.pick(&APPS), "tier": dice.pick(&TIERS) }),
        _ => json!({ "app": dice.pick(&APPS) }),
    }
}

/// As a merge patch over any other selector.
pub fn other_selector(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({ "app": "nobody", "tier": null }),
        1 => json!({ "app": null, "tier": dice.pick(&TIERS) }),
        2 => json!({ "app": dice.pick(&APPS), "tier": dice.pick(&TIERS) }),
        _ => json!({ "app": dice.pick(&APPS), "tier": null }),
    }
}

pub fn ports(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => json!([{ "port": 80, "targetPort": 8080 }]),
        1 => json!([{ "name": "http", "port": 80, "targetPort": "http" },
                    { "name": "metrics", "port": 9100, "targetPort": "metrics" }]),
        2 => json!([{ "name": "dns-tcp", "port": 53, "targetPort": 5353, "protocol": "TCP" },
                    { "name": "dns-udp", "port": 53, "targetPort": 5353, "protocol": "UDP" }]),
        3 => json!([{ "name": "grpc", "port": 90, "targetPort": 9000, "appProtocol": "kubernetes.io/h2c" },
                    { "name": "side", "port": 91, "targetPort": "side" }]),
        4 => json!([{ "name": "udp", "port": 80, "targetPort": "http", "protocol": "UDP" }]),
        5 => json!([{ "name": "none", "port": 80, "targetPort": "no-such-port" }]),
        _ => json!([{ "name": "http", "port": 80, "targetPort": "http" }]),
    }
}

pub fn distribution(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => json!("PreferClose"),
        1 => json!("PreferSameZone"),
        2 => json!("PreferSameNode"),
        _ => Value::Null,
    }
}

/// To an ExternalName, or back.
pub fn flip_external(external: bool) -> Value {
    if external {
        json!({ "spec": { "type": "ClusterIP", "externalName": null, "clusterIP": null, "clusterIPs": null } })
    } else {
        json!({ "spec": { "type": "ExternalName", "externalName": "elsewhere.example", "clusterIP": null,
                          "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
                          "trafficDistribution": null } })
    }
}

pub fn families(dice: &mut Dice) -> Value {
    match dice.chance(50) {
        true => json!({ "spec": { "ipFamilyPolicy": "PreferDualStack" } }),
        false => json!({ "spec": { "ipFamilyPolicy": "SingleStack" } }),
    }
}

pub fn pod_labels(dice: &mut Dice) -> Value {
    json!({ "app": dice.pick(&APPS), "tier": dice.pick(&TIERS) })
}

/// A Pod, bound if there is a node. Equal names may stand for other ports in other shapes.
pub fn pod(dice: &mut Dice, name: &str, shape: usize, node: Option<&str>) -> Value {
    let ports = match shape % 6 {
        0 => json!([{ "name": "http", "containerPort": 8081 }, { "name": "metrics", "containerPort": 9100 }]),
        1 => json!([{ "name": "http", "containerPort": 8080, "protocol": "UDP" }]),
        2 => json!([]),
        _ => json!([{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9100 }]),
    };
    let mut spec = json!({
        "terminationGracePeriodSeconds": 30, "restartPolicy": "Always",
        "containers": [{ "name": "c", "image": "i", "ports": ports }],
    });
    match shape {
        3 => {
            spec["initContainers"] = json!([{ "name": "s", "image": "i", "restartPolicy": "Always",
                                              "ports": [{ "name": "side", "containerPort": 7000 }] }]);
        }
        4 => {
            spec["initContainers"] =
                json!([{ "name": "s", "image": "i", "ports": [{ "name": "side", "containerPort": 7000 }] }]);
        }
        _ => {}
    }
    if dice.chance(30) {
        spec["hostname"] = json!(format!("host-{name}"));
        spec["subdomain"] = json!(dice.pick(&["web", "db", "elsewhere"]));
    }
    if let Some(node) = node {
        spec["nodeName"] = json!(node);
    }
    json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "labels": pod_labels(dice) }, "spec": spec })
}

/// `families`: 0 and 1 for IPv4 first with IPv6, 2 for IPv4 alone, 3 for IPv6 first.
pub fn pod_status(number: usize, address: usize, families: usize, phase: &str, ready: bool, clock: usize) -> Value {
    let four = format!("10.{}.{}.{}", 64 + number / 250, number % 250, address % 250 + 1);
    let six = format!("fd00:10:244:{number:x}::{address:x}");
    let addresses = match families {
        2 => vec![four],
        3 => vec![six, four],
        _ => vec![four, six],
    };
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let at = format!("2026-01-01T{:02}:{:02}:00Z", clock / 60, clock % 60);
    let ready = if ready { "True" } else { "False" };
    json!({ "phase": phase, "podIP": addresses[0], "podIPs": listed,
            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": at }] })
}

/// Endpoints by hand, with every field that mirrors depend on.
pub fn endpoints(dice: &mut Dice, name: &str, nodes: &[String]) -> Value {
    let address = |dice: &mut Dice| {
        let number = dice.below(30);
        let ip = if dice.chance(20) { format!("fd00:20::{number:x}") } else { format!("10.20.0.{}", number + 1) };
        let mut address = json!({ "ip": ip });
        if dice.chance(25) {
            address["hostname"] = json!(format!("h{}", dice.below(4)));
        }
        if dice.chance(30) {
            address["nodeName"] = json!(dice.pick(nodes));
        }
        if dice.chance(15) {
            address["targetRef"] = json!({ "kind": "Pod", "name": "p0", "namespace": "somewhere" });
        }
        address
    };
    let subsets: Vec<Value> = (0..dice.below(3))
        .map(|_| {
            let ready: Vec<Value> = (0..1 + dice.below(4)).map(|_| address(dice)).collect();
            let not_ready: Vec<Value> = (0..dice.below(3)).map(|_| address(dice)).collect();
            let mut ports = json!([{ "name": "http", "port": 8000 + dice.below(2) }]);
            if dice.chance(30) {
                ports = json!([{ "name": "http", "port": 8000 },
                               { "name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "example.com/dns" }]);
            }
            json!({ "addresses": ready, "notReadyAddresses": not_ready, "ports": ports })
        })
        .collect();
    let labels = match dice.below(6) {
        0 => json!({ "by": "hand", "endpointslice.kubernetes.io/skip-mirror": "true" }),
        1 => json!({ "service.kubernetes.io/headless": "", "endpointslice.kubernetes.io/skip-mirror": null }),
        _ => json!({ "by": "hand", "endpointslice.kubernetes.io/skip-mirror": null }),
    };
    let annotations = match dice.below(3) {
        0 => json!({ "note": "one", "kubectl.kubernetes.io/last-applied-configuration": "{}" }),
        1 => json!({ "note": null }),
        _ => json!({ "note": "two" }),
    };
    json!({ "kind": "Endpoints", "apiVersion": "v1",
            "metadata": { "name": name, "labels": labels, "annotations": annotations }, "subsets": subsets })
}

/// A Node; `zone` 3 stands for none.
pub fn node(name: &str, zone: usize, cpu: usize) -> Value {
    let mut labels = json!({ "kubernetes.io/hostname": name });
    if zone < 3 {
        labels["topology.kubernetes.io/zone"] = json!(format!("zone-{zone}"));
    }
    json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": name, "labels": labels },
            "status": { "capacity": { "cpu": cpu.to_string() }, "allocatable": { "cpu": cpu.to_string() } } })
}

pub fn node_ready(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({ "status": { "conditions": [{ "type": "Ready", "status": status, "reason": "r", "message": "m",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })
}
