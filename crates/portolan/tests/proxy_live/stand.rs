//! A node with one pod, and somebody outside: network namespaces joined by veths, without a way to anywhere else. On the
//! node runs `portolan proxy`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netns::NetNs;
use serde_json::{Value, json};
use testkit::{eventually, patience};

use crate::cluster::{Cluster, NODES, SERVICES, SLICES};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nhostnameOverride: here\n\
                    clusterCIDR: 10.244.0.0/16\nconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, \
                    tcpCloseWaitTimeout: 0s}\n";

/// Asks the pod's server whom it sees.
pub const WHO: &[u8] = b"who";

pub struct Stand {
    pub node: NetNs,
    pub outside: NetNs,
    pod: NetNs,
    pub cluster: Cluster,
    folder: tempfile::TempDir,
}

/// A proxy; killed when dropped.
pub struct Proxy(Child);

/// Opens a connection again and again, and counts those that fail.
pub struct Prober {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: JoinHandle<Vec<String>>,
}

impl Stand {
    pub fn new() -> Stand {
        let namespace = || NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
        let (node, outside, pod) = (namespace(), namespace(), namespace());
        for each in [&node, &outside, &pod] {
            ip(each, "link set lo up");
        }
        for (device, other, here, there) in
            [("eth0", &outside, "192.0.2.2/24", "192.0.2.1/24"), ("pod0", &pod, "10.244.1.1/24", "10.244.1.5/24")]
        {
            let pinned = other.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            let number = std::os::fd::AsRawFd::as_raw_fd(&pinned);
            let into = format!("/proc/{}/fd/{number}", std::process::id());
            ip(&node, &format!("link add {device} type veth peer name eth0 netns {into}"));
            for (end, link, address) in [(&node, device, here), (other, "eth0", there)] {
                ip(end, &format!("addr add {address} dev {link}"));
                ip(end, &format!("link set {link} up"));
            }
        }
        ip(&pod, "route add default via 10.244.1.1");
        ip(&outside, "route add default via 192.0.2.2");
        ip(&node, "route add default via 192.0.2.1");
        netns::sysctl::forward(&node, false).unwrap();
        let cluster = Cluster::start(&node);
        let stand = Stand { node, outside, pod, cluster, folder: tempfile::tempdir().unwrap() };
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
        let addresses = json!([{"type": "InternalIP", "address": "192.0.2.2"}]);
        self.cluster.put(NODES, json!({"metadata": {"name": "here"}, "status": {"addresses": addresses}}));
        let ports = |node_port| {
            json!([{"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": node_port},
                   {"name": "udp", "port": 53, "protocol": "UDP", "targetPort": 8080, "nodePort": node_port + 1}])
        };
        self.cluster.put(
            SERVICES,
            json!({"metadata": {"namespace": "n", "name": "web", "uid": "u1"},
                   "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9"], "ports": ports(30_080)}}),
        );
        self.cluster.put(
            SERVICES,
            json!({"metadata": {"namespace": "n", "name": "balanced", "uid": "u2"},
                   "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.10"], "externalTrafficPolicy": "Local",
                            "healthCheckNodePort": 32_000, "ports": ports(30_090)}}),
        );
        self.endpoints("web", &[("10.244.1.5", "here", true)]);
        self.endpoints("balanced", &[("10.244.1.5", "here", true)]);
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
        self.cluster.put(
            SLICES,
            json!({"metadata": {"namespace": "n", "name": format!("{service}-1"),
                                "labels": {"kubernetes.io/service-name": service},
                                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now}},
                   "addressType": "IPv4", "endpoints": endpoints,
                   "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}]}),
        );
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Writes the configuration as a ConfigMap's mount does: a new file takes the old one's place.
    pub fn configure(&self, text: &str) {
        let kubeconfig = self.folder.path().join("kubeconfig");
        let server = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \
                      'http://127.0.0.1:8080'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: \
                      [{name: u, user: {}}]\n";
        std::fs::write(&kubeconfig, server).unwrap();
        let new = self.folder.path().join("new");
        let client = format!("clientConnection: {{kubeconfig: {}}}\n", kubeconfig.display());
        std::fs::write(&new, format!("{HEAD}{client}{text}")).unwrap();
        std::fs::rename(new, self.config()).unwrap();
    }

    pub fn start(&self, flags: &[&str]) -> Proxy {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = self.portolan(flags);
        let child = self.node.run(move || command.stderr(log).stdout(Stdio::null()).spawn().unwrap()).unwrap();
        Proxy(child)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs `portolan proxy` to its end.
    pub fn run(&self, flags: &[&str]) -> Output {
        let mut command = self.portolan(flags);
        self.node.run(move || command.output().unwrap()).unwrap()
    }

    fn portolan(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.arg("proxy").args(flags).env_remove("PORTOLAN_LOG");
        command
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
        let address: SocketAddr = host.parse().unwrap();
        let text = self.node.run(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(patience()))?;
            write!(stream, "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        text.unwrap().map_err(|error| error.to_string())
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

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
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

pub fn ip(namespace: &NetNs, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    let output = namespace.run(move || command.output().unwrap()).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
