//! The fake and the kernel take and refuse the same transactions and hold the same tables afterwards.

use std::time::Duration;

use crate::rig::*;
use nft::expr::{Destination, ct_status};
use nft::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// An operation whose rule, if it names one, is meant by place: handles differ.
#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    DeleteRule(String, usize),
    Replace(String, usize, Rule),
    Behind(String, usize, Rule),
}

fn chain_name() -> impl Strategy<Value = String> + Clone {
    prop::sample::select(vec!["a", "b", "c", "nat", "out"]).prop_map(str::to_owned)
}

fn sets() -> Vec<Set> {
    vec![
        Set::set("plain", [DataType::Ipv4Addr, DataType::InetService]),
        Set::set("plain", [DataType::Ipv4Addr]),
        Set::map("map", [DataType::Mark], [DataType::Mark]).size(3),
        Set::verdict_map("verdicts", [DataType::Mark]),
        Set::set("ranges", [DataType::Ipv4Addr]).interval(),
        Set::set("squares", [DataType::Ipv4Addr, DataType::InetService]).interval(),
        Set::map("timed", [DataType::Ipv4Addr], [DataType::Mark])
            .timeout(Some(Duration::from_secs(1000)))
            .dynamic()
            .size(10),
    ]
}

fn set() -> impl Strategy<Value = Set> + Clone {
    prop::sample::select(sets())
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Return),
        chain_name().prop_map(Verdict::Jump),
        chain_name().prop_map(Verdict::Goto),
    ]
}

fn key(set: &Set) -> BoxedStrategy<Key> {
    let small = 1u8..6;
    match set.name.as_str() {
        // Disjoint: when intervals overlap, the kernel's answer depends on which ends coincide; the fake always refuses.
        "ranges" => prop::sample::select(vec![(1, 2), (3, 3), (4, 6), (8, 9)])
            .prop_map(|(a, b)| Key::range(Value::addr([10, 0, 0, a]), Value::addr([10, 0, 0, b])))
            .boxed(),
        "squares" => prop::sample::select(vec![(1, 2, 1, 9), (3, 3, 1, 2), (3, 5, 3, 3), (8, 9, 4, 7)])
            .prop_map(|(a, b, c, d)| {
                let at = |addr, port| Value::concat().addr([10, 0, 0, addr]).port(port);
                Key::range(at(a, c), at(b, d))
            })
            .boxed(),
        _ if set.is_concatenation() => {
            small.prop_map(|n| Value::concat().addr([10, 0, 0, n]).port(80).value().into()).boxed()
        }
        "map" | "verdicts" => small.prop_map(|n| Value::mark(u32::from(n)).into()).boxed(),
        _ => prop_oneof![
            9 => small.prop_map(|n| Key::from(Value::addr([10, 0, 0, n]))),
            1 => Just(Key::from(Value::new([1, 2, 3]))),
        ]
        .boxed(),
    }
}

fn element(set: &Set) -> BoxedStrategy<Element> {
    let with_verdicts = set.data == Some(MapData::Verdict);
    let with_values = matches!(set.data, Some(MapData::Value(_)));
    let timed = prop::option::weighted(0.2, (500u64..600).prop_map(Duration::from_secs));
    (key(set), verdict(), 1u32..4, timed)
        .prop_map(move |(key, verdict, mark, timeout)| {
            let mut element = Element::new(key);
            element.content.timeout = timeout;
            match (with_verdicts, with_values) {
                (true, _) => element.verdict(verdict),
                (_, true) => element.to(Value::mark(mark)),
                _ => element,
            }
        })
        .boxed()
}

