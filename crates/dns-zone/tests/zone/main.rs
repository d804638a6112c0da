//! Questions to a small cluster, put and read by another implementation of the protocol (hickory-proto).

#![allow(clippy::unwrap_used)]

mod aliases;
mod options;
mod protocol;
mod several_clusters;
mod shape;
mod transfers;

use std::collections::BTreeSet;

use dns_zone::{Answer, Config, Name, Object, ObjectKey, Query, Response, View, answer};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A small cluster, and how it's served.
#[derive(Clone)]
struct Cluster {
    view: View,
    config: Config,
}

impl Cluster {
    /// Nothing but two namespaces.
    fn empty(config: Config) -> Self {
        let mut view = View::new(&config);
        (view.synced, view.serial) = (true, 7);
        for namespace in ["default", "kube-system"] {
            view.apply(Object::Namespace(object(json!({"metadata": {"name": namespace}}))));
        }
        Cluster { view, config }
    }

    /// With Services of every kind.
    fn new() -> Self {
        Cluster::with(config())
    }

    fn with(config: Config) -> Self {
        let mut cluster = Cluster::empty(config);
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        cluster.service("web", json!({"clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports}));
        cluster.service("db", json!({"clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}));
        cluster.service("empty", json!({"clusterIPs": ["None"], "ports": []}));
        cluster.service("idle", json!({"clusterIPs": ["10.96.0.8"], "ports": [{"port": 80}]}));
        let sql = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
        cluster.slice(
            "db-1",
            "db",
            &sql,
            json!([
                {"addresses": ["10.244.0.2"], "conditions": {"ready": true}, "hostname": "db-0", "zone": "eu-1a",
                    "targetRef": {"name": "pod-a"}},
                {"addresses": ["10.244.0.3"], "conditions": {}, "targetRef": {"name": "pod-b"}, "zone": "corp.example"},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true}}]),
        );
        cluster.slice("db-2", "db", &sql, json!([{"addresses": ["fd00:1::2"], "hostname": "db-0"}]));
        let http = json!([{"name": "http", "port": 8080}]);
        cluster.slice("web-1", "web", &http, json!([{"addresses": ["10.244.0.9"]}]));
        cluster
    }

    fn service(&mut self, name: &str, spec: Value) {
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.view.apply(Object::Service(object(service)));
    }

    fn alias(&mut self, name: &str, target: &str) {
        self.service(name, json!({"type": "ExternalName", "externalName": target}));
    }

    fn slice(&mut self, name: &str, service: &str, ports: &Value, endpoints: Value) {
        let labels = json!({"kubernetes.io/service-name": service});
        let metadata = json!({"name": name, "namespace": "default", "labels": labels});
        let slice = json!({"metadata": metadata, "endpoints": endpoints, "ports": ports});
        self.view.apply(Object::EndpointSlice(object(slice)));
    }

    fn answer(&self, name: &str, rr_type: RecordType) -> Answer {
        let query = Query::parse(&question(name, rr_type, None)).unwrap();
        answer(&query, &self.view, &self.config, 0)
    }

    fn ask(&self, name: &str, rr_type: RecordType) -> Message {
        let query = Query::parse(&question(name, rr_type, None)).unwrap();
        let Answer::Respond(response) = answer(&query, &self.view, &self.config, 0) else {
            panic!("{name} is answered elsewhere")
        };
        Message::from_vec(&response.write(&query, 65_535)).unwrap()
    }

    /// The code, and what the records of the answer say.
    fn read(&self, name: &str, rr_type: RecordType) -> (ResponseCode, BTreeSet<String>) {
        let message = self.ask(name, rr_type);
        (message.metadata.response_code, data(&message))
    }

    #[track_caller]
    fn has<const N: usize>(&self, name: &str, rr_type: RecordType, expected: [&str; N]) {
        assert_eq!(self.read(name, rr_type), (ResponseCode::NoError, set(expected)), "{name} {rr_type}");
    }

    /// Negative answers have the SOA that says how long they count.
    #[track_caller]
    fn negative(&self, name: &str, rr_type: RecordType, code: ResponseCode) {
        let message = self.ask(name, rr_type);
        assert_eq!((message.metadata.response_code, message.answers.len()), (code, 0), "{name} {rr_type}");
        assert!(matches!(message.authorities[0].data, RData::SOA(_)), "{name} {rr_type}");
        assert!(message.metadata.authoritative, "{name} {rr_type}");
    }

    #[track_caller]
    fn denies(&self, name: &str) {
        for rr_type in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::SOA] {
            self.negative(name, rr_type, ResponseCode::NXDomain);
        }
    }

    /// It exists, and has no record of the type.
    #[track_caller]
    fn lacks(&self, name: &str, rr_type: RecordType) {
        self.negative(name, rr_type, ResponseCode::NoError);
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// As the project's own clusters are served.
fn config() -> Config {
    Config {
        reverse: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()],
        own_addresses: vec!["172.30.0.11".parse().unwrap()],
        ..Config::of_cluster(name("cluster.local"))
    }
}

fn question(name: &str, rr_type: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend_from_slice(Name::parse(name).unwrap().as_wire());
    bytes.push(0);
    bytes.extend(u16::from(rr_type).to_be_bytes());
    bytes.extend(u16::from(DNSClass::IN).to_be_bytes());
    if let Some(size) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

fn data(message: &Message) -> BTreeSet<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

/// Owner, type and content of records.
fn records<'a>(of: impl IntoIterator<Item = &'a hickory_proto::rr::Record>) -> BTreeSet<String> {
    of.into_iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect()
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

const WEB: &str = "web.default.svc.cluster.local";
const DB: &str = "db.default.svc.cluster.local";

#[test]
fn what_comes_and_goes_is_seen_at_once() {
    let mut cluster = Cluster::new();
    let name = "new.default.svc.cluster.local";
    cluster.denies(name);
    cluster.service("new", json!({"clusterIP": "10.96.0.99", "ports": []}));
    cluster.has(name, RecordType::A, ["10.96.0.99"]);
    cluster.service("new", json!({"clusterIP": "10.96.0.98", "ports": []}));
    cluster.has("98.0.96.10.in-addr.arpa", RecordType::PTR, ["new.default.svc.cluster.local."]);
    cluster.negative("99.0.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    cluster.view.remove_service(&ObjectKey::new("default", "new"));
    cluster.denies(name);
    cluster.negative("98.0.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    cluster.view.remove_slice(&ObjectKey::new("default", "db-1"));
    cluster.has(DB, RecordType::AAAA, ["fd00:1::2"]);
    cluster.view.remove_slice(&ObjectKey::new("default", "db-2"));
    cluster.denies(DB);
    cluster.negative("2.0.244.10.in-addr.arpa", RecordType::PTR, ResponseCode::NXDomain);
    cluster.view.remove_namespace("default");
    cluster.denies(WEB);
}

#[test]
fn before_everything_is_listed_nothing_is_denied() {
    let mut cluster = Cluster::new();
    cluster.view.synced = false;
    let code = |name, rr_type| cluster.ask(name, rr_type).metadata.response_code;
    assert_eq!(code("nope.default.svc.cluster.local", RecordType::A), ResponseCode::ServFail);
    assert_eq!(code("99.0.244.10.in-addr.arpa", RecordType::PTR), ResponseCode::ServFail);
    cluster.has(WEB, RecordType::A, ["10.96.0.7"]);
    // Nobody of ours can have that address, whatever is still to come.
    assert_eq!(cluster.answer("1.1.168.192.in-addr.arpa", RecordType::PTR), Answer::Forward);
    cluster.config.reverse.clear();
    let unknown = cluster.ask("1.1.168.192.in-addr.arpa", RecordType::PTR);
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail, "it may be a pod's");
}
