//! The backend on the real kernel, in namespaces made for each test: the battery, real packets, and what `nft` says.
#![allow(clippy::unwrap_used)]

mod rig;

use nft::Kernel;
use proxy::Backend;
use proxy::battery::{self, Fate, Random, World};
use proxy_nftables::Nftables;
use rig::Rig;
use service_model::{IpFamily, Outcome};

fn backend_in(namespace: &netns::NetNs, family: IpFamily) -> Nftables<Kernel> {
    let kernel = namespace.run(Kernel::open).unwrap().unwrap();
    let [v4, v6] = Nftables::pair(kernel);
    if family == IpFamily::V4 { v4 } else { v6 }
}

#[tokio::test]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        let namespace = rig::namespace();
        battery::replanning_is_empty(&backend_in(&namespace, family), &World::new(family), 1).await;
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        let namespace = rig::namespace();
        battery::incremental_equals_full(&backend_in(&namespace, family), &World::new(family), 2).await;
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    let namespace = rig::namespace();
    battery::killed_anywhere_it_converges(&backend_in(&namespace, IpFamily::V4), &World::new(IpFamily::V4), 3).await;
}

#[tokio::test]
async fn what_we_write_nft_can_list_and_load() {
    for family in IpFamily::BOTH {
        let rig = Rig::new(&World::new(family));
        let backend = backend_in(&rig.node, family);
        let world = World::new(family);
        let model = world.model(&mut Random::new(4));
        battery::settle(&backend, &model.resolve(&world.node, family)).await;
        let text = rig.run("nft", &["list", "ruleset"]);
        for expected in ["map frontends", "numgen random mod", "map @endpoints", "masquerade fully-random"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains("__set"), "no anonymous sets");
        backend.cleanup().await.unwrap();
        assert_eq!(rig.run("nft", &["list", "ruleset"]), "");
    }
}

fn real_packets(family: IpFamily, seed: u64) {
    let world = World::new(family);
    let rig = Rig::new(&world);
    let backend = backend_in(&rig.node, family);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Where a packet ends that no Service takes is not the proxy's affair; the tracer compares those too.
    let sent = runtime.block_on(battery::packets_meet_the_oracle(&backend, &world, seed, 8, 12, |packet, outcome| {
        if *outcome == Outcome::Untouched { Fate::Untouched } else { rig.send(packet, outcome) }
    }));
    assert!(sent >= 60, "{sent} packets");
}

#[test]
fn real_packets_meet_the_oracle_ipv4() {
    real_packets(IpFamily::V4, 5);
}

#[test]
fn real_packets_meet_the_oracle_ipv6() {
    real_packets(IpFamily::V6, 6);
}
