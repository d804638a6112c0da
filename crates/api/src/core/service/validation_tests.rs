//! Each rule with its exact words.

use super::*;
use crate::core::service::{defaults, validation_addresses};

const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                     end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// A good Service of a type, with these fields of its spec replaced (null removes).
fn service(kind: &str, changes: Value) -> Value {
    let mut spec = json!({
        "type": kind, "selector": {"app": "web"}, "ports": [{"port": 80}],
        "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    });
    let map = spec.as_object_mut().expect("a map");
    if kind == "ExternalName" {
        ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].iter().for_each(|field| drop(map.remove(*field)));
        map.insert("externalName".into(), json!("a.example"));
    }
    let mut object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    defaults::apply(&mut object);
    for (field, value) in changes.as_object().expect("a map") {
        match value {
            Value::Null => drop(object["spec"].as_object_mut().expect("a map").remove(field)),
            value => object["spec"][field.as_str()] = value.clone(),
        }
    }
    object
}

/// A port with everything defaulted.
fn port(changes: Value) -> Value {
    let mut port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
    port.as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
    port
}

fn texts_of(errors: Vec<field::Error>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(object: &Value, expected: &[&str]) {
    assert_eq!(texts_of(validate(object, None)), expected, "{}", object["spec"]);
}

#[test]
fn good_ones() {
    for kind in ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] {
        check(&service(kind, json!({})), &[]);
    }
    let good = [
        ("ClusterIP", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": null})),
        (
            "ClusterIP",
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6", "IPv4"],
                             "ipFamilyPolicy": "RequireDualStack"}),
        ),
        ("ClusterIP", json!({"selector": null})),
        ("ClusterIP", json!({"ports": [port(json!({"name": "a"})), port(json!({"name": "b", "protocol": "UDP"}))]})),
        ("ClusterIP", json!({"ports": [port(json!({"targetPort": "http", "appProtocol": "kubernetes.io/h2c"}))]})),
        ("ClusterIP", json!({"externalIPs": ["1.2.3.4"], "externalTrafficPolicy": "Local"})),
        (
            "ClusterIP",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}}),
        ),
        ("ClusterIP", json!({"trafficDistribution": "PreferSameNode", "internalTrafficPolicy": "Local"})),
        ("NodePort", json!({"ports": [port(json!({"nodePort": 30080})), ]})),
        (
            "NodePort",
            json!({"ports": [port(json!({"name": "a", "nodePort": 30053})),
                                      port(json!({"name": "b", "nodePort": 30053, "protocol": "UDP"}))]}),
        ),
        (
            "LoadBalancer",
            json!({"loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/8"], "loadBalancerClass": "a.b/c"}),
        ),
        ("LoadBalancer", json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100})),
        ("ExternalName", json!({"externalName": "harbor.example.", "ports": null})),
    ];
    for (kind, changes) in good {
        check(&service(kind, changes), &[]);
    }
}

