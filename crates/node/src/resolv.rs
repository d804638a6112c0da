//! A pod's `/etc/resolv.conf`, by `dnsPolicy` and `dnsConfig`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::pod::spec;

/// glibc's MAXNS.
const NAMESERVERS: usize = 3;
/// What the API allows, and kubelet writes (KEP-2595).
const SEARCHES: usize = 32;
const SEARCH_CHARACTERS: usize = 2048;
/// A DNS name's length.
const SEARCH_ENTRY: usize = 253;

/// A resolver's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// What the cluster offers.
#[derive(Clone, Copy, Debug)]
pub struct ClusterDns<'a> {
    pub servers: &'a [IpAddr],
    pub domain: &'a str,
}

impl Resolv {
    /// Reads a file as resolv.conf(5) has it: the last `search` or `domain` line counts.
    pub fn parse(text: &str) -> Self {
        let mut resolv = Resolv::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolv.nameservers.extend(words.next()),
                Some("search" | "domain") => resolv.searches = words.collect(),
                Some("options") => resolv.options.extend(words),
                _ => {}
            }
        }
        resolv.searches.retain(|search| search != ".");
        resolv
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }

    fn merge(&mut self, config: &PodDNSConfig) {
        let append = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        append(&mut self.nameservers, &config.nameservers);
        append(&mut self.searches, &config.searches);
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            let written = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            match self.options.iter_mut().find(|known| known.split(':').next() == Some(name)) {
                Some(known) => *known = written,
                None => self.options.push(written),
            }
        }
    }

    /// Cuts what no resolver would read; says what was cut.
    fn limit(&mut self) -> Vec<String> {
        let mut cut = Vec::new();
        if self.nameservers.len() > NAMESERVERS {
            self.nameservers.truncate(NAMESERVERS);
            cut.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.nameservers.join(" ")
            ));
        }
        let before = self.searches.len();
        self.searches.retain(|search| search.len() <= SEARCH_ENTRY);
        self.searches.truncate(SEARCHES);
        while self.searches.join(" ").len() > SEARCH_CHARACTERS {
            self.searches.pop();
        }
        if self.searches.len() < before {
            cut.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        cut
    }
}

/// The pod's configuration and what an Event `DNSConfigForming` has to say about it.
pub fn for_pod(pod: &Pod, node: &Resolv, cluster: ClusterDns<'_>) -> (Resolv, Vec<String>) {
    let spec = spec::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "ClusterFirst" => !spec::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut said = Vec::new();
    let mut resolv = match policy {
        "None" => Resolv::default(),
        _ if wants_cluster && cluster.servers.is_empty() => {
            said.push(format!("the node has no cluster DNS address: {policy} is treated as Default"));
            node.clone()
        }
        _ if wants_cluster => cluster_first(pod, node, cluster),
        _ => node.clone(),
    };
    if let Some(config) = &spec.dns_config {
        resolv.merge(config);
    }
    said.extend(resolv.limit());
    (resolv, said)
}

fn cluster_first(pod: &Pod, node: &Resolv, cluster: ClusterDns<'_>) -> Resolv {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    for search in &node.searches {
        if !searches.contains(search) {
            searches.push(search.clone());
        }
    }
    let nameservers = cluster.servers.iter().map(ToString::to_string).collect();
    Resolv { nameservers, searches, options: vec!["ndots:5".to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODE: &str = "# written by hand\nnameserver 172.30.0.2\nsearch corp.example\noptions timeout:1 rotate\n";

    fn run(mut spec: Value) -> (String, Vec<String>) {
        spec["containers"] = json!([]);
        let dns: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap()];
        let cluster = ClusterDns { servers: &dns, domain: "cluster.local" };
        let (resolv, said) = for_pod(&spec::testing::pod(spec), &Resolv::parse(NODE), cluster);
        (resolv.text(), said)
    }

    const CLUSTER: &str = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";
    const HOST: &str = "search corp.example\nnameserver 172.30.0.2\noptions timeout:1 rotate\n";

    #[test]
    fn each_policy_with_and_without_the_nodes_network() {
        let table = [
            (json!({}), CLUSTER),
            (json!({"dnsPolicy": "ClusterFirst"}), CLUSTER),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER),
            (json!({"dnsPolicy": "Default"}), HOST),
            (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}), "nameserver 1.1.1.1\n"),
        ];
        for (spec, expected) in table {
            assert_eq!(run(spec.clone()), (expected.to_owned(), vec![]), "{spec}");
        }
    }

    #[test]
    fn dns_config_is_merged_without_repetition_and_options_override() {
        let (text, said) = run(json!({"dnsConfig": {"nameservers": ["10.96.0.10", "9.9.9.9"],
            "searches": ["svc.cluster.local", "more.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(
            text,
            "search default.svc.cluster.local svc.cluster.local cluster.local corp.example more.example\n\
             nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:2 edns0\n"
        );
        assert!(said.is_empty());
    }

    #[test]
    fn limits_cut_and_say_so() {
        let (text, said) = run(json!({"dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"]}}));
        assert_eq!(text.matches("nameserver").count(), 3);
        assert!(said[0].contains("10.96.0.10 1.1.1.1 2.2.2.2"), "{said:?}");
        let searches: Vec<String> = (0..40).map(|n| format!("d{n}.example")).collect();
        let (text, said) = run(json!({"dnsConfig": {"searches": searches}}));
        assert_eq!(text.lines().next().unwrap().split(' ').count() - 1, 32);
        assert_eq!(said.len(), 1);
        let long = vec!["x".repeat(250), "y".repeat(254)];
        let (text, _) = run(json!({"dnsConfig": {"searches": long}}));
        assert!(text.contains(&"x".repeat(250)) && !text.contains(&"y".repeat(254)));
        let many: Vec<String> = (0..12).map(|n| format!("{n}{}", "z".repeat(200))).collect();
        let (text, _) = run(json!({"dnsConfig": {"searches": many}}));
        assert!(text.lines().next().unwrap().len() <= 2048 + "search ".len());
    }
}
