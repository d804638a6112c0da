//! The ways out of a system and into it: each kind of egress with what it leaves on the host, addresses that clash, and
//! systems side by side.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};
use testkit::{Kind, Net, Outcome, Outside, System, eventually, patience};

use crate::{MYAPP, PORTOLAN};

const CLIENT: &str = "default/client";
const SERVER: &str = "192.0.2.7:8080";
const NOBODY: &str = "192.0.2.7:9";
/// The host has no route there.
const NOWHERE: &str = "198.51.100.9:80";

/// A host with a link to the outside, and what answers there.
struct World {
    // The server is told to end by a connection, for which the network has to be there.
    _server: Outside,
    outside: Net,
    system: System,
}

impl World {
    fn new() -> Self {
        let system = System::new(PORTOLAN);
        let outside = system.uplink(&["192.0.2.1/24"], &["192.0.2.7/24"]);
        let server = Outside::start(&outside, SERVER, "outside");
        World { system, outside, _server: server }
    }

    /// Answers datagrams with who sent them, until the test ends.
    fn datagrams(&self, at: &str) {
        let socket =
            self.outside.namespace().run(|| UdpSocket::bind(at).expect("an address of ours")).expect("a namespace");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
    }

    /// A connection to the outside that the kernel translates outlives the supervisor.
    fn holds_over_a_replaced_supervisor(&mut self, args: &[&str]) {
        let listener = self.outside.namespace().run(|| TcpListener::bind("192.0.2.7:7000"));
        let listener = listener.expect("a namespace").expect("an address of ours");
        let client = self.system.pod_net(CLIENT).namespace().run(|| TcpStream::connect("192.0.2.7:7000"));
        let mut client = client.expect("a namespace").expect("a connection");
        let (mut server, _) = listener.accept().expect("a connection");
        self.system.replace_supervisor(args);
        server.set_read_timeout(Some(patience())).expect("a timeout");
        client.write_all(b"still there").expect("the connection holds");
        let mut heard = [0; 11];
        server.read_exact(&mut heard).expect("the connection holds");
    }

    fn sysctl(&self, name: &str) -> String {
        self.system.on_host(&["sysctl", "-n", name]).ok().trim().to_owned()
    }

    /// All that an administrator could see of the host's rules and routes to others.
    fn rules(&self) -> String {
        self.system.on_host(&["nft", "list", "ruleset"]).ok()
    }
}

#[test]
fn pods_and_nodes_get_out_by_the_relay_and_the_host_stays_as_it_was() {
    let mut world = World::new();
    world.datagrams("192.0.2.7:5353");
    let forwarding = world.sysctl("net.ipv4.ip_forward");
    world.system.start(&["-f", MYAPP]);
    world.system.step("up");
    for net in [world.system.pod_net(CLIENT), world.system.node_net("node-1")] {
        assert_eq!(net.get(SERVER, "/"), Outcome::Answered("outside".to_owned()));
        assert_eq!(net.udp("192.0.2.7:5353", "who am I?"), Outcome::Answered("192.0.2.1".to_owned()));
        for _ in 0..10 {
            assert_eq!(net.get(NOBODY, "/"), Outcome::Refused);
            assert!(matches!(net.get(NOWHERE, "/"), Outcome::Failed(_)), "unreachable at once");
            assert!(matches!(net.get("169.254.169.254:80", "/"), Outcome::Failed(_)));
        }
        // Once: the outside itself sends few ICMP errors a second.
        assert_eq!(net.udp(NOBODY, "anybody?"), Outcome::Refused);
        // A pod's address that nobody has is inside, whatever the relay could reach.
        assert!(matches!(net.get("10.244.77.7:80", "/"), Outcome::Failed(_) | Outcome::TimedOut));
    }
    assert_eq!(world.rules(), "", "rules on the host");
    assert_eq!(world.sysctl("net.ipv4.ip_forward"), forwarding);
    world.system.step("relayed");
    world.system.replace_supervisor(&[]);
    let pod = world.system.pod_net(CLIENT);
    assert_eq!(pod.get(SERVER, "/"), Outcome::Answered("outside".to_owned()));
    assert_eq!(pod.udp("192.0.2.7:5353", "who am I?"), Outcome::Answered("192.0.2.1".to_owned()));
    assert_eq!(pod.get(NOBODY, "/"), Outcome::Refused);
    world.system.step("relayed by the next supervisor");
    external_ips_answer_everywhere(&world.system);
    world.system.down();
}