#[test]
fn types() {
    let cases: [(&str, Value, &[&str]); 9] = [
        (
            "Other",
            json!({"internalTrafficPolicy": null}),
            &[
                "spec.type: Unsupported value: \"Other\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
               \"NodePort\"",
            ],
        ),
        ("ClusterIP", json!({"type": "", "internalTrafficPolicy": null}), &["spec.type: Required value"]),
        (
            "LoadBalancer",
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services"],
        ),
        (
            "NodePort",
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            "ExternalName",
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
            &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            "ExternalName",
            json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
            &[
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
                "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            ],
        ),
        ("ExternalName", json!({"externalName": null}), &["spec.externalName: Required value"]),
        ("ExternalName", json!({"externalName": "."}), &["spec.externalName: Required value"]),
        (
            "ExternalName",
            json!({"externalName": "a_b"}),
            &[&format!("spec.externalName: Invalid value: \"a_b\": {SUBDOMAIN}")],
        ),
    ];
    for (kind, changes, expected) in cases {
        check(&service(kind, changes), expected);
    }
}

#[test]
fn ports() {
    let range = "must be between 1 and 65535, inclusive";
    let protocols = "supported values: \"SCTP\", \"TCP\", \"UDP\"";
    let cases: [(Value, &[&str]); 20] = [
        (json!([]), &["spec.ports: Required value"]),
        (json!([{"port": 0}]), &[&format!("spec.ports[0].port: Invalid value: 0: {range}")]),
        (json!([{"port": 65536}]), &[&format!("spec.ports[0].port: Invalid value: 65536: {range}")]),
        (json!([{"port": -1}]), &[&format!("spec.ports[0].port: Invalid value: -1: {range}")]),
        (json!([{"protocol": "tcp"}]), &[&format!("spec.ports[0].protocol: Unsupported value: \"tcp\": {protocols}")]),
        (json!([{"protocol": ""}]), &["spec.ports[0].protocol: Required value"]),
        (json!([{"targetPort": 0}]), &[&format!("spec.ports[0].targetPort: Invalid value: 0: {range}")]),
        (json!([{"targetPort": 70000}]), &[&format!("spec.ports[0].targetPort: Invalid value: 70000: {range}")]),
        (
            json!([{"targetPort": "80"}]),
            &["spec.ports[0].targetPort: Invalid value: \"80\": must contain at least one letter (a-z)"],
        ),
        (
            json!([{"targetPort": "a--b"}]),
            &["spec.ports[0].targetPort: Invalid value: \"a--b\": must not contain consecutive hyphens"],
        ),
        (
            json!([{"targetPort": "-a"}]),
            &["spec.ports[0].targetPort: Invalid value: \"-a\": must not begin or end with a hyphen"],
        ),
        (
            json!([{"targetPort": "abcdefghijklmnop"}]),
            &["spec.ports[0].targetPort: Invalid value: \"abcdefghijklmnop\": must be no more than 15 characters"],
        ),
        (
            json!([{"targetPort": "a_b"}]),
            &[
                "spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters (a-z, 0-9), and \
               hyphens (-)",
            ],
        ),
        (json!([{"name": "A"}]), &[&format!("spec.ports[0].name: Invalid value: \"A\": {LABEL}")]),
        (json!([{"name": "a.b"}]), &["spec.ports[0].name: Invalid value: \"a.b\": must not contain dots"]),
        (json!([{"name": "a"}, {"port": 81}]), &["spec.ports[1].name: Required value"]),
        (json!([{"name": "a"}, {"name": "a", "port": 81}]), &["spec.ports[1].name: Duplicate value: \"a\""]),
        (
            json!([{"name": "a"}, {"name": "b"}]),
            &["spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\
               \"TargetPort\":0,\"NodePort\":0}"],
        ),
        (
            json!([{"appProtocol": "a b"}]),
            &[&format!("spec.ports[0].appProtocol: Invalid value: \"a b\": name part {NAME}")],
        ),
        (
            json!([{"nodePort": 30080}]),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
    ];
    for (ports, expected) in cases {
        let ports: Vec<Value> = ports.as_array().expect("a list").iter().cloned().map(port).collect();
        check(&service("ClusterIP", json!({"ports": ports})), expected);
    }
    let twice = json!([
        port(json!({"name": "a", "nodePort": 30080})),
        port(json!({"name": "b", "port": 81, "nodePort": 30080}))
    ]);
    check(&service("NodePort", json!({"ports": twice})), &["spec.ports[1].nodePort: Duplicate value: 30080"]);
}

#[test]
fn selectors_and_affinity() {
    const WHEN: &str = "Required value: when session affinity type is ClientIP";
    let affinity = |config: Value| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
    let cases: [(Value, &[&str]); 9] = [
        (json!({"selector": {"a b": "c"}}), &[&format!("spec.selector: Invalid value: \"a b\": name part {NAME}")]),
        (json!({"sessionAffinity": ""}), &["spec.sessionAffinity: Required value"]),
        (
            json!({"sessionAffinity": "Cookie"}),
            &["spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\""],
        ),
        (
            json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            &["spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None"],
        ),
        (affinity(Value::Null), &[&format!("spec.sessionAffinityConfig: {WHEN}")]),
        (affinity(json!({})), &[&format!("spec.sessionAffinityConfig.clientIP: {WHEN}")]),
        (affinity(json!({"clientIP": {}})), &[&format!("spec.sessionAffinityConfig.clientIP.timeoutSeconds: {WHEN}")]),
        (
            affinity(json!({"clientIP": {"timeoutSeconds": 0}})),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ],
        ),
        (
            affinity(json!({"clientIP": {"timeoutSeconds": 86401}})),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than \
               86400",
            ],
        ),
    ];
    for (changes, expected) in cases {
        check(&service("ClusterIP", changes), expected);
    }
}

