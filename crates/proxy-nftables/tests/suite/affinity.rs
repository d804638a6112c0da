//! Session affinity on the real kernel: shared by a Service's frontends, ended by its endpoint's end.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nft::Kernel;
use proxy::battery::{self, Fate, World};
use proxy_nftables::Nftables;
use proxy_rig::Rig;
use service_model::{Change, Event, ForwardingTable, IpFamily, Packet, Port, Protocol, ServiceModel, Source};

fn slice(world: &World, endpoints: usize) -> Event {
    let endpoints: Vec<_> = world.local_pods[..endpoints]
        .iter()
        .map(|pod| serde_json::json!({"addresses": [pod.to_string()], "nodeName": "here"}))
        .collect();
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": world.family.address_type(), "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints
    });
    Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap()))
}

fn ask(rig: &Rig, table: &ForwardingTable, packet: &Packet) -> SocketAddr {
    match rig.send(packet, &table.lookup(packet)) {
        Fate::Reached { endpoint, .. } => endpoint,
        other => panic!("{packet}: {other:?}"),
    }
}

async fn sticks_and_moves(family: IpFamily) {
    let world = World::new(family);
    let rig = Rig::new(&world);
    let kernel = rig.node.run(Kernel::open).unwrap().unwrap();
    let [v4, v6] = Nftables::pair(kernel);
    let backend = if family == IpFamily::V4 { v4 } else { v6 };
    let mut model = ServiceModel::new();
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"type": "NodePort", "clusterIPs": [world.cluster_ip(0).to_string()], "sessionAffinity": "ClientIP",
                 "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
    model.apply(slice(&world, 3));
    let mut table = model.resolve(&world.node, family);
    let observed = battery::settle(&backend, &table).await;
    let source = Source::Outside(world.outsiders[0]);
    let to =
        |destination, port| Packet { source, destination, protocol: Protocol::Tcp, port: Port::new(port).unwrap() };
    let ways = [to(world.cluster_ip(0), 80), to(world.node_address, 30080)];
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        seen.extend(ways.iter().map(|packet| ask(&rig, &table, packet)));
    }
    assert_eq!(seen.len(), 1, "one client meets one endpoint, whichever address it uses: {seen:?}");
    // Endpoints go one after the other; whatever the client stuck to, it moves on.
    let mut observed = observed;
    for left in [2, 1] {
        model.apply(slice(&world, left));
        model.update(&mut table, &world.node);
        observed = battery::advance(&backend, &table, observed).await;
        let alive: BTreeSet<_> = world.local_pods[..left].iter().map(|pod| SocketAddr::new(*pod, 8080)).collect();
        for packet in &ways {
            assert!(alive.contains(&ask(&rig, &table, packet)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sticks_to_its_endpoint_and_moves_when_it_goes() {
    for family in IpFamily::BOTH {
        sticks_and_moves(family).await;
    }
}
