//! The rules of Pods, by table.

use super::*;

fn context(subresource: &'static str) -> Context {
    Context { now: jiff::Timestamp::UNIX_EPOCH, subresource }
}

/// A good Pod with these fields of its spec replaced.
fn pod(changes: Value) -> Value {
    let mut object = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "web"}], "volumes": [{"name": "v"}],
    }});
    object["spec"].as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
    Pod.default(&mut object);
    object
}

/// A good Pod whose container has these fields too.
fn with_container(changes: Value) -> Value {
    let mut container = json!({"name": "c", "image": "web"});
    container.as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
    pod(json!({"containers": [container]}))
}

fn texts(errors: Vec<field::Error>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(object: &Value, expected: &[&str]) {
    assert_eq!(texts(Pod.validate(object)), expected, "{}", object["spec"]);
}

#[test]
fn a_new_pod_is_pending_and_admitted() {
    let mut object = pod(json!({}));
    object["status"] = json!({"phase": "Running"});
    Pod.prepare_for_create(&context(""), &mut object);
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["spec"]["serviceAccountName"], "default");
    let expected = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
    ]);
    assert_eq!(object["spec"]["tolerations"], expected);
    check(&object, &[]);
    let mut all = pod(json!({"tolerations": [{"operator": "Exists"}], "serviceAccountName": "own"}));
    Pod.prepare_for_create(&context(""), &mut all);
    assert_eq!(all["spec"]["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(all["spec"]["serviceAccountName"], "own");
}

#[test]
fn specs() {
    const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                         and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let cases: [(Value, &[&str]); 22] = [
        (json!({}), &[]),
        (json!({"containers": []}), &["spec.containers: Required value"]),
        (
            json!({"restartPolicy": "Sometimes"}),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"dnsPolicy": "First"}),
            &[
                "spec.dnsPolicy: Unsupported value: \"First\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \
               \"Default\", \"None\"",
            ],
        ),
        (
            json!({"dnsPolicy": "None"}),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {}}),
            &[
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ],
        ),
        (
            json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
            &[
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have \
               more than 3 nameservers",
            ],
        ),
        (json!({"dnsConfig": {"searches": ["_tcp.a_b.example.", "."]}}), &[]),
        (
            json!({"dnsConfig": {"options": [{"value": "2"}]}}),
            &["spec.dnsConfig.options[0]: Required value: must not be empty"],
        ),
        (json!({"os": {}}), &["spec.os.name: Required value"]),
        (
            json!({"hostUsers": false, "hostNetwork": true, "hostPID": true}),
            &[
                "spec.hostNetwork: Forbidden: when `hostUsers` is false",
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ],
        ),
        (
            json!({"volumes": [{"name": "v", "downwardAPI": {"defaultMode": 420, "items": [
                {"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nope"}},
                {"path": "q", "fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
                {"path": "r"},
                {"path": "s", "resourceFieldRef": {"resource": "limits.cpu"}}]}}]}),
            &[
                "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: \
                 field label not supported: spec.nope",
                "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                "spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value",
            ],
        ),
        (json!({"hostname": "A"}), &[&format!("spec.hostname: Invalid value: \"A\": {LABEL}")]),
        (json!({"subdomain": "a.b"}), &["spec.subdomain: Invalid value: \"a.b\": must not contain dots"]),
        (
            json!({"activeDeadlineSeconds": 0}),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            &[
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            &["spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"],
        ),
        (
            json!({"tolerations": [{"value": "b"}]}),
            &[
                "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
               \"match all values and all keys\"",
            ],
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "image": "x"}]}),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            json!({"nodeName": "n", "schedulingGates": [{"name": "a"}]}),
            &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
        (json!({"volumes": [{"name": "a"}, {"name": "a"}]}), &["spec.volumes[1].name: Duplicate value: \"a\""]),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}, {"name": "b", "secret": {}},
                               {"name": "c", "hostPath": {"path": "/a/.."}}, {"name": "d", "configMap": {"name": "x", "defaultMode": 512}}]}),
            &[
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].secret.secretName: Required value",
                "spec.volumes[2].hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
                "spec.volumes[3].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both \
                 inclusive",
            ],
        ),
    ];
    for (changes, expected) in cases {
        check(&pod(changes), expected);
    }
}

