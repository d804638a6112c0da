//! Questions to a small cluster, put and read by another implementation of the protocol (hickory-proto).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dns_zone::{Answer, Config, Name, Object, ObjectKey, Query, QueryError, Response, View, answer};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use serde_json::{Value, json};

fn view() -> View {
    let mut view = View::default();
    (view.synced, view.serial) = (true, 7);
    for namespace in ["default", "kube-system"] {
        view.apply(Object::Namespace(serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap()));
    }
    service(
        &mut view,
        "web",
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    );
    service(
        &mut view,
        "db",
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}),
    );
    service(&mut view, "empty", json!({"clusterIP": "None", "ports": []}));
    service(&mut view, "harbor", json!({"type": "ExternalName", "externalName": "harbor.example"}));
    service(&mut view, "alias", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}));
    service(&mut view, "number", json!({"type": "ExternalName", "externalName": "192.0.2.7"}));
    service(&mut view, "loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}));
    slice(
        &mut view,
        "db-1",
        "db",
        json!([
        {"addresses": ["10.244.0.2"], "conditions": {"ready": true}, "hostname": "db-0"},
        {"addresses": ["10.244.0.3"], "conditions": {}},
        {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}]),
    );
    slice(&mut view, "web-1", "web", json!([{"addresses": ["10.244.0.9"], "conditions": {"ready": true}}]));
    view
}

fn service(view: &mut View, name: &str, spec: Value) {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    view.apply(Object::Service(serde_json::from_value(object).unwrap()));
}

fn slice(view: &mut View, name: &str, service: &str, endpoints: Value) {
    let labels = json!({"kubernetes.io/service-name": service});
    let metadata = json!({"name": name, "namespace": "default", "labels": labels});
    let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
    let object = json!({"metadata": metadata, "endpoints": endpoints, "ports": ports});
    view.apply(Object::EndpointSlice(serde_json::from_value(object).unwrap()));
}