fn rule() -> impl Strategy<Value = Rule> {
    let plain = prop::sample::select(vec![
        Rule::new().in_set(&[Load::Saddr(L3::V4)], "plain").counter(),
        Rule::new().in_set(&[Load::Saddr(L3::V4), Load::Dport], "plain"),
        Rule::new().in_set(&[Load::Saddr(L3::V4)], "ranges").drop_packet(),
        Rule::new().not_in_set(&[Load::Saddr(L3::V4), Load::Dport], "squares").drop_packet(),
        Rule::new().set_mark_from_map(&[Load::Mark], "map").comment("x"),
        Rule::new().vmap(&[Load::Mark], "verdicts"),
        Rule::new().vmap(&[Load::Mark], "map"),
        Rule::new().set_mark_from_map(&[Load::Mark], "verdicts"),
        Rule::new().set_mark_from_map(&[Load::Saddr(L3::V4)], "timed"),
        Rule::new().update("timed", &[Load::Saddr(L3::V4)], &[Load::Mark], Some(Duration::from_secs(9))),
        Rule::new().update("timed", &[Load::Saddr(L3::V4)], &[], None),
        Rule::new().update("missing", &[Load::Saddr(L3::V4)], &[Load::Mark], None),
        Rule::new().l4proto(6).dnat("1.2.3.4:5".parse().unwrap()),
        Rule::new().snat("1.2.3.4".parse().unwrap()),
        Rule::new().masquerade(),
        Rule::new().reject(Reject::Icmp(3)),
        Rule::new().ct_status(ct_status::DNAT).accept(),
        // A register that nothing wrote.
        Rule::new().push(Expr::Cmp { sreg: Reg::ZERO, op: nft::expr::CmpOp::Eq, data: Value::mark(1) }),
        Rule::new().push(Expr::Lookup {
            set: "map".into(),
            sreg: Reg::ZERO,
            dest: Some(Destination::Register(Reg::ZERO)),
            invert: false,
        }),
    ]);
    prop_oneof![3 => plain, 2 => verdict().prop_map(|verdict| Rule::new().verdict(verdict))]
}

fn chain() -> impl Strategy<Value = Chain> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "c", "nat"]).prop_map(Chain::regular),
        Just(Chain::base("nat", ChainType::Nat, Hook::Prerouting, -100)),
        Just(Chain::base("out", ChainType::Filter, Hook::Output, 0)),
        Just(Chain::base("out", ChainType::Nat, Hook::Postrouting, 100)),
        Just(Chain::base("c", ChainType::Nat, Hook::Forward, 0)),
    ]
}

fn add() -> impl Strategy<Value = Add> {
    prop_oneof![6 => Just(Add::IfAbsent), 1 => Just(Add::Exclusive)]
}

fn step() -> impl Strategy<Value = Step> {
    let elements = |set: Set| (Just(set.clone()), prop::collection::vec(element(&set), 1..4));
    let rule_op = (chain_name(), rule(), any::<bool>()).prop_map(|(chain, rule, last)| {
        let place = if last { Place::Last } else { Place::First };
        Step::Op(Op::AddRule { chain, place, rule })
    });
    prop_oneof![
        1 => add().prop_map(|add| Step::Op(Op::AddTable(add))),
        1 => Just(Step::Op(Op::FlushTable)),
        3 => (add(), chain()).prop_map(|(add, chain)| Step::Op(Op::AddChain(add, chain))),
        1 => chain_name().prop_map(|name| Step::Op(Op::DeleteChain(name))),
        2 => chain_name().prop_map(|name| Step::Op(Op::FlushChain(name))),
        12 => rule_op,
        4 => (chain_name(), 0usize..3).prop_map(|(chain, at)| Step::DeleteRule(chain, at)),
        1 => (chain_name(), 0usize..3, rule()).prop_map(|(chain, at, rule)| Step::Replace(chain, at, rule)),
        1 => (chain_name(), 0usize..3, rule()).prop_map(|(chain, at, rule)| Step::Behind(chain, at, rule)),
        3 => (add(), set()).prop_map(|(add, set)| Step::Op(Op::AddSet(add, set))),
        1 => set().prop_map(|set| Step::Op(Op::DeleteSet(set.name))),
        1 => set().prop_map(|set| Step::Op(Op::FlushSet(set))),
        12 => (add(), set().prop_flat_map(elements))
            .prop_map(|(add, (set, elements))| Step::Op(Op::AddElements(add, set, elements))),
        4 => set().prop_flat_map(elements)
            .prop_map(|(set, elements)| Step::Op(Op::DeleteElements(set, elements))),
    ]
}

