//! Where it happens: clients, a node and the endpoints' machine as network namespaces joined by veths, without a way to
//! anywhere else. `portolan proxy` runs on the node, beside the API server that it follows.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netns::NetNs;
use serde_json::{Value, json};
use testkit::eventually;

use crate::proxy_node::api::Api;
use crate::proxy_node::{Proxy, config, configure, get, ip, join, kubeconfig, namespaces, portolan_proxy};

/// As many endpoints have addresses and may listen.
pub const ENDPOINTS: usize = 8;
/// Where new connections come from.
pub const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 244, 1, 10),
    Ipv4Addr::new(10, 244, 1, 11),
    Ipv4Addr::new(10, 244, 1, 12),
    Ipv4Addr::new(10, 244, 1, 13),
];
/// Where they go: a Service's own address, and a port of the node.
pub const TCP: [([u8; 4], u16); 2] = [([10, 96, 0, 9], 80), ([192, 0, 2, 2], 30_080)];
pub const UDP: [([u8; 4], u16); 2] = [([10, 96, 0, 9], 53), ([192, 0, 2, 2], 30_053)];
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub struct Place {
    pub clients: NetNs,
    pub node: NetNs,
    pub servers: Servers,
    pub api: Api,
    now: Mutex<Vec<(usize, bool)>>,
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let [clients, node, far] = namespaces();
        join(&node, "pods", "10.244.1.1/24", &clients, "10.244.1.2/24");
        join(&node, "far", "192.0.2.2/24", &far, "192.0.2.3/24");
        for client in CLIENTS {
            ip(&clients, &format!("addr add {client}/24 dev eth0"));
        }
        ip(&clients, "route add default via 10.244.1.1");
        ip(&far, "route add default via 192.0.2.2");
        ip(&far, "route add local 10.244.2.0/24 dev lo");
        ip(&node, "route add 10.244.2.0/24 via 192.0.2.3");
        netns::sysctl::forward(&node, false).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let api = Api::start(&node, &kubeconfig(folder.path()));
        let servers = Servers::new(far);
        let place = Place { clients, node, servers, api, now: Mutex::default(), folder };
        place.fill();
        place
    }

    fn fill(&self) {
        self.api.create("/api/v1/nodes", &json!({"metadata": {"name": "here"}, "spec": {"podCIDR": "10.244.1.0/24"}}));
        let addressed = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}});
        self.api.send("PATCH", "/api/v1/nodes/here/status", "application/merge-patch+json", &addressed);
        self.api.create(
            SERVICES,
            &json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [
                {"name": "tcp", "port": 80, "nodePort": 30_080},
                {"name": "udp", "port": 53, "nodePort": 30_053, "protocol": "UDP"}]}}),
        );
        self.api.put(SLICES, &slice(&[]));
    }

    /// The Service's endpoints, each with whether it is ready; one that isn't is ending and still serves.
    pub fn endpoints(&self, now: &[(usize, bool)]) {
        self.api.put(SLICES, &slice(now));
        *self.now.lock().unwrap() = now.to_vec();
    }

    pub fn endpoints_now(&self) -> Vec<(usize, bool)> {
        self.now.lock().unwrap().clone()
    }

    pub fn configure(&self, text: &str) {
        configure(self.folder.path(), text);
    }

    /// Another configuration, and the proxy has taken it.
    pub fn reload(&self, text: &str) {
        let applied = || self.counted("portolan_proxy_config_reloads_total{result=\"applied\"}");
        let before = applied().unwrap_or(0.0);
        self.configure(text);
        eventually("the configuration is taken", || {
            let now = applied()?;
            if now > before { Ok(()) } else { Err(format!("{now} times before and now\n{}", self.log())) }
        });
    }

    /// … and is in another mode.
    pub fn become_mode(&self, mode: &str, text: &str) {
        self.reload(text);
        let metric = format!("portolan_proxy_mode{{mode=\"{mode}\",asked=\"{mode}\"}}");
        eventually("another mode", || {
            let now = self.counted(&metric)?;
            if now > 0.0 { Ok(()) } else { Err(self.log()) }
        });
    }

    /// Starts it and waits until it has looked after the Services of both families and follows the API.
    pub fn start_proxy(&self) -> Proxy {
        let config = config(self.folder.path());
        let proxy = Proxy::start(&self.node, &["--config", config.to_str().unwrap()], &self.folder.path().join("log"));
        for family in ["IPv4", "IPv6"] {
            let metric = format!("kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"{family}\"}}");
            eventually("the first sync", || {
                let when = self.counted(&metric)?;
                if when > 0.0 { Ok(()) } else { Err(self.log()) }
            });
        }
        self.until_followed();
        proxy
    }

    /// Takes everything of a proxy that has ended from the node.
    pub fn clean_up(&self) {
        let mut command = portolan_proxy(&["--cleanup"]);
        let output = self.node.run(move || command.output().unwrap()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until the proxy has taken in a change of now: it follows the API.
    pub fn until_followed(&self) {
        let seen = || self.counted("kubeproxy_sync_proxy_rules_service_changes_total");
        let before = seen().unwrap_or(0.0);
        let path = format!("{SERVICES}/s");
        let stamp = format!("{:?}", Instant::now());
        let patch = json!({"metadata": {"annotations": {"test/changed": stamp}}});
        self.api.send("PATCH", &path, "application/merge-patch+json", &patch);
        eventually("the proxy follows the API", || {
            let now = seen()?;
            if now > before { Ok(()) } else { Err(format!("{now} changes before and now\n{}", self.log())) }
        });
    }

    /// The node's network devices.
    pub fn devices(&self) -> String {
        self.node.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap()
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn counted(&self, metric: &str) -> Result<f64, String> {
        let page = get(&self.node, "127.0.0.1:10249", "/metrics")?;
        let line = page.lines().find_map(|line| line.strip_prefix(metric)).ok_or_else(|| format!("no {metric}"))?;
        line.trim().parse().map_err(|_| format!("{metric}{line}"))
    }
}

fn slice(now: &[(usize, bool)]) -> Value {
    let endpoint = |(number, ready): &(usize, bool)| {
        json!({"addresses": [address(*number).to_string()], "nodeName": "there",
               "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
    };
    json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
        "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
        "endpoints": now.iter().map(endpoint).collect::<Vec<_>>()
    })
}

pub fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 2, u8::try_from(number + 1).unwrap())
}

