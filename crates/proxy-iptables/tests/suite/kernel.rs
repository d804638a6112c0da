//! The backend by the real tools of both flavours, in namespaces made for each test: the battery, real packets, what
//! others see.

use std::net::IpAddr;
use std::time::Duration;

use crate::inside::{Inside, LOCK, inside, of};
use iptables::{EachLine, Error, Fake, Family, Flavour, Iptables, Saved, Table, Tool, Transaction};
use netns::NetNs;
use proxy::Backend;
use proxy::battery::{self, Fate, Random, World};
use proxy_iptables::{FullLook, IptablesBackend, Options};
use proxy_rig::Rig;
use service_model::{
    Change, Event, IpFamily, NodePortAddresses, Outcome, Packet, Port, Protocol, ServiceModel, Source,
};

const FLAVOURS: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

fn backend_in(namespace: &NetNs, family: IpFamily, flavour: Flavour) -> IptablesBackend<Inside> {
    let options = Options { full_look: FullLook(Duration::ZERO), ..Options::default() };
    IptablesBackend::new(family, inside(namespace, family, flavour), options)
}

#[tokio::test]
async fn replanning_is_empty() {
    for (family, flavour) in IpFamily::BOTH.into_iter().zip(FLAVOURS) {
        let namespace = proxy_rig::namespace();
        battery::replanning_is_empty(&backend_in(&namespace, family, flavour), &World::new(family), 1).await;
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for (family, flavour) in IpFamily::BOTH.into_iter().rev().zip(FLAVOURS) {
        let namespace = proxy_rig::namespace();
        battery::incremental_equals_full(&backend_in(&namespace, family, flavour), &World::new(family), 2).await;
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    for flavour in FLAVOURS {
        let namespace = proxy_rig::namespace();
        let world = World::new(IpFamily::V4);
        battery::killed_anywhere_it_converges(&backend_in(&namespace, IpFamily::V4, flavour), &world, 3).await;
    }
}

#[tokio::test]
async fn our_own_writes_of_either_family_are_not_taken_for_a_strangers() {
    for flavour in FLAVOURS {
        let namespace = proxy_rig::namespace();
        let tools = IpFamily::BOTH.map(|family| inside(&namespace, family, flavour));
        let options = Options { full_look: FullLook(Duration::ZERO), ..Options::default() };
        let backends = IptablesBackend::pair(tools, options);
        let worlds = IpFamily::BOTH.map(World::new);
        let mut random = Random::new(3);
        let mut models = worlds.each_ref().map(|world| world.model(&mut random));
        let mut observed = Vec::new();
        for ((backend, world), model) in backends.iter().zip(&worlds).zip(&models) {
            observed.push(battery::settle(backend, &model.resolve(&world.node, world.family)).await);
        }
        // The first writes make the tables themselves, which is a write like any other.
        for (backend, known) in backends.iter().zip(&mut observed) {
            *known = backend.observe().await.unwrap();
        }
        for round in 0..10 {
            let one = round % 2;
            models[one].apply(worlds[one].event(&mut random));
            let table = models[one].resolve(&worlds[one].node, worlds[one].family);
            observed[one] = battery::advance(&backends[one], &table, std::mem::take(&mut observed[one])).await;
            for (backend, known) in backends.iter().zip(&observed) {
                assert!(!backend.is_stale(known).await.unwrap(), "{flavour:?} round {round}");
            }
        }
        let write = || {
            Tool::open(Family::V6, flavour).unwrap().locked_by(LOCK).restore_text("*nat\n-F KUBE-SERVICES\nCOMMIT\n")
        };
        namespace.run(write).unwrap().unwrap();
        assert!(backends[1].is_stale(&observed[1]).await.unwrap(), "{flavour:?}");
    }
}

#[tokio::test]
async fn the_first_sync_and_a_change_need_no_tool_on_nf_tables() {
    let world = World::new(IpFamily::V4);
    for (flavour, natively) in [(Flavour::Nft, 1), (Flavour::Legacy, 0)] {
        let namespace = proxy_rig::namespace();
        let backend = backend_in(&namespace, IpFamily::V4, flavour);
        let mut model = ServiceModel::new();
        let spec = serde_json::json!({"type": "NodePort", "clusterIPs": ["10.96.0.9"], "sessionAffinity": "ClientIP",
            "ports": [{"name": "p", "port": 80, "nodePort": 30080}]});
        upsert(&mut model, &world, "s", spec.clone(), &world.local_pods[..1]);
        let observed = battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
        let before = backend.with_tool(|tool| tool.written_natively());
        assert_eq!(before, 2 * natively, "one for each table");
        upsert(&mut model, &world, "s", spec, &world.remote_pods);
        let table = model.resolve(&world.node, IpFamily::V4);
        let observed = battery::advance(&backend, &table, observed).await;
        assert_eq!(backend.with_tool(|tool| tool.written_natively()) - before, natively, "{flavour:?}");
        assert!(backend.observe().await.unwrap().same_rules(&observed), "{flavour:?}");
    }
}

/// Takes each transaction to the fake and the tool and holds their answers and their contents against each other.
struct Both {
    tool: Inside,
    fake: Fake,
}

impl Iptables for Both {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        let [by_tool, by_fake] = [contents(&mut self.tool, table)?, contents(&mut self.fake, table)?];
        assert_eq!(by_tool, by_fake, "the fake and the tool hold the same");
        self.tool.save(table, each)
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        let (by_tool, by_fake) = (self.tool.restore(transactions), self.fake.restore(transactions));
        assert_eq!(by_tool.is_ok(), by_fake.is_ok(), "{by_tool:?} {by_fake:?}");
        by_tool
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        self.tool.has_chain(table, chain)
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        self.tool.generation()
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.tool.route_loopback()
    }
}

fn contents(tool: &mut dyn Iptables, table: Table) -> Result<Vec<String>, Error> {
    let mut rules = Vec::new();
    tool.save(table, &mut |line| {
        if let Saved::Rule { chain, spec } = line {
            let rule = iptables::Rule::parse(spec).map_or(spec.to_owned(), |rule| rule.to_string());
            rules.push((chain.to_owned(), rule));
        }
    })?;
    // Chains come in different orders; within a chain the order counts.
    rules.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(rules.into_iter().map(|(chain, rule)| format!("{chain} {rule}")).collect())
}

#[tokio::test]
async fn the_fake_and_the_tools_accept_the_same() {
    for (family, flavour) in IpFamily::BOTH.into_iter().zip(FLAVOURS) {
        let namespace = proxy_rig::namespace();
        let both = Both { tool: inside(&namespace, family, flavour), fake: Fake::new(of(family)) };
        let backend = IptablesBackend::new(family, both, Options::default());
        battery::incremental_equals_full(&backend, &World::new(family), 7).await;
    }
}

#[tokio::test]
async fn converges_from_garbage_and_leaves_others_alone() {
    let spoils = [
        "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n",
        "*nat\n-I KUBE-SERVICES 1 -i eth0 -j RETURN\nCOMMIT\n",
        "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
        "*nat\n-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
        "*nat\n-A OUTPUT -p tcp -j KUBE-SERVICES\n-A POSTROUTING -s 10.1.0.0/16 -j KUBE-MARK-MASQ\nCOMMIT\n",
        "*nat\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SEP-AAAAAAAAAAAAAAAA -m ttl --ttl-eq 9 -j KUBE-MARK-MASQ\nCOMMIT\n",
        "*filter\n-A KUBE-FORWARD -m limit --limit 5/min -j DROP\nCOMMIT\n",
        "*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n-A THEIRS -j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n",
    ];
    for flavour in FLAVOURS {
        let namespace = proxy_rig::namespace();
        let write = |text: &str| {
            let write = || Tool::open(Family::V4, flavour).unwrap().locked_by(LOCK).restore_text(text);
            namespace.run(write).unwrap().unwrap();
        };
        write(
            "*filter\n:THEIRS - [0:0]\n-A THEIRS -m limit --limit 5/min -j LOG --log-prefix \"a b\"\n-A FORWARD -j THEIRS\n\
             :KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n*nat\n:THEIRS - [0:0]\n-A THEIRS -j RETURN\nCOMMIT\n",
        );
        let mut tool = inside(&namespace, IpFamily::V4, flavour);
        let before = [Table::Nat, Table::Filter].map(|table| contents(&mut tool, table).unwrap());
        let backend = backend_in(&namespace, IpFamily::V4, flavour);
        let mut next = spoils.iter().cycle();
        let world = World::new(IpFamily::V4);
        battery::converges_from_garbage(&backend, &world, 9, |_, _| write(next.next().unwrap())).await;
        // What somebody else's rule leads to is emptied; it goes when they let go. Until then they keep their rules.
        backend.cleanup().await.unwrap();
        let own = ["OUTPUT -p tcp -j KUBE-SERVICES", "POSTROUTING -s 10.1.0.0/16 -j KUBE-MARK-MASQ"];
        let left = contents(&mut tool, Table::Nat).unwrap();
        assert!(own.iter().all(|rule| left.iter().any(|one| one == rule)), "{flavour:?}: {left:?}");
        assert!(tool.has_chain(Table::Nat, "KUBE-SERVICES").unwrap());
        assert!(!left.iter().any(|rule| rule.starts_with("KUBE-")), "{left:?}");
        for rule in left.iter().filter(|rule| own.contains(&rule.as_str())) {
            write(&format!("*nat\n-D {rule}\nCOMMIT\n"));
        }
        write("*nat\n:THEIRS - [0:0]\n-A THEIRS -j RETURN\nCOMMIT\n");
        backend.cleanup().await.unwrap();
        let after = [Table::Nat, Table::Filter].map(|table| contents(&mut tool, table).unwrap());
        assert_eq!(after, before, "{flavour:?}");
        assert!(!tool.has_chain(Table::Nat, "KUBE-SERVICES").unwrap());
        backend.cleanup().await.expect("there is nothing left to remove");
    }
}

#[tokio::test]
async fn our_jumps_come_first_and_are_not_fought_for() {
    for flavour in FLAVOURS {
        let namespace = proxy_rig::namespace();
        let write = |text: &str| {
            let write = || Tool::open(Family::V4, flavour).unwrap().locked_by(LOCK).restore_text(text);
            namespace.run(write).unwrap().unwrap();
        };
        write("*filter\n-A FORWARD -j DROP\nCOMMIT\n");
        let backend = backend_in(&namespace, IpFamily::V4, flavour);
        let world = World::new(IpFamily::V4);
        let table = world.model(&mut Random::new(4)).resolve(&world.node, IpFamily::V4);
        battery::settle(&backend, &table).await;
        let forward = |backend: &IptablesBackend<Inside>| {
            let rules = backend.with_tool(|tool| contents(tool, Table::Filter)).unwrap();
            let of_forward = rules.into_iter().filter(|rule| rule.starts_with("FORWARD "));
            of_forward.map(|rule| rule.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let ours = ["KUBE-PROXY-FIREWALL", "KUBE-EXTERNAL-SERVICES", "KUBE-SERVICES", "KUBE-FORWARD"];
        assert_eq!(forward(&backend), [&ours[..], &["DROP"]].concat(), "{flavour:?}");
        write("*filter\n-I FORWARD 1 -s 10.9.9.9/32 -j ACCEPT\nCOMMIT\n");
        battery::settle(&backend, &table).await;
        assert_eq!(forward(&backend), [&["ACCEPT"], &ours[..], &["DROP"]].concat(), "an operator's rule stays first");
    }
}

fn real_packets(family: IpFamily, flavour: Flavour, seed: u64) {
    let world = World::new(family);
    let rig = Rig::new(&world);
    let backend = backend_in(&rig.node, family, flavour);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Where a packet ends that no Service takes is not the proxy's affair.
    let sent = runtime.block_on(battery::packets_meet_the_oracle(&backend, &world, seed, 8, 12, |packet, outcome| {
        if *outcome == Outcome::Untouched { Fate::Untouched } else { rig.send(packet, outcome) }
    }));
    assert!(sent >= 60, "{sent} packets");
}

#[test]
fn real_packets_meet_the_oracle_ipv4() {
    real_packets(IpFamily::V4, Flavour::Nft, 5);
}

#[test]
fn real_packets_meet_the_oracle_ipv6() {
    real_packets(IpFamily::V6, Flavour::Nft, 6);
}

#[test]
fn real_packets_meet_the_oracle_by_the_legacy_tools() {
    real_packets(IpFamily::V4, Flavour::Legacy, 7);
}

fn upsert(model: &mut ServiceModel, world: &World, name: &str, spec: serde_json::Value, pods: &[IpAddr]) {
    let mut service = serde_json::json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
    if let Some(ingress) = service["spec"].as_object_mut().unwrap().remove("ingress") {
        service["status"] = serde_json::json!({"loadBalancer": {"ingress": [{"ip": ingress}]}});
    }
    let endpoints: Vec<_> = pods.iter().map(|pod| serde_json::json!({"addresses": [pod.to_string()]})).collect();
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": world.endpoint_ports[0]}], "endpoints": endpoints
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
}

#[tokio::test]
async fn denials_hold_where_somebody_would_answer_and_spare_what_is_translated() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    let backend = backend_in(&rig.node, IpFamily::V4, Flavour::Nft);
    let mut model = ServiceModel::new();
    let pod = world.local_pods[0];
    let port = |port: u16| serde_json::json!([{"name": "p", "port": port, "nodePort": 30_000 + port}]);
    let limited = serde_json::json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "ports": port(80),
        "loadBalancerSourceRanges": ["203.0.113.0/24"], "ingress": "192.0.2.100"});
    upsert(&mut model, &world, "limited", limited, &[pod]);
    // Its external address is where the other's endpoint is, and there is nobody behind it.
    let denied = serde_json::json!({"clusterIPs": ["10.96.0.10"], "externalIPs": [pod.to_string()],
        "ports": [{"name": "p", "port": world.endpoint_ports[0]}]});
    upsert(&mut model, &world, "denied", denied, &[]);
    let table = model.resolve(&world.node, IpFamily::V4);
    battery::settle(&backend, &table).await;
    // Outside is somebody who has the load balancer's address, and would answer.
    let listener = rig.outside(|| {
        let status = std::process::Command::new("ip").args(["addr", "add", "192.0.2.100/32", "dev", "lo"]).status();
        assert!(status.unwrap().success());
        std::net::TcpListener::bind("192.0.2.100:80").unwrap()
    });
    std::thread::spawn(move || {
        use std::io::Write;
        for mut stream in listener.incoming().map_while(Result::ok) {
            let peer = stream.peer_addr().unwrap();
            stream.write_all(format!("192.0.2.100:80 {peer}").as_bytes()).ok();
        }
    });
    let (stranger, neighbour) = (Source::Outside(world.outsiders[0]), Source::LocalPod(world.local_pods[1]));
    for (source, to, port, forwarded) in [
        (neighbour, "192.0.2.100", 80, false),
        (neighbour, "10.96.0.9", 80, true),
        (stranger, "10.96.0.9", 80, true),
        (Source::Node(world.node_address), "10.96.0.9", 80, true),
        (neighbour, &pod.to_string(), world.endpoint_ports[0], false),
    ] {
        let port = Port::new(port).unwrap();
        let packet = Packet { source, destination: to.parse().unwrap(), protocol: Protocol::Tcp, port };
        let outcome = table.lookup(&packet);
        assert_eq!(matches!(outcome, Outcome::Forwarded { .. }), forwarded, "{packet}: {outcome:?}");
        battery::judge(&table, &packet, &rig.send(&packet, &outcome)).unwrap();
    }
}

