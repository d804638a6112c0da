//! Packets: DNS from anybody, netlink from a kernel that may be newer than we are.

use std::sync::OnceLock;

use conntrack::Flow;
use dns_zone::{Answer, Config, Name, Object, Query, QueryError, Response, RrType, View, answer, relay, wire};
use netlink::message::{FLAG_ACK_TLVS, FLAG_CAPPED};
use netlink::socket::refusal;
use netlink::{Attributes, Message, Messages};
use nft::{Family, Op};
use serde_json::{Value, json};

/// A query to a small cluster, and the same bytes as another server's reply to a question of ours.
pub fn dns(bytes: &[u8]) {
    static CLUSTER: OnceLock<(View, Config)> = OnceLock::new();
    let (view, config) = CLUSTER.get_or_init(cluster);
    match Query::parse(bytes) {
        Ok(query) => {
            for limit in [query.udp_limit(), usize::from(u16::MAX)] {
                if let Answer::Respond(response) = answer(&query, view, config, 1) {
                    assert_response(&query, &response.write(&query, limit), limit);
                }
            }
            let asked = Query::parse(&query.write(7)).map(|asked| (asked.name, asked.rr_type, asked.class));
            assert_eq!(asked, Ok((query.name, query.rr_type, query.class)), "it asks something else");
        }
        Err(QueryError::Reply { id, rcode, opcode }) => {
            assert_eq!(Query::parse(&Response::header_only(id, opcode, rcode)), Err(QueryError::Ignore), "two talk");
        }
        Err(QueryError::Ignore) => {}
    }
    let _ = (wire::records(bytes), wire::lifetime(bytes));
    reply(bytes);
}

/// What clients get of a reply: as it is, and behind an alias of the cluster. The bytes are what follows the question.
fn reply(bytes: &[u8]) {
    let Some((flags, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some(name) = Name::parse("www.example.com") else { return };
    for rr_type in [RrType::A, RrType::ANY] {
        let query = Query::new(name.clone(), rr_type, None);
        let mut message = query.write(7);
        (message[2], message[3]) = (flags[0] | 0x80, flags[1]);
        // The numbers of records, then the records.
        let counts = rest.first_chunk::<6>().copied().unwrap_or_default();
        message[6..12].copy_from_slice(&counts);
        message.extend_from_slice(rest.get(6..).unwrap_or_default());
        for message in [&message[..], bytes] {
            if !relay::answers(message, 7, &query) {
                continue;
            }
            let relayed = relay::relayed(&query, message.to_vec(), query.udp_limit());
            assert!(relayed.len() <= query.udp_limit() && relayed[..2] == [0, 0], "not what the client asked");
            let behind = relay::chased(Vec::new(), Some(message));
            assert_response(&query, &behind.write(&query, query.udp_limit()), query.udp_limit());
        }
    }
}

/// A response that any client can read.
fn assert_response(query: &Query, written: &[u8], limit: usize) {
    assert!(written.len() <= limit, "{} octets, but {limit} at most", written.len());
    assert!(written.starts_with(&query.id.to_be_bytes()) && written[2] & 0x80 != 0, "not a response to this");
    assert!(written[wire::HEADER..].starts_with(query.question()), "it repeats another question");
    assert!(wire::records(written).is_ok(), "a response that can't be read");
    assert_eq!(Query::parse(written), Err(QueryError::Ignore), "a response that would be answered");
}

fn cluster() -> (View, Config) {
    let mut view = View::default();
    (view.synced, view.serial) = (true, 7);
    let read = |object: Value| serde_json::from_value(object);
    if let Ok(namespace) = serde_json::from_value(json!({"metadata": {"name": "default"}})) {
        view.apply(Object::Namespace(namespace));
    }
    for (name, spec) in [
        (
            "web",
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{"name": "http", "port": 80}]}),
        ),
        ("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]})),
        ("away", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
    ] {
        if let Ok(service) = read(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})) {
            view.apply(Object::Service(service));
        }
    }
    let labels = json!({"kubernetes.io/service-name": "db"});
    let slice = json!({"metadata": {"name": "db-1", "namespace": "default", "labels": labels},
        "endpoints": [{"addresses": ["10.244.0.2"], "conditions": {"ready": true}, "hostname": "db-0"}],
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]});
    if let Ok(slice) = serde_json::from_value(slice) {
        view.apply(Object::EndpointSlice(slice));
    }
    let networks = ["10.244.0.0/16", "10.96.0.0/16"];
    let config = Config {
        reverse: networks.iter().filter_map(|network| network.parse().ok()).collect(),
        ..Config::of_cluster(Name::parse("cluster.local").unwrap_or_else(|| unreachable!("a plain name")))
    };
    (view, config)
}

/// A datagram of a netlink socket: its framing, and each message as everything we ever read from one.
pub fn netlink(bytes: &[u8]) {
    for message in Messages::new(bytes) {
        let Ok(message) = message else { break };
        read(&message);
    }
    let _ = nft::read_news(bytes);
    // Without the framing, which a fuzzer rarely gets right.
    for flags in [0, FLAG_ACK_TLVS, FLAG_ACK_TLVS | FLAG_CAPPED] {
        read(&Message { kind: 0, flags, sequence: 0, payload: bytes });
    }
}

fn read(message: &Message<'_>) {
    let _ = refusal(message);
    for attribute in Attributes::new(message.payload).flatten() {
        let _ = (attribute.u8(), attribute.be16(), attribute.be32(), attribute.be64(), attribute.text());
        let _ = attribute.nested().count();
    }
    let _ = Flow::read(message);
    let _ = ipvs::understand(message);
    let transaction = nft::understand(message);
    for op in &transaction.ops {
        let Op::AddRule { rule, .. } = op else { continue };
        for expr in &rule.exprs {
            assert_eq!(nft::again(Family::Inet, expr).as_ref(), Some(expr), "written, it is another expression");
        }
    }
    let _ = (transaction.to_string(), transaction.encoded_len());
}