#[test]
fn containers() {
    const C: &str = "spec.containers[0]";
    let at = |rest: &str| format!("{C}.{rest}");
    let probe = |extra: Value| json!({"livenessProbe": extra});
    let cases: Vec<(Value, Vec<String>)> = vec![
        (json!({"image": ""}), vec![at("image: Required value")]),
        (
            json!({"image": " web"}),
            vec![at("image: Invalid value: \" web\": must not have leading or trailing whitespace")],
        ),
        (json!({"name": ""}), vec![at("name: Required value")]),
        (
            json!({"imagePullPolicy": "Maybe"}),
            vec![at(
                "imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            )],
        ),
        (
            json!({"terminationMessagePolicy": "Log"}),
            vec![at("terminationMessagePolicy: Unsupported value: \"Log\": supported values: \"File\", \
                     \"FallbackToLogsOnError\"")],
        ),
        (json!({"ports": [{}]}), vec![at("ports[0].containerPort: Required value")]),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            vec![at("ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive")],
        ),
        (
            json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]}),
            vec![at("ports[1].name: Duplicate value: \"a\"")],
        ),
        (
            json!({"ports": [{"containerPort": 80, "name": "80"}]}),
            vec![at("ports[0].name: Invalid value: \"80\": must contain at least one letter (a-z)")],
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}]}),
            vec![at("ports[1].hostPort: Duplicate value: \"TCP//8080\"")],
        ),
        (json!({"env": [{"value": "x"}]}), vec![at("env[0].name: Required value")]),
        (json!({"env": [{"name": "1.any thing"}]}), vec![]),
        (
            json!({"env": [{"name": "a=b"}]}),
            vec![at(
                "env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable \
                     ASCII characters other than '='",
            )],
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}),
            vec![at("env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            vec![at("env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
                     `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")],
        ),
        (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}), vec![]),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.x"}}}]}),
            vec![at("env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.x\": supported values: \
                     \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \
                     \"requests.ephemeral-storage\", \"requests.memory\"")],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.color"}}}]}),
            vec![at(
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.color\": error converting fieldPath: field \
                     label not supported: spec.color",
            )],
        ),
        (
            json!({"envFrom": [{}]}),
            vec![at("envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`")],
        ),
        (json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}), vec![]),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
            vec![at("volumeMounts[0].name: Not found: \"w\"")],
        ),
        (json!({"volumeMounts": [{"name": "v"}]}), vec![at("volumeMounts[0].mountPath: Required value")]),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
            vec![at("volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique")],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/b"}]}),
            vec![at("volumeMounts.subPath: Invalid value: \"/b\": must be a relative path")],
        ),
        (probe(json!({})), vec![at("livenessProbe: Required value: must specify a handler type")]),
        (
            probe(json!({"exec": {"command": ["x"]}, "httpGet": {"port": 80}})),
            vec![at("livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type")],
        ),
        (
            probe(json!({"httpGet": {"port": 0}})),
            vec![at("livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive")],
        ),
        (probe(json!({"exec": {}})), vec![at("livenessProbe.exec.command: Required value")]),
        (
            probe(json!({"tcpSocket": {"port": 80}, "successThreshold": 2})),
            vec![at("livenessProbe.successThreshold: Invalid value: 2: must be 1")],
        ),
        (
            probe(json!({"tcpSocket": {"port": 80}, "periodSeconds": -1})),
            vec![at("livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0")],
        ),
        (json!({"readinessProbe": {"tcpSocket": {"port": "http"}, "successThreshold": 2}}), vec![]),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            vec![at("lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
                     terminationGracePeriodSeconds (30)")],
        ),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            vec![at("resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1")],
        ),
        (
            json!({"resources": {"limits": {"memory": "-1"}}}),
            vec![
                at("resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"),
                at("resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"),
            ],
        ),
    ];
    for (changes, expected) in cases {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(&with_container(changes), &expected);
    }
}

