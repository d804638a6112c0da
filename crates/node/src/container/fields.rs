//! The downward API: fields of the pod and resources of its containers as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::{Facts, quantity};
use crate::pod::spec;

/// Why a field has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported resource: {0}")]
    Resource(String),
    #[error("there is no container {0:?} to take a resource of")]
    Container(String),
    #[error("{0:?} is no divisor")]
    Divisor(String),
}

/// The text of a `fieldRef`.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &Facts<'_>) -> Result<String, FieldError> {
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    let spec = spec::spec(pod);
    let ips = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[std::net::IpAddr]| ips.first().map(ToString::to_string);
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(quoted(meta.labels.as_ref())),
        "metadata.annotations" => Some(quoted(meta.annotations.as_ref())),
        "spec.nodeName" => Some(facts.node_name.to_owned()),
        "spec.serviceAccountName" => spec.service_account_name.clone(),
        "status.hostIP" => first(facts.node_ips),
        "status.hostIPs" => Some(ips(facts.node_ips)),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => Some(ips(facts.pod_ips)),
        _ => return subscript(pod, path),
    };
    Ok(text.unwrap_or_default())
}

/// `metadata.labels['key']` and `metadata.annotations['key']`.
fn subscript(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let unsupported = || FieldError::Path(path.to_owned());
    let (map, key) = path.strip_suffix("']").and_then(|path| path.split_once("['")).ok_or_else(unsupported)?;
    let map = match map {
        "metadata.labels" => &pod.metadata.labels,
        "metadata.annotations" => &pod.metadata.annotations,
        _ => return Err(unsupported()),
    };
    Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
}

/// A map as the downward API's files show it: `key="value"` per line, in order.
fn quoted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The text of a `resourceFieldRef`; a limit that isn't set is the node's whole.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts<'_>,
) -> Result<String, FieldError> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match name {
        Some(name) => spec::member(pod, name).map(|member| member.container),
        None => own,
    };
    let container = container.ok_or_else(|| FieldError::Container(name.unwrap_or_default().to_owned()))?;
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let set = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let set = set.and_then(|set| set.get(resource)).and_then(|quantity| quantity::millis(&quantity.0));
    let whole = match (list, resource) {
        ("limits", "cpu") => facts.node_cpu_millis,
        ("limits", "memory") => facts.node_memory_bytes.saturating_mul(1000),
        (_, "cpu" | "memory" | "ephemeral-storage") => 0,
        (_, pages) if pages.starts_with("hugepages-") => 0,
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor = match quantity::millis(divisor) {
        Some(0) => 1000,
        Some(divisor) => divisor,
        None => return Err(FieldError::Divisor(divisor.to_owned())),
    };
    Ok(set.unwrap_or(whole).div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources_become_text() {
        let mut pod = crate::pod::spec::testing::pod(json!({"serviceAccountName": "sa", "containers": [{"name": "m",
            "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}, {"name": "n"}]}));
        pod.metadata.labels = Some([("app".to_owned(), "a \"b\"".to_owned()), ("x".to_owned(), "y".to_owned())].into());
        let (node, own) =
            (["172.30.0.11".parse().unwrap()], ["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        let facts = Facts {
            node_name: "n1",
            node_ips: &node,
            pod_ips: &own,
            services: &[],
            node_cpu_millis: 2000,
            node_memory_bytes: 1 << 30,
        };
        let selector = |path: &str| ObjectFieldSelector { field_path: path.into(), api_version: None };
        let table = [
            ("metadata.name", "web"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "u1"),
            ("metadata.labels['x']", "y"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"a \\\"b\\\"\"\nx=\"y\""),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.244.0.5"),
            ("status.podIPs", "10.244.0.5,fd00::5"),
            ("status.hostIP", "172.30.0.11"),
        ];
        for (path, expected) in table {
            assert_eq!(field(&pod, &selector(path), &facts).unwrap(), expected, "{path}");
        }
        assert_eq!(field(&pod, &selector("spec.x"), &facts), Err(FieldError::Path("spec.x".into())));
        let own = &spec::spec(&pod).containers[0];
        let ask = |resource_name: &str, container: Option<&str>, divisor: Option<&str>| {
            let selector: ResourceFieldSelector = serde_json::from_value(
                json!({"resource": resource_name, "containerName": container, "divisor": divisor}),
            )
            .unwrap();
            resource(&pod, Some(own), &selector, &facts)
        };
        assert_eq!(ask("limits.cpu", None, None).unwrap(), "2");
        assert_eq!(ask("limits.cpu", None, Some("1m")).unwrap(), "1500");
        assert_eq!(ask("limits.memory", None, Some("1Mi")).unwrap(), "64");
        assert_eq!(ask("requests.cpu", None, Some("1m")).unwrap(), "250");
        assert_eq!(ask("requests.memory", None, None).unwrap(), "0");
        assert_eq!(ask("limits.memory", Some("n"), Some("1Mi")).unwrap(), "1024");
        assert_eq!(ask("limits.gpu", None, None), Err(FieldError::Resource("limits.gpu".into())));
    }
}