#[test]
fn cluster_ips() {
    let ips = |ips: Value| json!({"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": null, "ipFamilyPolicy": null});
    let cases: [(Value, &[&str]); 17] = [
        (ips(json!(["10.0.0.256"])), &[&format!("spec.clusterIPs[0]: Invalid value: \"10.0.0.256\": {IP}")]),
        (ips(json!(["010.0.0.1"])), &["spec.clusterIPs[0]: Invalid value: \"010.0.0.1\": must not have leading 0s"]),
        (
            ips(json!(["::ffff:1.2.3.4"])),
            &["spec.clusterIPs[0]: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address"],
        ),
        (
            ips(json!(["None", "10.0.0.1"])),
            &["spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.1\"]: 'None' must be the first and only value"],
        ),
        (ips(json!(["10.0.0.1", "None"])), &[&format!("spec.clusterIPs[1]: Invalid value: \"None\": {IP}")]),
        (
            ips(json!(["10.0.0.1", "10.0.0.2"])),
            &[
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            ],
        ),
        (
            ips(json!(["10.0.0.1", "fd00::1", "10.0.0.2"])),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"fd00::1\",\"10.0.0.2\"]: may only hold up to 2 values"],
        ),
        (json!({"clusterIPs": null}), &["spec.clusterIPs: Required value"]),
        (
            json!({"clusterIP": "10.0.0.2"}),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: first value must match `clusterIP`"],
        ),
        (
            json!({"clusterIP": null}),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"],
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ],
        ),
        (
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            &["spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`"],
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv9"]}),
            &["spec.ipFamilies[1]: Unsupported value: \"IPv9\": supported values: \"IPv4\", \"IPv6\""],
        ),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), &["spec.ipFamilies[1]: Duplicate value: \"IPv4\""]),
        (
            json!({"ipFamilyPolicy": "Dual"}),
            &["spec.ipFamilyPolicy: Unsupported value: \"Dual\": supported values: \"PreferDualStack\", \
               \"RequireDualStack\", \"SingleStack\""],
        ),
        (ips(json!(["10.0.0.1", ""])), &[&format!("spec.clusterIPs[1]: Invalid value: \"\": {IP}")]),
        (json!({"clusterIP": null, "clusterIPs": null}), &[]),
    ];
    for (changes, expected) in cases {
        check(&service("ClusterIP", changes), expected);
    }
}

#[test]
fn external_ips() {
    let cases: [(&str, &[&str]); 7] = [
        ("1.2.3.4", &[]),
        ("web", &[&format!("spec.externalIPs[0]: Invalid value: \"web\": {IP}")]),
        ("0.0.0.0", &["spec.externalIPs[0]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)"]),
        (
            "127.0.0.1",
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            "169.254.0.1",
            &[
                "spec.externalIPs[0]: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, \
               fe80::/10)",
            ],
        ),
        (
            "224.0.0.1",
            &[
                "spec.externalIPs[0]: Invalid value: \"224.0.0.1\": may not be in the link-local multicast range (224.0.0.0/24, \
               ff02::/10)",
            ],
        ),
        ("01.2.3.4", &["spec.externalIPs[0]: Invalid value: \"01.2.3.4\": must not have leading 0s"]),
    ];
    for (ip, expected) in cases {
        check(&service("NodePort", json!({"externalIPs": [ip]})), expected);
    }
    let kept = service("NodePort", json!({"externalIPs": ["01.2.3.4"]}));
    assert_eq!(texts_of(validate(&kept, Some(&kept))), Vec::<String>::new(), "what was accepted stays acceptable");
}

#[test]
fn load_balancer_fields() {
    let only = "Forbidden: may only be used when `type` is 'LoadBalancer'";
    let cases: [(&str, Value, &[&str]); 9] = [
        (
            "ClusterIP",
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            &[&format!("spec.LoadBalancerSourceRanges: {only}")],
        ),
        (
            "LoadBalancer",
            json!({"loadBalancerSourceRanges": ["10.0.0.0"]}),
            &[
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
               2001:db8::/64)",
            ],
        ),
        (
            "LoadBalancer",
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1/8"]}),
            &[
                "spec.LoadBalancerSourceRanges[1]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ],
        ),
        (
            "NodePort",
            json!({"allocateLoadBalancerNodePorts": true}),
            &[&format!("spec.allocateLoadBalancerNodePorts: {only}")],
        ),
        (
            "LoadBalancer",
            json!({"allocateLoadBalancerNodePorts": null}),
            &["allocateLoadBalancerNodePorts: Required value"],
        ),
        ("NodePort", json!({"loadBalancerClass": "a"}), &[&format!("spec.loadBalancerClass: {only}")]),
        (
            "LoadBalancer",
            json!({"loadBalancerClass": "a b"}),
            &[&format!("spec.loadBalancerClass: Invalid value: \"a b\": name part {NAME}")],
        ),
        (
            "LoadBalancer",
            json!({"loadBalancerClass": ""}),
            &[
                "spec.loadBalancerClass: Invalid value: \"\": name part must be non-empty",
                &format!("spec.loadBalancerClass: Invalid value: \"\": name part {NAME}"),
            ],
        ),
        ("LoadBalancer", json!({"loadBalancerIP": "anything"}), &[]),
    ];
    for (kind, changes, expected) in cases {
        check(&service(kind, changes), expected);
    }
}

