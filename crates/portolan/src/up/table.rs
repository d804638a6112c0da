//! The table that `up` and `status` print: each Service, where it is, how many endpoints answer, how to reach it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label that says whose slice it is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One Service as a person asks about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub service: String,
    pub kind: String,
    pub addresses: String,
    pub ports: String,
    pub ready: usize,
    pub endpoints: usize,
    pub dns_name: String,
    pub reach: String,
}

/// A row per Service, by namespace and name. `node` is an address that NodePorts answer on.
pub fn rows(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: Option<IpAddr>, domain: &str) -> Vec<Row> {
    let counted = count(slices);
    let mut rows: Vec<Row> = services
        .iter()
        .map(|service| {
            let namespace = service.metadata.namespace.clone().unwrap_or_default();
            let name = service.metadata.name.clone().unwrap_or_default();
            let (ready, endpoints) = counted.get(&(namespace.clone(), name.clone())).copied().unwrap_or_default();
            Row {
                service: format!("{namespace}/{name}"),
                kind: kind(service),
                addresses: addresses(service),
                ports: ports(service),
                ready,
                endpoints,
                dns_name: format!("{name}.{namespace}.svc.{domain}"),
                reach: reach(service, node, ready),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.service.cmp(&b.service));
    rows
}

/// The rows as text: a line of headings, then one line each, columns aligned.
pub fn text(rows: &[Row]) -> String {
    const HEADINGS: [&str; 7] = ["SERVICE", "TYPE", "ADDRESSES", "PORTS", "READY", "DNS NAME", "FROM HERE"];
    let mut lines: Vec<[String; 7]> = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let ready =
            if row.kind == "ExternalName" { "-".to_owned() } else { format!("{}/{}", row.ready, row.endpoints) };
        let row = row.clone();
        [row.service, row.kind, row.addresses, row.ports, ready, row.dns_name, row.reach]
    }));
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// What changed from one table to the next, a line each.
pub fn changes(before: &[Row], after: &[Row]) -> Vec<String> {
    let old: BTreeMap<&str, &Row> = before.iter().map(|r| (r.service.as_str(), r)).collect();
    let new: BTreeMap<&str, &Row> = after.iter().map(|r| (r.service.as_str(), r)).collect();
    let mut lines = Vec::new();
    for (service, row) in &new {
        match old.get(service) {
            None => lines.push(format!(
                "+ {service}: {} {} {} {}/{} ready",
                row.kind, row.addresses, row.ports, row.ready, row.endpoints
            )),
            Some(was) if *was == *row => {}
            Some(was) if (was.ready, was.endpoints) != (row.ready, row.endpoints) => {
                lines.push(format!(
                    "~ {service}: {}/{} ready (was {}/{})",
                    row.ready, row.endpoints, was.ready, was.endpoints
                ));
            }
            Some(_) => lines.push(format!("~ {service}: {} {} {}", row.kind, row.addresses, row.ports)),
        }
    }
    lines.extend(old.keys().filter(|s| !new.contains_key(*s)).map(|service| format!("- {service}")));
    lines
}

/// Ready and all endpoints of each Service. An address in two slices (a moment of the controller's) counts once.
fn count(slices: &[Arc<EndpointSlice>]) -> BTreeMap<(String, String), (usize, usize)> {
    let mut endpoints: BTreeMap<(String, String), BTreeMap<String, bool>> = BTreeMap::new();
    for slice in slices {
        let Some(service) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)) else { continue };
        let key = (slice.metadata.namespace.clone().unwrap_or_default(), service.clone());
        let of_service = endpoints.entry(key).or_default();
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first() else { continue };
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            *of_service.entry(address.clone()).or_default() |= ready;
        }
    }
    endpoints.into_iter().map(|(key, all)| (key, (all.values().filter(|r| **r).count(), all.len()))).collect()
}

fn kind(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ClusterIP") | None if spec.cluster_ip.as_deref() == Some("None") => "headless".to_owned(),
        Some(other) => other.to_owned(),
        None => "ClusterIP".to_owned(),
    }
}

