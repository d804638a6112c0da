//! kill -9 of any process of a system at any moment, under writes and traffic: everything comes back by itself, no
//! acknowledged write is lost, and what a process's end must not touch goes on.
//!
//! Node 1 loses its processes (agent, proxy, DNS) and the system its supervisor: no container of node 1 may restart and
//! no connection over it break. Node 2 also loses itself and its containers. Seeded: `PORTOLAN_SEED`,
//! `PORTOLAN_CHAOS_KILLS` (`cargo xtask crash system` sets both).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Api, Kind, Net, Outcome, Process, Steady, System, eventually};

const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");
const KILLS: usize = 14;
const NODES: usize = 2;
const PARTS: [&str; 3] = ["__agent", "__proxy", "__dns"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// With a process of the first node at the same time, or alone.
    Supervisor(Option<&'static str>),
    /// A process of a node.
    Part(usize, &'static str),
    /// The second node's init, and with it the node.
    Node,
    /// A container's process on the second node.
    Container,
}

#[test]
fn whatever_is_killed_comes_back_and_takes_nothing_with_it() {
    let kills = number("PORTOLAN_CHAOS_KILLS", KILLS);
    let mut random = Random(number("PORTOLAN_SEED", 1) as u64);
    let mut system = System::up(PORTOLAN, &["--nodes", "2"]);
    let cluster = Cluster::deploy(&system);
    let untouched = identities(&system, 1);
    let mut steady = cluster.connections(&system);
    let writers = Writers::start(&system);
    system.step("begin");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for kill in 0..kills {
        let victim = victim(kill, &mut random);
        *counts.entry(format!("{victim:?}")).or_default() += 1;
        // At any moment of whatever the last kill set going.
        std::thread::sleep(Duration::from_millis(random.below(300)));
        strike(&mut system, victim);
        for connection in &mut steady {
            connection.holds();
        }
        if kill % 20 == 19 {
            cluster.answers(&system);
            system.step(&format!("{} kills, {} writes", kill + 1, writers.acknowledged()));
        }
    }
    system.step(&format!("{counts:?}"));
    let acknowledged = writers.end();
    for node in 1..=NODES {
        PARTS.iter().for_each(|part| drop(running(&system, node, part)));
    }
    cluster.answers(&system);
    let answers: Vec<usize> = steady.iter_mut().map(Steady::holds).collect();
    assert!(answers.iter().all(|n| *n > 20), "{answers:?}");
    assert_eq!(identities(&system, 1), untouched, "a container of the first node was started again");
    let found = stored(&system);
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !found.contains(*name)).collect();
    assert!(lost.is_empty(), "of {} acknowledged writes {} are lost: {lost:?}", acknowledged.len(), lost.len());
    assert!(acknowledged.len() > kills, "only {} writes were acknowledged", acknowledged.len());
    system.step(&format!("{} writes and {answers:?} answers over three connections", acknowledged.len()));
    drop(steady);
    system.down();
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Xorshift (Marsaglia 2003): the same moments and victims for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Each kind once at first, then any.
fn victim(kill: usize, random: &mut Random) -> Victim {
    let part = |random: &mut Random| {
        let node = 1 + random.below(2) as usize;
        Victim::Part(node, PARTS[random.below(3) as usize])
    };
    match (kill, random.below(100)) {
        (0, _) => Victim::Part(1, PARTS[0]),
        (1, _) => Victim::Part(1, PARTS[1]),
        (2, _) => Victim::Part(1, PARTS[2]),
        (3, _) => Victim::Supervisor(None),
        (_, 0..10) => Victim::Supervisor(Some(PARTS[random.below(3) as usize])),
        (_, 10..20) => Victim::Supervisor(None),
        (4, _) | (_, 20..32) => Victim::Container,
        (5, _) | (_, 32..40) => Victim::Node,
        _ => part(random),
    }
}

/// Kills one, and waits until there is another in its place.
fn strike(system: &mut System, victim: Victim) {
    match victim {
        Victim::Supervisor(also) => {
            if let Some(part) = also {
                running(system, 1, part).kill();
            }
            system.replace_supervisor(&["--nodes", "2"]);
        }
        Victim::Part(node, part) => {
            let process = running(system, node, part);
            process.kill();
            eventually("another process in its place", || match running(system, node, part) {
                other if other != process => Ok(()),
                same => Err(format!("{same:?} runs")),
            });
        }
        Victim::Node => {
            fresh(system, "both-2");
            system.kill_node(2);
        }
        Victim::Container => {
            fresh(system, "both-2");
            eventually("a container of node 2", || {
                let shims = system.node_init(2).of_role("__shim");
                let containers: Vec<Process> = shims.iter().flat_map(Process::descendants).collect();
                containers.first().map(Process::kill).ok_or_else(|| "there is none".to_owned())
            });
        }
    }
}

/// Makes a pod anew that was restarted before: its next restart would be held back, longer each time, as it has to be.
fn fresh(system: &System, name: &str) {
    let api = system.api();
    let Some(old) = api.find(Kind::POD, name) else { return };
    if old["status"]["containerStatuses"][0]["restartCount"] == 0 {
        return;
    }
    api.delete(Kind::POD, name);
    api.until(Kind::POD, name, "gone", Value::is_null);
    api.create(Kind::POD, &pod(name, "both", 2, &["netexec"]));
    api.until_pod_ready(name);
}

/// A process of a node, waiting for it to be there.
#[track_caller]
fn running(system: &System, node: usize, part: &str) -> Process {
    eventually(part, || system.node_init(node).of_role(part).pop().ok_or_else(|| "it doesn't run".to_owned()))
}

/// Pods of a node: which containers they have, and how often those were started.
fn identities(system: &System, node: usize) -> BTreeMap<String, String> {
    let on_node = |pod: &Value| pod["spec"]["nodeName"] == format!("node-{node}");
    let mut found = BTreeMap::new();
    for pod in system.api().list(Kind::POD, "chaos=yes").into_iter().filter(on_node) {
        let status = &pod["status"]["containerStatuses"][0];
        let identity = format!("{} restarted {}", status["containerID"], status["restartCount"]);
        found.insert(pod["metadata"]["name"].to_string(), identity);
    }
    assert!(found.len() >= 2, "{found:?}");
    found
}

/// What runs in it: a server on each node, one that is never to be touched, and a client.
struct Cluster {
    untouched: String,
    both: String,
    client: Net,
}

impl Cluster {
    fn deploy(system: &System) -> Self {
        let api = system.api();
        for (name, app, node) in [("steady", "steady", 1), ("both-1", "both", 1), ("both-2", "both", 2)] {
            api.create(Kind::POD, &pod(name, app, node, &["netexec"]));
        }
        api.create(Kind::POD, &pod("client", "client", 1, &["pause"]));
        let [untouched, both] = ["steady", "both"].map(|name| {
            let spec = json!({"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]});
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
            let made = api.create(Kind::SERVICE, &service);
            format!("{}:80", made["spec"]["clusterIP"].as_str().expect("a ClusterIP"))
        });
        ["steady", "both-1", "both-2", "client"].iter().for_each(|pod| drop(api.until_pod_ready(pod)));
        let cluster = Cluster { untouched, both, client: system.pod_net("client") };
        cluster.answers(system);
        cluster
    }

    /// From a pod by the node's proxy, from the host by the fabric, and between the nodes.
    fn connections(&self, system: &System) -> Vec<Steady> {
        vec![
            Steady::open("a pod to a ClusterIP", &self.client, &self.untouched),
            Steady::open("the host to a ClusterIP", system.host(), &self.untouched),
            Steady::open("the host to a pod", system.host(), &pod_address(system, "steady")),
        ]
    }

    /// New connections reach both nodes, and names resolve.
    fn answers(&self, system: &System) {
        ["steady", "both-1", "both-2", "client"].iter().for_each(|pod| drop(system.api().until_pod_ready(pod)));
        for from in [&self.client, system.host()] {
            eventually("both servers answer", || {
                let found = from.spread(&self.both, 12);
                let names: Vec<&str> = found.keys().map(String::as_str).collect();
                let slices = system.api().list(Kind::SLICE, "kubernetes.io/service-name=both");
                let ready = testkit::ready(&slices);
                if names == ["both-1", "both-2"] { Ok(()) } else { Err(format!("{found:?}, endpoints {ready:?}")) }
            });
            eventually("the steady server answers", || match from.get(&self.untouched, "/hostname") {
                Outcome::Answered(name) if name == "steady" => Ok(()),
                other => Err(other.to_string()),
            });
        }
        eventually("names resolve", || {
            let said = system.in_pod("default/client", &["curl", "-sS", "--max-time", "5", "http://steady/hostname"]);
            if said.out == "steady" { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
}

fn pod_address(system: &System, pod: &str) -> String {
    let pod = system.api().get(Kind::POD, pod);
    format!("{}:8080", pod["status"]["podIP"].as_str().expect("an address"))
}

fn pod(name: &str, app: &str, node: usize, args: &[&str]) -> Value {
    let container = json!({"name": "c", "image": "portolan.local/testserver:latest",
        "imagePullPolicy": "IfNotPresent", "args": args});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app, "chaos": "yes"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container],
            "nodeSelector": {"kubernetes.io/hostname": format!("node-{node}")}}})
}

/// The names of all ConfigMaps that the writers made.
fn stored(system: &System) -> BTreeSet<String> {
    let found = system.api().list(Kind::CONFIG_MAP, "chaos=written");
    found.iter().filter_map(|object| object["metadata"]["name"].as_str()).map(str::to_owned).collect()
}

/// Clients that write without pause, and remember what was acknowledged.
struct Writers {
    over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    const COUNT: usize = 2;

    fn start(system: &System) -> Self {
        let socket: PathBuf = system.data_dir().join("run/sockets/api.sock");
        let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let write = |writer: usize| {
            let (socket, over, acknowledged) = (socket.clone(), over.clone(), acknowledged.clone());
            move || {
                let api = Api::new(&socket);
                for n in 0.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let name = format!("w{writer}-{n}");
                    let metadata = json!({"name": name, "labels": {"chaos": "written"}});
                    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
                    // Whether a write without an answer happened doesn't matter: it wasn't acknowledged.
                    if api.try_create(Kind::CONFIG_MAP, &object).is_ok_and(|made| made.is_some()) {
                        acknowledged.lock().expect("no writer panics").push(name);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        let threads = (0..Self::COUNT).map(|writer| std::thread::spawn(write(writer))).collect();
        Writers { over, acknowledged, threads }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("no writer panics").len()
    }

    fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a writer"));
        self.acknowledged.lock().expect("no writer panics").clone()
    }
}
