//! The few fields of Service, EndpointSlice, Node and ServiceCIDR that forwarding depends on. Unknown fields are skipped
//! and absent ones take their API default, so that objects of any Kubernetes version decode. Whether the values make
//! sense is judged in `resolve`.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::compact::{EndpointAddress, Labels, Word, first_address, list, word};

/// Set on EndpointSlices of Services without a virtual IP: proxies skip them. On a Service it means nothing by itself.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Set on Services that another proxy serves (KEP-2447).
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// On an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// On a Node: its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    #[serde(deserialize_with = "null_as_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uid: String,
    /// For whoever watches. A model is given objects without it, or each write would look like a change.
    #[serde(deserialize_with = "null_as_default")]
    pub resource_version: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: Labels,
    /// For whoever watches, like the resource version.
    #[serde(deserialize_with = "null_as_default")]
    pub annotations: Annotations,
}

/// Of all annotations, those a proxy reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// When the change of pods happened that a slice tells of.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time", deserialize_with = "null_as_default")]
    pub last_change: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: ServiceSpec,
    #[serde(deserialize_with = "null_as_default")]
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "word")]
    pub type_: Word,
    #[serde(rename = "clusterIP", deserialize_with = "null_as_default")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "list")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "list")]
    pub external_ips: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub ports: Vec<ServicePortSpec>,
    #[serde(deserialize_with = "list")]
    pub load_balancer_source_ranges: Vec<String>,
    #[serde(deserialize_with = "word")]
    pub session_affinity: Word,
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[serde(deserialize_with = "word")]
    pub external_traffic_policy: Word,
    #[serde(deserialize_with = "word")]
    pub internal_traffic_policy: Word,
    #[serde(deserialize_with = "null_as_default")]
    pub health_check_node_port: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePortSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "word")]
    pub protocol: Word,
    pub port: i64,
    #[serde(deserialize_with = "null_as_default")]
    pub node_port: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub load_balancer: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    #[serde(deserialize_with = "list")]
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    #[serde(deserialize_with = "null_as_default")]
    pub ip: String,
    pub ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "word")]
    pub address_type: Word,
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "list")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    #[serde(rename = "addresses", deserialize_with = "first_address")]
    pub address: EndpointAddress,
    #[serde(deserialize_with = "null_as_default")]
    pub conditions: EndpointConditions,
    /// The model makes equal ones the same.
    pub node_name: Option<Arc<str>>,
    /// Few endpoints have any.
    pub hints: Option<Box<EndpointHints>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    #[serde(deserialize_with = "list")]
    pub for_zones: Vec<ForName>,
    #[serde(deserialize_with = "list")]
    pub for_nodes: Vec<ForName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ForName {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "word")]
    pub protocol: Word,
    /// Absent means "all ports", which a proxy cannot serve.
    pub port: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: NodeSpec,
    #[serde(deserialize_with = "null_as_default")]
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDR", deserialize_with = "null_as_default")]
    pub pod_cidr: String,
    #[serde(rename = "podCIDRs", deserialize_with = "list")]
    pub pod_cidrs: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    pub key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub type_: String,
    pub address: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceCidr {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: ServiceCidrSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceCidrSpec {
    #[serde(deserialize_with = "list")]
    pub cidrs: Vec<String>,
}

impl Service {
    /// Whether another proxy serves it. kube-proxy 1.36 doesn't even watch those.
    pub fn is_excluded(&self) -> bool {
        self.metadata.labels.contains(PROXY_NAME_LABEL)
    }
}

impl EndpointSlice {
    /// Whether its Service has no virtual IP, so that no proxy has a use for it.
    pub fn is_excluded(&self) -> bool {
        self.metadata.labels.contains(HEADLESS_LABEL)
    }
}

/// Go clients write empty lists and maps as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_absences_and_unknown_fields_decode() {
        let service: Service = serde_json::from_str(
            r#"{"apiVersion":"v1","metadata":{"name":"a","namespace":"b","labels":null,"managedFields":[{}]},
                "spec":{"clusterIP":"10.96.0.1","ports":[{"port":80,"targetPort":"http","appProtocol":"x"}],
                        "externalIPs":null,"somethingNew":{"x":1}}}"#,
        )
        .unwrap();
        assert_eq!(service.spec.ports[0].port, 80);
        assert!(service.spec.external_ips.is_empty());
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":null,"ports":[{"name":null,"port":null}]}"#,
        )
        .unwrap();
        assert_eq!(slice.ports[0].port, None);
    }
}
