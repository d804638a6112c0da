//! A pod's names: hostname, domain, and the managed `/etc/hosts`.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::spec;

/// What a pod is called inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// What `hostname` prints.
    pub hostname: String,
    /// The name without a domain, as `/etc/hosts` has it.
    pub short: String,
    /// `short` with the pod's domain, when it has one.
    pub fqdn: Option<String>,
}

/// The kernel's limit (`__NEW_UTS_LEN`).
const LONGEST_HOSTNAME: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the FQDN {0:?} is longer than the 64 characters that setHostnameAsFQDN allows")]
pub struct FqdnTooLong(pub String);

/// The pod's names; a pod on the node's network is called like the node.
pub fn names(pod: &Pod, node_name: &str, cluster_domain: &str) -> Result<Names, FqdnTooLong> {
    let spec = spec::spec(pod);
    if let Some(name) = spec.hostname_override.clone().filter(|name| !name.is_empty()) {
        return Ok(Names { hostname: name.clone(), short: name, fqdn: None });
    }
    if spec::host_network(pod) {
        return Ok(Names { hostname: node_name.to_owned(), short: node_name.to_owned(), fqdn: None });
    }
    let own = spec.hostname.as_deref().filter(|name| !name.is_empty());
    let short = truncated(own.or(pod.metadata.name.as_deref()).unwrap_or(""));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
    let fqdn = subdomain.map(|subdomain| format!("{short}.{subdomain}.{namespace}.svc.{cluster_domain}"));
    let hostname = match &fqdn {
        Some(fqdn) if spec.set_hostname_as_fqdn == Some(true) => {
            if fqdn.len() > LONGEST_HOSTNAME {
                return Err(FqdnTooLong(fqdn.clone()));
            }
            fqdn.clone()
        }
        _ => short.clone(),
    };
    Ok(Names { hostname, short, fqdn })
}

/// A pod's name may be longer than a DNS label.
fn truncated(name: &str) -> String {
    let end = name.char_indices().nth(63).map_or(name.len(), |(at, _)| at);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// The hosts file of a pod with a network of its own.
pub fn hosts_file(names: &Names, ips: &[IpAddr], aliases: &[HostAlias]) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file.\n");
    text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    for ip in ips {
        let _ = match &names.fqdn {
            Some(fqdn) => writeln!(text, "{ip}\t{fqdn}\t{}", names.short),
            None => writeln!(text, "{ip}\t{}", names.short),
        };
    }
    with_aliases(text, aliases)
}

/// The hosts file of a pod on the node's network: the node's.
pub fn node_hosts_file(node: &str, aliases: &[HostAlias]) -> String {
    with_aliases(format!("# Kubernetes-managed hosts file (host network).\n{node}"), aliases)
}

fn with_aliases(mut text: String, aliases: &[HostAlias]) -> String {
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names: Vec<&str> = alias.hostnames.iter().flatten().map(String::as_str).collect();
        let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(spec: serde_json::Value) -> Result<Names, FqdnTooLong> {
        names(&spec::testing::pod(spec), "node-1", "cluster.local")
    }

    #[test]
    fn hostnames_by_field() {
        let plain = named(json!({"containers": []})).unwrap();
        assert_eq!((plain.hostname.as_str(), plain.fqdn), ("web", None));
        let both = named(json!({"containers": [], "hostname": "h", "subdomain": "sub"})).unwrap();
        assert_eq!(both.hostname, "h");
        assert_eq!(both.fqdn.as_deref(), Some("h.sub.default.svc.cluster.local"));
        let full = named(json!({"containers": [], "subdomain": "sub", "setHostnameAsFQDN": true})).unwrap();
        assert_eq!(full.hostname, "web.sub.default.svc.cluster.local");
        let long = json!({"containers": [], "hostname": "h".repeat(40), "subdomain": "s", "setHostnameAsFQDN": true});
        assert!(named(long).is_err());
        let node = named(json!({"containers": [], "hostNetwork": true, "hostname": "h"})).unwrap();
        assert_eq!(node.hostname, "node-1");
        assert_eq!(truncated(&format!("{}-b", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn hosts_file_has_the_pods_names_and_the_aliases() {
        let names = named(json!({"containers": [], "hostname": "h", "subdomain": "sub"})).unwrap();
        let alias: HostAlias = serde_json::from_value(json!({"ip": "1.2.3.4", "hostnames": ["a", "b"]})).unwrap();
        let file = hosts_file(&names, &["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()], &[alias]);
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(file.contains("\n10.244.0.5\th.sub.default.svc.cluster.local\th\n"));
        assert!(file.contains("\nfd00::5\th.sub.default.svc.cluster.local\th\n"));
        assert!(file.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