#[tokio::test]
async fn localhost_node_ports_answer_the_node_and_no_neighbour() {
    let mut world = World::new(IpFamily::V4);
    let localhost = "127.0.0.1".parse().unwrap();
    world.node.node_ports = NodePortAddresses::Only([world.node_address, localhost].into());
    let rig = Rig::new(&world);
    let backend = backend_in(&rig.node, IpFamily::V4, Flavour::Nft);
    let mut model = ServiceModel::new();
    let spec = serde_json::json!({"type": "NodePort", "clusterIPs": ["10.96.0.9"], "sessionAffinity": "ClientIP",
        "ports": [{"name": "p", "port": 80, "nodePort": 30080}]});
    upsert(&mut model, &world, "s", spec, &[&world.local_pods[..], &world.remote_pods[..]].concat());
    battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    let ask = || {
        let answer = || {
            use std::io::Read;
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", 30_080)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text.split(' ').next().unwrap().to_owned()
        };
        rig.node.run(answer).unwrap()
    };
    let first = ask();
    for _ in 0..20 {
        assert_eq!(ask(), first, "affinity holds for localhost as well");
    }
    // A service that listens on localhost alone, and a neighbour that routes there.
    let listener = rig.node.run(|| std::net::TcpListener::bind(("127.0.0.1", 9_999)).unwrap()).unwrap();
    rig.outside(|| {
        let ip = |arguments: &str| {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        ip("rule add pref 1 to 127.0.0.1 lookup 99");
        ip("rule add pref 2 lookup local");
        ip("rule del pref 0");
        ip(&format!("route add 127.0.0.1 via {} dev eth0 table 99", world.node_address));
        let connect = || {
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9_999));
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&std::net::SocketAddr::new(world.outsiders[0], 0).into()).unwrap();
            socket.connect_timeout(&to.into(), Duration::from_millis(800))
        };
        assert!(connect().is_err(), "nobody outside reaches the node's localhost");
    });
    drop(listener);
}