/// The endpoints: each echoes and says which one it is, on TCP and UDP.
pub struct Servers {
    namespace: NetNs,
    open: Mutex<HashMap<usize, Server>>,
    /// When each was last reached by a datagram.
    reached: Arc<Mutex<HashMap<usize, Instant>>>,
}

struct Server {
    closing: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Servers {
    fn new(namespace: NetNs) -> Servers {
        let servers = Servers { namespace, open: Mutex::default(), reached: Arc::default() };
        (0..ENDPOINTS).for_each(|number| servers.open(number));
        servers
    }

    pub fn open(&self, number: usize) {
        let at = SocketAddr::from((address(number), 8080));
        let made = self.namespace.run(|| (listen(at), UdpSocket::bind(at).unwrap()));
        let (tcp, udp) = made.unwrap();
        let (closing, reached) = (Arc::<AtomicBool>::default(), self.reached.clone());
        let (one, other) = (closing.clone(), closing.clone());
        let name = u8::try_from(number).unwrap();
        let threads = [
            std::thread::spawn(move || serve_connections(&tcp, name, &one)),
            std::thread::spawn(move || serve_datagrams(&udp, name, &other, &reached)),
        ];
        self.open.lock().unwrap().insert(number, Server { closing, threads });
    }

    /// It listens no more; its connections go on.
    pub fn close(&self, number: usize) {
        let Server { closing, threads } = self.open.lock().unwrap().remove(&number).unwrap();
        closing.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Tells when an endpoint was last reached by a datagram.
    pub fn reached(&self) -> Box<dyn Fn(usize) -> Option<Instant>> {
        let reached = self.reached.clone();
        Box::new(move |number| reached.lock().unwrap().get(&number).copied())
    }
}

/// Room for all who come while the accepting thread waits for its turn.
fn listen(at: SocketAddr) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.set_read_timeout(Some(TURN)).unwrap();
    socket.into()
}

const TURN: Duration = Duration::from_millis(20);

fn serve_connections(listener: &TcpListener, name: u8, closing: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        // Nobody within the turn, or somebody who has gone already.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        std::thread::spawn(move || {
            // It has the listener's.
            stream.set_read_timeout(None).unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[name]).is_ok() {}
        });
    }
}

fn serve_datagrams(socket: &UdpSocket, name: u8, closing: &AtomicBool, reached: &Mutex<HashMap<usize, Instant>>) {
    socket.set_read_timeout(Some(TURN)).unwrap();
    let mut bytes = [0; 16];
    while !closing.load(Ordering::Relaxed) {
        let Ok((_, from)) = socket.recv_from(&mut bytes) else { continue };
        reached.lock().unwrap().insert(usize::from(name), Instant::now());
        // Who asked may have gone.
        let _ = socket.send_to(&[name], from);
    }
}
