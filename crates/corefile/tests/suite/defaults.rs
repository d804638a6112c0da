//! The Corefiles that clusters are made with, unmodified.

use corefile::plugin::Plugin;
use corefile::plugin::kubernetes::Pods;
use corefile::{GoDuration, To};

use crate::{machine, names, read, read_on};

#[test]
fn the_one_of_kubeadm_is_read() {
    let corefile = read(include_str!("../corefiles/kubeadm"));
    assert!(corefile.warnings.is_empty(), "{:?}", corefile.warnings);
    let [server] = &corefile.servers[..] else { panic!("{corefile}") };
    let chain =
        ["reload", "ready", "health", "prometheus", "errors", "loadbalance", "cache", "kubernetes", "loop", "forward"];
    assert_eq!(names(server), chain);
    for plugin in &server.plugins {
        match plugin {
            Plugin::Health(health) => assert_eq!(health.lameduck, GoDuration::from_secs(5)),
            Plugin::Kubernetes(kubernetes) => {
                assert_eq!((kubernetes.pods, kubernetes.ttl), (Pods::Insecure, 30));
                let zones: Vec<&str> = kubernetes.zones.iter().map(|zone| zone.as_str()).collect();
                assert_eq!(zones, ["cluster.local.", "in-addr.arpa.", "ip6.arpa."]);
                assert_eq!(kubernetes.fallthrough, kubernetes.zones[1..]);
            }
            Plugin::Forward(forwards) => {
                let [forward] = &forwards[..] else { panic!("{forwards:?}") };
                assert_eq!((forward.max_concurrent, forward.to.len(), forward.to[0].count()), (1000, 1, 2));
                assert!(matches!(&forward.to[0], To::File { path, .. } if path == "/etc/resolv.conf"));
            }
            Plugin::Cache(cache) => {
                assert_eq!((cache.success.ttl, cache.denial.ttl), (30, 30));
                assert_eq!(cache.disable_success, cache.disable_denial);
                assert_eq!(cache.disable_success[0].as_str(), "cluster.local.");
            }
            _ => {}
        }
    }
}

#[test]
fn the_one_of_k3s_is_read_with_what_was_added_to_it() {
    let text = include_str!("../corefiles/k3s");
    let bare = read(text);
    assert_eq!((bare.servers.len(), bare.warnings.len()), (1, 2), "no file is imported, which is said: {bare}");
    let machine = machine()
        .file("/etc/coredns/custom/stub.server", "stub.example {\n forward . 192.0.2.7\n}\n")
        .file("/etc/coredns/custom/log.override", "log\n")
        .file("/etc/coredns/custom/other.txt", "{{{");
    let more = read_on(&machine, text).unwrap();
    assert_eq!(more.warnings.len(), 0);
    assert!(names(&more.servers[0]).contains(&"log") && names(&more.servers[0]).contains(&"hosts"));
    assert_eq!(names(&more.servers[1]), ["forward"]);
    assert_eq!(more.servers[1].keys[0].to_string(), "dns://stub.example.:53");
}

#[test]
fn the_one_of_node_local_dns_is_read() {
    let corefile = read(include_str!("../corefiles/nodelocaldns"));
    assert!(corefile.warnings.is_empty(), "{:?}", corefile.warnings);
    let listeners = corefile.listeners();
    let hosts: Vec<_> = listeners.iter().map(|listener| listener.host.as_deref()).collect();
    assert_eq!(hosts, [Some("169.254.20.10"), Some("10.96.0.10")], "{listeners:?}");
    let zones: Vec<&str> = listeners[0].zones.iter().map(|served| served.zone.as_str()).collect();
    assert_eq!(zones, ["cluster.local.", "in-addr.arpa.", "ip6.arpa.", "."]);
    let Some(Plugin::Forward(forwards)) = corefile.servers[3].plugins.last() else { panic!("{corefile}") };
    assert!(matches!(&forwards[0].to[0], To::Name { name, .. } if name == "__PILLAR__UPSTREAM__SERVERS__"));
}
