//! A system's beginning and end: however it ends nothing is left, the next `up` has every object back, and mistakes are
//! answered with what is wrong and what to do.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{Kind, Outcome, System, eventually, shell};

use crate::{MYAPP, PORTOLAN};

#[test]
fn nothing_is_left_and_everything_comes_back() {
    let mut system = System::new(PORTOLAN);
    let running = system.start_in_foreground(&["-f", MYAPP]);
    system.step("up in the foreground");
    let objects = identities(&system);
    answers(&system);

    running.signal(Signal::SIGINT);
    let (status, said) = running.end();
    assert!(status.success(), "{status}: {said}");
    system.assert_nothing_left();
    system.step("Ctrl-C");
    for heading in
        ["SERVICE", "default/myapp-nodeport", "80:31234/TCP", "3/3", "myapp.default.svc.cluster.local", "ready after"]
    {
        assert!(said.contains(heading), "no {heading:?} in:\n{said}");
    }

    system.start(&[]);
    comes_back(&system, &objects);
    system.step("up again");
    system.portolan(&["status"]).ok();
    system.down();
    system.step("down");
    assert!(system.portolan(&["status"]).fails().is_empty());

    system.start(&["-f", MYAPP]);
    comes_back(&system, &objects);
    system.kill_supervisor();
    system.step("kill -9");
    let said = system.portolan(&["down"]);
    assert!(said.status.success(), "{said:?}");
    system.assert_nothing_left();
    system.step("down after kill -9");

    system.start(&[]);
    comes_back(&system, &objects);
    // Without `down`, the next `up` takes over what the last one left, if it would start the same …
    system.replace_supervisor(&[]);
    comes_back(&system, &objects);
    system.step("up after kill -9");
    let node = system.node_init(1);
    system.kill_supervisor();
    // … one that gets nowhere leaves it as it is …
    let bind = || TcpListener::bind("127.0.0.1:6443").map_err(|error| error.to_string());
    let port = eventually("the API's port", || system.host().namespace().run(bind).expect("a namespace"));
    system.portolan(&["up", "--detach"]).fails();
    drop(port);
    system.start(&[]);
    assert_eq!(system.node_init(1), node, "the node was made anew");
    system.kill_supervisor();
    // … and clears it away otherwise.
    system.start(&["--egress", "none"]);
    assert_ne!(system.node_init(1), node, "the node of another kind of system was kept");
    answers(&system);
    system.step("up of another kind after kill -9");
    system.down();
}

/// Who listens ends in its own way, on every node at once. That isn't what it was for: it goes on with the next `up`.
#[test]
fn pods_hear_of_the_end_and_go_on_with_the_next_up() {
    let mut system = System::new(PORTOLAN);
    let running = system.start_in_foreground(&["--nodes", "2"]);
    let out = system.scratch().join("out");
    let said = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    let until = |name: &str, text: &str| {
        eventually(name, || if said(name) == text { Ok(()) } else { Err(said(name)) });
    };
    let volumes = [json!({"name": "out", "hostPath": {"path": out, "type": "DirectoryOrCreate"}})];
    let mounts = [json!({"name": "out", "mountPath": "/out"})];
    for (name, node, trap) in [
        ("job", "node-1", "trap 'echo bye >> /out/job; exit 0' TERM"),
        ("other", "node-2", "trap 'echo bye >> /out/other; exit 0' TERM"),
        ("deaf", "node-1", "trap '' TERM"),
    ] {
        // `wait` is what a trap interrupts at once.
        let script = format!("{trap}; echo up >> /out/{name}; while :; do sleep 60 & wait $!; done");
        let containers = [shell::container("m", &script, &mounts, json!({}))];
        let spec = json!({"nodeName": node, "restartPolicy": "OnFailure", "containers": containers});
        system.api().create(Kind::POD, &shell::pod(name, &volumes, spec));
    }
    for name in ["job", "other", "deaf"] {
        until(name, "up\n");
        // Of a run that nobody was told of nobody could say later how it ended.
        system.api().until_pod_ready(name);
    }
    system.step("three pods");
    running.signal(Signal::SIGINT);
    let (status, words) = running.end();
    assert!(status.success(), "{status}: {words}");
    system.assert_nothing_left();
    assert_eq!((said("job"), said("other"), said("deaf")), ("up\nbye\n".into(), "up\nbye\n".into(), "up\n".into()));
    system.step("Ctrl-C");

    system.start(&["--nodes", "2"]);
    until("job", "up\nbye\nup\n");
    until("deaf", "up\nup\n");
    system.api().until(Kind::POD, "job", "runs again", |pod| {
        let container = &pod["status"]["containerStatuses"][0];
        !container["state"]["running"].is_null() && container["restartCount"] == 1
    });
    system.down();
    assert_eq!(said("job"), "up\nbye\nup\nbye\n", "`down` asks as well");
}

