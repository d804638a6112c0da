//! Pods as people write them: one that uses many features at once, and hostile ones that must not hurt their node.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::shell::{container, pod};
use testkit::{Kind, Outcome, System, eventually};

const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// What the main container finds, as `name=value` lines in a file of the node's.
const REPORT: &str = r#"
fact() { echo "$1=$2" >> /out/facts; }
fact args "$*"
fact url "$URL"
fact escaped "$ESCAPED"
fact prefixed "$CONF_color"
fact secret "$PASS"
fact pod "$POD_NAME"
fact ip "$POD_IP"
fact cpu "$CPU"
fact odd "$(tr '\0' '\n' < /proc/1/environ | grep -c '^CONF_odd.key-1=odd$')"
fact from-init "$(cat /scratch/from-init)"
fact color "$(cat /conf/color)"
fact file-mode "$(stat -L -c %a:%g /conf/color)"
fact secret-mode "$(stat -L -c %a:%g /secret/pass)"
fact projected "$(cat /all/name /all/dir/color | tr '\n' ' ')"
fact labels "$(cat /down/labels)"
fact part "$(cat /part/color)"
fact own-part "$(ls -d /own && echo x > /own/written && echo writable)"
fact id "$(id -u):$(id -g):$(id -G | tr ' ' ',')"
fact no-new-privileges "$(grep -c 'NoNewPrivs:.1' /proc/self/status)"
fact capabilities "$(grep CapBnd /proc/self/status | tr -s '\t' ' ')"
fact root "$(touch /x 2>&1 | grep -c 'Read-only file system')"
fact conf-read-only "$(touch /conf/x 2>&1 | grep -c 'Read-only file system')"
fact ours-read-only "$(touch /secret/x /all/x /down/x 2>&1 | grep -c 'Read-only file system')"
fact part-read-only "$(grep ' /part/color ' /proc/self/mounts | cut -d ' ' -f 4 | cut -c 1-3)"
fact memory-volume "$(stat -f -c %T /mem):$(dd if=/dev/zero of=/mem/big bs=1M count=8 2>&1 | grep -c 'No space left')"
fact scratch-group "$(touch /scratch/mine && stat -c %g /scratch/mine)"
group() { cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2; }
fact memory "$(group memory/memory.limit_in_bytes memory.max)"
fact cpu-quota "$(group cpu/cpu.cfs_quota_us cpu.max)"
fact pids "$(group pids/pids.max pids.max | grep -c '^[0-9]')"
fact shared-memory "$(cat /dev/shm/from-init)"
fact oom-group "$(cat /sys/fs/cgroup/memory.oom.group 2>/dev/null)"
fact swap "$(cat /sys/fs/cgroup/memory.swap.max 2>/dev/null)"
fact sysctl "$(cat /proc/sys/net/ipv4/ip_local_port_range | tr '\t' ' ')"
fact hostname "$(hostname)"
fact hosts "$(grep -c 'alias.example' /etc/hosts)"
fact resolv "$(grep -c -e '^nameserver 10.96.0.10' -e 'extra.example' -e 'ndots:2' /etc/resolv.conf)"
fact started "$(until cat /scratch/post-start 2>/dev/null; do sleep 0.1; done)"
echo last words > /dev/termination-log
trap 'exit 0' TERM
fact done yes
while :; do cp /conf/color /out/color.new && mv /out/color.new /out/color; sleep 0.2; done
"#;

/// Names what it could change of its own limits, of both versions of control groups, or of the machine's groups.
const LIMITS: &str = r#"
exec > /dev/termination-log
cd /sys/fs/cgroup
for file in memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us memory.max pids.max cpu.max; do
    [ ! -e $file ] || ! { echo -1 > $file || echo max > $file; } || echo $file
done
for group in . systemd unified memory pids; do mkdir $group/escaped && echo $group; done
echo tried
exit 3
"#;

