//! When a system answers: what `up` waits for, and what it says while it waits.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::net::TcpStream;

use super::manifests::Applied;
use super::table::{Row, SERVICE_NAME};
use super::view::View;

const DNS_SERVICE: &str = "kube-system/kube-dns";
/// How soon to look again when nothing has changed but not everything answers.
pub const AGAIN: Duration = Duration::from_millis(20);
/// How long a connection that proves a Service may take.
const CONNECT: Duration = Duration::from_millis(500);

/// The nodes that aren't ready, in words; nothing when all are.
pub fn missing_nodes(view: &View, nodes: usize) -> Vec<String> {
    let ready = view.nodes.iter().filter(|n| node_ready(n)).count();
    if ready < nodes { vec![format!("{} of {nodes} nodes", nodes - ready)] } else { Vec::new() }
}

/// What is still missing, in words; nothing when everything answers as far as the API can tell. `nodes` is how many
/// there should be, `applied` what was just sent to the API.
pub fn missing(view: &View, nodes: usize, applied: &[Applied]) -> Vec<String> {
    let mut missing = missing_nodes(view, nodes);
    missing.extend(unseen(view, applied));
    missing.extend(
        view.deployments.iter().filter(|d| !available(d)).map(|d| format!("deployment {}", named(&d.metadata))),
    );
    missing
        .extend(view.pods.iter().filter(|p| pod_wanted(p) && !pod_ready(p)).map(|p| format!("pod {}", pod_words(p))));
    for (row, service) in view.rows().iter().zip(sorted(&view.services)) {
        // Each node's DNS server is an endpoint of its own accord.
        let wanted = if row.service == DNS_SERVICE { nodes } else { ready_pods(service, view) };
        if row.kind != "ExternalName" && row.ready < wanted {
            missing.push(format!("{} endpoint(s) of {}", wanted - row.ready, row.service));
        }
    }
    missing
}

/// The Service without which no name is found, if it isn't there. Whoever makes it says why it can't.
pub fn nameless(view: &View) -> Option<String> {
    let there = view.services.iter().any(|service| named(&service.metadata) == DNS_SERVICE);
    (!there).then(|| format!("service {DNS_SERVICE}"))
}

/// The TCP frontends that don't take a connection yet, of Services that have a ready endpoint behind them.
pub async fn refused(view: &View) -> Vec<String> {
    let mut refused = Vec::new();
    for (row, service) in view.rows().iter().zip(sorted(&view.services)) {
        for address in probe_addresses(row, service, view) {
            let answered = tokio::time::timeout(CONNECT, TcpStream::connect(&address)).await.is_ok_and(|r| r.is_ok());
            if !answered {
                refused.push(format!("{} at {address}", row.service));
            }
        }
    }
    refused
}

/// Only Services whose endpoints are pods here: what is outside may well be unreachable, and that is no fault of ours.
fn probe_addresses(row: &Row, service: &Service, view: &View) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let ip = spec.cluster_ip.filter(|ip| ip != "None" && !ip.is_empty());
    let internal_only = spec.internal_traffic_policy.as_deref() == Some("Local");
    let (Some(ip), true, false) = (ip, row.ready > 0 && has_selector(service), internal_only) else {
        return Vec::new();
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    let tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|p| p == "TCP");
    let ports = spec.ports.unwrap_or_default();
    let probed = ports.iter().filter(|p| tcp(&p.protocol) && served(service, p.name.as_deref(), view));
    probed.map(|p| format!("{host}:{}", p.port)).collect()
}

/// Whether an endpoint has the port: a named targetPort that no container has leads nowhere.
fn served(service: &Service, port: Option<&str>, view: &View) -> bool {
    let of_service = view.slices.iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        slice.metadata.namespace == service.metadata.namespace
            && labels.and_then(|l| l.get(SERVICE_NAME)) == service.metadata.name.as_ref()
    });
    let mut ports = of_service.filter_map(|slice| slice.ports.as_ref()).flatten();
    ports.any(|p| p.name.as_deref().unwrap_or_default() == port.unwrap_or_default())
}

fn sorted(services: &[Arc<Service>]) -> Vec<&Service> {
    let mut all: Vec<&Service> = services.iter().map(|service| &**service).collect();
    all.sort_by_key(|s| named(&s.metadata));
    all
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

/// How many ready pods a Service selects: none when it has no selector.
fn ready_pods(service: &Service, view: &View) -> usize {
    let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let selected = |pod: &&Arc<Pod>| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        pod.metadata.namespace == service.metadata.namespace && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
    };
    if selector.is_empty() {
        return 0;
    }
    view.pods.iter().filter(selected).filter(|pod| pod_wanted(pod) && pod_ready(pod)).count()
}