fn config() -> Config {
    Config {
        zone: Name::parse("cluster.local").unwrap(),
        reverse: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()],
        ttl: 5,
        own_addresses: vec!["172.30.0.11".parse().unwrap()],
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

fn ask_view(view: &View, name: &str, rr_type: RecordType) -> Message {
    let query = Query::parse(&question(name, rr_type, None)).unwrap();
    let Answer::Respond(response) = answer(&query, view, &config(), 0) else { panic!("{name} is answered elsewhere") };
    Message::from_vec(&response.write(&query, 512, 2)).unwrap()
}

fn ask(name: &str, rr_type: RecordType) -> Message {
    ask_view(&view(), name, rr_type)
}

fn data(message: &Message) -> BTreeSet<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

const WEB: &str = "web.default.svc.cluster.local";

#[test]
fn a_service_has_its_addresses_by_family_and_none_of_another() {
    let message = ask(WEB, RecordType::A);
    assert_eq!(data(&message), set(["10.96.0.7"]));
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(data(&ask(WEB, RecordType::AAAA)), set(["fd00::7"]));
    let none = ask(WEB, RecordType::MX);
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    assert!(matches!(none.authorities[0].data, RData::SOA(_)));
}

#[test]
fn a_headless_service_has_exactly_its_ready_endpoints() {
    assert_eq!(data(&ask("db.default.svc.cluster.local", RecordType::A)), set(["10.244.0.2", "10.244.0.3"]));
    assert_eq!(data(&ask("db-0.db.default.svc.cluster.local", RecordType::A)), set(["10.244.0.2"]));
    assert_eq!(data(&ask("10-244-0-3.db.default.svc.cluster.local", RecordType::A)), set(["10.244.0.3"]));
    let unready = ask("10-244-0-4.db.default.svc.cluster.local", RecordType::A);
    assert_eq!(unready.metadata.response_code, ResponseCode::NXDomain);
    let empty = ask("empty.default.svc.cluster.local", RecordType::A);
    assert_eq!(empty.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn srv_gives_ports_and_targets_with_their_addresses() {
    let message = ask("_http._tcp.web.default.svc.cluster.local", RecordType::SRV);
    assert_eq!(data(&message), set(["0 100 80 web.default.svc.cluster.local."]));
    assert_eq!(message.additionals.len(), 2);
    let headless = ask("_sql._tcp.db.default.svc.cluster.local", RecordType::SRV);
    let targets =
        set(["0 50 5432 db-0.db.default.svc.cluster.local.", "0 50 5432 10-244-0-3.db.default.svc.cluster.local."]);
    assert_eq!(data(&headless), targets);
    assert_eq!(
        ask("_http._udp.web.default.svc.cluster.local", RecordType::SRV).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(
        ask("http.tcp.web.default.svc.cluster.local", RecordType::SRV).metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn reverse_names_lead_back() {
    assert_eq!(data(&ask("7.0.96.10.in-addr.arpa", RecordType::PTR)), set(["web.default.svc.cluster.local."]));
    assert_eq!(data(&ask("2.0.244.10.in-addr.arpa", RecordType::PTR)), set(["db-0.db.default.svc.cluster.local."]));
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(data(&ask(v6, RecordType::PTR)), set(["web.default.svc.cluster.local."]));
    assert_eq!(ask("99.0.244.10.in-addr.arpa", RecordType::PTR).metadata.response_code, ResponseCode::NXDomain);
    let query = Query::parse(&question("1.1.168.192.in-addr.arpa", RecordType::PTR, None)).unwrap();
    assert_eq!(answer(&query, &view(), &config(), 0), Answer::Forward);
}

#[test]
fn an_external_name_is_an_alias_that_is_followed() {
    let query = Query::parse(&question("harbor.default.svc.cluster.local", RecordType::A, None)).unwrap();
    let Answer::Chase { answers, target } = answer(&query, &view(), &config(), 0) else { panic!("not chased") };
    assert_eq!((answers.len(), target.to_string().as_str()), (1, "harbor.example."));
    assert_eq!(data(&ask("harbor.default.svc.cluster.local", RecordType::CNAME)), set(["harbor.example."]));
    let inside = set(["web.default.svc.cluster.local.", "10.96.0.7"]);
    assert_eq!(data(&ask("alias.default.svc.cluster.local", RecordType::A)), inside);
    assert_eq!(data(&ask("number.default.svc.cluster.local", RecordType::A)), set(["192.0.2.7"]));
    assert_eq!(ask("loop.default.svc.cluster.local", RecordType::A).answers.len(), 8);
    let below = ask("x.harbor.default.svc.cluster.local", RecordType::A);
    assert_eq!(below.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn names_that_exist_without_records_are_not_denied() {
    let existing = [
        "cluster.local",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "pod.cluster.local",
        "dns.cluster.local",
        "kube-system.pod.cluster.local",
        "_tcp.web.default.svc.cluster.local",
    ];
    for name in existing {
        let message = ask(name, RecordType::A);
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0), "{name}");
    }
    let missing = [
        "nope.cluster.local",
        "nope.svc.cluster.local",
        "nope.default.svc.cluster.local",
        "a.b.c.web.default.svc.cluster.local",
        "1-2-3-4.nope.pod.cluster.local",
        "x.default.pod.cluster.local",
    ];
    for name in missing {
        let message = ask(name, RecordType::A);
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert!(matches!(message.authorities[0].data, RData::SOA(_)), "{name}");
    }
}

#[test]
fn the_zone_describes_itself() {
    assert_eq!(data(&ask("dns-version.cluster.local", RecordType::TXT)), set(["1.1.0"]));
    assert_eq!(ask("cluster.local", RecordType::SOA).answers.len(), 1);
    assert_eq!(data(&ask("cluster.local", RecordType::NS)), set(["ns.dns.cluster.local."]));
    assert_eq!(data(&ask("ns.dns.cluster.local", RecordType::A)), set(["172.30.0.11"]));
    assert_eq!(data(&ask("10-1-2-3.default.pod.cluster.local", RecordType::A)), set(["10.1.2.3"]));
}

#[test]
fn case_is_kept_and_does_not_matter() {
    let query = Query::parse(&question("WeB.DEFault.svc.CLUSTER.local", RecordType::SRV, None)).unwrap();
    let Answer::Respond(response) = answer(&query, &view(), &config(), 0) else { panic!() };
    let bytes = response.write(&query, 512, 2);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("WeB") && text.matches("CLUSTER").count() >= 2, "the targets' zone is spelled as asked");
}

#[test]
fn what_comes_and_goes_is_seen_at_once() {
    let mut view = view();
    assert_eq!(
        ask_view(&view, "new.default.svc.cluster.local", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    service(&mut view, "new", json!({"clusterIP": "10.96.0.99", "ports": []}));
    assert_eq!(data(&ask_view(&view, "new.default.svc.cluster.local", RecordType::A)), set(["10.96.0.99"]));
    service(&mut view, "new", json!({"clusterIP": "10.96.0.98", "ports": []}));
    assert_eq!(
        data(&ask_view(&view, "98.0.96.10.in-addr.arpa", RecordType::PTR)),
        set(["new.default.svc.cluster.local."])
    );
    let old = ask_view(&view, "99.0.96.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(old.metadata.response_code, ResponseCode::NXDomain);
    view.remove_service(&ObjectKey::new("default", "new"));
    assert_eq!(
        ask_view(&view, "new.default.svc.cluster.local", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    view.remove_slice(&ObjectKey::new("default", "db-1"));
    assert_eq!(
        ask_view(&view, "db.default.svc.cluster.local", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn before_everything_is_listed_nothing_is_denied() {
    let mut view = view();
    view.synced = false;
    assert_eq!(
        ask_view(&view, "nope.default.svc.cluster.local", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
    assert_eq!(data(&ask_view(&view, WEB, RecordType::A)), set(["10.96.0.7"]));
}

#[test]
fn an_answer_too_long_for_udp_is_cut_at_a_record_and_marked() {
    let mut view = view();
    let endpoints: Vec<Value> = (1..=200).map(|n| json!({"addresses": [format!("10.244.7.{n}")]})).collect();
    slice(&mut view, "big-1", "big", json!(endpoints));
    service(&mut view, "big", json!({"clusterIP": "None", "ports": []}));
    for (edns, limit, fits) in [(None, 512, 28), (Some(4096), 1232, 70)] {
        let query = Query::parse(&question("big.default.svc.cluster.local", RecordType::A, edns)).unwrap();
        assert_eq!(query.udp_limit(), limit);
        let Answer::Respond(response) = answer(&query, &view, &config(), 3) else { panic!() };
        let bytes = response.write(&query, query.udp_limit(), 2);
        assert!(bytes.len() <= limit);
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.truncation && message.answers.len() >= fits, "{}", message.answers.len());
        let whole = Message::from_vec(&response.write(&query, 65_535, 2)).unwrap();
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
    }
}

#[test]
fn odd_questions_get_the_codes_they_should() {
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = question(WEB, RecordType::A, None);
        change(&mut bytes);
        bytes
    };
    let reply = |bytes: Vec<u8>| match Query::parse(&bytes) {
        Err(QueryError::Reply { rcode, opcode, id }) => {
            Message::from_vec(&Response::header_only(id, opcode, rcode)).unwrap().metadata.response_code
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(Query::parse(&with(|b| b[2] |= 0x80)), Err(QueryError::Ignore));
    assert_eq!(Query::parse(&[0; 5]), Err(QueryError::Ignore));
    assert_eq!(reply(with(|b| b[2] |= 0x28)), ResponseCode::NotImp);
    assert_eq!(reply(with(|b| b[5] = 2)), ResponseCode::FormErr);
    assert_eq!(reply(with(|b| b.truncate(20))), ResponseCode::FormErr);
    // Its name would be part of the header, and another one in the response.
    let into_header = with(|b| {
        b.truncate(12);
        b.extend([1, b'a', 0xc0, 6, 0, 1, 0, 1]);
    });
    assert_eq!(reply(into_header), ResponseCode::FormErr);
    let refused = Query::parse(&with(|b| {
        let n = b.len();
        b[n - 1] = 3;
    }))
    .unwrap();
    let Answer::Respond(response) = answer(&refused, &view(), &config(), 0) else { panic!() };
    assert_eq!(response.rcode, dns_zone::Rcode::Refused);
    let query = Query::parse(&question("example.com", RecordType::A, None)).unwrap();
    assert_eq!(answer(&query, &view(), &config(), 0), Answer::Forward);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_query_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        if let Ok(query) = Query::parse(&bytes)
            && let Answer::Respond(response) = answer(&query, &view(), &config(), 1)
        {
            response.write(&query, query.udp_limit(), 2);
        }
    }
}