fn event(system: &System, pod: &str, reason: &str, text: &str) {
    let wanted = |event: &Value| {
        event["involvedObject"]["name"] == pod
            && event["reason"] == reason
            && event["message"].as_str().is_some_and(|message| message.contains(text))
    };
    system.api().until_all(Kind::EVENT, "", &format!("{reason} {text}"), |events| events.iter().any(wanted));
}

#[test]
fn a_pod_that_uses_many_features_finds_them_all() {
    let system = System::up(PORTOLAN, &[]);
    system.step("up");
    let out = system.scratch().join("out");
    let api = system.api();
    let meta = |name: &str| json!({"name": name});
    api.create(
        Kind::CONFIG_MAP,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("conf"),
        "data": {"color": "blue", "odd.key-1": "odd"}}),
    );
    api.create(
        Kind::SECRET,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("secret"),
        "stringData": {"pass": "hunter2"}}),
    );
    api.create(Kind::POD, &everything(&out));
    eventually("the container's report", || match facts(&out) {
        facts if facts.contains_key("done") => Ok(()),
        facts => Err(format!("{facts:?}; {:#}", api.get(Kind::POD, "all")["status"])),
    });
    system.step("reported");
    let pod = api.get(Kind::POD, "all");
    compare(&facts(&out), pod["status"]["podIP"].as_str().expect("an address"));
    event(&system, "all", "UnsupportedFields", "spec.securityContext.seccompProfile");

    api.merge(Kind::CONFIG_MAP, "conf", &json!({"data": {"color": "green"}}));
    eventually("the new ConfigMap in the volume", || {
        let color = fs::read_to_string(out.join("color")).unwrap_or_default();
        if color == "green" { Ok(()) } else { Err(color) }
    });
    system.step("a ConfigMap updated");
    api.delete(Kind::POD, "all");
    api.until(Kind::POD, "all", "gone", Value::is_null);
    assert_eq!(fs::read_to_string(out.join("pre-stop")).expect("what the preStop hook writes"), "stopping\n");
    system.step("ended");
    a_pod_may_share_the_nodes_processes_and_ipc(&system);
    what_the_node_refuses(&system);
}