/// A pod that never gets ready, and a Service with a port that no container has: neither keeps `up` from the rest.
const WANTING: &str = "apiVersion: v1
kind: Pod
metadata: {name: imageless}
spec: {containers: [{name: c, image: 'registry.invalid/web:1', imagePullPolicy: Never}]}
";
const HALF_SERVED: &str = "apiVersion: v1
kind: Service
metadata: {name: half-served}
spec:
  selector: {app: myapp}
  ports: [{name: http, port: 80, targetPort: http}, {name: none, port: 81, targetPort: nowhere}]
";

#[test]
fn what_is_missing_is_said_and_what_goes_missing_comes_back() {
    let mut system = System::new(PORTOLAN);
    let half = system.file("half.yaml", HALF_SERVED);
    let said = system.start(&["-f", MYAPP, "-f", &half, "--nodes", "2"]);
    assert!(said.contains("\nready after"), "a port that leads nowhere is not waited for:\n{said}");
    let on = |system: &System, node: &str| {
        let pods = system.api().list(Kind::POD, "app=myapp");
        pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count()
    };
    assert!(on(&system, "node-2") > 0, "no pod is on the second node");
    system.down();

    let wanting = system.file("wanting.yaml", WANTING);
    let said = system.portolan(&["up", "--detach", "-f", &wanting, "--timeout", "5"]);
    system.runs();
    assert_eq!(said.status.code(), Some(4), "it goes on, and is not what was asked for: {said:?}");
    // A slow machine says it a little later.
    assert!(said.out.contains("not ready after ") && said.out.contains(" s: pod default/imageless"), "{said:?}");
    system.api().delete(Kind::POD, "imageless");
    assert!(system.api().find(Kind::NODE, "node-2").is_none(), "the second node is forgotten");
    system.api().until_ready("myapp", "three pods on the node that is left", |ready| ready.len() == 3);
    assert_eq!((on(&system, "node-1"), on(&system, "node-2")), (3, 0));
    system.step("a node less");

    comes_back_by_itself(&system);
    system.step("put back");
    without_its_address(&mut system);
    system.step("names given away");
    system.down();

    let mut caller = system.run_in_background(system.command(&["up", "--detach", "-f", MYAPP]));
    caller.line("waiting for");
    // Whoever called doesn't hear the rest: what was started goes on.
    caller.signal(Signal::SIGKILL);
    drop(caller);
    eventually("the API", || match system.portolan(&["status"]) {
        said if said.status.success() && said.out.contains("3/3") => Ok(()),
        said => Err(format!("{said:?}")),
    });
    system.runs();
    answers(&system);
    system.step("without its caller");
}

