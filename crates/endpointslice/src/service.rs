//! What a Service's spec says to the endpoint controllers. Not responsible for pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// An IP family in the order of `addressType` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// discovery/v1 addressType, which is also core/v1 IPFamily.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What selects the Service's pods. An empty selector selects nothing, just like an absent one.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the controller makes endpoints for this Service.
pub fn wants_endpoints(service: &Service) -> bool {
    !is_external_name(service) && selector(service).is_some()
}

/// Whether the Service selects an object with these labels in its own namespace.
pub fn selects(service: &Service, metadata: &ObjectMeta) -> bool {
    let Some(selector) = selector(service) else { return false };
    let labels = metadata.labels.as_ref();
    service.metadata.namespace == metadata.namespace
        && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

pub fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

pub fn is_headless(service: &Service) -> bool {
    let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    !is_external_name(service) && (cluster_ip.is_empty() || cluster_ip == "None")
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

pub fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The families to publish, primary first. Objects from before the field was defaulted have none: then the cluster
/// IP's family counts, or both for a headless Service.
pub fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named: Vec<Family> = spec
        .and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|name| Family::BOTH.into_iter().find(|family| family.name() == name))
        .collect();
    if !named.is_empty() {
        return named;
    }
    match spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default().parse::<IpAddr>() {
        Ok(address) => vec![Family::of(address)],
        Err(_) => Family::BOTH.to_vec(),
    }
}
