//! Services that several clusters share (KEP-1645): the same shapes in a zone of their own.

use super::*;

fn import(cluster: &mut Cluster, name: &str, spec: Value) {
    let import = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    cluster.view.apply(Object::ServiceImport(object(import)));
}

fn cluster() -> Cluster {
    let mut config = config();
    config.zones.push(name("clusterset.local"));
    config.multicluster.push(name("clusterset.local"));
    let mut cluster = Cluster::with(config);
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    import(&mut cluster, "shop", json!({"type": "ClusterSetIP", "ips": ["10.112.0.1", "fd00:2::1"], "ports": ports}));
    import(&mut cluster, "store", json!({"type": "Headless", "ports": ports}));
    for (id, endpoints) in [
        ("east", json!([{"addresses": ["10.244.8.1"], "hostname": "store-0"}, {"addresses": ["10.244.8.2"]}])),
        (
            "west",
            json!([{"addresses": ["10.244.9.1"], "hostname": "store-0"},
            {"addresses": ["10.244.9.2"], "conditions": {"ready": false}}]),
        ),
    ] {
        let labels = json!({"multicluster.kubernetes.io/service-name": "store",
            "multicluster.kubernetes.io/source-cluster": id});
        let metadata = json!({"name": format!("imported-{id}"), "namespace": "default", "labels": labels});
        let slice = json!({"metadata": metadata, "endpoints": endpoints, "ports": ports});
        cluster.view.apply(Object::EndpointSlice(object(slice)));
    }
    cluster
}

const STORE: &str = "store.default.svc.clusterset.local";

#[test]
fn an_import_has_its_addresses_and_ports() {
    let cluster = cluster();
    let shop = "shop.default.svc.clusterset.local";
    cluster.has(shop, RecordType::A, ["10.112.0.1"]);
    cluster.has(shop, RecordType::AAAA, ["fd00:2::1"]);
    cluster.has(&format!("_http._tcp.{shop}"), RecordType::SRV, ["0 50 80 shop.default.svc.clusterset.local."]);
    // The cluster's own Services aren't everybody's, nor the other way round.
    cluster.denies("web.default.svc.clusterset.local");
    cluster.denies("shop.default.svc.cluster.local");
    cluster.has("dns-version.clusterset.local", RecordType::TXT, ["1.0.0"]);
    cluster.lacks("default.svc.clusterset.local", RecordType::A);
}

#[test]
fn endpoints_of_an_import_are_named_with_their_cluster() {
    let mut cluster = cluster();
    cluster.has(STORE, RecordType::A, ["10.244.8.1", "10.244.8.2", "10.244.9.1"]);
    cluster.has(&format!("store-0.east.{STORE}"), RecordType::A, ["10.244.8.1"]);
    cluster.has(&format!("store-0.WEST.{STORE}"), RecordType::A, ["10.244.9.1"]);
    cluster.has(&format!("10-244-8-2.east.{STORE}"), RecordType::A, ["10.244.8.2"]);
    let srv = [
        "0 33 80 store-0.east.store.default.svc.clusterset.local.",
        "0 33 80 store-0.west.store.default.svc.clusterset.local.",
        "0 33 80 10-244-8-2.east.store.default.svc.clusterset.local.",
    ];
    cluster.has(&format!("_http._tcp.{STORE}"), RecordType::SRV, srv);
    // A cluster by itself has no name, and an endpoint none without its cluster.
    for none in ["east", "store-0", "store-0.north", "10-244-9-2.west", "10-244-8-2.west"] {
        cluster.denies(&format!("{none}.{STORE}"));
    }
    // No reverse names are asked for.
    cluster.negative("1.8.244.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    cluster.view.remove_slice(&ObjectKey::new("default", "imported-east"));
    cluster.has(STORE, RecordType::A, ["10.244.9.1"]);
    cluster.view.remove_service_import(&ObjectKey::new("default", "store"));
    cluster.denies(STORE);
}