/// What was applied and isn't in the view yet: the view follows the API, some milliseconds behind.
fn unseen(view: &View, applied: &[Applied]) -> Vec<String> {
    fn shows<'a>(mut objects: impl Iterator<Item = &'a ObjectMeta>, applied: &Applied) -> bool {
        objects.any(|m| {
            let version = m.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
            m.namespace.as_deref() == Some(&applied.namespace)
                && m.name.as_deref() == Some(&applied.name)
                && version >= applied.resource_version
        })
    }
    let seen = |applied: &&Applied| match applied.kind.as_str() {
        "Service" => shows(view.services.iter().map(|o| &o.metadata), applied),
        "Pod" => shows(view.pods.iter().map(|o| &o.metadata), applied),
        "Deployment" => shows(view.deployments.iter().map(|o| &o.metadata), applied),
        _ => true,
    };
    let words = |a: &Applied| format!("{} {}/{}", a.kind.to_lowercase(), a.namespace, a.name);
    applied.iter().filter(|a| !seen(a)).map(words).collect()
}

fn named(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// The controller has seen the newest spec, and as many pods are available as it asks for.
fn available(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation && status.available_replicas.unwrap_or(0) >= wanted
}

fn node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Pods that have run to their end, or are going, are not waited for.
fn pod_wanted(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

pub fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The pod, and why its first container that waits does.
fn pod_words(pod: &Pod) -> String {
    let name = named(&pod.metadata);
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.clone()).unwrap_or_default();
    let waiting = statuses.iter().filter_map(|s| s.state.as_ref()?.waiting.as_ref()).next();
    match waiting.and_then(|w| w.reason.as_deref().map(|r| (r, w.message.clone().unwrap_or_default()))) {
        Some((reason, message)) if message.is_empty() => format!("{name} ({reason})"),
        Some((reason, message)) => format!("{name} ({reason}: {message})"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::up::manifests::Change;

    fn all<K: serde::de::DeserializeOwned>(list: Value) -> Vec<Arc<K>> {
        serde_json::from_value::<Vec<K>>(list).unwrap().into_iter().map(Arc::new).collect()
    }

    fn view(pods: Value, services: Value) -> View {
        let node = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        View {
            nodes: vec![Arc::new(serde_json::from_value(node).unwrap())],
            pods: all(pods),
            services: all(services),
            ..View::default()
        }
    }

    #[test]
    fn what_waits_is_named_with_its_reason() {
        let status = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "load it"}}}]});
        let labels = json!({"a": "b"});
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let pods = json!([
            {"metadata": {"name": "p", "namespace": "default", "labels": labels}, "status": status},
            {"metadata": {"name": "q", "namespace": "default", "labels": labels}, "status": ready},
        ]);
        let metadata = json!({"name": "s", "namespace": "default"});
        let services = json!([{"metadata": metadata, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}]);
        let missing = missing(&view(pods, services), 2, &[]);
        assert_eq!(missing, ["1 of 2 nodes", "pod default/p (ErrImagePull: load it)", "1 endpoint(s) of default/s"]);
    }

    #[test]
    fn what_was_applied_is_waited_for_in_its_newest_form() {
        let service = |version: &str| {
            let metadata = json!({"name": "s", "namespace": "default", "resourceVersion": version});
            view(json!([]), json!([{"metadata": metadata, "spec": {}}]))
        };
        let (kind, namespace, name) = ("Service".to_owned(), "default".to_owned(), "s".to_owned());
        let (change, identity) = (Change::Created, "Service default/s".to_owned());
        let applied = [Applied { kind, namespace, name, resource_version: 10, change, identity }];
        assert_eq!(missing(&service("9"), 1, &applied), ["service default/s"]);
        assert!(missing(&service("10"), 1, &applied).is_empty());
    }

    #[test]
    fn a_finished_pod_and_a_service_without_pods_are_not_waited_for() {
        let pods = json!([{"metadata": {"name": "p", "namespace": "default"}, "status": {"phase": "Succeeded"}}]);
        let metadata = json!({"name": "s", "namespace": "default"});
        let services = json!([{"metadata": metadata, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}]);
        assert!(missing(&view(pods, services), 1, &[]).is_empty());
    }
}
