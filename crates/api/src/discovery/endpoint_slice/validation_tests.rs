//! Each rule with its exact words.

use serde_json::json;

use super::*;

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                     end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[track_caller]
fn check(slice: &Value, expected: &[&str]) {
    let found: Vec<String> = validate(slice, None).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{slice}");
}

fn endpoint(changes: Value) -> Value {
    let mut endpoint = json!({"addresses": ["10.0.0.1"]});
    endpoint.as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
    json!({"addressType": "IPv4", "endpoints": [endpoint]})
}

#[test]
fn address_types() {
    check(&json!({}), &["addressType: Required value"]);
    check(
        &json!({"addressType": "IP"}),
        &["addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
}

#[test]
fn addresses() {
    let cases: [(&str, &str, &[&str]); 17] = [
        ("IPv4", "10.0.0.1", &[]),
        ("IPv6", "fd00::1", &[]),
        ("FQDN", "a.example.", &[]),
        ("IPv4", "web", &[&format!("endpoints[0].addresses[0]: Invalid value: \"web\": {IP}")]),
        ("IPv4", "fd00::1", &["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]),
        ("IPv6", "10.0.0.1", &["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"]),
        ("IPv4", "010.0.0.1", &["endpoints[0].addresses[0]: Invalid value: \"010.0.0.1\": must not have leading 0s"]),
        (
            "IPv6",
            "FD00::1",
            &["endpoints[0].addresses[0]: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")"],
        ),
        (
            "IPv6",
            "::ffff:10.0.0.1",
            &["endpoints[0].addresses[0]: Invalid value: \"::ffff:10.0.0.1\": must not be an IPv4-mapped IPv6 address"],
        ),
        (
            "IPv4",
            "127.0.0.1",
            &[
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
               ::1/128)",
            ],
        ),
        (
            "IPv6",
            "::1",
            &[
                "endpoints[0].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            "IPv4",
            "0.0.0.0",
            &["endpoints[0].addresses[0]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)"],
        ),
        (
            "IPv6",
            "fe80::1",
            &[
                "endpoints[0].addresses[0]: Invalid value: \"fe80::1\": may not be in the link-local range (169.254.0.0/16, \
               fe80::/10)",
            ],
        ),
        (
            "IPv4",
            "224.0.0.1",
            &["endpoints[0].addresses[0]: Invalid value: \"224.0.0.1\": may not be in the link-local multicast range \
               (224.0.0.0/24, ff02::/10)"],
        ),
        ("FQDN", "", &["endpoints[0].addresses[0]: Required value"]),
        ("FQDN", "A_b", &[&format!("endpoints[0].addresses[0]: Invalid value: \"A_b\": {SUBDOMAIN}")]),
        (
            "FQDN",
            "host",
            &[
                "endpoints[0].addresses[0]: Invalid value: \"host\": should be a domain with at least two segments separated by \
               dots",
            ],
        ),
    ];
    for (kind, address, expected) in cases {
        check(&json!({"addressType": kind, "endpoints": [{"addresses": [address]}]}), expected);
    }
    let long = "a".repeat(64);
    check(
        &json!({"addressType": "FQDN", "endpoints": [{"addresses": [format!("{long}.b")]}]}),
        &[&format!("endpoints[0].addresses[0]: Invalid value: \"{long}\": must be no more than 63 characters")],
    );
}

#[test]
fn how_many() {
    let many = |n: usize| vec![json!("10.0.0.1"); n];
    let hints = |n: usize, kind: &str| {
        endpoint(json!({"hints": {kind: (0..n).map(|i| json!({"name": format!("z{i}")})).collect::<Vec<_>>()}}))
    };
    let topology: serde_json::Map<String, Value> = (0..17).map(|i| (format!("l{i}"), json!("x"))).collect();
    let cases: [(Value, &[&str]); 9] = [
        (
            json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
            &["endpoints: Too many: 1001: must have at most 1000 items"],
        ),
        (
            endpoint(json!({"addresses": []})),
            &["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (
            endpoint(json!({"addresses": many(101)})),
            &["endpoints[0].addresses: Too many: 101: must have at most 100 items"],
        ),
        (endpoint(json!({"addresses": many(100)})), &[]),
        (
            json!({"addressType": "IPv4", "ports": vec![json!({}); 20_001]}),
            &["ports: Too many: 20001: must have at most 20000 items"],
        ),
        (hints(8, "forZones"), &[]),
        (hints(9, "forZones"), &["endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"]),
        (hints(9, "forNodes"), &["endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"]),
        (
            endpoint(json!({"deprecatedTopology": topology})),
            &["endpoints[0].deprecatedTopology: Too many: 17: must have at most 16 items"],
        ),
    ];
    for (slice, expected) in cases {
        check(&slice, expected);
    }
}

#[test]
fn the_rest_of_an_endpoint() {
    let cases: [(Value, &[&str]); 10] = [
        (
            json!({"nodeName": "node-1", "hostname": "web-0", "zone": "anything", "conditions": {"ready": true},
                   "targetRef": {"kind": "Pod"}, "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n.x"}]}}),
            &[],
        ),
        (json!({"nodeName": "N"}), &[&format!("endpoints[0].nodeName: Invalid value: \"N\": {SUBDOMAIN}")]),
        (json!({"nodeName": ""}), &[&format!("endpoints[0].nodeName: Invalid value: \"\": {SUBDOMAIN}")]),
        (json!({"hostname": "A"}), &[&format!("endpoints[0].hostname: Invalid value: \"A\": {LABEL}")]),
        (json!({"hostname": "a.b"}), &["endpoints[0].hostname: Invalid value: \"a.b\": must not contain dots"]),
        (
            json!({"deprecatedTopology": {"": "x"}}),
            &[
                "endpoints[0].deprecatedTopology: Invalid value: \"\": name part must be non-empty",
                "endpoints[0].deprecatedTopology: Invalid value: \"\": name part must consist of alphanumeric characters, \
                 '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            json!({"hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}),
            &["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"hints": {"forZones": [{"name": "-a"}]}}),
            &[
                "endpoints[0].hints.forZones[0].name: Invalid value: \"-a\": a valid label must be an empty string or consist \
               of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
               'MyValue',  or 'my_value',  or '12345', regex used for validation is \
               '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        (
            json!({"hints": {"forNodes": [{"name": "n"}, {"name": "n"}]}}),
            &["endpoints[0].hints.forNodes[1].name: Duplicate value: \"n\""],
        ),
        (
            json!({"hints": {"forNodes": [{"name": "N"}]}}),
            &[&format!("endpoints[0].hints.forNodes[0].name: Invalid value: \"N\": {SUBDOMAIN}")],
        ),
    ];
    for (changes, expected) in cases {
        check(&endpoint(changes), expected);
    }
}

#[test]
fn ports() {
    let cases: [(Value, &[&str]); 9] = [
        (json!([{"name": "", "protocol": "TCP", "port": 80}, {"name": "b", "protocol": "SCTP"}]), &[]),
        (json!([{"name": "", "protocol": "TCP", "port": 0}]), &[]),
        (json!([{"name": "A", "protocol": "TCP"}]), &[&format!("ports[0].name: Invalid value: \"A\": {LABEL}")]),
        (
            json!([{"name": "a.b", "protocol": "TCP"}]),
            &["ports[0].name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!([{"name": "", "protocol": "TCP"}, {"name": "", "protocol": "UDP"}]),
            &["ports[1].name: Duplicate value: \"\""],
        ),
        (
            json!([{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "TCP"}]),
            &["ports[1].name: Duplicate value: \"a\""],
        ),
        (json!([{"name": "a"}]), &["ports[0].protocol: Required value"]),
        (
            json!([{"name": "a", "protocol": "tcp"}]),
            &["ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            json!([{"name": "a", "protocol": "TCP", "appProtocol": "/x"}]),
            &["ports[0].appProtocol: Invalid value: \"/x\": prefix part must be non-empty"],
        ),
    ];
    for (ports, expected) in cases {
        check(&json!({"addressType": "IPv4", "ports": ports}), expected);
    }
}

#[test]
fn updates() {
    use crate::Context;
    let strategy = super::super::RESOURCE.strategy;
    let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
    let found = |new: &Value, old: &Value| -> Vec<String> {
        strategy.validate_update(&context, new, old).iter().map(ToString::to_string).collect()
    };
    let old = endpoint(json!({}));
    let mut other = old.clone();
    other["addressType"] = json!("IPv6");
    assert_eq!(found(&other, &old), ["addressType: Invalid value: \"IPv6\": field is immutable"]);
    let legacy = endpoint(json!({"addresses": ["010.0.0.1"]}));
    assert_eq!(found(&legacy, &legacy), Vec::<String>::new(), "untouched endpoints stay acceptable");
    assert_eq!(found(&legacy, &old).len(), 1);
}
