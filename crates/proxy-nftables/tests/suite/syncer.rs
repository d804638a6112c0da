//! A syncer over the real kernel: news in, rules and flows out, followed by revision.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conntrack::Conntrack;
use nft::Kernel;
use proxy::battery::World;
use proxy::{Shared, Status, Syncer};
use proxy_nftables::Nftables;
use proxy_rig::Rig;
use service_model::{Change, Event, IpFamily};
use tokio_util::sync::CancellationToken;

fn service(world: &World, name: &str, external: &str) -> Event {
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIPs": [world.cluster_ip(name.len() as u64).to_string()], "externalIPs": [external],
                 "ports": [{"name": "p", "port": 80, "protocol": "UDP"}]}
    });
    Event::Service(Change::Upsert(serde_json::from_value(service).unwrap()))
}

fn endpoints(world: &World, pods: &[usize]) -> service_model::EndpointSlice {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| serde_json::json!({"addresses": [world.local_pods[*pod].to_string()], "nodeName": "here"}))
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080, "protocol": "UDP"}], "endpoints": endpoints
    }))
    .unwrap()
}

async fn settle(shared: &Shared, status: &Status, change: impl FnOnce(&mut proxy::State)) {
    let mut wanted = None;
    shared.change(Instant::now(), |state| {
        change(state);
        wanted = Some(state.model.revision());
        true
    });
    let mut applied = status.applied(IpFamily::V4).unwrap();
    let reached = applied.wait_for(|applied| applied.map(|applied| applied.revision) >= wanted);
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("in force in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_leave_an_endpoint_that_goes_and_conflicts_are_told() {
    let world = World::new(IpFamily::V4);
    let rig = Rig::new(&world);
    let (kernel, conntrack) = rig.node.run(|| (Kernel::open().unwrap(), Conntrack::open().unwrap())).unwrap();
    let [backend, _] = Nftables::pair(kernel);
    let (shared, status, token) = (Shared::new(world.node.clone()), Status::default(), CancellationToken::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    let syncer = Syncer::new(backend, shared.clone(), status.clone(), Some(conntrack), move |complaint, _| {
        hears.lock().unwrap().push(complaint.reason);
    });
    let running = tokio::spawn(syncer.run(token.clone()));
    // Half a list: nothing may happen yet.
    shared.change(Instant::now(), |state| {
        state.node_known = true;
        state.model.apply(Event::Service(Change::Relist(vec![])));
        true
    });
    settle(&shared, &status, |state| {
        state.model.apply(service(&world, "s", "192.0.2.1"));
        state.model.apply(Event::EndpointSlice(Change::Relist(vec![endpoints(&world, &[0])])));
    })
    .await;
    let vip = SocketAddr::new(world.cluster_ip(1), 80);
    let socket = rig.outside(|| UdpSocket::bind((world.outsiders[0], 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ask = || {
        socket.send_to(b"?", vip).unwrap();
        let mut buffer = [0; 128];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned()
    };
    assert_eq!(ask(), SocketAddr::new(world.local_pods[0], 8080).to_string());
    settle(&shared, &status, |state| {
        state.model.apply(Event::EndpointSlice(Change::Upsert(endpoints(&world, &[0, 1]))));
    })
    .await;
    assert_eq!(ask(), SocketAddr::new(world.local_pods[0], 8080).to_string(), "a healthy flow stays");
    settle(&shared, &status, |state| {
        state.model.apply(Event::EndpointSlice(Change::Upsert(endpoints(&world, &[1]))));
    })
    .await;
    assert_eq!(ask(), SocketAddr::new(world.local_pods[1], 8080).to_string(), "the same socket moves on");
    // Somebody else's write makes the next pass fail; the one after it must know what to look for.
    rig.run("nft", &["add", "table", "ip", "foreign"]);
    settle(&shared, &status, |state| {
        state.model.apply(Event::EndpointSlice(Change::Upsert(endpoints(&world, &[0]))));
    })
    .await;
    assert_eq!(ask(), SocketAddr::new(world.local_pods[0], 8080).to_string(), "also after a pass that failed");
    settle(&shared, &status, |state| {
        state.model.apply(service(&world, "zz", "192.0.2.1"));
    })
    .await;
    assert_eq!(*told.lock().unwrap(), ["ServiceAddressConflict"]);
    token.cancel();
    running.await.unwrap();
    assert!(rig.run("nft", &["list", "ruleset"]).contains("map frontends"), "rules outlive the proxy");
}
