//! Each option of the `kubernetes` block, on and off.

use dns_zone::{Fallthrough, Pods};

use super::*;

fn with(change: impl FnOnce(&mut Config)) -> Cluster {
    let mut config = config();
    change(&mut config);
    Cluster::with(config)
}

fn pod(cluster: &mut Cluster, name: &str, namespace: &str, change: Value) {
    let mut pod = json!({"metadata": {"name": name, "namespace": namespace},
        "status": {"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00:1::2"}]}});
    for (part, fields) in change.as_object().unwrap() {
        let part = pod[part].as_object_mut().unwrap();
        part.extend(fields.as_object().unwrap().clone());
    }
    cluster.view.apply(Object::Pod(object(pod)));
}

#[test]
fn pods_disabled_have_no_names() {
    let cluster = with(|c| c.pods = Pods::Disabled);
    cluster.denies("10-1-2-3.default.pod.cluster.local");
    cluster.denies("default.pod.cluster.local");
    cluster.lacks("pod.cluster.local", RecordType::A);
}

#[test]
fn pods_verified_have_names_while_they_run() {
    let mut cluster = with(|c| c.pods = Pods::Verified);
    let (v4, v6) = ("10-244-0-2.default.pod.cluster.local", "fd00-1--2.default.pod.cluster.local");
    cluster.denies(v4);
    cluster.lacks("default.pod.cluster.local", RecordType::A);
    pod(&mut cluster, "a", "default", json!({}));
    cluster.has(v4, RecordType::A, ["10.244.0.2"]);
    // (d) The second family too.
    cluster.has(v6, RecordType::AAAA, ["fd00:1::2"]);
    cluster.denies("10-244-0-2.kube-system.pod.cluster.local");
    cluster.denies("10-244-0-3.default.pod.cluster.local");
    // Of two pods with an address, as on a node's own network, one is enough.
    pod(&mut cluster, "b", "default", json!({}));
    pod(&mut cluster, "a", "default", json!({"status": {"phase": "Failed"}}));
    cluster.has(v4, RecordType::A, ["10.244.0.2"]);
    pod(&mut cluster, "b", "default", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    cluster.denies(v4);
    cluster.denies(v6);
    pod(&mut cluster, "a", "default", json!({"status": {"podIP": "10.244.0.7", "podIPs": []}}));
    cluster.has("10-244-0-7.default.pod.cluster.local", RecordType::A, ["10.244.0.7"]);
    assert_eq!(cluster.view.pod_keys(), [ObjectKey::new("default", "a")]);
    cluster.view.remove_pod(&ObjectKey::new("default", "a"));
    cluster.denies("10-244-0-7.default.pod.cluster.local");
}

#[test]
fn endpoint_pod_names_come_after_hostnames_and_before_addresses() {
    let mut cluster = with(|c| c.endpoint_pod_names = true);
    cluster.has(&format!("db-0.{DB}"), RecordType::A, ["10.244.0.2"]);
    cluster.has(&format!("pod-b.{DB}"), RecordType::A, ["10.244.0.3"]);
    cluster.denies(&format!("10-244-0-3.{DB}"));
    cluster.has("3.0.244.10.in-addr.arpa", RecordType::PTR, ["pod-b.db.default.svc.cluster.local."]);
    assert!(data(&cluster.ask(&format!("_sql._tcp.{DB}"), RecordType::SRV)).iter().any(|r| r.contains("pod-b.db")));
    // No label is that long.
    let long = "p".repeat(64);
    cluster.slice("db-3", "db", &json!(null), json!([{"addresses": ["10.244.0.5"], "targetRef": {"name": long}}]));
    cluster.has(&format!("10-244-0-5.{DB}"), RecordType::A, ["10.244.0.5"]);
    Cluster::new().denies(&format!("pod-b.{DB}"));
}

#[test]
fn an_empty_service_can_be_ignored() {
    let mut cluster = with(|c| c.ignore_empty_service = true);
    let idle = "idle.default.svc.cluster.local";
    cluster.denies(idle);
    cluster.has(WEB, RecordType::A, ["10.96.0.7"]);
    cluster.slice(
        "idle-1",
        "idle",
        &json!(null),
        json!([{"addresses": ["10.244.0.8"], "conditions": {"ready": false}}]),
    );
    cluster.denies(idle);
    cluster.slice("idle-1", "idle", &json!(null), json!([{"addresses": ["10.244.0.8"]}]));
    cluster.has(idle, RecordType::A, ["10.96.0.8"]);
    // An alias has no endpoints to be without.
    cluster.alias("alias", WEB);
    cluster.has("alias.default.svc.cluster.local", RecordType::A, ["web.default.svc.cluster.local.", "10.96.0.7"]);
    Cluster::new().has(idle, RecordType::A, ["10.96.0.8"]);
}

#[test]
fn names_fall_through_only_where_they_are_missing_and_may() {
    let all = with(|c| c.fallthrough = Fallthrough::Always);
    for missing in ["nope.default.svc.cluster.local", "nope.cluster.local", "1.1.168.192.in-addr.arpa"] {
        assert_eq!(all.answer(missing, RecordType::A), Answer::Forward, "{missing}");
    }
    all.lacks(WEB, RecordType::MX);
    all.lacks("svc.cluster.local", RecordType::A);
    // The project's own addresses are nobody else's to know.
    all.negative("99.0.244.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    let some = with(|c| (c.fallthrough, c.reverse) = (Fallthrough::Zones(vec![name("in-addr.arpa")]), Vec::new()));
    assert_eq!(some.answer("99.0.244.10.in-addr.arpa", RecordType::PTR), Answer::Forward);
    assert_eq!(some.answer("10.in-addr.arpa", RecordType::SOA), Answer::Forward, "whose it is, others know");
    some.denies("nope.default.svc.cluster.local");
    some.denies("1.d.f.ip6.arpa");
    let never = with(|c| c.fallthrough = Fallthrough::Never);
    never.denies("nope.default.svc.cluster.local");
    never.denies("1.1.168.192.in-addr.arpa");
    // Names of no zone are always somebody else's.
    assert_eq!(never.answer("example.com", RecordType::A), Answer::Forward);
}

#[test]
fn namespaces_that_are_not_shown_are_not_there() {
    let mut cluster = with(|c| c.namespaces = vec!["kube-system".to_owned()]);
    cluster.denies(WEB);
    cluster.denies("default.svc.cluster.local");
    cluster.denies("10-1-2-3.default.pod.cluster.local");
    cluster.lacks("kube-system.svc.cluster.local", RecordType::A);
    cluster.negative("7.0.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    cluster.config.namespaces.push("default".to_owned());
    cluster.has(WEB, RecordType::A, ["10.96.0.7"]);
    cluster.has("7.0.96.10.in-addr.arpa", RecordType::PTR, ["web.default.svc.cluster.local."]);
    // One that doesn't exist, or lacks the labels asked for, is never told of.
    cluster.config.namespaces = vec!["nope".to_owned()];
    cluster.denies("nope.svc.cluster.local");
}

#[test]
fn zonal_names_have_one_zones_endpoints() {
    let cluster = with(|c| c.zonal = true);
    let (pin, prefer) = (format!("pin._zone.{DB}"), format!("prefer._zone.{DB}"));
    cluster.has(&format!("EU-1a.{pin}"), RecordType::A, ["10.244.0.2"]);
    cluster.has(&format!("corp.example.{pin}"), RecordType::A, ["10.244.0.3"]);
    cluster.has(
        &format!("corp.example.{pin}"),
        RecordType::SRV,
        ["0 100 5432 10-244-0-3.db.default.svc.cluster.local."],
    );
    cluster.lacks(&format!("nowhere.{pin}"), RecordType::A);
    cluster.has(&format!("eu-1a.{prefer}"), RecordType::A, ["10.244.0.2"]);
    cluster.has(&format!("nowhere.{prefer}"), RecordType::A, ["10.244.0.2", "10.244.0.3"]);
    for exists in [&pin, &prefer, &format!("_zone.{DB}")] {
        cluster.lacks(exists, RecordType::A);
    }
    cluster.denies(&format!("eu-1a.near._zone.{DB}"));
    cluster.denies(&format!("eu-1a.pin._zone.{WEB}"));
    Cluster::new().denies(&format!("eu-1a.{pin}"));
}

#[test]
fn the_zone_with_the_most_labels_answers() {
    let mut cluster = Cluster::new();
    cluster.config.zones.insert(0, name("local"));
    cluster.has(WEB, RecordType::A, ["10.96.0.7"]);
    cluster.has("web.default.svc.local", RecordType::A, ["10.96.0.7"]);
    let denied = cluster.ask("nope.cluster.local", RecordType::A);
    assert_eq!(denied.authorities[0].name.to_string(), "cluster.local.");
    // Reverse names lead to the first zone.
    cluster.has("7.0.96.10.in-addr.arpa", RecordType::PTR, ["web.default.svc.local."]);
}
