//! A node with pods, another node's pods and clients outside, as network namespaces joined by veths, without a route to
//! anywhere else. Pods answer with who they are and whom they saw. Not responsible for what is sent, nor for what the node
//! does with it.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use netns::NetNs;
use proxy::battery::table::Seen;
use proxy::battery::{Fate, World};
use service_model::{Deny, IpFamily, Outcome, Packet, Protocol, Source};

use crate::ask::{ask, patience};
use crate::serve::Servers;

/// The link between the node and what lies beyond it.
const BEYOND: [[&str; 2]; 2] = [["172.31.0.1", "172.31.0.2"], ["fd00:173::1", "fd00:173::2"]];

pub struct Rig {
    pub node: NetNs,
    elsewhere: NetNs,
    beyond: NetNs,
    pods: Vec<(Vec<IpAddr>, NetNs)>,
    /// The node's own addresses.
    own: Vec<IpAddr>,
    servers: Servers,
}

impl Rig {
    /// A node of one family, whose pods answer on TCP and UDP.
    pub fn new(world: &World) -> Rig {
        let mut rig = Rig::empty();
        rig.add(world);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            rig.serve(world, protocol);
        }
        rig.start();
        rig
    }

    /// A node without addresses.
    pub(crate) fn empty() -> Rig {
        let (node, elsewhere, beyond) = (namespace(), namespace(), namespace());
        let rig = Rig { node, elsewhere, beyond, pods: vec![], own: vec![], servers: Servers::default() };
        rig.join("eth0", &rig.elsewhere);
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ] {
            netns::sysctl::set(&rig.node, key, value).unwrap();
        }
        rig
    }

    /// Gives everybody their addresses of one family.
    pub(crate) fn add(&mut self, world: &World) {
        let Words { net, host, all, nodad } = Words::of(world.family);
        let outside = world.outsiders[0];
        let on = |device: &'static str, net| {
            move |address: &IpAddr| format!("addr add {address}/{net} dev {device} {nodad}")
        };
        let mut here: Vec<String> =
            [world.node_address, world.second_node_address].iter().map(on("eth0", net)).collect();
        here.push(format!("route add {all} via {outside} dev eth0"));
        ip(&self.node, &here);
        let mut there: Vec<String> = world.outsiders.iter().map(on("eth0", net)).collect();
        there.extend(world.remote_pods.iter().map(on("lo", host)));
        // Whatever the outside sends to a Service goes to the node, as on a host that routes to it.
        there.push(format!("route add {all} via {} dev eth0", world.node_address));
        ip(&self.elsewhere, &there);
        let gateway = world.gateway;
        let mut here = Vec::new();
        for (number, address) in world.local_pods.iter().enumerate() {
            let device = format!("pod{number}");
            if number == self.pods.len() {
                let pod = namespace();
                self.join(&device, &pod);
                self.pods.push((vec![], pod));
            }
            let (addresses, pod) = &mut self.pods[number];
            addresses.push(*address);
            here.push(format!("addr add {gateway}/{host} dev {device} {nodad}"));
            here.push(format!("route add {address}/{host} dev {device}"));
            let there = [
                format!("addr add {address}/{host} dev eth0 {nodad}"),
                format!("route add {gateway}/{host} dev eth0"),
                format!("route add {all} via {gateway} dev eth0"),
            ];
            ip(pod, &there);
        }
        ip(&self.node, &here);
        self.own.extend([world.node_address, world.second_node_address, gateway]);
    }

    /// Routes these networks from the node to somebody who has every address in them.
    pub(crate) fn add_beyond(&self, nets: &[IpNet]) {
        self.join("eth1", &self.beyond);
        for (family, [near, far]) in IpFamily::BOTH.into_iter().zip(BEYOND) {
            let Words { net, all, nodad, .. } = Words::of(family);
            let mut here = vec![format!("addr add {near}/{net} dev eth1 {nodad}")];
            let mut there =
                vec![format!("addr add {far}/{net} dev eth0 {nodad}"), format!("route add {all} via {near} dev eth0")];
            for routed in nets.iter().filter(|net| IpFamily::of(net.addr()) == family) {
                here.push(format!("route add {routed} via {far} dev eth1"));
                there.push(format!("route add local {routed} dev lo"));
            }
            ip(&self.node, &here);
            ip(&self.beyond, &there);
        }
        for key in ["net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"] {
            netns::sysctl::set(&self.beyond, key, "1").unwrap();
        }
    }

    /// Lets the pods answer, here and elsewhere.
    pub(crate) fn serve(&mut self, world: &World, protocol: Protocol) {
        for address in world.local_pods.iter().chain(&world.remote_pods) {
            let home = self.home(*address).clone();
            for port in world.endpoint_ports {
                self.servers.listen(&home, SocketAddr::new(*address, port), protocol);
            }
        }
    }

    pub(crate) fn listen_beyond(&mut self, at: SocketAddr, protocol: Protocol) {
        self.servers.listen(&self.beyond, at, protocol);
    }

    pub(crate) fn start(&mut self) {
        self.servers.start();
    }

    fn join(&self, here: &str, other: &NetNs) {
        let file = other.run(|| File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        // `ip` opens the descriptor through /proc of this process.
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let link = format!("link add {here} type veth peer name eth0 netns {path}");
        ip(&self.node, &[link, format!("link set {here} up")]);
        ip(other, &["link set eth0 up".to_owned()]);
    }

    /// The namespace of whoever has this address.
    pub(crate) fn home(&self, address: IpAddr) -> &NetNs {
        if address.is_loopback() || self.own.contains(&address) {
            return &self.node;
        }
        let pod = self.pods.iter().find(|(addresses, _)| addresses.contains(&address));
        pod.map_or(&self.elsewhere, |(_, namespace)| namespace)
    }

    /// Sends the first packet of a new connection, for real, and says what became of it. What is expected only decides for
    /// how long to wait.
    pub fn send(&self, packet: &Packet, expected: &Outcome) -> Fate {
        let patience = patience(*expected == Outcome::Denied(Deny::Dropped));
        let from = packet.source.address();
        let to = SocketAddr::new(packet.destination, packet.port.number());
        let seen = self.home(from).run(|| ask(from, to, packet.protocol, patience)).unwrap();
        match seen {
            Seen::Answered { by, client } => {
                let by_node = matches!(packet.source, Source::Node(_));
                Fate::Reached { endpoint: by, masqueraded: (!by_node).then_some(client != from) }
            }
            Seen::Refused => Fate::Rejected,
            Seen::Nothing => Fate::Vanished,
            Seen::Failed(kind) => panic!("{packet}: {kind:?}"),
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

/// How `ip` is told about a family.
struct Words {
    net: u8,
    host: u8,
    all: &'static str,
    nodad: &'static str,
}

impl Words {
    fn of(family: IpFamily) -> Words {
        match family {
            IpFamily::V4 => Words { net: 24, host: 32, all: "0.0.0.0/0", nodad: "" },
            IpFamily::V6 => Words { net: 64, host: 128, all: "::/0", nodad: "nodad" },
        }
    }
}

/// A namespace with nothing but a working loopback.
pub fn namespace() -> NetNs {
    let namespace = NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
    // For a second after its link came up, an IPv6 node that looks for duplicates answers nobody.
    netns::sysctl::set(&namespace, "net.ipv6.conf.default.dad_transmits", "0").unwrap();
    ip(&namespace, &["link set lo up".to_owned()]);
    namespace
}

/// One process for many commands: starting one takes a slow machine longer than all that it does.
fn ip(namespace: &NetNs, commands: &[String]) {
    let run = || {
        let mut ip =
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
        ip.wait().unwrap()
    };
    let status = namespace.run(run).unwrap();
    assert!(status.success(), "ip {commands:#?}");
}
