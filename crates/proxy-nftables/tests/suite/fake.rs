//! The backend on the fake kernel: the battery, and the tracer's opinion of many packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nft::fake::Fake;
use nft::tracer::{self, Entry, Link, SourceTranslation};
use nft::{AddrType, Nft, Transaction};
use proxy::battery::{self, Fate, Random, World};
use proxy::{Backend, Plan};
use proxy_nftables::Nftables;
use service_model::{Change, Event, IpFamily, Packet, Port, Protocol, ServiceModel, Source};

fn backend(family: IpFamily) -> Nftables<Fake> {
    let [v4, v6] = Nftables::pair(Fake::new().with_capacity(nft::fake::USUAL_CAPACITY));
    if family == IpFamily::V4 { v4 } else { v6 }
}

#[tokio::test]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        for seed in 0..4 {
            battery::replanning_is_empty(&backend(family), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        for seed in 0..6 {
            battery::incremental_equals_full(&backend(family), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    for seed in 0..4 {
        battery::killed_anywhere_it_converges(&backend(IpFamily::V4), &World::new(IpFamily::V4), seed).await;
    }
}

/// Deletes or adds something in our own table, as an operator with `nft` could.
fn spoil(fake: &mut Fake, family: IpFamily, random: &mut Random) {
    let ours = proxy_nftables::table(family);
    let ruleset = fake.dump(&ours).unwrap().unwrap();
    let mut transaction = Transaction::new(ours);
    let sets: Vec<_> = ruleset.sets.values().collect();
    let set = random.pick(&sets).unwrap();
    match random.below(5) {
        0 => transaction.delete_table(),
        1 => transaction.flush_set(&set.set),
        2 => transaction.add_chain(nft::Chain::regular("a-strangers-chain")),
        3 => {
            let chains: Vec<_> = ruleset.chains.keys().filter(|name| !name.starts_with("pick-")).collect();
            transaction.flush_chain(random.pick(&chains).unwrap().as_str())
        }
        _ => {
            let endpoints = ruleset.sets.get("endpoints").unwrap();
            let key = nft::Value::concat().mark(7).slot(u32::try_from(random.below(9)).unwrap()).value();
            let address: IpAddr = if family == IpFamily::V4 { [9, 9, 9, 9].into() } else { "fd99::9".parse().unwrap() };
            if endpoints.elements.contains_key(&nft::Key::from(key.clone())) {
                transaction.flush_set(&endpoints.set)
            } else {
                let garbage = nft::Element::new(key).to(nft::Value::concat().addr(address).port(9));
                transaction.add_elements(&endpoints.set, vec![garbage])
            }
        }
    };
    fake.apply(&transaction).unwrap();
}

#[tokio::test]
async fn converges_from_garbage_and_leaves_others_alone() {
    for family in IpFamily::BOTH {
        let backend = backend(family);
        let theirs = nft::Table::new(nft::Family::Inet, "theirs");
        let mut transaction = Transaction::new(theirs.clone());
        transaction.add_table().add_chain(nft::Chain::regular("chain"));
        backend.with_nft(|fake| fake.apply(&transaction)).unwrap();
        let before = backend.with_nft(|fake| fake.dump(&theirs)).unwrap();
        for seed in 0..4 {
            battery::converges_from_garbage(&backend, &World::new(family), seed, |backend, random| {
                backend.with_nft(|fake| spoil(fake, family, random));
            })
            .await;
        }
        backend.cleanup().await.unwrap();
        assert_eq!(backend.with_nft(|fake| fake.dump(&theirs)).unwrap(), before);
        assert_eq!(backend.with_nft(|fake| fake.tables().count()), 1);
    }
}

fn trace(fake: &mut Fake, world: &World, packet: &Packet, mark: u32) -> (Fate, u32) {
    let source = SocketAddr::new(packet.source.address(), 40_000);
    let destination = SocketAddr::new(packet.destination, packet.port.number());
    let entry = match packet.source {
        Source::Node(_) => Entry::Sent,
        _ => Entry::Received(Link { index: 2, name: "eth0".to_owned() }),
    };
    let mut first = tracer::Packet::first(entry, packet.protocol.number(), source, destination);
    first.oif = Some(Link { index: 3, name: "pod0".to_owned() });
    first.mark = mark;
    let node = world.node_address;
    let mut random = Random::new(u64::from(mark));
    let mut surroundings = tracer::World {
        addr_type: &move |address| if address == node { AddrType::Local } else { AddrType::Unicast },
        random: &mut move |limit| u32::try_from(random.below(u64::from(limit))).unwrap(),
    };
    let trace = fake.trace(first, &mut surroundings).unwrap();
    let fate = match (trace.fate, trace.dnat) {
        (tracer::Fate::Drop, _) => Fate::Vanished,
        (tracer::Fate::Reject(_), _) => Fate::Rejected,
        (tracer::Fate::Accept, None) => Fate::Untouched,
        (tracer::Fate::Accept, Some(endpoint)) => {
            let masqueraded = matches!(trace.snat, Some(SourceTranslation::Masquerade { fully_random: true }));
            Fate::Reached { endpoint, masqueraded: Some(masqueraded) }
        }
    };
    (fate, trace.mark)
}

#[tokio::test]
async fn traced_packets_meet_the_oracle_and_keep_their_mark() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        for seed in 0..10 {
            let backend = backend(family);
            let mut marks = Random::new(seed);
            let sent = battery::packets_meet_the_oracle(&backend, &world, seed, 10, 60, |packet, _| {
                let mark = if marks.chance(50) { 0 } else { 0x4500_0001 };
                let (fate, after) = backend.with_nft(|fake| trace(fake, &world, packet, mark));
                if matches!(fate, Fate::Reached { .. } | Fate::Untouched) {
                    assert_eq!(after, mark, "{packet}: the mark is handed back");
                }
                fate
            })
            .await;
            assert_eq!(sent, 600);
        }
    }
}

