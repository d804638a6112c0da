//! The server beside our API server: what is watched, whole zones, and connections.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, AsyncReadWrite, Config as Api, NodeDialer};
use async_trait::async_trait;
use dns::{Config, Name, Pods, Records};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name as HickoryName, RecordType};
use serde_json::{Value, json};
use store::{Embedded, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, node: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, node.to_owned()))
    }
}

/// An API server in memory.
async fn api() -> kube::Client {
    let config = Api {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
        advertise: "172.30.0.2:6443".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
    };
    let store = Arc::new(Embedded::in_memory(Options::default()).unwrap());
    let server = ApiServer::new(store, config, Arc::new(NoNodes)).unwrap();
    server.bootstrap().await.unwrap();
    kube::Client::new(server.service(), "default")
}

async fn post(client: &kube::Client, path: &str, object: Value) {
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request::<Value>(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap();
}

async fn service(client: &kube::Client, name: &str, address: &str, tier: &str) {
    let metadata = json!({"name": name, "labels": {"tier": tier}});
    let spec = json!({"clusterIP": address, "ports": [{"name": "http", "port": 80}]});
    post(client, "/api/v1/namespaces/default/services", json!({"metadata": metadata, "spec": spec})).await;
}

async fn pod(client: &kube::Client, name: &str, address: &str, phase: &str) {
    let all = "/api/v1/namespaces/default/pods";
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    post(client, all, json!({"metadata": {"name": name, "labels": {"tier": "front"}}, "spec": spec})).await;
    let status = json!({"status": {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]}});
    let request =
        http::Request::patch(format!("{all}/{name}/status")).header("content-type", "application/merge-patch+json");
    client.request::<Value>(request.body(status.to_string().into_bytes()).unwrap()).await.unwrap();
}

/// Starts one; it ends with the guard.
async fn server(client: kube::Client, change: impl Fn(&mut Config)) -> (SocketAddr, DropGuard) {
    loop {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let records = Records::of_cluster(Name::parse("cluster.local").unwrap());
        let mut config = Config { listen: vec![free], records, ..Config::default() };
        change(&mut config);
        let stop = CancellationToken::new();
        let running = tokio::spawn(dns::run(client.clone(), config, stop.clone()));
        // It ends when somebody else has taken the port in between.
        while !running.is_finished() {
            // The TCP listener is bound last: when it accepts, everything is up.
            if TcpStream::connect(free).await.is_ok() {
                return (free, stop.drop_guard());
            }
            tokio::task::yield_now().await;
        }
    }
}

fn question(name: &str, rr_type: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(HickoryName::from_ascii(name).unwrap(), rr_type));
    message
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&[&(message.len() as u16).to_be_bytes(), message].concat()).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> (Message, Vec<u8>) {
    let length = stream.read_u16().await.unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    (Message::from_vec(&reply).unwrap(), reply)
}

async fn ask(server: SocketAddr, name: &str, rr_type: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    send(&mut stream, &question(name, rr_type).to_vec().unwrap()).await;
    receive(&mut stream).await.0
}

/// Asks until the answer is as expected.
async fn until(server: SocketAddr, name: &str, expected: impl Fn(&Message) -> bool) {
    let begun = Instant::now();
    loop {
        let message = ask(server, name, RecordType::A).await;
        if expected(&message) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {message}");
        tokio::task::yield_now().await;
    }
}

fn found(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::NoError && message.answers.len() == 1
}

fn denied(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::NXDomain
}

#[tokio::test]
async fn only_what_has_the_labels_and_runs_is_there() {
    let client = api().await;
    service(&client, "front", "10.96.0.7", "front").await;
    service(&client, "back", "10.96.0.8", "back").await;
    pod(&client, "a", "10.244.0.2", "Running").await;
    pod(&client, "b", "10.244.0.3", "Succeeded").await;
    let change = |config: &mut Config| {
        config.records.pods = Pods::Verified;
        config.records.labels = Some("tier=front".to_owned());
    };
    let (server, _guard) = server(client.clone(), change).await;
    until(server, "front.default.svc.cluster.local.", found).await;
    until(server, "10-244-0-2.default.pod.cluster.local.", found).await;
    until(server, "back.default.svc.cluster.local.", denied).await;
    until(server, "10-244-0-3.default.pod.cluster.local.", denied).await;
    // And as they come.
    service(&client, "later", "10.96.0.9", "front").await;
    until(server, "later.default.svc.cluster.local.", found).await;
}