fn addresses(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    if let Some(name) = spec.external_name {
        return name;
    }
    let mut all: Vec<String> = spec.cluster_ips.unwrap_or_default().into_iter().filter(|ip| ip != "None").collect();
    all.extend(spec.external_ips.unwrap_or_default());
    let status = service.status.clone().and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
    all.extend(status.into_iter().filter_map(|i| i.ip.or(i.hostname)));
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

fn ports(service: &Service) -> String {
    let ports = service.spec.as_ref().and_then(|s| s.ports.clone()).unwrap_or_default();
    let one = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    };
    if ports.is_empty() { "-".to_owned() } else { ports.iter().map(one).collect::<Vec<_>>().join(",") }
}

/// What to type on this machine.
fn reach(service: &Service, node: Option<IpAddr>, ready: usize) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let Some(port) = spec.ports.clone().unwrap_or_default().into_iter().next() else { return "-".to_owned() };
    if ready == 0 {
        return "no endpoint yet".to_owned();
    }
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let write = |host: String, number: i32| match protocol {
        "TCP" if port.port == 443 => format!("curl -k https://{host}:{number}").trim_end_matches(":443").to_owned(),
        "TCP" => format!("curl http://{host}:{number}").trim_end_matches(":80").to_owned(),
        other => format!("{host}:{number}/{other}"),
    };
    match (port.node_port, node, spec.cluster_ip.as_deref()) {
        (Some(number), Some(node), _) => write(node.to_string(), number),
        (_, _, Some(ip)) if ip != "None" && !ip.is_empty() => write(ip.to_owned(), port.port),
        _ => "by its pods' addresses".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Arc<Service> {
        let metadata = json!({"name": "web", "namespace": "default"});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn slice(endpoints: serde_json::Value) -> Arc<EndpointSlice> {
        let labels = json!({SERVICE_NAME: "web"});
        let metadata = json!({"name": "web-1", "namespace": "default", "labels": labels});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    #[test]
    fn a_node_port_is_reached_on_a_node_and_counts_each_address_once() {
        let service = service(json!({"type": "NodePort", "clusterIP": "10.96.4.4", "clusterIPs": ["10.96.4.4"],
            "ports": [{"port": 80, "nodePort": 31234, "protocol": "TCP"}]}));
        let ready = json!({"addresses": ["10.244.0.2"], "conditions": {"ready": true}});
        let not = json!({"addresses": ["10.244.0.3"], "conditions": {"ready": false}});
        let slices = [slice(json!([ready.clone(), not])), slice(json!([ready]))];
        let rows = rows(&[service], &slices, Some("172.30.0.11".parse().unwrap()), "cluster.local");
        assert_eq!((rows[0].ready, rows[0].endpoints), (1, 2));
        assert_eq!(rows[0].ports, "80:31234/TCP");
        assert_eq!(rows[0].reach, "curl http://172.30.0.11:31234");
        assert!(text(&rows).contains("web.default.svc.cluster.local"));
    }

    #[test]
    fn headless_and_external_names_have_no_address_of_their_own() {
        let headless = service(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
        let external = service(json!({"type": "ExternalName", "externalName": "harbor.example"}));
        assert_eq!((kind(&headless).as_str(), addresses(&headless).as_str()), ("headless", "-"));
        assert_eq!(addresses(&external), "harbor.example");
    }

    #[test]
    fn a_change_is_told_in_one_line() {
        let service = service(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}));
        let before = rows(std::slice::from_ref(&service), &[], None, "cluster.local");
        let after = rows(&[service], &[slice(json!([{"addresses": ["10.244.0.2"]}]))], None, "cluster.local");
        assert_eq!(changes(&before, &after), ["~ default/web: 1/1 ready (was 0/0)"]);
        assert_eq!(changes(&after, &[]), ["- default/web"]);
        assert!(changes(&after, &after).is_empty());
    }
}
