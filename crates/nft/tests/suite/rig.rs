//! A fresh network namespace per test, and the tables the tests write into it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use nft::expr::{Limit, LimitKind, Log, ct_state, ct_status};
use nft::*;

/// Runs a test on a thread in a network namespace of its own.
pub fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need CAP_SYS_ADMIN");
        run("ip", &["link", "set", "lo", "up"]);
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a program in the calling thread's namespace and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Feeds text to the real `nft -f`.
pub fn nft_file(text: &str) -> Result<(), String> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

pub fn table() -> Table {
    Table::new(Family::Ip, "lab")
}

pub fn frontends() -> Set {
    Set::map("frontends", [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService], [DataType::Mark])
        .size(65_536)
}

pub fn services() -> Set {
    Set::verdict_map("services", [DataType::Mark])
}

pub fn endpoints() -> Set {
    Set::map("endpoints", [DataType::Mark, DataType::Slot], [DataType::Ipv4Addr, DataType::InetService])
}

pub fn affinity() -> Set {
    Set::map("affinity", [DataType::Ipv4Addr, DataType::Mark], [DataType::Ipv4Addr, DataType::InetService])
        .timeout(Some(Duration::from_secs(3 * 3600)))
        .dynamic()
        .size(65_536)
}

pub const FRONTEND: [Load; 3] = [Load::Daddr(L3::V4), Load::L4Proto, Load::Dport];
pub const CLIENT: [Load; 2] = [Load::Saddr(L3::V4), Load::Mark];

pub fn pick(count: u32) -> [Load; 2] {
    [Load::Mark, Load::Random { modulus: count, offset: 0 }]
}

/// The flat layout, without elements: frontends give a mark, marks a chain, chains an endpoint.
pub fn layout() -> Transaction {
    let mut tx = Transaction::new(table());
    tx.add_table().add_set(frontends()).add_set(services()).add_set(endpoints()).add_set(affinity());
    tx.add_chain(Chain::regular("pick-2")).add_chain(Chain::regular("sticky-2"));
    tx.add_chain(Chain::base("translate", ChainType::Nat, Hook::Output, -100));
    tx.add_chain(Chain::base("record", ChainType::Filter, Hook::Output, -90));
    tx.add_rule("pick-2", Rule::new().l4proto(6).dnat_map(L3::V4, &pick(2), "endpoints"));
    tx.add_rule("sticky-2", Rule::new().l4proto(6).dnat_map(L3::V4, &CLIENT, "affinity"));
    tx.add_rule("sticky-2", Rule::new().goto("pick-2"));
    tx.add_rule("translate", Rule::new().set_mark_from_map(&FRONTEND, "frontends").vmap(&[Load::Mark], "services"));
    let record = [Load::Daddr(L3::V4), Load::Dport];
    tx.add_rule(
        "record",
        Rule::new()
            .ct_state(ct_state::NEW)
            .ct_status(ct_status::DNAT)
            .update("affinity", &CLIENT, &record, Some(Duration::from_secs(3 * 3600)))
            .comment("who came here comes here again"),
    );
    tx.add_rule("record", Rule::new().ct_status(ct_status::DNAT).set_mark(0));
    tx
}

