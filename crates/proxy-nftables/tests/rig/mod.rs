//! A node with pods, another node's pods and clients outside, as network namespaces joined by veths, without a route to
//! anywhere else. Pods answer on TCP and UDP with who they are and whom they saw.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netns::NetNs;
use proxy::battery::{Fate, World};
use service_model::{Deny, Outcome, Packet, Protocol, Source};
use socket2::{Domain, Socket, Type};

/// How long to wait for what ought to come: everything is on one machine, but other tests run beside.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for nothing. An ICMP error that comes while connect() still holds its socket, as it does over a veth,
/// is only taken in with the second SYN, a second later.
const SILENCE: Duration = Duration::from_millis(1_300);

pub struct Rig {
    pub node: NetNs,
    elsewhere: NetNs,
    pods: Vec<(IpAddr, NetNs)>,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

impl Rig {
    pub fn new(world: &World) -> Rig {
        let (node, elsewhere) = (namespace(), namespace());
        let six = world.node_address.is_ipv6();
        let (net, all, host) = if six { (64, "::/0", 128) } else { (24, "0.0.0.0/0", 32) };
        let v = if six { "-6" } else { "-4" };
        let mut rig = Rig { node, elsewhere, pods: vec![], stop: Arc::default(), servers: vec![] };
        let outside = world.outsiders[0];
        rig.join("eth0", &rig.elsewhere, "eth0");
        ip(&rig.node, &format!("addr add {}/{net} dev eth0 {}", world.node_address, nodad(six)));
        for address in world.outsiders.iter() {
            ip(&rig.elsewhere, &format!("addr add {address}/{net} dev eth0 {}", nodad(six)));
        }
        for address in &world.remote_pods {
            ip(&rig.elsewhere, &format!("addr add {address}/{host} dev lo {}", nodad(six)));
        }
        ip(&rig.node, &format!("{v} route add {all} via {outside} dev eth0"));
        // Whatever the outside sends to a Service goes to the node, as on a host that routes to it.
        ip(&rig.elsewhere, &format!("{v} route add {all} via {} dev eth0", world.node_address));
        for (number, address) in world.local_pods.iter().enumerate() {
            let pod = namespace();
            let device = format!("pod{number}");
            rig.join(&device, &pod, "eth0");
            let gateway = if six { "fd00:244:1::1" } else { "10.244.1.1" };
            ip(&rig.node, &format!("addr add {gateway}/{host} dev {device} {}", nodad(six)));
            ip(&rig.node, &format!("{v} route add {address}/{host} dev {device}"));
            ip(&pod, &format!("addr add {address}/{host} dev eth0 {}", nodad(six)));
            ip(&pod, &format!("{v} route add {gateway}/{host} dev eth0"));
            ip(&pod, &format!("{v} route add {all} via {gateway} dev eth0"));
            rig.pods.push((*address, pod));
        }
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ] {
            netns::sysctl::set(&rig.node, key, value).unwrap();
        }
        rig.serve(world);
        rig
    }

    fn join(&self, here: &str, other: &NetNs, there: &str) {
        let file = other.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        // The descriptor is inherited by number: `ip` opens it through /proc of this process.
        use std::os::fd::AsRawFd;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        ip(&self.node, &format!("link add {here} type veth peer name {there} netns {path}"));
        ip(&self.node, &format!("link set {here} up"));
        ip(other, &format!("link set {there} up"));
    }

    fn serve(&mut self, world: &World) {
        let mut servers = Vec::new();
        let elsewhere = world.remote_pods.iter().map(|address| (*address, self.elsewhere.clone()));
        for (address, namespace) in self.pods.iter().cloned().chain(elsewhere) {
            for port in world.endpoint_ports {
                let at = SocketAddr::new(address, port);
                let (tcp, udp) =
                    namespace.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())).unwrap();
                tcp.set_nonblocking(true).unwrap();
                udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let (stop, stop_udp) = (self.stop.clone(), self.stop.clone());
                servers.push(std::thread::spawn(move || answer_tcp(&tcp, at, &stop)));
                servers.push(std::thread::spawn(move || answer_udp(&udp, at, &stop_udp)));
            }
        }
        self.servers = servers;
    }

    /// Sends the first packet of a new connection, for real, and says what became of it. What is expected only decides for
    /// how long to wait.
    pub fn send(&self, packet: &Packet, expected: &Outcome) -> Fate {
        let patience = if *expected == Outcome::Denied(Deny::Dropped) { SILENCE } else { PATIENCE };
        let (namespace, from) = match packet.source {
            Source::Node(address) => (&self.node, address),
            Source::RemotePod(address) | Source::Outside(address) => (&self.elsewhere, address),
            Source::LocalPod(address) => (&self.pods.iter().find(|(pod, _)| *pod == address).unwrap().1, address),
        };
        let to = SocketAddr::new(packet.destination, packet.port.number());
        let answer = namespace
            .run(|| match packet.protocol {
                Protocol::Tcp => ask_tcp(from, to, patience),
                Protocol::Udp => ask_udp(from, to, patience),
                Protocol::Sctp => panic!("this kernel has no SCTP"),
            })
            .unwrap();
        match answer {
            Ok((endpoint, seen)) => {
                let by_node = matches!(packet.source, Source::Node(_));
                Fate::Reached { endpoint, masqueraded: (!by_node).then_some(seen.ip() != from) }
            }
            Err(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Fate::Rejected,
                std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Fate::Vanished,
                other => panic!("{packet}: {other:?}: {error}"),
            },
        }
    }

    /// Does something where the clients outside are.
    pub fn outside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.elsewhere.run(act).unwrap()
    }

    /// Runs a program inside the node and returns what it prints.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.node.run(|| Command::new(program).args(arguments).output().unwrap()).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            server.join().ok();
        }
    }
}

pub fn namespace() -> NetNs {
    let namespace = NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
    ip(&namespace, "link set lo up");
    namespace
}

fn nodad(six: bool) -> &'static str {
    if six { "nodad" } else { "" }
}

fn ip(namespace: &NetNs, arguments: &str) {
    let status = namespace
        .run(|| Command::new("ip").args(arguments.split_whitespace()).stdout(Stdio::null()).status().unwrap())
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn answer_tcp(listener: &TcpListener, at: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, peer)) => {
                stream.set_nonblocking(false).ok();
                stream.write_all(format!("{at} {peer}").as_bytes()).ok();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn answer_udp(socket: &UdpSocket, at: SocketAddr, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(format!("{at} {peer}").as_bytes(), peer).ok();
        }
    }
}

type Answer = std::io::Result<(SocketAddr, SocketAddr)>;

fn bound(from: IpAddr, kind: Type) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(from, 0)), kind, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

fn ask_tcp(from: IpAddr, to: SocketAddr, patience: Duration) -> Answer {
    let socket = bound(from, Type::STREAM)?;
    socket.connect_timeout(&to.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(read(&text))
}

fn ask_udp(from: IpAddr, to: SocketAddr, patience: Duration) -> Answer {
    let socket = UdpSocket::from(bound(from, Type::DGRAM)?);
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    match socket.send(b"?") {
        // A verdict in the output hook also fails the call; what the socket hears after it is what counts.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        sent => drop(sent?),
    }
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(read(&String::from_utf8_lossy(&buffer[..length])))
}

fn read(text: &str) -> (SocketAddr, SocketAddr) {
    let (endpoint, seen) = text.split_once(' ').expect("an answer of ours");
    (endpoint.parse().unwrap(), seen.parse().unwrap())
}
