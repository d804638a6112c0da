//! What is let through in a Pod, or in the template of one, and probably isn't meant.

use std::collections::BTreeMap;

use serde_json::Value;

use super::resources;
use crate::field::{Path, quoted};
use crate::tree::{absent, entries, has_key, int, list, text};

/// Labels of nodes that have other names now (core/v1 well-known labels).
const RENAMED_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warnings about a pod's spec at `path`.
pub(crate) fn of_spec(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (label, since, now) in RENAMED_LABELS {
        if has_key(&spec["nodeSelector"], label) {
            warnings.push(format!(
                "{}: deprecated since {since}; use {} instead",
                path.child("nodeSelector").key(label),
                quoted(now)
            ));
        }
    }
    for (i, secret) in list(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            let at = path.child("imagePullSecrets").index(i).child("name");
            warnings.push(format!("{at}: invalid empty name \"\""));
        }
    }
    for list_name in ["initContainers", "containers"] {
        for (i, container) in list(&spec[list_name]).iter().enumerate() {
            warnings.extend(of_container(container, &path.child(list_name).index(i)));
        }
    }
    let grace = &spec["terminationGracePeriodSeconds"];
    if !absent(grace) && int(grace) < 0 {
        let at = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for volume in list(&spec["volumes"]) {
        let sources = list(&volume["projected"]["sources"]).iter();
        let empty = sources.filter(|source| entries(source).all(|(_, value)| absent(value)));
        warnings.extend(
            empty.map(|_| format!("volume {} (Projected) has no sources provided", quoted(text(&volume["name"])))),
        );
    }
    for list_name in ["initContainers", "containers"] {
        for (i, container) in list(&spec[list_name]).iter().enumerate() {
            warnings.extend(of_ports(container, &path.child(list_name).index(i).child("ports")));
        }
    }
    warnings
}

/// An address of the host without a port of it says nothing.
fn of_ports(container: &Value, path: &Path) -> Vec<String> {
    let ports = list(&container["ports"]).iter().enumerate();
    let aimless = ports.filter(|(_, port)| !text(&port["hostIP"]).is_empty() && int(&port["hostPort"]) == 0);
    aimless
        .map(|(i, port)| {
            let [name, protocol, host_ip] = ["name", "protocol", "hostIP"].map(|field| text(&port[field]));
            let (at, number) = (path.index(i), int(&port["containerPort"]));
            format!(
                "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} \
                 Protocol:{protocol} HostIP:{host_ip}}}"
            )
        })
        .collect()
}

fn of_container(container: &Value, path: &Path) -> Vec<String> {
    let mut warnings = resources::fractional_bytes(&container["resources"], &path.child("resources"));
    let mut seen: BTreeMap<&str, &Value> = BTreeMap::new();
    for (i, variable) in list(&container["env"]).iter().enumerate() {
        let name = text(&variable["name"]);
        // One that builds on the earlier one means to hide it.
        let builds = text(&variable["value"]).contains(&format!("$({name})"));
        if seen.insert(name, variable).is_some() && !builds {
            let at = path.child("env").index(i);
            let name = quoted(name);
            warnings.push(format!("{at}: hides previous definition of {name}, which may be dropped when using apply"));
        }
    }
    warnings
}