#[test]
fn annotations() {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotated = |kind: &str, annotations: Value| {
        let mut object = service(kind, json!({}));
        object["metadata"]["annotations"] = annotations;
        object
    };
    check(&annotated("LoadBalancer", json!({RANGES: "10.0.0.0/8, 11.0.0.0/8"})), &[]);
    check(&annotated("LoadBalancer", json!({RANGES: " "})), &[]);
    check(
        &annotated("LoadBalancer", json!({RANGES: "10.0.0.0/8,"})),
        &[
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"\": must be a valid \
           CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    let elsewhere = annotated("ClusterIP", json!({RANGES: "x"}));
    let forbidden = "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used \
                     when `type` is 'LoadBalancer'";
    assert_eq!(texts_of(validate(&elsewhere, Some(&elsewhere))), [forbidden], "an old value is not looked at again");
    check(
        &annotated(
            "ClusterIP",
            json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "Disabled"}),
        ),
        &["metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match \
           annotations[service.kubernetes.io/topology-aware-hints] when both are specified"],
    );
}

#[test]
fn traffic_policies() {
    let health = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
    let cases: [(&str, Value, &[&str]); 11] = [
        (
            "ClusterIP",
            json!({"externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            "NodePort",
            json!({"externalTrafficPolicy": "Global"}),
            &["spec.externalTrafficPolicy: Unsupported value: \"Global\": supported values: \"Cluster\", \"Local\""],
        ),
        ("NodePort", json!({"externalTrafficPolicy": null}), &["spec.externalTrafficPolicy: Required value"]),
        (
            "NodePort",
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100}),
            &[&format!("spec.healthCheckNodePort: Invalid value: 30100: {health}")],
        ),
        (
            "LoadBalancer",
            json!({"healthCheckNodePort": 30100}),
            &[&format!("spec.healthCheckNodePort: Invalid value: 30100: {health}")],
        ),
        ("LoadBalancer", json!({"externalTrafficPolicy": "Local"}), &["spec.healthCheckNodePort: Required value"]),
        (
            "LoadBalancer",
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 70000}),
            &["spec.healthCheckNodePort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        ("ClusterIP", json!({"internalTrafficPolicy": null}), &["spec.internalTrafficPolicy: Required value"]),
        (
            "ClusterIP",
            json!({"internalTrafficPolicy": "Node"}),
            &["spec.internalTrafficPolicy: Unsupported value: \"Node\": supported values: \"Cluster\", \"Local\""],
        ),
        (
            "ClusterIP",
            json!({"trafficDistribution": "Near"}),
            &[
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameZone\", \
               \"PreferSameNode\"",
            ],
        ),
        ("ExternalName", json!({"internalTrafficPolicy": "Cluster"}), &[]),
    ];
    for (kind, changes, expected) in cases {
        check(&service(kind, changes), expected);
    }
}

