//! `securityContext.sysctls`: which of them a pod may set, and for its own namespaces alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec;

/// What kubelet allows without being told to, with the namespace each belongs to.
const SAFE: [(&str, Namespace); 12] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The first that isn't allowed: it would reach beyond the pod.
pub fn forbidden(pod: &Pod) -> Option<String> {
    let host_network = spec::host_network(pod);
    of(pod).into_keys().find(|name| match SAFE.iter().find(|(known, _)| known == name) {
        Some((_, namespace)) => *namespace == Namespace::Net && host_network,
        None => true,
    })
}

/// By their dotted names.
pub fn of(pod: &Pod) -> BTreeMap<String, String> {
    let context = spec::spec(pod).security_context.as_ref();
    let sysctls = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    sysctls.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_stays_within_the_pod_is_allowed() {
        let pod = |name: &str, host: bool| {
            let sysctls = json!([{"name": name, "value": "1"}]);
            spec::testing::pod(json!({"hostNetwork": host, "securityContext": {"sysctls": sysctls}, "containers": []}))
        };
        assert_eq!(forbidden(&pod("net.ipv4.tcp_syncookies", false)), None);
        assert_eq!(forbidden(&pod("net/ipv4/tcp_syncookies", false)), None);
        assert_eq!(forbidden(&pod("net.ipv4.tcp_syncookies", true)).as_deref(), Some("net.ipv4.tcp_syncookies"));
        assert_eq!(forbidden(&pod("kernel.msgmax", false)).as_deref(), Some("kernel.msgmax"));
    }
}
