//! The backend on the real kernel, in namespaces made for each test: the battery, real packets, and what `nft` says.

use std::process::Command;

use nft::{Applied, Fake, Generation, Kernel, Nft, NftError, Ruleset, Table, Transaction};
use proxy::Backend;
use proxy::battery::{self, Fate, Random, World};
use proxy_nftables::Nftables;
use proxy_rig::Rig;
use service_model::{IpFamily, Outcome};

fn backend_in(namespace: &netns::NetNs, family: IpFamily) -> Nftables<Kernel> {
    let kernel = namespace.run(Kernel::open).unwrap().unwrap();
    let [v4, v6] = Nftables::pair(kernel);
    if family == IpFamily::V4 { v4 } else { v6 }
}

#[tokio::test]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        let namespace = proxy_rig::namespace();
        battery::replanning_is_empty(&backend_in(&namespace, family), &World::new(family), 1).await;
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        let namespace = proxy_rig::namespace();
        battery::incremental_equals_full(&backend_in(&namespace, family), &World::new(family), 2).await;
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    let namespace = proxy_rig::namespace();
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

/// Takes each transaction to the fake and the kernel and holds their answers and their contents against each other.
struct Both {
    kernel: Kernel,
    fake: Fake,
}

impl Nft for Both {
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, NftError> {
        let by_kernel = self.kernel.apply(transaction);
        let by_fake = self.fake.apply(&Transaction { base: None, ..transaction.clone() });
        assert_eq!(by_kernel.is_ok(), by_fake.is_ok(), "{by_kernel:?} {by_fake:?}\n{transaction}");
        by_kernel
    }

    fn dump(&mut self, table: &Table) -> Result<Option<Ruleset>, NftError> {
        let (by_kernel, by_fake) = (self.kernel.dump(table)?, self.fake.dump(table)?);
        assert_eq!(by_kernel, by_fake, "the fake and the kernel hold the same");
        Ok(by_kernel)
    }

    fn generation(&mut self) -> Result<Generation, NftError> {
        self.kernel.generation()
    }
}

#[tokio::test]
async fn the_fake_and_the_kernel_accept_the_same() {
    for family in IpFamily::BOTH {
        let namespace = proxy_rig::namespace();
        let kernel = namespace.run(Kernel::open).unwrap().unwrap();
        let [v4, v6] = Nftables::pair(Both { kernel, fake: Fake::new() });
        let backend = if family == IpFamily::V4 { v4 } else { v6 };
        battery::incremental_equals_full(&backend, &World::new(family), 7).await;
        battery::killed_anywhere_it_converges(&backend, &World::new(family), 8).await;
    }
}

#[tokio::test]
async fn converges_from_garbage_and_leaves_others_alone() {
    let namespace = proxy_rig::namespace();
    let nft = |arguments: &str| {
        let run = || Command::new("nft").args(arguments.split_whitespace()).output().unwrap();
        let output = namespace.run(run).unwrap();
        assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    nft("add table inet theirs");
    nft("add chain inet theirs stay");
    let spoils = [
        "delete table ip portolan",
        "flush map ip portolan frontends",
        "add chain ip portolan stranger",
        "flush chain ip portolan dispatch",
        "add element ip portolan cluster-ips { 9.9.9.9 }",
        "add element ip portolan endpoints { 0x7 . 0x63 : 9.9.9.9 . 9 }",
        "add element ip portolan frontends { 9.9.9.9 . tcp . 9 : 0x50000007 }",
        "add set ip portolan more { type ipv4_addr ; }",
        "insert rule ip portolan prerouting accept",
    ];
    let backend = backend_in(&namespace, IpFamily::V4);
    let mut next = spoils.iter().cycle();
    let world = World::new(IpFamily::V4);
    battery::converges_from_garbage(&backend, &world, 9, |_, _| drop(nft(next.next().unwrap()))).await;
    backend.cleanup().await.unwrap();
    assert_eq!(nft("list tables").trim(), "table inet theirs");
    assert!(nft("list ruleset").contains("chain stay"));
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