fn resolve(steps: &[Step], now: Option<&Ruleset>) -> Transaction {
    let handle = |chain: &str, at: usize| {
        let rule = now.and_then(|ruleset| ruleset.chains.get(chain)).and_then(|chain| chain.rules.get(at));
        rule.and_then(|rule| rule.handle).unwrap_or(Handle(999_999))
    };
    let mut tx = Transaction::new(table());
    for step in steps {
        tx.push(match step.clone() {
            Step::Op(op) => op,
            Step::DeleteRule(chain, at) => Op::DeleteRule { handle: handle(&chain, at), chain },
            Step::Replace(chain, at, rule) => Op::AddRule { place: Place::Instead(handle(&chain, at)), chain, rule },
            Step::Behind(chain, at, rule) => Op::AddRule { place: Place::After(handle(&chain, at)), chain, rule },
        });
    }
    tx
}

/// Which operation was refused, and why.
fn blame(error: &NftError) -> String {
    match error {
        NftError::Refused { index, reason, .. } => format!("{index}: {reason}"),
        other => other.to_string(),
    }
}

/// The kernel still finds a rule that the same transaction removed, as a place for another; the fake has forgotten it.
fn places_by_a_removed_rule(steps: &[Step]) -> bool {
    let removes = |step: &Step, chain: &str| match step {
        Step::Op(Op::FlushTable) => true,
        Step::Op(Op::FlushChain(name)) | Step::DeleteRule(name, _) | Step::Replace(name, ..) => name == chain,
        _ => false,
    };
    steps.iter().enumerate().any(|(at, step)| match step {
        Step::Replace(chain, ..) | Step::Behind(chain, ..) => steps[..at].iter().any(|step| removes(step, chain)),
        _ => false,
    })
}

/// An element's set must be the one that is there, else it isn't the set's element that is wrong but the test.
fn sensible(steps: &[Step], now: Option<&Ruleset>) -> bool {
    !places_by_a_removed_rule(steps)
        && steps.iter().all(|step| match step {
            Step::Op(Op::AddElements(_, set, _) | Op::DeleteElements(set, _) | Op::FlushSet(set)) => {
                now.and_then(|ruleset| ruleset.sets.get(&set.name)).is_none_or(|found| found.set.key == set.key)
            }
            _ => true,
        })
}

fn agree(history: &[Vec<Step>]) -> Result<(), TestCaseError> {
    let mut kernel = Kernel::open().unwrap();
    let mut fake = Fake::new();
    let mut fresh = Transaction::new(table());
    fresh.destroy_table().add_table();
    // Every name a step may use is there at first, so that most steps are meaningful.
    for set in sets().into_iter().skip(1) {
        fresh.add_set(set);
    }
    for chain in ["a", "b", "c"] {
        fresh.add_chain(Chain::regular(chain));
    }
    fresh.add_chain(Chain::base("nat", ChainType::Nat, Hook::Prerouting, -100));
    fresh.add_chain(Chain::base("out", ChainType::Filter, Hook::Output, 0));
    kernel.apply(&fresh).unwrap();
    fake.apply(&fresh).unwrap();
    for steps in history {
        let (real, ours) = (kernel.dump(&table()).unwrap(), fake.dump(&table()).unwrap());
        prop_assert_eq!(&real, &ours);
        if !sensible(steps, real.as_ref()) {
            continue;
        }
        let tx = resolve(steps, real.as_ref());
        let real = kernel.apply(&tx);
        let ours = fake.apply(&resolve(steps, ours.as_ref()));
        match (&real, &ours) {
            (Ok(_), Ok(_)) => {}
            (Err(real), Err(ours)) => prop_assert_eq!(blame(real), blame(ours), "{}", tx),
            _ => prop_assert!(false, "kernel {:?}\n  fake {:?}\n{}", real, ours, tx),
        }
    }
    prop_assert_eq!(kernel.dump(&table()).unwrap(), fake.dump(&table()).unwrap());
    Ok(())
}