#[test]
fn changes() {
    const DUAL: fn() -> Value = || {
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
               "ipFamilyPolicy": "RequireDualStack"})
    };
    let with = |mut base: Value, field: &str, value: Value| {
        base[field] = value;
        base
    };
    let local = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100});
    let class = |class: &str| json!({"loadBalancerClass": class});
    let cases: [(&str, Value, &str, Value, &[&str]); 19] = [
        ("ClusterIP", json!({}), "ClusterIP", json!({}), &[]),
        (
            "ClusterIP",
            json!({}),
            "ClusterIP",
            json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}),
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        ),
        (
            "ClusterIP",
            json!({}),
            "NodePort",
            json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}),
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        ),
        (
            "ClusterIP",
            json!({}),
            "ClusterIP",
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            &["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
        ),
        (
            "ClusterIP",
            json!({}),
            "ClusterIP",
            json!({"clusterIP": null, "clusterIPs": null}),
            &["spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"],
        ),
        ("ClusterIP", json!({}), "ExternalName", json!({}), &[]),
        ("ExternalName", json!({}), "ClusterIP", json!({}), &[]),
        ("ClusterIP", json!({}), "ClusterIP", DUAL(), &[]),
        (
            "ClusterIP",
            json!({}),
            "ClusterIP",
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6", "IPv4"],
                   "ipFamilyPolicy": "RequireDualStack"}),
            &[
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\",\"10.0.0.1\"]: may not change once set",
                "spec.ipFamilies[0]: Invalid value: [\"fd00::1\",\"10.0.0.1\"]: may not change once set",
            ],
        ),
        ("ClusterIP", DUAL(), "ClusterIP", json!({}), &[]),
        (
            "ClusterIP",
            DUAL(),
            "ClusterIP",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            &[
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
                 secondary clusterIP",
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
                 secondary ipFamily",
            ],
        ),
        (
            "ClusterIP",
            DUAL(),
            "ClusterIP",
            with(DUAL(), "clusterIPs", json!(["10.0.0.1", "fd00::2"])),
            &["spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: may not change once set"],
        ),
        (
            "ClusterIP",
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            "ClusterIP",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"]}),
            &[],
        ),
        (
            "LoadBalancer",
            class("a/b"),
            "LoadBalancer",
            class("c/d"),
            &["spec.loadBalancerClass: Invalid value: \"c/d\": may not change once set"],
        ),
        (
            "LoadBalancer",
            json!({}),
            "LoadBalancer",
            class("c/d"),
            &["spec.loadBalancerClass: Invalid value: \"c/d\": may not change once set"],
        ),
        ("ClusterIP", json!({}), "LoadBalancer", class("c/d"), &[]),
        ("LoadBalancer", local.clone(), "LoadBalancer", local.clone(), &[]),
        (
            "LoadBalancer",
            local.clone(),
            "LoadBalancer",
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30101}),
            &["spec.healthCheckNodePort: Forbidden: field is immutable"],
        ),
        ("LoadBalancer", local, "LoadBalancer", json!({}), &[]),
    ];
    for (old_kind, old, new_kind, new, expected) in cases {
        let (old, new) = (service(old_kind, old), service(new_kind, new));
        let mut errors = validation_addresses::validate_change(&new, &old);
        errors.extend(validate_change(&new, &old));
        assert_eq!(texts_of(errors), expected, "{} to {}", old["spec"], new["spec"]);
    }
}

#[test]
fn statuses() {
    let ingress = |ingress: Value| json!([ingress]);
    let cases: [(&str, Value, &[&str]); 10] = [
        ("LoadBalancer", ingress(json!({"ip": "1.2.3.4", "ipMode": "VIP"})), &[]),
        ("LoadBalancer", ingress(json!({"hostname": "lb.example"})), &[]),
        (
            "ClusterIP",
            ingress(json!({"ip": "1.2.3.4", "ipMode": "VIP"})),
            &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
        ),
        (
            "LoadBalancer",
            ingress(json!({"ip": "1.2.3"})),
            &[
                &format!("status.loadBalancer.ingress[0].ip: Invalid value: \"1.2.3\": {IP}"),
                "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
            ],
        ),
        (
            "LoadBalancer",
            ingress(json!({"hostname": "a", "ipMode": "VIP"})),
            &["status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set"],
        ),
        (
            "LoadBalancer",
            ingress(json!({"ip": "1.2.3.4", "ipMode": "Direct"})),
            &[
                "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Direct\": supported values: \"Proxy\", \"VIP\"",
            ],
        ),
        (
            "LoadBalancer",
            ingress(json!({"hostname": "a_b"})),
            &[&format!("status.loadBalancer.ingress[0].hostname: Invalid value: \"a_b\": {SUBDOMAIN}")],
        ),
        (
            "LoadBalancer",
            ingress(json!({"hostname": "1.2.3.4"})),
            &[
                "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ],
        ),
        ("ClusterIP", json!([]), &[]),
        (
            "LoadBalancer",
            ingress(json!({"ip": "01.2.3.4", "ipMode": "VIP"})),
            &["status.loadBalancer.ingress[0].ip: Invalid value: \"01.2.3.4\": must not have leading 0s"],
        ),
    ];
    for (kind, ingress, expected) in cases {
        let old = service(kind, json!({}));
        let mut new = old.clone();
        new["status"] = json!({"loadBalancer": {"ingress": ingress}});
        assert_eq!(texts_of(validate_status(&new, &old)), expected, "{}", new["status"]);
    }
}
