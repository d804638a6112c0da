//! A node with one pod, and somebody outside: network namespaces joined by veths, without a way to anywhere else. On the
//! node runs `portolan proxy`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netns::NetNs;
use serde_json::{Value, json};
use testkit::{eventually, patience};

use crate::proxy_node::api::Api;
use crate::proxy_node::{Proxy, config, configure, get, ip, join, kubeconfig, namespaces, portolan_proxy};

const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/namespaces/n/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices";

/// Asks the pod's server whom it sees.
pub const WHO: &[u8] = b"who";

pub struct Stand {
    pub node: NetNs,
    pub outside: NetNs,
    pod: NetNs,
    pub api: Api,
    folder: tempfile::TempDir,
}

/// Opens a connection again and again, and counts those that fail.
pub struct Prober {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: JoinHandle<Vec<String>>,
}

impl Stand {
    pub fn new() -> Stand {
        let [node, outside, pod] = namespaces();
        join(&node, "eth0", "192.0.2.2/24", &outside, "192.0.2.1/24");
        join(&node, "pod0", "10.244.1.1/24", &pod, "10.244.1.5/24");
        ip(&pod, "route add default via 10.244.1.1");
        ip(&outside, "route add default via 192.0.2.2");
        ip(&node, "route add default via 192.0.2.1");
        netns::sysctl::forward(&node, false).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let api = Api::start(&node, &kubeconfig(folder.path()));
        let stand = Stand { node, outside, pod, api, folder };
        stand.serve();
        stand.fill();
        stand
    }

    /// The pod's servers, which live as long as the process.
    fn serve(&self) {
        let (tcp, udp) = self
            .pod
            .run(|| (TcpListener::bind("0.0.0.0:8080").unwrap(), UdpSocket::bind("0.0.0.0:8080").unwrap()))
            .unwrap();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut bytes = [0; 64];
                    let peer = stream.peer_addr().unwrap().ip().to_string();
                    while let Ok(read @ 1..) = stream.read(&mut bytes) {
                        let answer = if &bytes[..read] == WHO { peer.as_bytes() } else { &bytes[..read] };
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((read, from)) = udp.recv_from(&mut bytes) {
                // Who asked may have gone.
                let _ = udp.send_to(&bytes[..read], from);
            }
        });
    }

    fn fill(&self) {
        self.api.create(NODES, &json!({"metadata": {"name": "here"}}));
        let addressed = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}});
        self.api.send("PATCH", "/api/v1/nodes/here/status", "application/merge-patch+json", &addressed);
        self.api.create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}));
        let ports = |node_port| {
            json!([{"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": node_port},
                   {"name": "udp", "port": 53, "protocol": "UDP", "targetPort": 8080, "nodePort": node_port + 1}])
        };
        self.service("web", &json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": ports(30_080)}));
        self.service(
            "balanced",
            &json!({"type": "LoadBalancer", "clusterIP": "10.96.0.10", "externalTrafficPolicy": "Local",
                    "healthCheckNodePort": 32_000, "ports": ports(30_090)}),
        );
        self.endpoints("web", &[("10.244.1.5", "here", true)]);
        self.endpoints("balanced", &[("10.244.1.5", "here", true)]);
    }

    pub fn service(&self, name: &str, spec: &Value) {
        self.api.create(SERVICES, &json!({"metadata": {"name": name}, "spec": spec}));
    }

    /// Addresses with their nodes, and whether each is ready.
    pub fn endpoints(&self, service: &str, endpoints: &[(&str, &str, bool)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, node, ready)| {
                json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready, "serving": ready}})
            })
            .collect();
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        self.api.put(
            SLICES,
            &json!({"metadata": {"name": format!("{service}-1"),
                                "labels": {"kubernetes.io/service-name": service},
                                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now}},
                   "addressType": "IPv4", "endpoints": endpoints,
                   "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}]}),
        );
    }

    pub fn config(&self) -> PathBuf {
        config(self.folder.path())
    }

    pub fn configure(&self, text: &str) {
        configure(self.folder.path(), text);
    }

    pub fn start(&self, flags: &[&str]) -> Proxy {
        Proxy::start(&self.node, flags, &self.new_log())
    }

    /// Where there is no program but it.
    pub fn start_alone(&self, flags: &[&str]) -> Proxy {
        Proxy::start_alone(&self.node, flags, &self.new_log())
    }

    fn new_log(&self) -> PathBuf {
        let log = self.folder.path().join("log");
        // What an earlier one said is of no interest.
        let _ = std::fs::remove_file(&log);
        log
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs `portolan proxy` to its end.
    pub fn run(&self, flags: &[&str]) -> Output {
        let mut command = portolan_proxy(flags);
        self.node.run(move || command.output().unwrap()).unwrap()
    }

    /// What a tool on the node prints.
    pub fn tool(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let output = self.node.run(move || command.output().unwrap()).unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// Has a tool on the node read something.
    pub fn feed(&self, line: &str, text: &str) {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::piped());
        let mut child = self.node.run(move || command.spawn().unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{line}");
    }

    pub fn get(&self, at: &str) -> Result<String, String> {
        let (host, path) = at.split_once('/').unwrap();
        get(&self.node, host, &format!("/{path}"))
    }

    /// Waits until the metrics have a line.
    #[track_caller]
    pub fn until_counted(&self, line: &str) {
        eventually(line, || {
            let page = self.get("127.0.0.1:10249/metrics")?;
            let kin = line.split(['{', ' ']).next().unwrap();
            if page.lines().any(|there| there == line) {
                return Ok(());
            }
            let kin: Vec<&str> = page.lines().filter(|there| there.starts_with(kin)).collect();
            Err(format!("{kin:?}\n{}", self.log()))
        });
    }

    /// Waits until a Service answers.
    #[track_caller]
    pub fn until_answered(&self, from: &NetNs, at: &str) {
        let address: SocketAddr = at.parse().unwrap();
        let log = |error: std::io::Error| format!("{error}\n{}", self.log());
        eventually(at, || from.run(|| once(address)).unwrap().map_err(log));
    }

    pub fn connect(&self, from: &NetNs, at: &str) -> TcpStream {
        let address: SocketAddr = at.parse().unwrap();
        let stream = from.run(|| TcpStream::connect_timeout(&address, patience()).unwrap()).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        stream
    }
}

impl Prober {
    pub fn start(from: &NetNs, at: &str) -> Prober {
        let address: SocketAddr = at.parse().unwrap();
        let (stop, done, from) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), from.clone());
        let (stopped, counted) = (stop.clone(), done.clone());
        let failures = std::thread::spawn(move || {
            let probe = || {
                let mut failures = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    match once(address) {
                        Ok(()) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("{address}: {error}")),
                    }
                }
                failures
            };
            from.run(probe).unwrap()
        });
        Prober { stop, done, failures }
    }

    /// Waits until so many more connections have been made.
    pub fn go_on(&self, connections: usize) {
        let goal = self.done.load(Ordering::Relaxed) + connections;
        eventually("connections go on", || {
            let done = self.done.load(Ordering::Relaxed);
            if done >= goal { Ok(()) } else { Err(format!("{done} of {goal}")) }
        });
    }

    pub fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.failures.join().unwrap();
        (self.done.load(Ordering::Relaxed), failures)
    }
}

/// A connection, an echo, and a reset, so that no port is used up.
fn once(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    echo(&mut stream)
}

/// Says something and hears it again.
pub fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes)?;
    if &bytes == b"hello" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}
