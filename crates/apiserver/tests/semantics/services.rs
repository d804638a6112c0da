//! Services: addresses and ports given out in the Service's own transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::server::{NoNodes, SERVICES, Server, config, service};

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn node_port(name: &str) -> Value {
    service(name, json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}))
}

async fn small(cidr: &str) -> Server {
    let mut config = config();
    config.service_cidrs = vec![cidr.parse().unwrap()];
    config.node_port_range = 30000..=30009;
    Server::with(config, Arc::new(NoNodes)).await
}

fn cluster_ip(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

async fn addresses(server: &Server) -> BTreeSet<String> {
    let list = server.get(ADDRESSES).await.ok();
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_gets_its_address_with_an_object_that_holds_it() {
    let server = Server::start().await;
    let before = server.store.revision().await.unwrap();
    let created = server.post(SERVICES, &node_port("a")).await.ok();
    assert_eq!(server.store.revision().await.unwrap(), before.next(), "Service, address and port are one transaction");
    let ip = cluster_ip(&created);
    let address = server.get(&format!("{ADDRESSES}/{ip}")).await.ok();
    assert_eq!(address["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "a"}));
    assert_eq!(address["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");
    assert_eq!(created["spec"]["clusterIPs"], json!([ip]));
    assert!(created["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30086, "the lower band is for explicit ports");
    server.delete(&format!("{SERVICES}/a"), &json!({})).await.ok();
    server.get(&format!("{ADDRESSES}/{ip}")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_taken_address_or_port_is_refused_by_name() {
    let server = Server::start().await;
    let taken = service("a", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    let status = server.post(SERVICES, &taken).await.fails(422, "Invalid");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("failed to allocate IP 10.96.0.1: provided IP is already allocated"), "{message}");
    let explicit = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 31234}]});
    server.post(SERVICES, &service("b", explicit.clone())).await.ok();
    let status = server.post(SERVICES, &service("c", explicit)).await.fails(422, "Invalid");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("spec.ports[0].nodePort: Invalid value: 31234: provided port is already allocated"),
        "{message}"
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let status = server.post(SERVICES, &service("d", outside)).await.fails(422, "Invalid");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("The range of valid ports is 30000-32767"), "{message}");
    server.delete(&format!("{SERVICES}/b"), &json!({})).await.ok();
    let again = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 31234}]});
    server.post(SERVICES, &service("c", again)).await.ok();
}

