//! The backend on the real kernel, in namespaces made for each test: the battery, real packets, what `nft` says, and what
//! a following process finds.

use std::process::Command;

use crate::place::{inside, node};
use netns::NetNs;
use nft::{Applied, Fake, Generation, Kernel, Nft, NftError, Ruleset, Table, Transaction};
use proxy::Backend;
use proxy::battery::{self, Fate, Random, World};
use proxy_rig::Rig;
use proxy_userspace::Userspace;
use service_model::{IpFamily, Outcome};

fn one<N: Nft + Send + 'static>(nft: N, family: IpFamily) -> Userspace<N> {
    let [v4, v6] = Userspace::pair(nft);
    if family == IpFamily::V4 { v4 } else { v6 }
}

/// In the current namespace.
fn backend(family: IpFamily) -> Userspace<Kernel> {
    one(Kernel::open().unwrap(), family)
}

fn nft(namespace: &NetNs, arguments: &[&str]) -> String {
    let output = namespace.run(|| Command::new("nft").args(arguments).output().unwrap()).unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || battery::replanning_is_empty(&backend(family), &world, 1).await);
    }
}

#[test]
fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || battery::incremental_equals_full(&backend(family), &world, 2).await);
    }
}

#[test]
fn killed_anywhere_it_converges() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || battery::killed_anywhere_it_converges(&backend(family), &world, 3).await);
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

#[test]
fn the_fake_and_the_kernel_accept_the_same() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || {
            let backend = one(Both { kernel: Kernel::open().unwrap(), fake: Fake::new() }, family);
            battery::incremental_equals_full(&backend, &world, 7).await;
            battery::killed_anywhere_it_converges(&backend, &world, 8).await;
        });
    }
}

#[test]
fn converges_from_garbage_and_leaves_others_alone() {
    let world = World::new(IpFamily::V4);
    let namespace = node(&world);
    nft(&namespace, &["add", "table", "inet", "theirs"]);
    nft(&namespace, &["add", "chain", "inet", "theirs", "stay"]);
    let spoils = [
        "delete table ip portolan-userspace",
        "flush map ip portolan-userspace frontends",
        "add chain ip portolan-userspace stranger",
        "flush chain ip portolan-userspace from-here",
        "add element ip portolan-userspace cluster-ips { 9.9.9.9 }",
        "add element ip portolan-userspace frontends { 9.9.9.9 . tcp . 9 : 172.30.0.11 . 9 }",
        "add element ip portolan-userspace denied { 9.9.9.9 . tcp . 9 : drop }",
        "add set ip portolan-userspace more { type ipv4_addr ; }",
        "insert rule ip portolan-userspace prerouting accept",
        "delete chain ip portolan-userspace forward",
    ];
    inside(&namespace, async || {
        let backend = backend(IpFamily::V4);
        let mut next = spoils.iter().cycle();
        battery::converges_from_garbage(&backend, &world, 9, |_, _| {
            let spoil: Vec<&str> = next.next().unwrap().split_whitespace().collect();
            nft(&namespace, &spoil);
        })
        .await;
        backend.cleanup().await.unwrap();
    });
    assert_eq!(nft(&namespace, &["list", "tables"]).trim(), "table inet theirs");
    assert!(nft(&namespace, &["list", "ruleset"]).contains("chain stay"));
}

/// A process that follows another listens where that one did, so that rules needn't change.
#[test]
fn the_next_process_listens_where_the_last_one_did() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        let namespace = node(&world);
        let table = world.model(&mut Random::new(4)).resolve(&world.node, family);
        let run = || {
            inside(&namespace, async || drop(battery::settle(&backend(family), &table).await));
            nft(&namespace, &["list", "ruleset"])
        };
        let first = run();
        for expected in ["map frontends", "map node-ports", "map denied", "dnat"] {
            assert!(first.contains(expected), "{expected} in\n{first}");
        }
        assert_eq!(run(), first);
        // What is printed can be loaded.
        let load = || {
            let mut child = Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("flush ruleset\n{first}").as_bytes())
                .unwrap();
            child.wait().unwrap().success()
        };
        assert!(namespace.run(load).unwrap(), "nft loads\n{first}");
        assert_eq!(run(), first);
    }
}

#[test]
fn a_place_that_somebody_else_took_is_left_to_him() {
    let world = World::new(IpFamily::V4);
    let namespace = node(&world);
    let table = world.model(&mut Random::new(4)).resolve(&world.node, IpFamily::V4);
    let listeners = || nft(&namespace, &["list", "set", "ip", "portolan-userspace", "listeners"]);
    inside(&namespace, async || drop(battery::settle(&backend(IpFamily::V4), &table).await));
    let before = listeners();
    let taken = before.split("tcp . ").nth(1).unwrap().split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned();
    let address = format!("{}:{taken}", world.node_address);
    let stranger = namespace.run(|| std::net::TcpListener::bind(&address).unwrap()).unwrap();
    inside(&namespace, async || {
        let backend = backend(IpFamily::V4);
        let observed = backend.observe().await.unwrap();
        let plan = backend.plan(&backend.desired(&table), &observed);
        let error = backend.apply(&plan, observed).await.unwrap_err();
        assert!(error.to_string().contains("cannot listen at 1 of"), "{error}");
        battery::settle(&backend, &table).await;
        assert!(!listeners().contains(&format!("tcp . {taken} ")), "{}", listeners());
    });
    drop(stranger);
}

fn real_packets(family: IpFamily, seed: u64) {
    let world = World::new(family);
    let rig = Rig::new(&world);
    let sent = inside(&rig.node, async || {
        let backend = backend(family);
        battery::packets_meet_the_oracle(&backend, &world, seed, 8, 12, |packet, outcome| {
            // Where a packet ends that no Service takes is not the proxy's affair.
            match if *outcome == Outcome::Untouched { Fate::Untouched } else { rig.send(packet, outcome) } {
                // Whoever is relayed comes from the node.
                Fate::Reached { endpoint, masqueraded } => {
                    assert_ne!(masqueraded, Some(false), "{packet}");
                    Fate::Reached { endpoint, masqueraded: None }
                }
                other => other,
            }
        })
        .await
    });
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