/// One of everything a rule can say, as `nft` can read it.
pub fn zoo() -> Transaction {
    let v4 = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let mut tx = Transaction::new(Table::new(Family::Ip, "zoo"));
    let blocked = Set::set("blocked", [DataType::Ipv4Addr]).interval();
    let ranges = Set::set("ranges", [DataType::Mark, DataType::Ipv4Addr]).interval();
    let hairpin = Set::set("hairpin", [DataType::Ipv4Addr, DataType::Ipv4Addr, DataType::InetProto]);
    let links = Set::set("links", [DataType::IfName]);
    let ports = Set::map("ports", [DataType::InetProto, DataType::InetService], [DataType::Mark]);
    let verdicts = Set::verdict_map("verdicts", [DataType::InetService]);
    let seen = Set::set("seen", [DataType::Ipv4Addr]).timeout(None).dynamic().size(100);
    tx.add_table();
    for set in [&blocked, &ranges, &hairpin, &links, &ports, &verdicts, &seen] {
        tx.add_set(set.clone());
    }
    for chain in [Chain::regular("a"), Chain::regular("b")] {
        tx.add_chain(chain);
    }
    tx.add_chain(Chain::base("pre", ChainType::Nat, Hook::Prerouting, -100));
    tx.add_chain(Chain::base("post", ChainType::Nat, Hook::Postrouting, 100));
    tx.add_chain(Chain::base("raw", ChainType::Filter, Hook::Prerouting, -300));
    tx.add_chain(Chain::base("reroute", ChainType::Route, Hook::Output, -150));
    let mut forward = Chain::base("forward", ChainType::Filter, Hook::Forward, 0);
    forward.base.as_mut().unwrap().policy = Policy::Drop;
    tx.add_chain(forward);
    tx.add_elements(
        &blocked,
        vec![
            Element::new(Key::network(v4("10.0.0.0/8"))),
            Element::new(Key::range(Value::addr([11, 0, 0, 0]), Value::addr([11, 0, 0, 9]))),
            Element::new(Value::addr([12, 0, 0, 1])).comment("one host"),
            Element::new(Key::network(v4("192.0.0.0/2"))),
        ],
    );
    tx.add_elements(
        &ranges,
        vec![Element::new(Key::range(
            Value::concat().mark_be(5).addr([10, 0, 0, 0]),
            Value::concat().mark_be(5).addr([10, 0, 0, 255]),
        ))],
    );
    tx.add_elements(&links, vec![Element::new(Value::ifname("eth0"))]);
    tx.add_elements(&ports, vec![Element::new(Value::concat().proto(17).port(53)).to(Value::mark(9))]);
    tx.add_elements(
        &verdicts,
        vec![
            Element::new(Value::port(80)).verdict(Verdict::Goto("a".into())),
            Element::new(Value::port(81)).verdict(Verdict::Drop),
        ],
    );
    tx.add_elements(
        &seen,
        vec![
            Element::new(Value::addr([1, 1, 1, 1])).timeout(Duration::from_secs(90)),
            Element::new(Value::addr([1, 1, 1, 2])),
        ],
    );
    zoo_rules(&mut tx);
    tx
}

