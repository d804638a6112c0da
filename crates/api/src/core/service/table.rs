//! A Service's row, as `kubectl get services` shows it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shape::service_type;
use crate::labels;
use crate::resource::Column;
use crate::table::{AGE, NAME, age};
use crate::tree::{int, list, text, texts};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", "How the Service is exposed."),
    Column::text("Cluster-IP", "Its first address inside the cluster."),
    Column::text("External-IP", "Where it answers from outside, or the name it stands for."),
    Column::text("Port(s)", "The ports it answers on, with node ports."),
    AGE,
    Column::text("Selector", "The labels of the pods behind it.").wide(),
];

pub(super) fn cells(service: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let cluster_ip = texts(&spec["clusterIPs"]).first().copied().unwrap_or("<none>");
    vec![
        service["metadata"]["name"].clone(),
        service_type(service).into(),
        cluster_ip.into(),
        external_ip(service).into(),
        ports(service).into(),
        age(service, now).into(),
        labels::map_text(&spec["selector"]).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let external_ips = texts(&service["spec"]["externalIPs"]);
    match service_type(service) {
        "ClusterIP" | "NodePort" if external_ips.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external_ips.join(","),
        "LoadBalancer" => {
            let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
            let addresses: BTreeSet<&str> =
                ingress
                    .iter()
                    .map(|ingress| {
                        if text(&ingress["ip"]).is_empty() { text(&ingress["hostname"]) } else { text(&ingress["ip"]) }
                    })
                    .filter(|address| !address.is_empty())
                    .collect();
            let all: Vec<&str> = addresses.into_iter().chain(external_ips).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(&service["spec"]["externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(service: &Value) -> String {
    let ports = list(&service["spec"]["ports"]).iter().map(|port| {
        let (number, protocol) = (int(&port["port"]), text(&port["protocol"]));
        match int(&port["nodePort"]) {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows() {
        let now: jiff::Timestamp = "2026-01-01T00:05:00Z".parse().expect("a time");
        let metadata = json!({"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let cases = [
            (
                json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1", "fd00::1"], "ports": [{"port": 80, "protocol": "TCP"}],
                       "selector": {"b": "2", "a": "1"}}),
                json!({}),
                json!(["web", "ClusterIP", "10.0.0.1", "<none>", "80/TCP", "5m", "a=1,b=2"]),
            ),
            (
                json!({"type": "ClusterIP", "clusterIPs": ["None"]}),
                json!({}),
                json!(["web", "ClusterIP", "None", "<none>", "<none>", "5m", "<none>"]),
            ),
            (
                json!({"type": "NodePort", "clusterIPs": ["10.0.0.1"], "externalIPs": ["1.1.1.1", "2.2.2.2"],
                       "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                json!({}),
                json!(["web", "NodePort", "10.0.0.1", "1.1.1.1,2.2.2.2", "80:30080/TCP,53/UDP", "5m", "<none>"]),
            ),
            (
                json!({"type": "LoadBalancer"}),
                json!({"loadBalancer": {}}),
                json!(["web", "LoadBalancer", "<none>", "<pending>", "<none>", "5m", "<none>"]),
            ),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}),
                json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "1.2.3.4"}]}}),
                json!(["web", "LoadBalancer", "<none>", "1.2.3.4,lb.example,9.9.9.9", "<none>", "5m", "<none>"]),
            ),
            (
                json!({"type": "ExternalName", "externalName": "harbor.example"}),
                json!({}),
                json!(["web", "ExternalName", "<none>", "harbor.example", "<none>", "5m", "<none>"]),
            ),
        ];
        for (spec, status, expected) in cases {
            let service = json!({"metadata": metadata, "spec": spec, "status": status});
            assert_eq!(Value::Array(cells(&service, now)), expected);
        }
    }
}