/// From a pod, from the host's own processes and from a node's, which have a route to them since nodes have a way out.
fn external_ips_answer_everywhere(system: &System) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "external"},
        "spec": {"selector": {"app": "myapp"}, "externalIPs": ["203.0.113.80"], "ports": [{"port": 80}]}});
    system.api().create(Kind::SERVICE, &service);
    let nets = [system.pod_net(CLIENT), system.node_net("node-1")];
    for net in nets {
        eventually("an answer by the external IP", || match net.get("203.0.113.80:80", "/hostname") {
            Outcome::Answered(name) if name.starts_with("myapp-") => Ok(()),
            other => Err(other.to_string()),
        });
    }
}

#[test]
fn without_egress_the_outside_is_refused_at_once() {
    let mut world = World::new();
    world.datagrams("192.0.2.7:5353");
    world.system.start(&["-f", MYAPP, "--egress", "none"]);
    for net in [world.system.pod_net(CLIENT), world.system.node_net("node-1")] {
        for _ in 0..10 {
            assert_eq!(net.get(SERVER, "/"), Outcome::Refused);
            assert!(matches!(net.udp("192.0.2.7:5353", "anybody?"), Outcome::Failed(_)), "refused by ICMP");
        }
        assert_ne!(net.get("10.96.0.1:443", "/"), Outcome::Refused, "what is inside answers");
    }
    let said = world.system.in_pod(CLIENT, &["dig", "+tries=1", "+time=10", "outside.example"]);
    assert!(said.out.contains("SERVFAIL"), "{said:?}");
    world.system.down();
}

#[test]
fn nat_is_undone_at_the_end_and_after_a_crash() {
    let mut world = World::new();
    world.datagrams("192.0.2.7:5353");
    world.system.on_host(&["sysctl", "-qw", "net.ipv4.ip_forward=0"]).ok();
    for crash in [false, true] {
        world.system.start(&["-f", MYAPP, "--egress", "nat"]);
        for net in [world.system.pod_net(CLIENT), world.system.node_net("node-1")] {
            assert_eq!(net.get(SERVER, "/"), Outcome::Answered("outside".to_owned()));
            assert_eq!(net.udp("192.0.2.7:5353", "who am I?"), Outcome::Answered("192.0.2.1".to_owned()));
            assert_eq!(net.get(NOBODY, "/"), Outcome::Refused);
        }
        assert!(world.rules().contains("portolan0-egress"), "{}", world.rules());
        assert_eq!(world.sysctl("net.ipv4.ip_forward"), "1");
        if crash {
            world.holds_over_a_replaced_supervisor(&["--egress", "nat"]);
            world.system.kill_supervisor();
        }
        world.system.down();
        assert_eq!(world.sysctl("net.ipv4.ip_forward"), "0");
        world.system.step("undone");
    }
}

#[test]
fn two_ip_families_all_the_way() {
    let mut system = System::new(PORTOLAN);
    let outside = system.uplink(&["2001:db8::1/64"], &["2001:db8::7/64"]);
    let _server = Outside::start(&outside, "[2001:db8::7]:8080", "outside");
    system.start(&["-f", MYAPP, "--dual-stack", "--nodes", "2"]);
    let selector = json!({"app": "myapp"});
    let dual = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dual"},
        "spec": {"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": selector, "ports": [{"port": 80}]}});
    let dual = system.api().create(Kind::SERVICE, &dual);
    let headless = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "each"},
        "spec": {"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack", "selector": selector, "ports": [{"port": 80}]}});
    system.api().create(Kind::SERVICE, &headless);

    let pod = system.api().get(Kind::POD, "client");
    let [pod4, pod6] = two(&pod["status"]["podIPs"], |ip| ip["ip"].as_str());
    assert!(pod4.starts_with("10.244.") && pod6.starts_with("fd00:10:244:"), "{pod4} {pod6}");
    for node in system.api().list(Kind::NODE, "") {
        two(&node["spec"]["podCIDRs"], Value::as_str);
    }
    for family in ["IPv4", "IPv6"] {
        let selector = "kubernetes.io/service-name=dual";
        system.api().until_all(Kind::SLICE, selector, "three endpoints of each family", |slices| {
            let of_family = slices.iter().filter(|slice| slice["addressType"] == family);
            of_family.flat_map(|slice| slice["endpoints"].as_array()).map(Vec::len).sum::<usize>() == 3
        });
    }

    let [ip4, ip6] = two(&dual["spec"]["clusterIPs"], Value::as_str);
    let node_port = &dual["spec"]["ports"][0]["nodePort"];
    let mut places = vec![format!("{ip4}:80"), format!("[{ip6}]:80")];
    for host in ["172.30.0.11", "172.30.0.12", "[fd00:172:30::b]", "[fd00:172:30::c]"] {
        places.push(format!("{host}:{node_port}"));
    }
    let all_answer = |system: &System| {
        for net in [system.pod_net(CLIENT), system.node_net("node-1"), system.node_net("node-2"), system.host().clone()]
        {
            for to in &places {
                eventually(&format!("an answer by {to}"), || match net.get(to, "/hostname") {
                    Outcome::Answered(name) if name.starts_with("myapp-") => Ok(()),
                    other => Err(other.to_string()),
                });
            }
        }
    };
    all_answer(&system);
    system.step("both families answer");
    system.replace_supervisor(&["--dual-stack", "--nodes", "2"]);
    system.kill_node(2);
    system.api().until_pod_ready("client");
    all_answer(&system);
    system.step("and do so under the next supervisor, and on a node made anew");

    let dig = |words: &[&str]| system.in_pod(CLIENT, &[&["dig", "+short"], words].concat()).ok();
    assert_eq!(dig(&["AAAA", "dual.default.svc.cluster.local"]).trim(), ip6);
    assert_eq!(dig(&["A", "dual.default.svc.cluster.local"]).trim(), ip4);
    assert_eq!(dig(&["-x", &ip6]).trim(), "dual.default.svc.cluster.local.");
    assert_eq!(dig(&["AAAA", "each.default.svc.cluster.local"]).lines().count(), 3);
    let at = "@fd00:10:96::a";
    assert_eq!(dig(&[at, "A", "dual.default.svc.cluster.local"]).trim(), ip4, "the DNS answers over IPv6");
    let net = system.pod_net(CLIENT);
    assert_eq!(net.get("[2001:db8::7]:8080", "/"), Outcome::Answered("outside".to_owned()));
    assert_eq!(net.get("[2001:db8::7]:9", "/"), Outcome::Refused);
    system.down();
}