#[test]
fn the_fake_and_the_kernel_agree_on_any_history() {
    in_namespace(|| {
        // A case costs the kernel about 0.2 s. PROPTEST_CASES asks for more.
        let mut config = Config { failure_persistence: None, ..Config::default() };
        if std::env::var_os("PROPTEST_CASES").is_none() {
            config.cases = 60;
        }
        let history = prop::collection::vec(prop::collection::vec(step(), 1..3), 1..60);
        TestRunner::new(config).run(&history, |history| agree(&history)).unwrap_or_else(|e| panic!("{e}"));
    });
}

#[test]
fn the_fake_and_the_kernel_hold_the_same_layouts() {
    in_namespace(|| {
        for tx in [zoo(), layout(), layout_v6()] {
            let (mut kernel, mut fake) = (Kernel::open().unwrap(), Fake::new());
            kernel.apply(&tx).unwrap();
            fake.apply(&tx).unwrap();
            assert_eq!(kernel.dump(&tx.table).unwrap(), fake.dump(&tx.table).unwrap());
        }
    });
}

#[test]
fn both_refuse_loops_and_statements_out_of_place() {
    in_namespace(|| {
        let mut base = Transaction::new(table());
        base.add_table().add_chain(Chain::regular("a")).add_chain(Chain::regular("b"));
        base.add_chain(Chain::base("out", ChainType::Filter, Hook::Output, 0));
        let mut looped = base.clone();
        looped.add_rule("out", Rule::new().jump("a")).add_rule("a", Rule::new().jump("b"));
        looped.add_rule("b", Rule::new().jump("a"));
        let mut misplaced = base.clone();
        misplaced.add_rule("out", Rule::new().jump("a")).add_rule("a", Rule::new().masquerade());
        for (tx, expected) in [(looped, Reason::Loop), (misplaced, Reason::Unsupported)] {
            for nft in [&mut Kernel::open().unwrap() as &mut dyn Nft, &mut Fake::new()] {
                match nft.apply(&tx).unwrap_err() {
                    NftError::Refused { reason, .. } | NftError::Commit(reason) => assert_eq!(reason, expected),
                    other => panic!("{other}"),
                }
            }
        }
    });
}

#[test]
fn elements_age_in_the_fake_as_in_the_kernel() {
    in_namespace(|| {
        let set = Set::set("timed", [DataType::Mark]).timeout(Some(Duration::from_secs(60)));
        let mut tx = Transaction::new(table());
        tx.add_table().add_set(set.clone()).add_elements(
            &set,
            vec![Element::new(Value::mark(1)), Element::new(Value::mark(2)).timeout(Duration::from_secs(10))],
        );
        let mut fake = Fake::new();
        fake.apply(&tx).unwrap();
        Kernel::open().unwrap().apply(&tx).unwrap();
        assert_eq!(fake.dump(&table()).unwrap(), Kernel::open().unwrap().dump(&table()).unwrap());
        let left = |fake: &mut Fake| fake.dump(&table()).unwrap().unwrap().sets["timed"].elements.len();
        fake.advance(Duration::from_secs(9));
        assert_eq!(left(&mut fake), 2);
        fake.advance(Duration::from_secs(1));
        assert_eq!(left(&mut fake), 1);
        fake.advance(Duration::from_secs(50));
        assert_eq!(left(&mut fake), 0);
    });
}
