//! What every backend has to hold, written once against the trait: run it on a fake, on the real kernel, on whatever
//! comes next. Tables and packets are generated from a seed, so a failure names everything needed to see it again. Not
//! responsible for making a kernel or sending packets: the caller does.

pub mod table;
mod world;

use std::net::SocketAddr;

use service_model::{Deny, ForwardingTable, Outcome, Packet};

use crate::backend::{Backend, Plan};
pub use world::{Random, World};

/// What was seen to happen to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// An endpoint got it.
    Reached {
        endpoint: SocketAddr,
        /// `None` if it can't be told, because the source is the address it would get.
        masqueraded: Option<bool>,
    },
    Rejected,
    /// Nobody got it and nobody said anything.
    Vanished,
    /// It goes where it says.
    Untouched,
}

/// Brings a backend to a table, from whatever it finds.
pub async fn settle<B: Backend>(backend: &B, table: &ForwardingTable) -> B::Observed {
    let observed = backend.observe().await.expect("observe");
    advance(backend, table, observed).await
}

async fn try_settle<B: Backend>(backend: &B, table: &ForwardingTable) -> Result<B::Observed, B::Error> {
    let observed = backend.observe().await?;
    backend.apply(&backend.plan(&backend.desired(table), &observed), observed).await
}

/// Brings a backend from a known state to a table.
pub async fn advance<B: Backend>(backend: &B, table: &ForwardingTable, observed: B::Observed) -> B::Observed {
    let plan = backend.plan(&backend.desired(table), &observed);
    assert_eq!(plan.refused(), &[], "nothing is refused");
    match backend.apply(&plan, observed).await {
        Ok(observed) => observed,
        Err(error) => panic!("apply: {error:?}\n{plan}"),
    }
}

/// After an apply there is nothing left to do, neither by what it returned nor by what is really there.
pub async fn replanning_is_empty<B: Backend>(backend: &B, world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut model = world.model(&mut random);
    for round in 0..12 {
        let table = model.resolve(&world.node, world.family);
        let observed = settle(backend, &table).await;
        assert_nothing_to_do(backend, &table, &observed, &format!("seed {seed} round {round}, as returned"));
        let observed = backend.observe().await.expect("observe");
        assert_nothing_to_do(backend, &table, &observed, &format!("seed {seed} round {round}, as observed"));
        for _ in 0..random.below(6) {
            model.apply(world.event(&mut random));
        }
    }
}

/// Following changes one by one ends where starting afresh ends.
pub async fn incremental_equals_full<B: Backend>(backend: &B, world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut model = world.model(&mut random);
    let mut table = model.resolve(&world.node, world.family);
    let mut observed = settle(backend, &table).await;
    for round in 0..60 {
        for _ in 0..=random.below(3) {
            model.apply(world.event(&mut random));
        }
        model.update(&mut table, &world.node);
        observed = advance(backend, &table, observed).await;
        let whole = model.resolve(&world.node, world.family);
        assert!(table.same_result(&whole), "seed {seed} round {round}: the model");
        if round % 10 == 9 {
            let fresh = backend.observe().await.expect("observe");
            assert_nothing_to_do(backend, &whole, &fresh, &format!("seed {seed} round {round}"));
        }
    }
}

/// Killed after any step, the next life finishes the work.
pub async fn killed_anywhere_it_converges<B: Backend>(backend: &B, world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut model = world.model(&mut random);
    for round in 0..3 {
        let before = model.resolve(&world.node, world.family);
        for _ in 0..8 {
            model.apply(world.event(&mut random));
        }
        let after = model.resolve(&world.node, world.family);
        let mut step = 0;
        loop {
            let observed = settle(backend, &before).await;
            let plan = backend.plan(&backend.desired(&after), &observed);
            backend.apply(&plan.first(step), observed).await.expect("apply the first steps");
            let observed = settle(backend, &after).await;
            assert_nothing_to_do(backend, &after, &observed, &format!("seed {seed} round {round} step {step}"));
            let fresh = backend.observe().await.expect("observe");
            assert_nothing_to_do(backend, &after, &fresh, &format!("seed {seed} round {round} step {step}, afresh"));
            if step >= plan.steps() {
                break;
            }
            step += 1;
        }
    }
}