fn everything(out: &Path) -> Value {
    let map = json!({"name": "conf"});
    let projected = json!([
        {"configMap": {"name": "conf", "items": [{"key": "color", "path": "dir/color"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": "not-there", "optional": true}}]);
    let labels = json!({"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]});
    let volumes = [
        json!({"name": "out", "hostPath": {"path": out, "type": "DirectoryOrCreate"}}),
        json!({"name": "conf", "configMap": map}),
        json!({"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}}),
        json!({"name": "all", "projected": {"sources": projected}}),
        json!({"name": "down", "downwardAPI": labels}),
        json!({"name": "scratch", "emptyDir": {}}),
        json!({"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}),
    ];
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let init_mounts = [mount("scratch", "/scratch"), mount("out", "/out")];
    let init = "chmod 777 /out; echo init > /scratch/from-init; echo shared > /dev/shm/from-init";
    let init =
        container("init", init, &init_mounts, json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}}));
    let mounts = [
        mount("out", "/out"),
        json!({"name": "conf", "mountPath": "/conf", "readOnly": true}),
        mount("secret", "/secret"),
        mount("all", "/all"),
        mount("down", "/down"),
        mount("scratch", "/scratch"),
        mount("mem", "/mem"),
        json!({"name": "conf", "mountPath": "/part/color", "subPath": "color"}),
        json!({"name": "scratch", "mountPath": "/own", "subPathExpr": "of/$(POD_NAME)"}),
    ];
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let main = container(
        "main",
        REPORT,
        &mounts,
        json!({
        "args": ["one-$(POD_NAME)", "$$(POD_NAME)"],
        "envFrom": [{"prefix": "CONF_", "configMapRef": map}],
        "env": [
            {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            {"name": "POD_IP", "valueFrom": field("status.podIP")},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "pass"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "URL", "value": "http://$(POD_NAME)/$(CONF_color)/$(later)"},
            {"name": "ESCAPED", "value": "$$(POD_NAME)"}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "lifecycle": {
            "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo began > /scratch/post-start"]}},
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping > /out/pre-stop"]}}}}),
    );
    pod(
        "all",
        &volumes,
        json!({
        // Time enough for the preStop hook on a slow machine.
        "terminationGracePeriodSeconds": 10,
        "initContainers": [init], "containers": [main], "hostname": "called", "subdomain": "sub",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000],
            "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 30000"}]},
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["alias.example"]}],
        "dnsConfig": {"searches": ["extra.example"], "options": [{"name": "ndots", "value": "2"}]}}),
    )
}

fn facts(out: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(out.join("facts")).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn compare(found: &BTreeMap<String, String>, ip: &str) {
    let capabilities = "CapBnd: 0000000000000400";
    let expected = [
        ("args", "one-all $(POD_NAME)"),
        ("url", "http://all/blue/$(later)"),
        ("escaped", "$(POD_NAME)"),
        ("prefixed", "blue"),
        ("secret", "hunter2"),
        ("pod", "all"),
        ("ip", ip),
        ("cpu", "500"),
        ("odd", "1"),
        ("from-init", "init"),
        ("color", "blue"),
        ("file-mode", "644:2000"),
        ("secret-mode", "440:2000"),
        ("projected", "allblue"),
        ("labels", "app=\"all\""),
        ("part", "blue"),
        ("own-part", "/own"),
        ("id", "1000:3000:3000,2000,4000"),
        ("no-new-privileges", "1"),
        ("capabilities", capabilities),
        ("root", "1"),
        ("conf-read-only", "1"),
        ("ours-read-only", "3"),
        ("part-read-only", "ro,"),
        ("memory-volume", "tmpfs:1"),
        ("scratch-group", "2000"),
        ("memory", "67108864"),
        ("pids", "1"),
        ("shared-memory", "shared"),
        ("sysctl", "20000 30000"),
        ("hostname", "called"),
        ("hosts", "1"),
        ("resolv", "3"),
        ("started", "began"),
    ];
    let differing: Vec<String> = expected
        .iter()
        .filter(|(name, value)| found.get(*name).map(String::as_str) != Some(*value))
        .map(|(name, value)| format!("{name}: {:?}, not {value:?}", found.get(*name)))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    if unified() {
        assert_eq!((found["oom-group"].as_str(), found["swap"].as_str()), ("1", "0"), "memory is bounded, whole");
    }
    // `-1` or `max` would be no limit.
    assert!(found["cpu-quota"].starts_with("50000"), "{}", found["cpu-quota"]);
}

/// Whether this machine has control groups of version 2 alone.
fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// And what it leaves running ends with it all the same.
fn a_pod_may_share_the_nodes_processes_and_ipc(system: &System) {
    const LEFT: &str = "86399.25";
    let out = system.scratch().join("of-node");
    let script = format!(
        "fact() {{ echo \"$1=$2\" >> /out/facts; }}
         fact first \"$(tr '\\0' ' ' < /proc/1/cmdline | grep -c __node-init)\"
         fact ipc \"$([ \"$(readlink /proc/1/ns/ipc)\" = \"$(readlink /proc/self/ns/ipc)\" ] && echo same)\"
         sleep {LEFT} & sleep {LEFT} >/dev/null 2>&1 &
         fact done yes"
    );
    let mounts = [json!({"name": "out", "mountPath": "/out"})];
    let context = json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
    let volumes = [json!({"name": "out", "hostPath": {"path": out, "type": "DirectoryOrCreate"}})];
    let spec = json!({"hostPID": true, "hostIPC": true, "containers": [container("m", &script, &mounts, context)]});
    system.api().create(Kind::POD, &pod("of-node", &volumes, spec));
    system.api().until(Kind::POD, "of-node", "ended", |pod| pod["status"]["phase"] == "Succeeded");
    let facts = facts(&out);
    assert_eq!((facts["first"].as_str(), facts["ipc"].as_str()), ("1", "same"), "{facts:?}");
    let left = || {
        fs::read_dir("/proc").expect("processes").flatten().find(|process| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            words == format!("sleep\0{LEFT}\0").as_bytes()
        })
    };
    eventually("the end of what it started", || left().map_or(Ok(()), |left| Err(format!("{:?}", left.path()))));
    system.api().delete(Kind::POD, "of-node");
    system.step("a pod with the node's processes");
}

/// What can't be done has a name in the pod's status or in an Event.
fn what_the_node_refuses(system: &System) {
    let api = system.api();
    let link = container("m", "ln -s /etc /v/out; echo made", &[json!({"name": "v", "mountPath": "/v"})], json!({}));
    let mut outside = container("n", "cat /p/passwd", &[], json!({}));
    let mounts = outside["volumeMounts"].as_array_mut().expect("a list");
    mounts.push(json!({"name": "v", "mountPath": "/p", "subPath": "out"}));
    let volume = json!({"name": "v", "emptyDir": {}});
    api.create(Kind::POD, &pod("leads-out", &[volume], json!({"initContainers": [link], "containers": [outside]})));
    let root = container("m", "true", &[], json!({"securityContext": {"runAsNonRoot": true}}));
    api.create(Kind::POD, &pod("root", &[], json!({"containers": [root]})));
    let sysctls = json!([{"name": "kernel.msgmax", "value": "1"}]);
    let forbidden =
        json!({"securityContext": {"sysctls": sysctls}, "containers": [container("m", "true", &[], json!({}))]});
    api.create(Kind::POD, &pod("forbidden", &[], forbidden));

    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    for (name, text) in
        [("leads-out", "leads out of its volume"), ("root", "image will run as root (pod: \"root_default(")]
    {
        api.until(Kind::POD, name, text, |pod| {
            let waiting = waiting(pod);
            waiting["reason"] == "CreateContainerConfigError"
                && waiting["message"].as_str().is_some_and(|message| message.contains(text))
        });
    }
    api.until(Kind::POD, "forbidden", "rejected", |pod| pod["status"]["reason"] == "SysctlForbidden");
    system.step("refused what can't be done");
}

#[test]
fn hostile_pods_are_contained_and_named() {
    let system = System::up(PORTOLAN, &[]);
    let api = system.api();
    let server = json!({"name": "m", "image": "portolan.local/testserver:latest", "imagePullPolicy": "IfNotPresent",
        "args": ["netexec"], "ports": [{"containerPort": 8080, "hostPort": 18080}]});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [server]});
    api.create(Kind::POD, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "steady"}, "spec": spec}));
    let steady = api.until_pod_ready("steady");
    let answers = |address: &str| {
        for from in [system.host(), &system.node_net("node-1")] {
            eventually("an answer by the node's port", || match from.get(address, "/hostname") {
                Outcome::Answered(name) if name == "steady" => Ok(()),
                other => Err(other.to_string()),
            });
        }
    };
    answers("172.30.0.11:18080");
    system.step("up, and answering on the node's port");

    let limits = |name: &str, most: &str| json!({"resources": {"limits": {name: most}}});
    let one = |name: &str, volumes: &[Value], container: Value| {
        api.create(Kind::POD, &pod(name, volumes, json!({"containers": [container]})));
    };
    let line = "x".repeat(2000);
    one("flood", &[], container("m", &format!("yes {line}"), &[], json!({})));
    let scratch = [json!({"name": "v", "emptyDir": {"sizeLimit": "1Mi"}})];
    let write = |file: &str| format!("dd if=/dev/zero of={file} bs=1M count=8; sleep 600");
    one("volume", &scratch, container("m", &write("/v/big"), &[json!({"name": "v", "mountPath": "/v"})], json!({})));
    one("root-disk", &[], container("m", &write("/big"), &[], limits("ephemeral-storage", "2Mi")));
    one("last-words", &[], container("m", &write("/dev/termination-log"), &[], limits("ephemeral-storage", "2Mi")));
    one("hosts", &[], container("m", &write("/etc/hosts"), &[], limits("ephemeral-storage", "2Mi")));
    one("memory", &[], container("m", "exec tail /dev/zero", &[], limits("memory", "16Mi")));
    let words = "echo the reason >&2; echo said > /dev/termination-log; exit 3";
    // On version 2 a container ends whole, also when its first process is not the one that is too big.
    let rest = if unified() { "tail /dev/zero; sleep 600" } else { "exec tail /dev/zero" };
    one("whole", &[], container("m", rest, &[], limits("memory", "16Mi")));
    one("words", &[], container("m", words, &[], json!({})));
    one("limits", &[], container("m", LIMITS, &[], limits("memory", "64Mi")));
    one("deaf", &[], container("m", "trap '' TERM; echo ready; while :; do sleep 1; done", &[], json!({})));

    let usage = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\"";
    let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi";
    for (name, text) in [("volume", usage), ("root-disk", whole), ("last-words", whole), ("hosts", whole)] {
        let evicted = api.until(Kind::POD, name, "evicted", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(evicted["status"]["reason"], "Evicted", "{name}");
        assert!(evicted["status"]["message"].as_str().is_some_and(|message| message.contains(text)), "{evicted:#}");
        event(&system, name, "Evicted", text);
    }
    system.step("evicted what fills the disk");
    let ended = |name: &str| {
        let pod = api.until(Kind::POD, name, "ended", |pod| pod["status"]["phase"] == "Failed");
        pod["status"]["containerStatuses"][0]["state"]["terminated"].clone()
    };
    for name in ["memory", "whole"] {
        assert_eq!(ended(name)["reason"], "OOMKilled", "{name}");
    }
    assert_eq!((&ended("words")["exitCode"], &ended("words")["message"]), (&json!(3), &json!("said\n")));
    system.step("killed what fills the memory");
    assert_eq!(ended("limits")["message"], json!("tried\n"), "what is named before it was changed");
    system.step("kept what would lift its limits");

    api.until_pod_ready("deaf");
    api.delete(Kind::POD, "deaf");
    event(&system, "deaf", "ExceededGracePeriod", "grace period of 1s");
    api.until(Kind::POD, "deaf", "gone", Value::is_null);
    system.step("killed what doesn't listen");
    logs_are_bounded(&system);

    for name in ["flood", "volume", "root-disk"] {
        api.delete(Kind::POD, name);
        api.until(Kind::POD, name, "gone", Value::is_null);
    }
    // Last, since it keeps everybody busy until it meets its limit.
    a_fork_bomb_meets_its_limit(&system);
    let after = api.get(Kind::POD, "steady");
    assert_eq!(after["status"]["containerStatuses"], steady["status"]["containerStatuses"], "untouched all the while");
    answers("172.30.0.11:18080");
    system.step("the node is as before");
}