#[test]
fn init_containers() {
    let object = pod(json!({"initContainers": [
        {"name": "c", "image": "x"},
        {"name": "i", "image": "x", "readinessProbe": {"tcpSocket": {"port": 80}}},
        {"name": "s", "image": "x", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": 80}}},
    ]}));
    check(
        &object,
        &[
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[1].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
}

#[test]
fn updates() {
    let old = pod(json!({"tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 100}));
    let change = |edit: fn(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new["spec"]);
        new
    };
    const OTHER: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
        `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
        tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let other = |what: &str| format!("{OTHER}\nchanged: {what}");
    let cases: Vec<(Value, Vec<String>)> = vec![
        (change(|spec| spec["containers"][0]["image"] = json!("other")), vec![]),
        (change(|spec| spec["activeDeadlineSeconds"] = json!(50)), vec![]),
        (
            change(|spec| {
                spec["tolerations"] = json!([{"key": "b", "operator": "Exists"}, {"key": "a", "operator": "Exists"}])
            }),
            vec![],
        ),
        (change(|spec| spec["containers"][0]["command"] = json!(["x"])), vec![other("spec.containers")]),
        (
            change(|spec| {
                spec["hostname"] = json!("h");
                spec["terminationGracePeriodSeconds"] = json!(1);
            }),
            vec![other("spec.hostname, spec.terminationGracePeriodSeconds")],
        ),
        (
            change(|spec| {
                spec["containers"] = json!([spec["containers"][0], {"name": "d", "image": "x",
                "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}])
            }),
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers".to_owned()],
        ),
        (
            change(|spec| spec["activeDeadlineSeconds"] = json!(200)),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"
                    .to_owned(),
            ],
        ),
        (
            change(|spec| spec["activeDeadlineSeconds"] = json!(null)),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
                    .to_owned(),
            ],
        ),
        (
            change(|spec| spec["tolerations"] = json!([])),
            vec![
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
                    .to_owned(),
            ],
        ),
        (
            change(|spec| spec["schedulingGates"] = json!([{"name": "g"}])),
            vec![
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"
                    .to_owned(),
            ],
        ),
    ];
    for (new, expected) in cases {
        assert_eq!(texts(Pod.validate_update(&context(""), &new, &old)), expected, "{}", new["spec"]);
    }
}

#[test]
fn spec_and_status_have_their_own_doors() {
    let mut old = pod(json!({}));
    old["metadata"] = json!({"name": "p", "generation": 3, "ownerReferences": [{"uid": "u"}]});
    old["status"] = json!({"phase": "Pending", "qosClass": "BestEffort", "observedGeneration": 2,
        "conditions": [{"type": "Ready", "status": "False", "observedGeneration": 2}]});
    let mut asked = old.clone();
    asked["spec"]["containers"][0]["image"] = json!("new");
    asked["metadata"]["ownerReferences"] = json!([]);
    asked["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});

    let mut new = asked.clone();
    Pod.prepare_for_update(&context(""), &mut new, &old);
    assert_eq!((&new["status"], &new["metadata"]["generation"]), (&old["status"], &json!(4)));

    let mut new = asked;
    Pod.prepare_for_update(&context("status"), &mut new, &old);
    assert_eq!((&new["spec"], &new["metadata"]), (&old["spec"], &old["metadata"]));
    assert_eq!(
        new["status"],
        json!({"phase": "Running", "qosClass": "BestEffort", "observedGeneration": 2,
               "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]})
    );
    assert!(Pod.validate_update(&context("status"), &new, &old).is_empty());
}

#[test]
fn what_has_ended_stays_ended() {
    let ended = |code: i64| json!({"name": "c", "state": {"terminated": {"exitCode": code}}});
    let cases = [("Always", 0, true), ("OnFailure", 1, true), ("OnFailure", 0, false), ("Never", 1, false)];
    for (policy, code, allowed) in cases {
        let old = json!({"spec": {"restartPolicy": policy}, "status": {"containerStatuses": [ended(code)]}});
        let mut new = old.clone();
        new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
        let errors = texts(Pod.validate_update(&context("status"), &new, &old));
        let expected = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
        assert_eq!(errors, if allowed { vec![] } else { vec![expected] }, "{policy} {code}");
    }
}

#[test]
fn grace_periods() {
    let pod = |node: &str, phase: &str, period: i64| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": period}, "status": {"phase": phase}});
    let cases = [
        (pod("n", "Running", 30), None, 30),
        (pod("n", "Running", 5), None, 5),
        (pod("n", "Running", 30), Some(0), 0),
        (pod("n", "Running", 30), Some(7), 7),
        (pod("n", "Running", -3), None, 1),
        (pod("", "Pending", 30), None, 0),
        (pod("", "Pending", 30), Some(9), 0),
        (pod("n", "Succeeded", 30), None, 0),
        (pod("n", "Failed", 30), Some(9), 0),
    ];
    for (object, requested, expected) in cases {
        assert_eq!(Pod.grace_period(&object, requested), expected, "{object} {requested:?}");
    }
}

#[test]
fn field_labels() {
    let object = json!({"spec": {"nodeName": "n", "restartPolicy": "Never", "hostNetwork": true},
                        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    let cases = [
        ("spec.nodeName", "n"),
        ("spec.restartPolicy", "Never"),
        ("spec.hostNetwork", "true"),
        ("status.phase", "Running"),
        ("status.podIP", "10.0.0.1"),
        ("status.podIPs", "10.0.0.1"),
        ("spec.schedulerName", ""),
    ];
    for (label, expected) in cases {
        assert_eq!(Pod.field(&object, label), expected, "{label}");
    }
    assert_eq!(Pod.field(&json!({}), "spec.hostNetwork"), "false");
}

#[test]
fn names_that_make_odd_hostnames() {
    let warnings = Pod.warnings(&json!({"metadata": {"name": "a.b"}}), None);
    assert_eq!(
        warnings,
        ["metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
          recommended: [must not contain dots]"]
    );
}