/// What every cluster has, deleted and damaged.
fn comes_back_by_itself(system: &System) {
    let api = system.api();
    let address = |name: &str| api.get(Kind::SERVICE, name)["spec"]["clusterIP"].clone();
    for name in ["default/kubernetes", "kube-system/kube-dns"] {
        let before = address(name);
        let uid = api.get(Kind::SERVICE, name)["metadata"]["uid"].clone();
        api.delete(Kind::SERVICE, name);
        let back = |service: &Value| !service.is_null() && service["metadata"]["uid"] != uid;
        api.until(Kind::SERVICE, name, "back", back);
        assert_eq!(address(name), before, "{name} keeps its address");
    }
    let damage = json!({"spec": {"ports": [{"name": "dns", "port": 54, "protocol": "UDP"}], "selector": {"a": "b"}}});
    api.merge(Kind::SERVICE, "kube-system/kube-dns", &damage);
    api.until(Kind::SERVICE, "kube-system/kube-dns", "put right", |service| {
        let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len);
        ports == 3 && service["spec"]["selector"].is_null()
    });
    eventually("names again", || {
        let said = system.on_node("node-1", &["curl", "-sS", "--max-time", "5", "http://myapp/hostname"]);
        if said.out.starts_with("myapp-") { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

/// The address that every pod asks for names, in the hands of another Service: that is said, and ends nothing.
fn without_its_address(system: &mut System) {
    let address = system.api().get(Kind::SERVICE, "kube-system/kube-dns")["spec"]["clusterIP"].clone();
    let squatter = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "squatter"},
        "spec": {"clusterIP": address, "ports": [{"port": 53}]}});
    eventually("the address in other hands", || {
        // Whoever puts it back may be sooner.
        system.api().delete(Kind::SERVICE, "kube-system/kube-dns");
        system.api().try_create(Kind::SERVICE, &squatter).map(drop).map_err(|refused| refused.to_string())
    });
    let told = "which Service default/squatter has: delete it";
    let log = system.data_dir().join("log/supervisor.log");
    eventually("a word about it", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains(told) { Ok(()) } else { Err(said) }
    });
    system.down();
    let said = system.portolan(&["up", "--detach", "--timeout", "5"]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(said.out.contains("service kube-system/kube-dns") && said.err.contains(told), "{said:?}");
    system.runs();
    system.api().delete(Kind::SERVICE, "squatter");
    let back = |service: &Value| service["spec"]["clusterIP"] == address;
    system.api().until(Kind::SERVICE, "kube-system/kube-dns", "back", back);
}

/// Who an object is: a new one of the same name has another uid.
fn identities(system: &System) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for kind in [Kind::SERVICE, Kind::DEPLOYMENT, Kind::POD, Kind::SLICE] {
        for object in system.api().list(kind, "") {
            let (name, uid) = (&object["metadata"]["name"], &object["metadata"]["uid"]);
            found.insert(format!("{} {name}", object["kind"]), uid.to_string());
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

fn comes_back(system: &System, objects: &BTreeMap<String, String>) {
    assert_eq!(identities(system), *objects);
    answers(system);
}

/// By ClusterIP, NodePort and name.
fn answers(system: &System) {
    let ip = system.api().get(Kind::SERVICE, "myapp")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    for to in [format!("{ip}:80"), "172.30.0.11:31234".to_owned()] {
        let answers = system.host().spread(&to, 60);
        assert_eq!(answers.len(), 3, "{to}: {answers:?}");
    }
    let said = system.in_pod("default/client", &["curl", "-sS", "--max-time", "5", "http://myapp/hostname"]).ok();
    assert!(said.starts_with("myapp-"), "{said}");
}

#[test]
fn mistakes_are_named_and_cost_nothing() {
    let mut system = System::new(PORTOLAN);
    let says = |system: &System, args: &[&str], texts: &[&str]| {
        let said = system.portolan(args).fails();
        for text in texts {
            assert!(said.contains(text), "{args:?} doesn't say {text:?}:\n{said}");
        }
    };
    let bad = system.file("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [}\n");
    says(&system, &["up", "-f", &bad], &["bad.yaml", "line 3"]);
    says(&system, &["up", "-f", "/nowhere/app.yaml"], &["/nowhere/app.yaml", "No such file"]);
    let nameless = system.file("nameless.yaml", "apiVersion: v1\nkind: Service\n");
    says(&system, &["up", "-f", &nameless], &["nameless.yaml, document 1", "metadata.name"]);
    says(&system, &["up", "--pod-cidr", "10.96.0.0/16"], &["--pod-cidr", "--service-cidr", "overlap"]);
    assert_eq!(system.portolan(&["up", "--nodes", "0"]).status.code(), Some(2), "as any mistake in a command line");
    says(&system, &["image", "ls", "--data-dir", "/nowhere/data"], &["there is no data directory /nowhere/data"]);
    says(&system, &["down"], &["--data-dir"]);
    says(&system, &["run", "--", "true"], &["--data-dir"]);
    system.on_host(&["ip", "route", "add", "blackhole", "10.96.5.0/24"]).ok();
    says(&system, &["up"], &["10.96.5.0/24", "--service-cidr"]);
    system.on_host(&["ip", "route", "del", "blackhole", "10.96.5.0/24"]).ok();
    says(&system, &["run", "--", "true"], &["there is no data directory"]);
    system.assert_nothing_left();

    let invalid = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 0}]}\n";
    let invalid = system.file("invalid.yaml", invalid);
    // With one that is sound: that isn't applied either.
    let unknown = "apiVersion: v1\nkind: Sevice\nmetadata: {name: sound}\n";
    let sound = system.file("sound.yaml", &format!("{unknown}---\n{}", unknown.replace("Sevice", "ServiceAccount")));
    let said = system.portolan(&["up", "--detach", "-f", &sound, "-f", &invalid]).fails();
    let refusal = "invalid.yaml, document 1 (line 1), Service web: Service \"web\" is invalid: [spec.ports[0].port: \
                   Invalid value: 0: must be between 1 and 65535, inclusive, spec.ports[0].targetPort: Invalid value: \
                   0: must be between 1 and 65535, inclusive]\nnothing was applied";
    assert!(said.contains(refusal), "the API's own words, and no more:\n{said}");
    system.assert_nothing_left();
    says(&system, &["run", "--", "true"], &["nothing runs on", "portolan up --data-dir"]);
    system.step("before anything runs");

    let said = system.portolan(&["up", "--detach", "-f", &sound]);
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(said.err.contains("no kind Sevice in v1 is served; is Service in v1 meant?"), "{said:?}");
    system.runs();
    says(&system, &["up"], &["a system already runs on", "portolan down --data-dir"]);
    says(&system, &["run", "--pod", "default/nobody", "--", "true"], &["there is no pod default/nobody"]);
    says(&system, &["run", "--node", "node-7", "--", "true"], &["there is no node node-7", "node-1"]);
    says(&system, &["run", "--node", "node-1", "--", "/no/such/program"], &["/no/such/program"]);
    an_image_that_is_missing(&system);
    one_bad_object_stops_nothing(&system);
    system.step("while it runs");
}

