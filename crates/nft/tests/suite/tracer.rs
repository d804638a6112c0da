//! The tracer says what the kernel does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::rig::*;
use nft::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn trace(fake: &mut Fake, packet: Packet, slot: u32) -> Trace {
    let addr_type =
        |addr: IpAddr| if addr == IpAddr::from([10, 0, 0, 1]) { AddrType::Local } else { AddrType::Unicast };
    let mut random = |_| slot;
    fake.trace(packet, &mut World { addr_type: &addr_type, random: &mut random }).unwrap()
}

fn flat_layout() -> Fake {
    let mut tx = layout();
    let frontend =
        |last, mark| Element::new(Value::concat().addr([10, 96, 0, last]).proto(6).port(80)).to(Value::mark(mark));
    tx.add_elements(&frontends(), vec![frontend(1, 1), frontend(2, 2)]);
    let endpoint = |mark, slot: u32| {
        let to = Value::concat().addr([10, 1, 0, slot as u8]).port(8080);
        Element::new(Value::concat().mark(mark).slot(slot)).to(to)
    };
    tx.add_elements(&endpoints(), vec![endpoint(1, 0), endpoint(1, 1), endpoint(2, 0), endpoint(2, 1)]);
    tx.add_elements(
        &services(),
        vec![
            Element::new(Value::mark(1)).verdict(Verdict::Goto("pick-2".into())),
            Element::new(Value::mark(2)).verdict(Verdict::Goto("sticky-2".into())),
        ],
    );
    let mut fake = Fake::new();
    fake.apply(&tx).unwrap();
    fake
}

#[test]
fn the_slot_chooses_the_endpoint_and_the_mark_is_handed_back() {
    let mut fake = flat_layout();
    let packet = || Packet::first(Entry::Sent, 6, at("10.0.0.1:4000"), at("10.96.0.1:80"));
    for slot in [0, 1] {
        let trace = trace(&mut fake, packet(), slot);
        assert_eq!(trace.dnat, Some(SocketAddr::from(([10, 1, 0, slot as u8], 8080))));
        assert_eq!((trace.fate, trace.mark), (Fate::Accept, 0));
    }
    // Another port, another protocol: nothing matches.
    for (proto, to) in [(6, "10.96.0.1:81"), (17, "10.96.0.1:80")] {
        let trace = trace(&mut fake, Packet::first(Entry::Sent, proto, at("10.0.0.1:4000"), at(to)), 0);
        assert_eq!((trace.dnat, trace.steps.len()), (None, 0));
    }
}

#[test]
fn affinity_is_recorded_after_the_translation_and_ends_with_its_timeout() {
    let mut fake = flat_layout();
    let packet = || Packet::first(Entry::Sent, 6, at("10.0.0.1:4000"), at("10.96.0.2:80"));
    let first = trace(&mut fake, packet(), 1).dnat;
    assert_eq!(first, Some(at("10.1.0.1:8080")));
    assert_eq!(trace(&mut fake, packet(), 0).dnat, first);
    fake.advance(Duration::from_secs(3 * 3600));
    assert_eq!(trace(&mut fake, packet(), 0).dnat, Some(at("10.1.0.0:8080")));
}

#[test]
fn hooks_run_by_priority_and_a_drop_ends_the_way() {
    let mut tx = Transaction::new(table());
    tx.add_table();
    tx.add_chain(Chain::base("late", ChainType::Filter, Hook::Forward, 10));
    tx.add_chain(Chain::base("early", ChainType::Filter, Hook::Forward, -10));
    tx.add_chain(Chain::base("post", ChainType::Nat, Hook::Postrouting, 100));
    tx.add_rule("late", Rule::new().is(Load::OifName, Value::ifname("veth1")).drop_packet());
    tx.add_rule("early", Rule::new().is(Load::Dport, Value::port(81)).reject(Reject::Icmp(3)));
    tx.add_rule("early", Rule::new().is(Load::Dport, Value::port(82)).accept());
    tx.add_rule("post", Rule::new().masquerade_fully_random());
    let mut fake = Fake::new();
    fake.apply(&tx).unwrap();
    let mut fate = |port: u16, out: &str| {
        let entry = Entry::Received(Link::new(2, "eth0"));
        let to = SocketAddr::from(([10, 2, 0, 1], port));
        let packet = Packet::first(entry, 6, at("10.3.0.1:4000"), to).leaving_by(Link::new(3, out));
        trace(&mut fake, packet, 0)
    };
    assert_eq!(fate(81, "veth1").fate, Fate::Reject(Reject::Icmp(3)));
    assert_eq!(fate(82, "veth1").fate, Fate::Drop, "accept ends a chain, not the way");
    let passed = fate(82, "veth2");
    assert_eq!(passed.fate, Fate::Accept);
    assert_eq!(passed.snat, Some(SourceTranslation::Masquerade { fully_random: true }));
}

#[test]
fn what_the_tracer_cannot_run_is_an_error() {
    let mut tx = Transaction::new(table());
    tx.add_table().add_chain(Chain::base("out", ChainType::Filter, Hook::Output, 0));
    let strange = Expr::Payload { dreg: Reg::ZERO, base: expr::PayloadBase::Network, offset: 8, len: 1 };
    tx.add_rule("out", Rule::new().push(strange).accept());
    let mut fake = Fake::new();
    fake.apply(&tx).unwrap();
    let addr_type = |_: IpAddr| AddrType::Unicast;
    let mut random = |_| 0;
    let packet = Packet::first(Entry::Sent, 6, at("10.0.0.1:4000"), at("10.9.0.1:80"));
    let error = fake.trace(packet, &mut World { addr_type: &addr_type, random: &mut random }).unwrap_err();
    assert!(matches!(error, TraceError::Unsupported { rule: 0, .. }), "{error}");
}

/// The tracer's rule that an update prolongs an element but keeps its data, asked of the kernel with real packets.
#[test]
fn an_update_keeps_the_data_of_an_element_that_is_there() {
    let marked = |mark: u32| {
        let seen = Set::map("seen", [DataType::Ipv4Addr], [DataType::Mark])
            .timeout(Some(Duration::from_secs(100)))
            .dynamic()
            .size(10);
        let mut tx = Transaction::new(table());
        tx.add_table().add_set(seen).add_chain(Chain::base("out", ChainType::Filter, Hook::Output, 0));
        tx.flush_chain("out");
        tx.add_rule(
            "out",
            Rule::new().l4proto(17).set_mark(mark).update("seen", &[Load::Daddr(L3::V4)], &[Load::Mark], None),
        );
        tx
    };
    let data = |nft: &mut dyn Nft| {
        let ruleset = nft.dump(&table()).unwrap().unwrap();
        ruleset.sets["seen"].elements.values().map(|content| content.data.clone()).collect::<Vec<_>>()
    };
    let real = in_namespace(move || {
        let mut kernel = Kernel::open().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for mark in [1, 2] {
            kernel.apply(&marked(mark)).unwrap();
            socket.send_to(b"x", "127.0.0.9:9").unwrap();
        }
        data(&mut kernel)
    });
    let mut fake = Fake::new();
    for mark in [1, 2] {
        fake.apply(&marked(mark)).unwrap();
        trace(&mut fake, Packet::first(Entry::Sent, 17, at("127.0.0.1:4000"), at("127.0.0.9:9")), 0);
    }
    assert_eq!(data(&mut fake), real);
    assert_eq!(real, vec![Some(Data::Value(Value::mark(1)))]);
}