/// The two texts of a list of two.
fn two(list: &Value, text: impl Fn(&Value) -> Option<&str>) -> [String; 2] {
    let all: Vec<String> = list.as_array().into_iter().flatten().filter_map(text).map(str::to_owned).collect();
    all.try_into().unwrap_or_else(|all| panic!("not two: {all:?}"))
}

#[test]
fn systems_side_by_side_and_a_clash_is_named_before_anything_is_made() {
    let mut system = System::new(PORTOLAN);
    let _outside = system.uplink(&["192.0.2.1/24", "10.96.7.1/24"], &["192.0.2.7/24"]);
    // A VPN's wide network is no clash.
    system.on_host(&["ip", "route", "add", "10.0.0.0/8", "dev", "uplink"]).ok();
    let error = system.portolan(&["up"]).fails();
    for part in ["10.96.7.0/24 on uplink", "inside --service-cidr 10.96.0.0/16", "choose others with --service-cidr"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert!(!system.data_dir().exists(), "something was made");

    system.start(&["-f", MYAPP, "--service-cidr", "10.97.0.0/16"]);
    let other = system.scratch().join("other").to_string_lossy().into_owned();
    let beside = |flags: &[&str]| {
        let words = ["up", "--detach", "-f", MYAPP, "--data-dir", &other, "--api-port", "6444", "--egress", "nat"];
        system.portolan(&[&words[..], flags].concat())
    };
    let error = beside(&["--service-cidr", "10.98.0.0/16"]).fails();
    for part in ["on portolan0", "--pod-cidr 10.244.0.0/16", "choose others with --pod-cidr and --fabric-cidr"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    let own = ["--service-cidr", "10.98.0.0/16", "--pod-cidr", "10.245.0.0/16", "--fabric-cidr", "172.30.1.0/24"];
    beside(&own).ok();
    for node in ["172.30.0.11", "172.30.1.11"] {
        let answer = system.host().get(&format!("{node}:31234"), "/hostname");
        assert!(matches!(&answer, Outcome::Answered(name) if name.starts_with("myapp-")), "{node}: {answer}");
    }
    system.replace_supervisor(&["--service-cidr", "10.97.0.0/16"]);
    for node in ["172.30.0.11", "172.30.1.11"] {
        let answer = system.host().get(&format!("{node}:31234"), "/hostname");
        assert!(matches!(&answer, Outcome::Answered(_)), "{node}, with another supervisor beside: {answer}");
    }
    system.portolan(&["down", "--data-dir", &other]).ok();
    let answer = system.host().get("172.30.0.11:31234", "/hostname");
    assert!(matches!(answer, Outcome::Answered(_)), "the other one goes on: {answer}");
    assert_eq!(system.on_host(&["nft", "list", "ruleset"]).ok(), "");
    system.down();
}