#[tokio::test]
async fn affinity_is_refreshed_by_each_connection_and_ends_with_its_timeout() {
    let world = World::new(IpFamily::V4);
    let backend = backend(IpFamily::V4);
    let mut model = ServiceModel::new();
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"clusterIPs": ["10.96.0.9"], "sessionAffinity": "ClientIP",
                 "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "ports": [{"name": "p", "port": 80}]}
    });
    let endpoints: Vec<_> = (1..=9).map(|n| serde_json::json!({"addresses": [format!("10.244.2.{n}")]})).collect();
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
    battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    // The mark is what the tracer's dice are seeded with.
    let after = |pause: u64, seed: u32| {
        backend.with_nft(|fake| {
            fake.advance(Duration::from_secs(pause));
            let (source, port) = (Source::LocalPod(world.local_pods[0]), Port::new(80).unwrap());
            let packet = Packet { source, destination: "10.96.0.9".parse().unwrap(), protocol: Protocol::Tcp, port };
            match trace(fake, &world, &packet, seed).0 {
                Fate::Reached { endpoint, .. } => endpoint,
                other => panic!("{other:?}"),
            }
        })
    };
    let patient: BTreeSet<_> = (0..20).map(|seed| after(59, seed)).collect();
    assert_eq!(patient.len(), 1, "each connection starts the timeout anew");
    let late: BTreeSet<_> = (0..20).map(|seed| after(61, seed)).collect();
    assert!(late.len() > 1, "after the timeout the dice decide again: {late:?}");
}

/// Whoever was there before may still serve what it hasn't: another mode, whose chains are asked after ours, or IPVS.
#[tokio::test]
async fn a_new_table_refuses_nothing_before_it_has_all_services() {
    const SERVICES: usize = 600;
    let (family, world) = (IpFamily::V4, World::new(IpFamily::V4));
    let mut model = ServiceModel::new();
    for number in 0..SERVICES {
        let name = format!("s{number}");
        let service = serde_json::json!({
            "metadata": {"namespace": "ns", "name": name},
            "spec": {"clusterIPs": [format!("10.96.{}.{}", number / 200, number % 200)], "ports": [{"port": 80}]}
        });
        let slice = serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.2.1"]}, {"addresses": ["10.244.2.2"]}],
            "ports": [{"port": 8080}]
        });
        model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
        model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
    }
    let table = model.resolve(&world.node, family);
    let plan = {
        let backend = backend(family);
        backend.plan(&backend.desired(&table), &backend.observe().await.unwrap())
    };
    assert!(plan.steps() > 2, "{} steps", plan.steps());
    for steps in 0..=plan.steps() {
        let backend = backend(family);
        let observed = backend.observe().await.unwrap();
        backend.apply(&plan.first(steps), observed).await.unwrap();
        let Some(found) = backend.with_nft(|fake| fake.dump(&proxy_nftables::table(family))).unwrap() else { continue };
        let refuses = !found.chains["no-frontend"].rules.is_empty();
        assert_eq!(refuses, steps == plan.steps(), "after {steps} steps");
        assert!(!refuses || found.sets["frontends"].elements.len() == SERVICES, "after {steps} steps");
        // What a translation needs later is there with the chain that translates.
        for chain in ["prerouting", "output", "after-prerouting", "after-output", "input", "forward", "postrouting"] {
            assert!(!found.chains[chain].rules.is_empty(), "{chain} after {steps} steps");
        }
        // Whoever ends here is followed by one who says it all.
        battery::settle(&backend, &table).await;
        let found = backend.with_nft(|fake| fake.dump(&proxy_nftables::table(family))).unwrap().unwrap();
        assert_eq!(found.sets["frontends"].elements.len(), SERVICES);
        assert!(!found.chains["no-frontend"].rules.is_empty());
    }
}