fn zoo_rules(tx: &mut Transaction) {
    let v4 = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let limit = Limit { rate: 5, unit: 60, burst: 7, kind: LimitKind::Packets, over: false };
    let rules = [
        Rule::new().is(Load::Saddr(L3::V4), Value::addr([10, 0, 0, 1])).accept(),
        Rule::new().is_not(Load::Dport, Value::port(22)).l4proto(17).jump("b"),
        Rule::new().within(Load::Saddr(L3::V4), v4("10.0.0.0/12")).counter().drop_packet(),
        Rule::new().outside(Load::Daddr(L3::V4), v4("10.1.2.3/32")).return_(),
        Rule::new().mark_is(0x4000, 0x4000).change_mark(!0x4000, 0),
        Rule::new().change_mark(!0x4000, 0x4000),
        Rule::new().set_ct_mark_from(Load::Mark).set_mark_from(Load::CtMark).set_mark(7),
        Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).ct_direction(Direction::Original).accept(),
        Rule::new().is(Load::CtOriginalDaddr(L3::V4), Value::addr([9, 9, 9, 9])).accept(),
        Rule::new().l4proto(6).is(Load::CtOriginalDport, Value::port(80)).accept(),
        Rule::new().in_set(&[Load::Saddr(L3::V4)], "blocked").reject(Reject::Icmp(13)),
        Rule::new().not_in_set(&[Load::IifName], "links").l4proto(6).reject(Reject::TcpReset),
        Rule::new().in_set(&[Load::MarkBigEndian, Load::Saddr(L3::V4)], "ranges").drop_packet(),
        Rule::new().vmap(&[Load::Dport], "verdicts"),
        Rule::new().set_mark_from_map(&[Load::L4Proto, Load::Dport], "ports"),
        Rule::new().is(Load::IifName, Value::ifname("eth0")).is(Load::OifName, Value::new(*b"veth")).accept(),
        Rule::new().limit(limit).log(Log { prefix: "lab ".into(), level: Some(6), group: None }).comment("a, b; c"),
        Rule::new().update("seen", &[Load::Saddr(L3::V4)], &[], Some(Duration::from_millis(90_500))),
        Rule::new().dynset(DynsetOp::Delete, "seen", &[Load::Saddr(L3::V4)], &[], None),
        Rule::new().daddr_type(AddrType::Local).compare(Load::Dport, expr::CmpOp::Ge, Value::port(30_000)).accept(),
    ];
    for rule in rules {
        tx.add_rule("forward", rule);
    }
    tx.add_rule("raw", Rule::new().l4proto(17).notrack());
    tx.add_rule("raw", Rule::new().l4proto(17).tproxy(L3::V4, 1).accept());
    tx.add_rule("pre", Rule::new().l4proto(6).dnat("10.0.0.9:8080".parse().unwrap()));
    tx.add_rule("pre", Rule::new().l4proto(6).redirect(8080));
    let three = [Load::Saddr(L3::V4), Load::Daddr(L3::V4), Load::L4Proto];
    tx.add_rule("post", Rule::new().in_set(&three, "hairpin").masquerade_fully_random());
    tx.add_rule("post", Rule::new().mark_is(u32::MAX, 1).snat("10.0.0.8".parse().unwrap()));
    tx.add_rule("post", Rule::new().masquerade());
}

/// A table of IPv6 addresses with the same shape as the flat layout.
pub fn layout_v6() -> Transaction {
    let mut tx = Transaction::new(Table::new(Family::Ip6, "lab6"));
    let frontends =
        Set::map("frontends", [DataType::Ipv6Addr, DataType::InetProto, DataType::InetService], [DataType::Mark]);
    let endpoints =
        Set::map("endpoints", [DataType::Mark, DataType::Slot], [DataType::Ipv6Addr, DataType::InetService]);
    let affinity =
        Set::map("affinity", [DataType::Ipv6Addr, DataType::Mark], [DataType::Ipv6Addr, DataType::InetService])
            .timeout(Some(Duration::from_secs(60)))
            .dynamic()
            .size(1000);
    tx.add_table().add_set(frontends.clone()).add_set(endpoints.clone()).add_set(affinity);
    tx.add_chain(Chain::base("translate", ChainType::Nat, Hook::Output, -100));
    tx.add_chain(Chain::base("record", ChainType::Filter, Hook::Output, -90));
    let frontend = [Load::Daddr(L3::V6), Load::L4Proto, Load::Dport];
    tx.add_rule(
        "translate",
        Rule::new().l4proto(6).set_mark_from_map(&frontend, "frontends").dnat_map(L3::V6, &pick(1), "endpoints"),
    );
    let client = [Load::Saddr(L3::V6), Load::Mark];
    let to = [Load::Daddr(L3::V6), Load::Dport];
    // Only the first packet of the original direction: answers meet this chain too, where both ends are ours.
    let first = Rule::new().ct_state(ct_state::NEW).ct_status(ct_status::DNAT);
    tx.add_rule("record", first.update("affinity", &client, &to, None).set_mark(0));
    let v6 = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    tx.add_elements(
        &frontends,
        vec![Element::new(Value::concat().addr(v6("fd00::1")).proto(6).port(80)).to(Value::mark(3))],
    );
    tx.add_elements(
        &endpoints,
        vec![Element::new(Value::concat().mark(3).slot(0)).to(Value::concat().addr(v6("fd00::2")).port(8080))],
    );
    tx
}
