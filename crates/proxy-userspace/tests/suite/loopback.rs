//! Without any privilege: Services at loopback addresses are listened on themselves, and what can't be is named.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::place::{inside, node};
use caps::{CapSet, Capability};
use nft::Kernel;
use proxy::battery::{self, World};
use proxy::{Backend, Plan, RefusalReason};
use proxy_userspace::Userspace;
use service_model::{Change, Event, IpFamily, NodeView, ServiceModel};

const PATIENCE: Duration = Duration::from_secs(30);

fn model(cluster_ip: &str, port: u16, server: SocketAddr) -> ServiceModel {
    let mut model = ServiceModel::new();
    add(&mut model, "s", cluster_ip, port, server);
    model
}

fn add(model: &mut ServiceModel, name: &str, cluster_ip: &str, port: u16, server: SocketAddr) {
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"type": "NodePort", "clusterIPs": [cluster_ip],
                 "ports": [{"name": "t", "port": port, "nodePort": 30000 + port % 100},
                           {"name": "u", "port": port, "protocol": "UDP"}]}
    });
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": IpFamily::of(server.ip()).address_type(), "endpoints": [{"addresses": [server.ip().to_string()]}],
        "ports": [{"name": "t", "port": server.port()}, {"name": "u", "port": server.port(), "protocol": "UDP"}]
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
}

fn here() -> NodeView {
    NodeView { serves_loopback: true, ..NodeView::named("here") }
}

/// The backends that a process without capabilities opens.
fn opened(family: IpFamily) -> Userspace<Kernel> {
    let opened = std::thread::spawn(|| {
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        Userspace::open_pair().unwrap()
    });
    let [v4, v6] = opened.join().unwrap();
    if family == IpFamily::V4 { v4 } else { v6 }
}

fn ask(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn loopback_frontends_need_no_privilege() {
    let cases = [(IpFamily::V4, "127.96.0.10", "127.0.0.1"), (IpFamily::V6, "::1", "::1")];
    for (family, cluster_ip, localhost) in cases {
        let world = World::new(family);
        inside(&node(&world), async || {
            let server = SocketAddr::new(world.node_address, 7070);
            let (tcp, udp) = (TcpListener::bind(server).unwrap(), UdpSocket::bind(server).unwrap());
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = tcp.accept() {
                    std::io::Write::write_all(&mut stream, b"served").ok();
                }
            });
            let mut model = model(cluster_ip, 8053, server);
            let backend = opened(family);
            let mut table = model.resolve(&here(), family);
            let observed = battery::settle(&backend, &table).await;
            assert!(!backend.programs_the_kernel());
            let vip = SocketAddr::new(cluster_ip.parse().unwrap(), 8053);
            assert_eq!(ask(vip), "served");
            assert_eq!(ask(SocketAddr::new(localhost.parse().unwrap(), 30053)), "served", "the NodePort too");
            let client = UdpSocket::bind((localhost, 0)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"?", vip).unwrap();
            let (_, relay) = udp.recv_from(&mut [0; 8]).unwrap();
            udp.send_to(b"!", relay).unwrap();
            assert_eq!(client.recv_from(&mut [0; 8]).unwrap().1, vip);
            // Its address goes to another Service at once.
            model.apply(Event::Service(Change::Delete(service_model::ObjectName {
                namespace: "ns".to_owned(),
                name: "s".to_owned(),
            })));
            add(&mut model, "t", cluster_ip, 8053, server);
            model.update(&mut table, &here());
            let observed = battery::advance(&backend, &table, observed).await;
            assert_eq!(ask(vip), "served");
            assert!(backend.plan(&backend.desired(&table), &observed).is_empty());
            backend.cleanup().await.unwrap();
        });
    }
}

#[test]
fn what_cannot_be_served_without_privilege_is_named() {
    let world = World::new(IpFamily::V4);
    inside(&node(&world), async || {
        let server = SocketAddr::new(world.node_address, 7070);
        let mut model = model("10.96.0.10", 8051, server);
        add(&mut model, "taken", "127.96.0.11", 8052, server);
        let _stranger = TcpListener::bind("127.96.0.11:8052").unwrap();
        let backend = opened(IpFamily::V4);
        let table = model.resolve(&here(), IpFamily::V4);
        let observed = backend.observe().await.unwrap();
        let plan = backend.plan(&backend.desired(&table), &observed);
        backend.apply(&plan, observed).await.expect_err("a place is taken");
        let plan = backend.plan(&backend.desired(&table), &backend.observe().await.unwrap());
        let refused: Vec<(String, RefusalReason)> =
            plan.refused().iter().map(|refusal| (refusal.port.to_string(), refusal.reason)).collect();
        let expected = [
            ("ns/s:t TCP", RefusalReason::NeedsRules),
            ("ns/s:u UDP", RefusalReason::NeedsRules),
            ("ns/taken:t TCP", RefusalReason::AddressInUse),
        ];
        assert_eq!(refused, expected.map(|(port, reason)| (port.to_owned(), reason)));
        let observed = backend.observe().await.unwrap();
        let observed = backend.apply(&plan, observed).await.unwrap();
        assert!(backend.plan(&backend.desired(&table), &observed).is_empty(), "the rest is served");
    });
}
