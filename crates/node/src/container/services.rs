//! The environment variables by which a container finds Services: `{NAME}_SERVICE_HOST` and the Docker-link set.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The variables a pod of `namespace` gets. `default/kubernetes` is always among them; with links on, the Services of
/// the pod's own namespace too, of which one named `kubernetes` wins.
pub fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    let named = |service: &Service, key: &str| service.metadata.name.as_deref() == Some(key);
    for service in services.iter().filter(|service| has_cluster_ip(service)) {
        let own = service.metadata.namespace.as_deref() == Some(namespace);
        let master = service.metadata.namespace.as_deref() == Some("default") && named(service, "kubernetes");
        let Some(name) = service.metadata.name.as_deref() else { continue };
        if links && own {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in chosen {
        add(name, service, &mut variables);
    }
    variables
}

/// Headless Services and ExternalNames have nothing to point at.
fn has_cluster_ip(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName")
        && spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None")
}

fn add(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let (Some(ip), ports) = (&spec.cluster_ip, spec.ports.as_deref().unwrap_or_default()) else { return };
    let prefix = variable_name(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.clone());
    let Some(first) = ports.first() else { return };
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
    }
    variables.insert(format!("{prefix}_PORT"), url(ip, first));
    for port in ports {
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
        variables.insert(format!("{link}_PROTO"), protocol(port));
        variables.insert(format!("{link}_PORT"), port.port.to_string());
        variables.insert(format!("{link}_ADDR"), ip.clone());
        variables.insert(link, url(ip, port));
    }
}

/// Upper case, `-` becomes `_`; nothing else changes, as upstream.
fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().unwrap_or("TCP").to_lowercase()
}

fn url(ip: &str, port: &ServicePort) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{}://{host}:{}", protocol(port), port.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, spec: serde_json::Value) -> Arc<Service> {
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn cluster() -> Vec<Arc<Service>> {
        let port = |port: i32| json!([{"port": port, "protocol": "TCP"}]);
        vec![
            service(
                "default",
                "kubernetes",
                json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
            ),
            service(
                "shop",
                "redis-master",
                json!({"clusterIP": "10.96.0.11", "ports": [
                {"name": "redis", "port": 6379, "protocol": "TCP"}, {"name": "p-2", "port": 53, "protocol": "UDP"}]}),
            ),
            service("shop", "plain", json!({"clusterIP": "10.96.0.12", "ports": port(80)})),
            service("shop", "headless", json!({"clusterIP": "None", "ports": port(80)})),
            service("shop", "outside", json!({"type": "ExternalName", "externalName": "x.example"})),
            service("other", "elsewhere", json!({"clusterIP": "10.96.0.13", "ports": port(80)})),
            service("six", "v6", json!({"clusterIP": "fd00::1", "ports": port(80)})),
        ]
    }

    fn listed(namespace: &str, links: bool) -> Vec<String> {
        variables(&cluster(), namespace, links).into_iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    const KUBERNETES: [&str; 7] = [
        "KUBERNETES_PORT=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "KUBERNETES_SERVICE_PORT=443",
    ];

    #[test]
    fn exactly_the_services_of_the_namespace_and_kubernetes() {
        let mut expected: Vec<String> = KUBERNETES.iter().map(|s| s.to_string()).collect();
        expected.extend(
            [
                "KUBERNETES_SERVICE_PORT_HTTPS=443",
                "PLAIN_PORT=tcp://10.96.0.12:80",
                "PLAIN_PORT_80_TCP=tcp://10.96.0.12:80",
                "PLAIN_PORT_80_TCP_ADDR=10.96.0.12",
                "PLAIN_PORT_80_TCP_PORT=80",
                "PLAIN_PORT_80_TCP_PROTO=tcp",
                "PLAIN_SERVICE_HOST=10.96.0.12",
                "PLAIN_SERVICE_PORT=80",
                "REDIS_MASTER_PORT=tcp://10.96.0.11:6379",
                "REDIS_MASTER_PORT_53_UDP=udp://10.96.0.11:53",
                "REDIS_MASTER_PORT_53_UDP_ADDR=10.96.0.11",
                "REDIS_MASTER_PORT_53_UDP_PORT=53",
                "REDIS_MASTER_PORT_53_UDP_PROTO=udp",
                "REDIS_MASTER_PORT_6379_TCP=tcp://10.96.0.11:6379",
                "REDIS_MASTER_PORT_6379_TCP_ADDR=10.96.0.11",
                "REDIS_MASTER_PORT_6379_TCP_PORT=6379",
                "REDIS_MASTER_PORT_6379_TCP_PROTO=tcp",
                "REDIS_MASTER_SERVICE_HOST=10.96.0.11",
                "REDIS_MASTER_SERVICE_PORT=6379",
                "REDIS_MASTER_SERVICE_PORT_P_2=53",
                "REDIS_MASTER_SERVICE_PORT_REDIS=6379",
            ]
            .map(String::from),
        );
        assert_eq!(listed("shop", true), expected);
    }

    #[test]
    fn without_links_only_kubernetes_is_left() {
        let mut expected: Vec<String> = KUBERNETES.iter().map(|s| s.to_string()).collect();
        expected.push("KUBERNETES_SERVICE_PORT_HTTPS=443".into());
        assert_eq!(listed("shop", false), expected);
        assert_eq!(listed("default", false), expected);
    }

    #[test]
    fn a_service_named_kubernetes_in_the_own_namespace_wins_with_links_on() {
        let mut services = cluster();
        services.push(service("shop", "kubernetes", json!({"clusterIP": "10.96.0.99", "ports": [{"port": 1}]})));
        assert_eq!(variables(&services, "shop", true)["KUBERNETES_SERVICE_HOST"], "10.96.0.99");
        assert_eq!(variables(&services, "shop", false)["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        services.reverse();
        assert_eq!(variables(&services, "shop", true)["KUBERNETES_SERVICE_HOST"], "10.96.0.99");
    }

    #[test]
    fn ipv6_hosts_are_bracketed_in_urls_only() {
        let variables = variables(&cluster(), "six", true);
        assert_eq!(variables["V6_PORT"], "tcp://[fd00::1]:80");
        assert_eq!(variables["V6_SERVICE_HOST"], "fd00::1");
    }
}