fn an_image_that_is_missing(system: &System) {
    let api = system.api();
    let container = json!({"name": "c", "image": "registry.example/web:1"});
    api.create(Kind::POD, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "imageless"}, "spec": {"containers": [container]}}));
    let pod = api.until(Kind::POD, "imageless", "waiting for its image", |pod| {
        let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    });
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("registry.example/web:1"), "{message}");
    let helps = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        let about = event["involvedObject"]["name"] == "imageless" && event["reason"] == "Failed";
        about && message.contains("registry.example/web:1") && message.contains("portolan image load")
    };
    api.until_all(Kind::EVENT, "", "one says what to do", |events| events.iter().any(helps));
    api.delete(Kind::POD, "imageless");
    api.until(Kind::POD, "imageless", "gone", Value::is_null);
}

/// A Service whose hand-written Endpoints point nowhere sensible; its neighbour answers all the same.
fn one_bad_object_stops_nothing(system: &System) {
    let api = system.api();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "odd", "labels": {"kubernetes.io/service-name": "nobody"}},
        "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": []});
    api.create(Kind::SLICE, &slice);
    let container = json!({"name": "c", "image": "portolan.local/testserver:latest", "imagePullPolicy": "IfNotPresent", "args": ["netexec"]});
    let metadata = json!({"name": "good", "labels": {"app": "good"}});
    api.create(
        Kind::POD,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}),
    );
    let spec = json!({"selector": {"app": "good"}, "ports": [{"port": 80, "targetPort": 8080}]});
    let made = api.create(
        Kind::SERVICE,
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "good"}, "spec": spec}),
    );
    let to = format!("{}:80", made["spec"]["clusterIP"].as_str().expect("a ClusterIP"));
    eventually("the good Service", || match system.host().get(&to, "/hostname") {
        Outcome::Answered(name) if name == "good" => Ok(()),
        other => Err(other.to_string()),
    });
}
