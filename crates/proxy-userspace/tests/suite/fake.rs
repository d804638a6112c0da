//! The backend on the strict fake of nf_tables, with real listeners on a node without links: the battery, at length.

use crate::place::{inside, node};
use nft::{Fake, Nft, Transaction};
use proxy::Backend;
use proxy::battery::{self, Random, World};
use proxy_userspace::{Userspace, table};
use service_model::IpFamily;

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