/// Whatever `spoil` did to what is ours, it converges.
pub async fn converges_from_garbage<B: Backend>(
    backend: &B,
    world: &World,
    seed: u64,
    mut spoil: impl FnMut(&B, &mut Random),
) {
    let mut random = Random::new(seed);
    let mut model = world.model(&mut random);
    for round in 0..10 {
        let table = model.resolve(&world.node, world.family);
        let observed = settle(backend, &table).await;
        spoil(backend, &mut random);
        let stale = backend.is_stale(&observed).await.expect("ask whether it is stale");
        assert!(stale, "seed {seed} round {round}: interference is noticed");
        settle(backend, &table).await;
        let fresh = backend.observe().await.expect("observe");
        assert_nothing_to_do(backend, &table, &fresh, &format!("seed {seed} round {round}"));
        model.apply(world.event(&mut random));
    }
}

/// For generated tables and packets, what happens is what the oracle says. `send` is told what to expect
/// only so that it can leave out what it cannot observe. Returns how many packets were sent.
pub async fn packets_meet_the_oracle<B: Backend>(
    backend: &B,
    world: &World,
    seed: u64,
    rounds: usize,
    per_round: usize,
    mut send: impl FnMut(&Packet, &Outcome) -> Fate,
) -> usize {
    let mut random = Random::new(seed);
    let mut model = world.model(&mut random);
    let mut sent = 0;
    for round in 0..rounds {
        let table = model.resolve(&world.node, world.family);
        if try_settle(backend, &table).await.is_err() {
            // A port that a relay would listen at may be a client's by now; as the syncer does, it is tried once more.
            settle(backend, &table).await;
        }
        for _ in 0..per_round {
            let packet = world.packet(&mut random, &table);
            let fate = send(&packet, &table.lookup(&packet));
            if let Err(reason) = judge(&table, &packet, &fate) {
                panic!("seed {seed} round {round}: {reason}\n{}", describe(&table));
            }
            sent += 1;
        }
        for _ in 0..=random.below(6) {
            model.apply(world.event(&mut random));
        }
    }
    sent
}

/// Compares what happened with what the oracle says.
pub fn judge(table: &ForwardingTable, packet: &Packet, fate: &Fate) -> Result<(), String> {
    let outcome = table.lookup(packet);
    let agrees = match (&outcome, fate) {
        (Outcome::Forwarded { endpoints, .. }, Fate::Reached { endpoint, masqueraded }) => {
            let source = packet.source.address();
            endpoints.iter().any(|one| one.socket() == *endpoint)
                && masqueraded.is_none_or(|masqueraded| masqueraded == outcome.masquerades(source, endpoint.ip()))
        }
        (Outcome::Denied(Deny::Rejected), Fate::Rejected) => true,
        (Outcome::Denied(Deny::Dropped), Fate::Vanished) => true,
        (Outcome::Untouched, Fate::Untouched) => true,
        _ => false,
    };
    if agrees { Ok(()) } else { Err(format!("{packet}: the oracle says {outcome:?}, but {fate:?} happened")) }
}

fn assert_nothing_to_do<B: Backend>(backend: &B, table: &ForwardingTable, observed: &B::Observed, context: &str) {
    let plan = backend.plan(&backend.desired(table), observed);
    assert!(plan.is_empty(), "{context}: something is left to do:\n{plan}");
}

/// The Service ports as they stood, for whoever has to find out why.
fn describe(table: &ForwardingTable) -> String {
    table.ports.iter().map(|(name, port)| format!("{name}: {port:?}\n")).collect()
}