fn a_fork_bomb_meets_its_limit(system: &System) {
    // Each process makes two more and waits for them; the few that find no room any more end. It takes little processor
    // time once the limit is met.
    let bomb = "b() { b & b & wait; sleep 600; }; while :; do (b); done";
    let containers = json!({"containers": [container("m", bomb, &[], json!({}))]});
    system.api().create(Kind::POD, &pod("bomb", &[], containers));
    event(system, "bomb", "ProcessLimitReached", "processes and threads");
    system.step("a fork bomb met its limit");
    system.api().delete(Kind::POD, "bomb");
    system.api().until(Kind::POD, "bomb", "gone", Value::is_null);
}

fn logs_are_bounded(system: &System) {
    let size = |path: &Path| fs::metadata(path).map(|found| found.len()).unwrap_or(0);
    let log = eventually("the flood's fifth file", || {
        let found = find(system.data_dir(), "0.log.4").filter(|path| path.to_string_lossy().contains("flood"));
        found.ok_or_else(|| "not there yet".to_owned())
    });
    let files: Vec<_> = fs::read_dir(log.parent().expect("a directory")).expect("the logs").flatten().collect();
    assert!(files.len() <= 5, "{files:?}");
    let total: u64 = files.iter().map(|file| size(&file.path())).sum();
    assert!(total <= 50 << 20, "{total} bytes of logs");
    system.step("logs are bounded");
}

fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}
