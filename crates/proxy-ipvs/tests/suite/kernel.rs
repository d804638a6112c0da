//! The backend on a real kernel, in namespaces made for each test: the battery, and real packets. Where the kernel has no
//! IPVS, `cargo xtask test-vm --small` runs these in a guest.

use std::process::Command;
use std::time::Duration;

use ipvs::Kernel;
use netns::NetNs;
use proxy::Backend;
use proxy::battery::{self, Fate, World};
use proxy_ipvs::{IpvsBackend, Options, prepare, supported};
use proxy_rig::{Rig, namespace};
use service_model::{IpFamily, Outcome};

type Real = IpvsBackend<nft::Kernel, Kernel>;

fn backend_in(namespace: &NetNs, family: IpFamily) -> Real {
    let options = Options { full_look: Duration::ZERO, ..Options::default() };
    let mut kernel = namespace.run(Kernel::open).unwrap().expect("a kernel with IPVS");
    prepare(namespace, &mut kernel, &options).unwrap();
    let nft = namespace.run(nft::Kernel::open).unwrap().unwrap();
    let [v4, v6] = IpvsBackend::pair(nft, kernel, options);
    if family == IpFamily::V4 { v4 } else { v6 }
}

/// A node of one family with its address, and nobody else.
fn node(world: &World) -> NetNs {
    let namespace = namespace();
    run(&namespace, "ip", "link add eth0 type dummy");
    run(&namespace, "ip", &format!("addr add {} dev eth0", world.node_address));
    namespace
}

fn run(namespace: &NetNs, program: &str, arguments: &str) -> String {
    let run = || Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let output = namespace.run(run).unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn this_kernel_can_do_it_and_nothing_is_left_of_the_question() {
    let namespace = namespace();
    let scheduler = Options::default().scheduler;
    namespace.run(|| supported(&scheduler)).unwrap().unwrap();
    let missing = ipvs::Scheduler::new("no_such").unwrap();
    let error = namespace.run(|| supported(&missing)).unwrap().unwrap_err();
    assert!(error.to_string().contains("no_such"), "{error}");
    assert!(!run(&namespace, "ip", "link").contains("kube-ipvs"));
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS"]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        battery::replanning_is_empty(&backend_in(&node(&world), family), &world, 1).await;
    }
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS"]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        battery::incremental_equals_full(&backend_in(&node(&world), family), &world, 2).await;
    }
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS"]
async fn killed_anywhere_it_converges() {
    let world = World::new(IpFamily::V4);
    battery::killed_anywhere_it_converges(&backend_in(&node(&world), IpFamily::V4), &world, 3).await;
}

#[tokio::test]
#[ignore = "needs a kernel with IPVS"]
async fn converges_from_garbage_and_leaves_others_alone() {
    let world = World::new(IpFamily::V4);
    let node = node(&world);
    run(&node, "nft", "add table inet theirs");
    let backend = backend_in(&node, IpFamily::V4);
    let spoils = [
        ("nft", "delete table ip portolan-ipvs"),
        ("ip", "link delete kube-ipvs0"),
        ("nft", "flush map ip portolan-ipvs frontends"),
        ("ip", "addr add 10.96.77.77/32 dev kube-ipvs0"),
        ("nft", "add chain ip portolan-ipvs stranger"),
        ("nft", "flush chain ip portolan-ipvs from-pod"),
        ("nft", "add element ip portolan-ipvs bound { 9.9.9.9 }"),
        ("nft", "insert rule ip portolan-ipvs prerouting accept"),
    ];
    let mut next = spoils.iter().cycle();
    battery::converges_from_garbage(&backend, &world, 9, |_, _| {
        let (program, arguments) = next.next().unwrap();
        run(&node, program, arguments);
    })
    .await;
    let text = run(&node, "nft", "list table ip portolan-ipvs");
    assert!(text.contains("vmap @frontends") && !text.contains("__set"), "{text}");
    backend.cleanup().await.unwrap();
    assert_eq!(run(&node, "nft", "list tables").trim(), "table inet theirs");
    assert!(!run(&node, "ip", "link").contains("kube-ipvs"));
}

fn real_packets(family: IpFamily, seed: u64) {
    let world = World::new(family);
    let rig = Rig::new(&world);
    let backend = backend_in(&rig.node, family);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Where a packet ends that no Service takes is not the proxy's affair.
    let sent = runtime.block_on(battery::packets_meet_the_oracle(&backend, &world, seed, 8, 12, |packet, outcome| {
        if *outcome == Outcome::Untouched { Fate::Untouched } else { rig.send(packet, outcome) }
    }));
    assert!(sent >= 60, "{sent} packets");
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn real_packets_meet_the_oracle_ipv4() {
    real_packets(IpFamily::V4, 5);
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn real_packets_meet_the_oracle_ipv6() {
    real_packets(IpFamily::V6, 6);
}
