//! What is relayed, and what ends it: real connections and datagrams through a node, while Services change.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::place::inside;
use nft::Kernel;
use proxy::battery::{self, World};
use proxy::{Backend, Retired};
use proxy_rig::Rig;
use proxy_userspace::{Observed, Userspace};
use service_model::{
    Change, Event, ForwardingTable, IpFamily, ObjectName, Packet, Port, Protocol, ServiceModel, Source,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A Service on a node, and who serves it.
struct Scene {
    world: World,
    model: ServiceModel,
    backend: Userspace<Kernel>,
    table: ForwardingTable,
    observed: Option<Observed>,
}

impl Scene {
    async fn new(family: IpFamily, service: serde_json::Value) -> Scene {
        let world = World::new(family);
        let [v4, v6] = Userspace::pair(Kernel::open().unwrap());
        let backend = if family == IpFamily::V4 { v4 } else { v6 };
        let mut model = ServiceModel::new();
        model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
        let table = model.resolve(&world.node, family);
        let observed = Some(battery::settle(&backend, &table).await);
        Scene { world, model, backend, table, observed }
    }

    async fn change(&mut self, event: Event) {
        self.model.apply(event);
        self.model.update(&mut self.table, &self.world.node);
        let observed = self.observed.take().unwrap();
        self.observed = Some(battery::advance(&self.backend, &self.table, observed).await);
    }

    async fn endpoints(&mut self, endpoints: &[SocketAddr]) {
        let addresses: Vec<_> =
            endpoints.iter().map(|at| serde_json::json!({"addresses": [at.ip().to_string()]})).collect();
        let port = |name, protocol| {
            serde_json::json!({
                "name": name, "protocol": protocol, "port": endpoints.first().map_or(1, SocketAddr::port)
            })
        };
        let slice = serde_json::json!({
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": self.world.family.address_type(), "endpoints": addresses,
            "ports": [port("t", "TCP"), port("u", "UDP")]
        });
        self.change(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap()))).await;
    }

    async fn delete_service(&mut self) {
        let name = ObjectName { namespace: "ns".to_owned(), name: "s".to_owned() };
        self.change(Event::Service(Change::Delete(name))).await;
    }

    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.world.cluster_ip(0), 80)
    }
}

fn service(world: &World, more: serde_json::Value) -> serde_json::Value {
    let mut service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"type": "NodePort", "clusterIPs": [world.cluster_ip(0).to_string()],
                 "ports": [{"name": "t", "port": 80, "nodePort": 30080},
                           {"name": "u", "port": 80, "nodePort": 30080, "protocol": "UDP"}]}
    });
    for (key, value) in more.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

/// One of the pods elsewhere, at a port of the test's own.
fn listen(rig: &Rig, address: IpAddr) -> TcpListener {
    rig.outside(|| TcpListener::bind((address, 7070)).unwrap())
}

