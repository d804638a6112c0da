//! A pod as an endpoint. Not responsible for ports or for which pods are selected.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};

use crate::service::{self, Family};
use crate::topology::Topology;

/// What becomes of a pod.
pub enum Outcome {
    Endpoint(Box<Endpoint>),
    /// Not an endpoint of this Service in this family.
    None,
    /// Its node is not known yet.
    UnknownNode(String),
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|status| status == "True")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod has run to its end.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The pod's addresses, canonical.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let many = status.pod_ips.as_deref().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = many.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    addresses
}

/// The hostname that DNS should know the pod by under this Service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let belongs = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| belongs && !hostname.is_empty())
}

pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The pod as an endpoint of `service` in `family`, without hints.
pub fn endpoint(service: &Service, pod: &Pod, family: Family, topology: &Topology) -> Outcome {
    if is_terminal(pod) {
        return Outcome::None;
    }
    let Some(address) = addresses(pod).into_iter().find(|address| Family::of(*address) == family) else {
        return Outcome::None;
    };
    let publish_anyway = service::publishes_not_ready(service);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
    let zone = match &node {
        Some(node) if !topology.knows(node) && !publish_anyway => return Outcome::UnknownNode(node.clone()),
        Some(node) => topology.zone(node).map(ToOwned::to_owned),
        // An address without a node is no kubelet's report; upstream publishes it only where told to publish anything.
        None if !publish_anyway => return Outcome::None,
        None => None,
    };
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    Outcome::Endpoint(Box::new(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish_anyway || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node,
        zone,
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    }))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}