#[tokio::test]
async fn a_namespace_without_the_labels_is_not_there() {
    let client = api().await;
    post(&client, "/api/v1/namespaces", json!({"metadata": {"name": "shown", "labels": {"team": "a"}}})).await;
    service(&client, "web", "10.96.0.7", "front").await;
    let change = |config: &mut Config| config.records.namespace_labels = Some("team in (a)".to_owned());
    let (server, _guard) = server(client, change).await;
    let exists = |message: &Message| message.metadata.response_code == ResponseCode::NoError;
    until(server, "shown.svc.cluster.local.", exists).await;
    until(server, "default.svc.cluster.local.", denied).await;
    until(server, "web.default.svc.cluster.local.", denied).await;
}

#[tokio::test]
async fn a_whole_zone_is_given_by_tcp_to_whom_the_configuration_names() {
    let client = api().await;
    for n in 1..=200 {
        service(&client, &format!("s{n}"), &format!("10.96.1.{n}"), "front").await;
    }
    let zone = "cluster.local.";
    let (nobody, _guard) = server(client.clone(), |_| {}).await;
    until(nobody, "s200.default.svc.cluster.local.", found).await;
    for rr_type in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(ask(nobody, zone, rr_type).await.metadata.response_code, ResponseCode::Refused);
    }
    let (server, _guard) = server(client, |config| config.transfer_to = vec!["127.0.0.0/8".parse().unwrap()]).await;
    until(server, "s200.default.svc.cluster.local.", found).await;
    // Nothing is denied, and no zone is given, before everything is known.
    until(server, "nope.default.svc.cluster.local.", denied).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.send_to(&question(zone, RecordType::AXFR).to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = udp.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, ResponseCode::Refused);
    let mut stream = TcpStream::connect(server).await.unwrap();
    send(&mut stream, &question(zone, RecordType::AXFR).to_vec().unwrap()).await;
    let mut records = Vec::new();
    while records.len() < 2 || records.last() != records.first() {
        records.extend(receive(&mut stream).await.0.answers);
    }
    let of = |rr_type| records.iter().filter(|r| r.record_type() == rr_type).count();
    assert_eq!(of(RecordType::SOA), 2);
    assert!(of(RecordType::A) > 200 && of(RecordType::SRV) > 400, "{} {}", of(RecordType::A), of(RecordType::SRV));
    // Who has this state already is given one record that says so.
    let mut newest = question(zone, RecordType::IXFR);
    newest.add_authority(records[0].clone());
    send(&mut stream, &newest.to_vec().unwrap()).await;
    let (reply, _) = receive(&mut stream).await;
    assert_eq!((reply.answers.len(), reply.metadata.authoritative), (1, true));
}

#[tokio::test]
async fn answers_by_tcp_come_when_they_are_ready_and_say_how_long_to_stay() {
    let client = api().await;
    service(&client, "web", "10.96.0.7", "front").await;
    // It answers when it's told to, and then each try.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = silent.local_addr().unwrap();
    let (speak, told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        told.await.unwrap();
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = silent.recv_from(&mut buffer).await {
            let answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
            silent.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let (server, _guard) = server(client, |config| config.upstreams = vec![upstream]).await;
    let web = "web.default.svc.cluster.local.";
    until(server, web, found).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    // Three questions in one segment, of which the first has to wait (RFC 7766 section 6.2.1.1).
    let mut pipelined = Vec::new();
    let waits = question("slow.example.", RecordType::A);
    let (first, second) = (question(web, RecordType::A), question(web, RecordType::AAAA));
    for message in [&waits, &first, &second] {
        let message = message.to_vec().unwrap();
        pipelined.extend((message.len() as u16).to_be_bytes());
        pipelined.extend(message);
    }
    stream.write_all(&pipelined).await.unwrap();
    for expected in [&first, &second] {
        assert_eq!(receive(&mut stream).await.0.metadata.id, expected.metadata.id);
    }
    speak.send(()).unwrap();
    let (last, _) = receive(&mut stream).await;
    assert_eq!((last.metadata.id, last.metadata.response_code), (waits.metadata.id, ResponseCode::NoError));
    // With the option of RFC 7828, empty as a client's is.
    let mut asked = first.to_vec().unwrap();
    asked[11] = 1;
    asked.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    send(&mut stream, &asked).await;
    let (message, bytes) = receive(&mut stream).await;
    assert!(found(&message));
    assert_eq!(bytes[bytes.len() - 6..], [0, 11, 0, 2, 0, 100], "ten seconds");
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.send_to(&asked, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = udp.recv(&mut buffer).await.unwrap();
    assert_eq!(buffer[length - 2..length], [0, 0], "a datagram has no connection");
}

#[tokio::test]
async fn what_cannot_be_served_is_said_at_the_start() {
    let config = Config {
        records: Records { ttl: 4000, ..Records::of_cluster(Name::parse("x").unwrap()) },
        ..Config::default()
    };
    let ended = dns::run(api().await, config, CancellationToken::new()).await;
    assert!(matches!(ended, Err(dns::Error::Zones(_))), "{ended:?}");
}
