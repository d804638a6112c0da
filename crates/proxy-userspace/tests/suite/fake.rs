//! The backend on the strict fake of nf_tables, with real listeners on a node without links: the battery, at length.

use std::net::IpAddr;

use crate::place::{inside, node};
use nft::{Fake, Nft, Transaction};
use proxy::battery::{self, Random, World};
use proxy::{Backend, Plan, RefusalReason, Retired};
use proxy_userspace::{Userspace, table};
use service_model::{Change, Event, ForwardingTable, IpFamily, NodeView, ServiceModel};

fn backend(family: IpFamily) -> Userspace<Fake> {
    let [v4, v6] = Userspace::pair(Fake::new());
    if family == IpFamily::V4 { v4 } else { v6 }
}

#[test]
fn the_battery_holds_for_many_seeds() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || {
            for seed in 0..6 {
                battery::replanning_is_empty(&backend(family), &world, seed).await;
                battery::incremental_equals_full(&backend(family), &world, seed).await;
                battery::killed_anywhere_it_converges(&backend(family), &world, seed).await;
            }
        });
    }
}

fn spoil(fake: &mut Fake, family: IpFamily, random: &mut Random) {
    let ours = table(family);
    let ruleset = fake.dump(&ours).unwrap().unwrap();
    let mut transaction = Transaction::new(ours);
    let sets: Vec<_> = ruleset.sets.values().collect();
    let chains: Vec<_> = ruleset.chains.keys().collect();
    match random.below(4) {
        0 => transaction.delete_table(),
        1 => transaction.flush_set(&random.pick(&sets).unwrap().set),
        2 => transaction.add_chain(nft::Chain::regular("a-strangers-chain")),
        _ => transaction.flush_chain(random.pick(&chains).unwrap().as_str()),
    };
    fake.apply(&transaction).unwrap();
}

#[test]
fn converges_from_garbage() {
    for family in IpFamily::BOTH {
        let world = World::new(family);
        inside(&node(&world), async || {
            for seed in 0..4 {
                let backend = backend(family);
                battery::converges_from_garbage(&backend, &world, seed, |backend, random| {
                    backend.with_nft(|fake| spoil(fake, family, random)).unwrap();
                })
                .await;
                backend.cleanup().await.unwrap();
                assert_eq!(backend.with_nft(|fake| fake.tables().count()), Some(0));
            }
        });
    }
}

/// A NodePort Service that takes two listeners, and a Service in the cluster that takes one.
fn two_services(node: &NodeView) -> ForwardingTable {
    let mut model = ServiceModel::new();
    for (name, kind, node_port) in [("a", "NodePort", 30_080), ("b", "ClusterIP", 0)] {
        let service = serde_json::json!({
            "metadata": {"namespace": "ns", "name": name},
            "spec": {"type": kind, "clusterIPs": [format!("10.96.0.{}", name.as_bytes()[0])],
                     "ports": [{"port": 80, "nodePort": node_port}]}
        });
        model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
        let slice = serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.5"]}], "ports": [{"port": 8080}]
        });
        model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
    }
    model.resolve(node, IpFamily::V4)
}

#[test]
fn a_port_is_listened_for_whole_or_not_at_all() {
    let world = World::new(IpFamily::V4);
    inside(&node(&world), async || {
        let backend = backend(IpFamily::V4);
        let table = two_services(&world.node);
        let mut observed = backend.observe().await.unwrap();
        // Room for one listener: half of what the first Service takes.
        observed.ground.ports = 40_000..=40_001;
        let plan = backend.plan(&backend.desired(&table), &observed);
        let refused: Vec<_> =
            plan.refused().iter().map(|refusal| (refusal.port.service.name(), refusal.reason)).collect();
        assert_eq!(refused, [("a", RefusalReason::TooManyListeners)]);
        let text = plan.to_string();
        let listening: Vec<&str> = text.lines().filter(|line| line.contains("listen")).collect();
        assert!(!text.contains("ns/a") && text.contains("ns/b"), "{listening:?}\n{text}");
        let observed = backend.apply(&plan, observed).await.unwrap();
        assert_eq!(observed.process.doors.len(), 1);
        backend.cleanup().await.unwrap();
    });
}

#[test]
fn listeners_are_at_the_address_that_the_node_lists_first() {
    let mut world = World::new(IpFamily::V4);
    let [smaller, larger] = [world.node_address, world.second_node_address];
    inside(&node(&world), async || {
        for first in [smaller, larger] {
            let backend = backend(IpFamily::V4);
            world.node.addresses = if first == smaller { vec![smaller, larger] } else { vec![larger, smaller] };
            let table = two_services(&world.node);
            let mut observed = backend.observe().await.unwrap();
            observed.ground.addresses = [smaller, larger].into();
            let plan = backend.plan(&backend.desired(&table), &observed);
            let other: IpAddr = if first == smaller { larger } else { smaller };
            let text = plan.to_string();
            assert!(text.contains(&format!("{first}")) && !text.contains(&format!("{other}")), "{first}\n{text}");
        }
    });
}

/// Whoever was there before may still serve what it hasn't: IPVS takes in what has the node's address.
#[test]
fn a_new_table_refuses_nothing_before_it_leads_to_listeners() {
    let world = World::new(IpFamily::V4);
    inside(&node(&world), async || {
        let table_of_services = two_services(&world.node);
        let steps = {
            let backend = backend(IpFamily::V4);
            backend.plan(&backend.desired(&table_of_services), &backend.observe().await.unwrap()).steps()
        };
        assert!(steps > 2, "{steps} steps");
        for last in 0..=steps {
            let backend = backend(IpFamily::V4);
            let observed = backend.observe().await.unwrap();
            let plan = backend.plan(&backend.desired(&table_of_services), &observed);
            backend.apply(&plan.first(last), observed).await.unwrap();
            let found = backend.with_nft(|fake| fake.dump(&table(IpFamily::V4)).unwrap()).unwrap();
            let refusing = found.map_or(0, |found| found.chains["nobody"].rules.len());
            assert_eq!(refusing > 1, last == steps, "after {last} of {steps} steps");
            assert_eq!(refusing > 0, last > 0, "nobody comes to a listener directly, after {last} steps");
            backend.cleanup().await.unwrap();
        }
    });
}

#[test]
fn a_table_that_somebody_has_damaged_goes_when_another_mode_takes_over() {
    let world = World::new(IpFamily::V4);
    inside(&node(&world), async || {
        let backend = backend(IpFamily::V4);
        battery::settle(&backend, &two_services(&world.node)).await;
        backend.with_nft(|fake| {
            let ours = table(IpFamily::V4);
            let ruleset = fake.dump(&ours).unwrap().unwrap();
            let mut damage = Transaction::new(ours);
            damage.flush_chain("untranslated").flush_chain("untranslated-here").delete_chain("nobody");
            assert!(ruleset.chains.contains_key("nobody"));
            fake.apply(&damage).unwrap();
        });
        assert_eq!(backend.retire().await.unwrap(), Retired::Answering);
        assert_eq!(backend.with_nft(|fake| fake.tables().count()), Some(0));
        assert_eq!(backend.retire().await.unwrap(), Retired::Gone);
    });
}
