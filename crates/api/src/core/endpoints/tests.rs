//! Each rule with its exact words.

use serde_json::json;

use super::*;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                     end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

fn subsets(addresses: Value, ports: Value) -> Value {
    json!({"subsets": [{"addresses": addresses, "ports": ports}]})
}

#[test]
fn ports_are_tcp_by_default() {
    let mut object = subsets(json!([]), json!([{"port": 1}, {"port": 2, "protocol": "UDP"}]));
    Endpoints.default(&mut object);
    let expected = json!([{"port": 1, "protocol": "TCP"}, {"port": 2, "protocol": "UDP"}]);
    assert_eq!(object["subsets"][0]["ports"], expected);
}

#[test]
fn mistakes() {
    let ok = json!([{"ip": "10.0.0.1"}]);
    let port = |extra: Value| {
        let mut port = json!({"port": 80, "protocol": "TCP"});
        port.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        json!([port])
    };
    const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let cases: [(Value, &[&str]); 21] = [
        (json!({}), &[]),
        (subsets(ok.clone(), json!([])), &[]),
        (subsets(ok.clone(), port(json!({"name": "http", "appProtocol": "http"}))), &[]),
        (json!({"subsets": [{"notReadyAddresses": [{"ip": "fd00::1", "hostname": "a", "nodeName": "n.x"}]}]}), &[]),
        (json!({"subsets": [{}]}), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        (
            subsets(json!([{"ip": "web"}]), json!([])),
            &[
                &format!("subsets[0].addresses[0].ip: Invalid value: \"web\": {IP}"),
                "subsets[0].addresses[0].ip: Invalid value: \"web\": must be a valid IP address",
            ],
        ),
        (
            subsets(json!([{"ip": "010.0.0.1"}]), json!([])),
            &["subsets[0].addresses[0].ip: Invalid value: \"010.0.0.1\": must not have leading 0s"],
        ),
        (
            subsets(json!([{"ip": "::ffff:10.0.0.1"}]), json!([])),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"::ffff:10.0.0.1\": must not be an IPv4-mapped IPv6 address",
            ],
        ),
        (
            subsets(json!([{"ip": "127.0.0.1"}]), json!([])),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
               ::1/128)",
            ],
        ),
        (
            subsets(json!([{"ip": "0.0.0.0"}]), json!([])),
            &["subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)"],
        ),
        (
            subsets(json!([{"ip": "169.254.169.254"}]), json!([])),
            &["subsets[0].addresses[0].ip: Invalid value: \"169.254.169.254\": may not be in the link-local range \
               (169.254.0.0/16, fe80::/10)"],
        ),
        (
            subsets(json!([{"ip": "224.0.0.9"}]), json!([])),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"224.0.0.9\": may not be in the link-local multicast range \
               (224.0.0.0/24, ff02::/10)",
            ],
        ),
        (
            subsets(json!([{"ip": "10.0.0.1", "hostname": "A"}]), json!([])),
            &[&format!("subsets[0].addresses[0].hostname: Invalid value: \"A\": {LABEL}")],
        ),
        (
            json!({"subsets": [{"notReadyAddresses": [{"ip": "10.0.0.1", "hostname": "a.b"}]}]}),
            &["subsets[0].notReadyAddresses[0].hostname: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            subsets(json!([{"ip": "10.0.0.1", "nodeName": "N"}]), json!([])),
            &[
                "subsets[0].addresses[0].nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain must consist of lower \
               case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
               'example.com', regex used for validation is \
               '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            subsets(ok.clone(), port(json!({"port": 0}))),
            &["subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        ),
        (
            subsets(ok.clone(), port(json!({"protocol": "HTTP"}))),
            &[
                "subsets[0].ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (subsets(ok.clone(), port(json!({"protocol": ""}))), &["subsets[0].ports[0].protocol: Required value"]),
        (
            subsets(ok.clone(), port(json!({"name": "a.b"}))),
            &["subsets[0].ports[0].name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            subsets(ok.clone(), json!([{"port": 1, "protocol": "TCP", "name": "a"}, {"port": 2, "protocol": "TCP"}])),
            &["subsets[0].ports[1].name: Required value"],
        ),
        (
            subsets(ok, port(json!({"appProtocol": "/a"}))),
            &["subsets[0].ports[0].appProtocol: Invalid value: \"/a\": prefix part must be non-empty"],
        ),
    ];
    for (object, expected) in cases {
        let found: Vec<String> = Endpoints.validate(&object).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{object}");
    }
}

#[test]
fn what_was_accepted_stays_until_touched() {
    let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
    let old = subsets(json!([{"ip": "010.0.0.1"}]), json!([]));
    let mut new = old.clone();
    new["metadata"] = json!({"labels": {"a": "b"}});
    assert!(Endpoints.validate_update(&context, &new, &old).is_empty());
    new["subsets"][0]["addresses"] = json!([{"ip": "010.0.0.1"}, {"ip": "10.0.0.2"}]);
    assert_eq!(Endpoints.validate_update(&context, &new, &old).len(), 1);
}

#[test]
fn warnings() {
    const DEPRECATION: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    let mut object =
        json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "FD00::1"}]}]});
    let odd = "subsets[0].notReadyAddresses[0].ip: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
    assert_eq!(Endpoints.warnings(&object, None), [odd]);
    object["metadata"] = json!({"labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}});
    assert!(Endpoints.warnings(&object, None).is_empty());
    assert_eq!(Endpoints.deprecation(), Some(DEPRECATION));
}

#[test]
fn rows() {
    let address = |n: u8| json!({"ip": format!("10.0.0.{n}")});
    let cases = [
        (json!({}), "<none>"),
        (json!({"subsets": [{"notReadyAddresses": [address(1)], "ports": [{"port": 80}]}]}), ""),
        (subsets(json!([address(1), address(2)]), json!([])), "10.0.0.1,10.0.0.2"),
        (subsets(json!([{"ip": "fd00::1"}]), json!([{"port": 80}])), "[fd00::1]:80"),
        (
            subsets(json!([address(1), address(2), address(3)]), json!([{"port": 80}])),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80",
        ),
        (
            subsets(json!([address(1), address(2)]), json!([{"port": 80}, {"port": 81}])),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...",
        ),
    ];
    for (object, expected) in cases {
        assert_eq!(Endpoints.cells(&object, jiff::Timestamp::UNIX_EPOCH)[1], expected);
    }
}