fn connect(rig: &Rig, to: SocketAddr) -> TcpStream {
    let stream = rig.outside(|| TcpStream::connect(to).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that is accepted and then reset, before or after it knows that it was accepted.
fn is_reset(rig: &Rig, to: SocketAddr) {
    let heard = rig.outside(|| TcpStream::connect(to)).and_then(|mut client| {
        client.set_read_timeout(Some(PATIENCE))?;
        client.read(&mut [0; 8])
    });
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Something said in one direction arrives.
fn says(from: &mut TcpStream, to: &mut TcpStream, what: &[u8]) {
    from.write_all(what).unwrap();
    let mut heard = vec![0; what.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(heard, what);
}

#[test]
fn a_connection_outlives_its_endpoint_and_its_service_and_ends_side_by_side() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        let rig = Rig::new(&world);
        inside(&rig.node, async || {
            let mut scene = Scene::new(family, service(&world, serde_json::json!({}))).await;
            let server = listen(&rig, world.remote_pods[0]);
            scene.endpoints(&[server.local_addr().unwrap()]).await;
            let mut client = connect(&rig, scene.vip());
            let mut accepted = accept(&server);
            says(&mut client, &mut accepted, b"before");
            scene.endpoints(&[SocketAddr::new(world.remote_pods[1], 7070)]).await;
            says(&mut accepted, &mut client, b"without the endpoint");
            scene.endpoints(&[]).await;
            says(&mut client, &mut accepted, b"without any");
            scene.delete_service().await;
            says(&mut accepted, &mut client, b"without the Service");
            scene.observed = Some(battery::settle(&scene.backend, &scene.table).await);
            says(&mut client, &mut accepted, b"looked at anew");
            // One side ends; the other still has something to say.
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0, "the end arrives");
            says(&mut accepted, &mut client, b"the rest");
            drop(accepted);
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        });
    }
}

#[test]
fn many_bytes_arrive_in_both_directions_as_they_were() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    inside(&rig.node, async || {
        let mut scene = Scene::new(IpFamily::V4, service(&world, serde_json::json!({}))).await;
        let server = listen(&rig, world.remote_pods[0]);
        scene.endpoints(&[server.local_addr().unwrap()]).await;
        let mut client = connect(&rig, SocketAddr::new(world.node_address, 30080));
        let accepted = accept(&server);
        // What comes back is what was sent; neither end reads ahead of the other by more than the buffers hold.
        let echo = std::thread::spawn(move || std::io::copy(&mut &accepted, &mut &accepted).unwrap());
        let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
        let all: Vec<u8> = (0..20_000_000).map(byte).collect();
        let mut sender = client.try_clone().unwrap();
        let sent = all.clone();
        let sending = std::thread::spawn(move || {
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        sending.join().unwrap();
        assert_eq!(echo.join().unwrap(), 20_000_000);
        assert!(heard == all);
    });
}

#[test]
fn who_refuses_is_passed_over_and_only_if_all_do_is_the_client_reset() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    inside(&rig.node, async || {
        let mut scene = Scene::new(IpFamily::V4, service(&world, serde_json::json!({}))).await;
        let server = listen(&rig, world.remote_pods[0]);
        // Nobody listens at the other one's port.
        scene.endpoints(&[world.remote_pods[0], world.remote_pods[1]].map(|pod| SocketAddr::new(pod, 7070))).await;
        for _ in 0..6 {
            let mut client = connect(&rig, scene.vip());
            says(&mut client, &mut accept(&server), b"here");
        }
        drop(server);
        is_reset(&rig, scene.vip());
        // A reset is handed on as one.
        let server = listen(&rig, world.remote_pods[0]);
        let mut client = connect(&rig, scene.vip());
        let accepted = accept(&server);
        socket2::SockRef::from(&accepted).set_linger(Some(Duration::ZERO)).unwrap();
        drop(accepted);
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn nobody_comes_to_a_listener_but_by_a_frontend() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    inside(&rig.node, async || {
        let mut scene = Scene::new(IpFamily::V4, service(&world, serde_json::json!({}))).await;
        scene.endpoints(&[SocketAddr::new(world.remote_pods[0], 7070)]).await;
        let listeners = rig.run("nft", &["list", "set", "ip", "portolan-userspace", "listeners"]);
        let number = listeners.split("tcp . ").nth(1).unwrap().split(|c: char| !c.is_ascii_digit()).next().unwrap();
        let listener = SocketAddr::new(world.node_address, number.parse().unwrap());
        let refused = rig.outside(|| TcpStream::connect_timeout(&listener, PATIENCE).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

fn hears(socket: &UdpSocket) -> Option<(String, SocketAddr)> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

#[test]
fn a_session_ends_with_its_endpoint_and_answers_come_from_the_frontend() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        let rig = Rig::new(&world);
        inside(&rig.node, async || {
            let mut scene = Scene::new(family, service(&world, serde_json::json!({}))).await;
            let bind = |address: IpAddr, port| {
                let socket = rig.outside(|| UdpSocket::bind((address, port)).unwrap());
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            let [one, two] = [0, 1].map(|pod| bind(world.remote_pods[pod], 7070));
            let [at_one, at_two] = [&one, &two].map(|socket| socket.local_addr().unwrap());
            let client = bind(world.outsiders[0], 0);
            scene.endpoints(&[at_one]).await;
            let vip = scene.vip();
            client.send_to(b"first", vip).unwrap();
            let (heard, relay) = hears(&one).unwrap();
            assert_eq!(heard, "first");
            one.send_to(b"answer", relay).unwrap();
            assert_eq!(hears(&client).unwrap(), ("answer".to_owned(), vip), "it comes from where the client sent to");
            // Another endpoint is no reason to leave the first.
            scene.endpoints(&[at_one, at_two]).await;
            client.send_to(b"second", vip).unwrap();
            assert_eq!(hears(&one).unwrap(), ("second".to_owned(), relay));
            scene.endpoints(&[at_two]).await;
            client.send_to(b"third", vip).unwrap();
            assert_eq!(hears(&two).unwrap().0, "third", "the same socket moves on");
            scene.endpoints(&[]).await;
            // The sessions' end is not waited for, so whatever would come late comes before this.
            client.send_to(b"fourth", vip).ok();
            let other = bind(world.outsiders[0], 0);
            other.send_to(b"direct", at_one).unwrap();
            other.send_to(b"direct", at_two).unwrap();
            assert_eq!(hears(&one).unwrap().0, "direct");
            assert_eq!(hears(&two).unwrap().0, "direct");
        });
    }
}

#[test]
fn who_is_owed_an_answer_when_another_mode_takes_over_gets_it() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    inside(&rig.node, async || {
        let mut scene = Scene::new(IpFamily::V4, service(&world, serde_json::json!({}))).await;
        let bind = |address: IpAddr, port| {
            let socket = rig.outside(|| UdpSocket::bind((address, port)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (tcp, udp) = (listen(&rig, world.remote_pods[0]), bind(world.remote_pods[0], 7070));
        scene.endpoints(&[udp.local_addr().unwrap()]).await;
        let (asking, vip) = (bind(world.outsiders[0], 0), scene.vip());
        asking.send_to(b"question", vip).unwrap();
        let relay = hears(&udp).unwrap().1;
        let mut connection = connect(&rig, vip);
        let mut server = accept(&tcp);
        let listeners = rig.run("nft", &["list", "set", "ip", "portolan-userspace", "listeners"]);
        let number = listeners.split("tcp . ").nth(1).unwrap().split(|c: char| !c.is_ascii_digit()).next().unwrap();
        let door = SocketAddr::new(world.node_address, number.parse().unwrap());

        // The other mode's: without a chain of this type, and a rule that asks for a connection's state, the kernel neither
        // translates nor tracks, not even what has begun.
        rig.run("nft", &["add table ip other; add chain ip other nat { type nat hook prerouting priority -100; }"]);
        rig.run("nft", &["add rule ip other nat ct state new"]);
        let since = Instant::now();
        let mut retired = scene.backend.retire().await.unwrap();
        assert_eq!(retired, Retired::Answering);
        let ruleset = rig.run("nft", &["list", "table", "ip", "portolan-userspace"]);
        assert!(!ruleset.contains("10.96."), "nobody is led here any more:\n{ruleset}");
        udp.send_to(b"answer", relay).unwrap();
        assert_eq!(hears(&asking).unwrap(), ("answer".to_owned(), vip), "it was on its way");
        let refused = rig.outside(|| TcpStream::connect_timeout(&door, PATIENCE).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "nobody else comes to a listener");
        let open = || rig.node.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap()).unwrap();
        let listening = format!(":{:04X} 00000000:0000 0A", door.port());
        assert!(open().contains(&listening), "a handshake may be on its way");

        // A flow that has become silent is forgotten while the listeners are still there.
        let flows = || rig.run("conntrack", &["-L", "-p", "udp", "-d", &vip.ip().to_string()]);
        while !flows().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            retired = scene.backend.retire().await.unwrap();
        }
        // A machine that stood still for the eight seconds that all have is told apart.
        let in_time = since.elapsed() < Duration::from_secs(8);
        assert!(!in_time || (retired == Retired::Answering && open().contains(&listening)), "{retired:?}");
        let begun = Instant::now();
        while scene.backend.retire().await.unwrap() != Retired::Gone || open().contains(&listening) {
            assert!(begun.elapsed() < PATIENCE, "somebody still listens there");
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.run("nft", &["list", "tables"]).trim(), "table ip other");
        says(&mut connection, &mut server, b"still");
    });
}

#[test]
fn a_client_sticks_to_its_endpoint_whichever_address_it_uses_and_moves_when_it_goes() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    inside(&rig.node, async || {
        let sticky = serde_json::json!({"sessionAffinity": "ClientIP", "externalTrafficPolicy": "Cluster"});
        let mut scene = Scene::new(IpFamily::V4, service(&world, sticky)).await;
        let all: Vec<SocketAddr> = world.local_pods.iter().map(|pod| SocketAddr::new(*pod, 8080)).collect();
        let ask = |scene: &Scene| -> BTreeSet<SocketAddr> {
            let source = Source::Outside(world.outsiders[0]);
            let ways = [(world.cluster_ip(0), 80), (world.node_address, 30080)];
            let packets = ways.map(|(destination, port)| Packet {
                source,
                destination,
                protocol: Protocol::Tcp,
                port: Port::new(port).unwrap(),
            });
            let fates = packets.iter().map(|packet| rig.send(packet, &scene.table.lookup(packet)));
            fates
                .map(|fate| match fate {
                    battery::Fate::Reached { endpoint, .. } => endpoint,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let mut left = all.clone();
        while !left.is_empty() {
            scene.endpoints(&left).await;
            let seen: BTreeSet<SocketAddr> = (0..8).flat_map(|_| ask(&scene)).collect();
            assert_eq!(seen.len(), 1, "{seen:?}");
            left.retain(|endpoint| !seen.contains(endpoint));
        }
        scene.backend.cleanup().await.unwrap();
    });
    assert_eq!(rig.run("nft", &["list", "ruleset"]), "");
}