#[tokio::test]
async fn a_change_of_type_takes_and_gives_back() {
    let server = Server::start().await;
    let path = format!("{SERVICES}/a");
    let plain = service("a", json!({"ports": [{"port": 80}]}));
    let ip = cluster_ip(&server.post(SERVICES, &plain).await.ok());
    let strategic = "strategic-merge-patch+json";
    let opened = server.patch(&path, strategic, &json!({"spec": {"type": "NodePort"}})).await.ok();
    let port = opened["spec"]["ports"][0]["nodePort"].clone();
    assert!(port.is_i64());
    assert_eq!(cluster_ip(&opened), ip);
    let replaced = server.put(&path, &service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.ok();
    assert_eq!((&replaced["spec"]["ports"][0]["nodePort"], cluster_ip(&replaced)), (&port, ip.clone()), "kept");
    let closed = server.patch(&path, strategic, &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert!(closed["spec"]["ports"][0].get("nodePort").is_none());
    let explicit = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    server.post(SERVICES, &service("b", explicit)).await.ok();
    let outside = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    server.patch(&path, strategic, &outside).await.ok();
    assert!(!addresses(&server).await.contains(&ip));
}

#[tokio::test]
async fn a_service_put_where_none_is_gets_its_address_too() {
    let server = Server::start().await;
    let answer = server.put(&format!("{SERVICES}/a"), &service("a", json!({"ports": [{"port": 80}]}))).await;
    assert_eq!(answer.code, 201);
    assert!(addresses(&server).await.contains(&cluster_ip(&answer.ok())));
}

#[tokio::test]
async fn a_dry_run_and_a_refused_service_take_nothing() {
    let server = Server::start().await;
    let (before, held) = (server.store.revision().await.unwrap(), addresses(&server).await);
    let dry = server.post(&format!("{SERVICES}?dryRun=All"), &node_port("a")).await.ok();
    assert_eq!(cluster_ip(&dry), "10.96.0.0");
    let invalid = service("a", json!({"ports": [{"port": 0}]}));
    server.post(SERVICES, &invalid).await.fails(422, "Invalid");
    let elsewhere = "/api/v1/namespaces/nowhere/services";
    server.post(elsewhere, &node_port("a")).await.fails(404, "NotFound");
    assert_eq!(server.store.revision().await.unwrap(), before);
    assert_eq!(addresses(&server).await, held);
}

#[tokio::test]
async fn an_address_stays_taken_when_its_object_is_deleted_and_the_object_comes_back() {
    let server = Server::start().await;
    let ip = cluster_ip(&server.post(SERVICES, &node_port("a")).await.ok());
    let path = format!("{ADDRESSES}/{ip}");
    let before = server.get(&path).await.ok();
    server.delete(&path, &json!({})).await.ok();
    let after = server.get(&path).await.ok();
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(before["spec"], after["spec"]);
    let second = service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    server.post(SERVICES, &second).await.fails(422, "Invalid");
    server.delete(&format!("{SERVICES}/a"), &json!({})).await.ok();
    server.get(&path).await.fails(404, "NotFound");
    server.post(SERVICES, &second).await.ok();
}

#[tokio::test]
async fn a_starting_server_takes_the_addresses_that_services_have() {
    let server = Server::start().await;
    let ip = cluster_ip(&server.post(SERVICES, &node_port("a")).await.ok());
    let lost = [format!("/registry/ranges/serviceips/{ip}"), format!("/registry/networking.k8s.io/ipaddresses/{ip}")];
    for key in &lost {
        assert!(server.store.get(key).await.unwrap().is_some());
    }
    let ops = lost.iter().map(|key| store::Op::delete(key.clone())).collect();
    server.store.txn(store::Txn { compares: Vec::new(), ops }).await.unwrap();
    let again = Server::on(server.store.clone(), config(), Arc::new(NoNodes)).await;
    assert!(addresses(&again).await.contains(&ip));
    let second = service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    again.post(SERVICES, &second).await.fails(422, "Invalid");
}

#[tokio::test]
async fn racing_clients_share_a_small_range_without_a_duplicate() {
    let server = Arc::new(small("10.96.0.0/27").await);
    let wanted = futures::future::join_all((0..40).map(|n| {
        let server = server.clone();
        async move { server.post(SERVICES, &service(&format!("s{n}"), json!({"ports": [{"port": 80}]}))).await }
    }));
    let (given, refused): (Vec<_>, Vec<_>) = wanted.await.into_iter().partition(|answer| answer.code == 201);
    let given: BTreeSet<String> = given.into_iter().map(|answer| cluster_ip(&answer.ok())).collect();
    assert_eq!(given.len(), 29, "30 usable ones, of which kubernetes has one");
    for answer in refused {
        let status = answer.fails(500, "InternalError");
        assert!(status["message"].as_str().unwrap().contains("range is full"), "{status}");
    }
    let one = given.first().unwrap();
    let list = server.get(SERVICES).await.ok();
    let holder = list["items"].as_array().unwrap().iter().find(|s| s["spec"]["clusterIP"] == *one).unwrap();
    server.delete(&format!("{SERVICES}/{}", holder["metadata"]["name"].as_str().unwrap()), &json!({})).await.ok();
    let next = server.post(SERVICES, &service("next", json!({"ports": [{"port": 80}]}))).await.ok();
    assert_eq!(&cluster_ip(&next), one, "the one that came back is the one that is free");
}

#[tokio::test]
async fn node_ports_run_out_and_come_back() {
    let server = small("10.96.0.0/24").await;
    for n in 0..10 {
        server.post(SERVICES, &node_port(&format!("s{n}"))).await.ok();
    }
    let status = server.post(SERVICES, &node_port("more")).await.fails(500, "InternalError");
    assert!(status["message"].as_str().unwrap().contains("failed to allocate a nodePort: range is full"), "{status}");
    server.delete(&format!("{SERVICES}/s3"), &json!({})).await.ok();
    server.post(SERVICES, &node_port("more")).await.ok();
}
