//! The codec on a real kernel, in namespaces made for each test. Most kernels have IPVS as modules; where it is missing,
//! `cargo xtask test-vm --small` runs these in a guest.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use ipvs::{
    Destination, Fake, Family, Forwarding, Ipvs, IpvsError, Kernel, Op, Options, Reason, Scheduler, Server, ServerKey,
    Timeouts,
};
use netns::NetNs;

fn kernel_in(namespace: &NetNs) -> Kernel {
    namespace.run(Kernel::open).unwrap().expect("a kernel with IPVS: cargo xtask test-vm --small brings one")
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(text: &str) -> ServerKey {
    ServerKey::Address { protocol: 6, at: at(text) }
}

fn server(scheduler: &str, persistence: Option<u32>) -> Server {
    let scheduler = Scheduler::new(scheduler).unwrap();
    Server { options: scheduler.options(), scheduler, persistence }
}

fn ip(namespace: &NetNs, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(namespace.run(run).unwrap().success(), "ip {arguments}");
}

/// Without its loopback device a namespace has no table that says which addresses are anybody's.
fn namespace() -> NetNs {
    let namespace = NetNs::new().unwrap();
    ip(&namespace, "link set lo up");
    namespace
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn every_scheduler_and_kind_of_server_is_read_back_as_written() {
    let mut kernel = kernel_in(&namespace());
    for scheduler in Scheduler::KNOWN {
        for (key, to) in [
            (tcp("10.96.0.1:80"), "10.244.1.5:8080"),
            (tcp("[fd00:96::1]:80"), "[fd00:244:1::5]:8080"),
            (ServerKey::Address { protocol: 17, at: at("10.96.0.1:80") }, "10.244.1.5:53"),
            (ServerKey::Address { protocol: 132, at: at("10.96.0.1:80") }, "10.244.1.5:8080"),
            (ServerKey::Mark { family: Family::V4, mark: 0x5f70_0001 }, "10.244.1.5:8080"),
            (ServerKey::Mark { family: Family::V6, mark: 0x5f70_0001 }, "[fd00:244:1::5]:8080"),
        ] {
            let (wanted, destination) = (server(scheduler, None), Destination::masqueraded(1));
            let ops = [Op::AddServer(key, wanted.clone()), Op::AddDestination(key, at(to), destination)];
            kernel.change(&ops).unwrap_or_else(|error| panic!("{scheduler}: {error}"));
            let listed = kernel.servers(key.family()).unwrap();
            assert_eq!(listed.get(&key), Some(&wanted), "{scheduler}");
            let found = kernel.destinations(&key).unwrap();
            let state = found.get(&at(to)).unwrap();
            assert_eq!((state.destination, state.connections()), (destination, 0));
            kernel.change(&[Op::SetServer(key, server("rr", Some(60)))]).unwrap();
            assert_eq!(kernel.servers(key.family()).unwrap().get(&key), Some(&server("rr", Some(60))));
            kernel.change(&[Op::SetDestination(key, at(to), Destination::masqueraded(0))]).unwrap();
            assert_eq!(kernel.destinations(&key).unwrap().get(&at(to)).unwrap().destination.weight, 0);
            kernel.change(&[Op::DeleteDestination(key, at(to)), Op::DeleteServer(key)]).unwrap();
            assert!(kernel.servers(key.family()).unwrap().is_empty());
        }
    }
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn the_fake_refuses_what_the_kernel_refuses() {
    let mut kernel = kernel_in(&namespace());
    let mut fake = Fake::default();
    let keys = [tcp("10.96.0.1:80"), tcp("[fd00:96::1]:80"), ServerKey::Mark { family: Family::V4, mark: 9 }];
    let ends = [at("10.244.1.5:80"), at("[fd00:244:1::5]:80")];
    let mut state = 7_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    for _ in 0..400 {
        let (key, to) = (keys[below(3)], ends[below(2)]);
        let weight = u32::try_from(below(3)).unwrap();
        let wanted = server(["rr", "mh"][below(2)], [None, Some(30)][below(2)]);
        let op = match below(6) {
            0 => Op::AddServer(key, wanted),
            1 => Op::SetServer(key, wanted),
            2 => Op::DeleteServer(key),
            3 => Op::AddDestination(key, to, Destination::masqueraded(weight)),
            4 => Op::SetDestination(key, to, Destination::masqueraded(weight)),
            _ => Op::DeleteDestination(key, to),
        };
        let reason = |done: Result<(), IpvsError>| match done {
            Ok(()) => None,
            Err(IpvsError::Refused { reason, .. }) => Some(reason),
            Err(error) => panic!("{op}: {error:?}"),
        };
        assert_eq!(
            reason(kernel.change(std::slice::from_ref(&op))),
            reason(fake.change(std::slice::from_ref(&op))),
            "{op}"
        );
        for key in &keys {
            assert_eq!(kernel.destinations(key).unwrap(), fake.destinations(key).unwrap(), "after {op}");
            let family = key.family();
            assert_eq!(kernel.servers(family).unwrap(), fake.servers(family).unwrap(), "after {op}");
        }
    }
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn nobody_s_address_is_no_destination() {
    let mut kernel = kernel_in(&namespace());
    kernel.change(&[Op::AddServer(tcp("10.96.0.1:80"), server("rr", None))]).unwrap();
    for to in ["255.255.255.255:80", "224.0.0.1:80", "0.0.0.0:80"] {
        let op = Op::AddDestination(tcp("10.96.0.1:80"), at(to), Destination::masqueraded(1));
        let error = kernel.change(&[op]).unwrap_err();
        assert!(matches!(error, IpvsError::Refused { reason: Reason::Invalid, .. }), "{to}: {error:?}");
    }
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn many_changes_at_once_end_at_the_first_refusal() {
    let mut kernel = kernel_in(&namespace());
    let many = |number: u16| tcp(&format!("10.96.{}.{}:80", number >> 8, number & 255));
    let mut ops: Vec<Op> = (1..1_000).map(|number| Op::AddServer(many(number), server("rr", None))).collect();
    kernel.change(&ops).unwrap();
    // Other tests' servers come and go, which can make the kernel leave one out of a list.
    let complete = (0..1_000).any(|_| kernel.servers(Family::V4).unwrap().len() == 999);
    assert!(complete, "{}", kernel.servers(Family::V4).unwrap().len());
    ops = (1..1_000).map(|number| Op::DeleteServer(many(number))).collect();
    ops.insert(500, Op::DeleteServer(many(2_000)));
    let error = kernel.change(&ops).unwrap_err();
    assert!(matches!(error, IpvsError::Refused { index: 500, reason: Reason::NoServer, .. }), "{error:?}");
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn addresses_are_bound_and_found_and_go_with_the_device() {
    let namespace = namespace();
    ip(&namespace, "link add eth0 type dummy");
    ip(&namespace, "addr add 172.30.0.11/24 dev eth0");
    let mut kernel = kernel_in(&namespace);
    kernel.probe(&Scheduler::round_robin()).unwrap();
    for (family, addresses) in [(Family::V4, ["10.96.0.1", "10.96.0.2"]), (Family::V6, ["fd00:96::1", "fd00:96::2"])] {
        let addresses = addresses.map(|text| text.parse::<IpAddr>().unwrap());
        kernel.bind(&addresses).unwrap();
        kernel.bind(&addresses).unwrap();
        let found = kernel.addresses(family).unwrap();
        assert_eq!((found.bound, found.device_exists), (BTreeSet::from(addresses), true));
        kernel.unbind(&addresses[..1]).unwrap();
        kernel.unbind(&addresses[..1]).unwrap();
        assert_eq!(kernel.addresses(family).unwrap().bound, BTreeSet::from([addresses[1]]));
        // A listener on it is reached, so it is local, although the device is down.
        let listener = namespace.run(|| TcpListener::bind((addresses[1], 0)).unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        namespace.run(|| TcpStream::connect(to).unwrap()).unwrap();
    }
    let others = kernel.addresses(Family::V4).unwrap().others;
    assert_eq!(others, BTreeSet::from(["172.30.0.11".parse().unwrap()]));
    kernel.remove_device().unwrap();
    kernel.remove_device().unwrap();
    assert!(!kernel.addresses(Family::V4).unwrap().device_exists);
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn timeouts_are_set_and_zero_leaves_them() {
    let mut kernel = kernel_in(&namespace());
    let before = kernel.timeouts().unwrap();
    kernel.set_timeouts(Timeouts { tcp: 1_000, udp: 77, ..Timeouts::default() }).unwrap();
    assert_eq!(kernel.timeouts().unwrap(), Timeouts { tcp: 1_000, udp: 77, tcp_fin: before.tcp_fin });
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn a_connection_is_carried_and_counted() {
    let (node, pod) = (namespace(), namespace());
    ip(&node, "link add eth0 type veth peer name eth1");
    let other = pod.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    use std::os::fd::AsRawFd;
    ip(&node, &format!("link set eth1 netns /proc/{}/fd/{}", std::process::id(), other.as_raw_fd()));
    for (namespace, device, v4, v6) in
        [(&node, "eth0", "10.1.0.1/24", "fd01::1/64"), (&pod, "eth1", "10.1.0.2/24", "fd01::2/64")]
    {
        ip(namespace, &format!("addr add {v4} dev {device}"));
        ip(namespace, &format!("addr add {v6} dev {device} nodad"));
        ip(namespace, &format!("link set {device} up"));
    }
    ip(&pod, "route add 10.96.0.0/16 via 10.1.0.1");
    ip(&pod, "-6 route add fd00:96::/112 via fd01::1");
    let mut kernel = kernel_in(&node);
    for (virtual_at, real_at) in [("10.96.0.1:80", "10.1.0.2:8080"), ("[fd00:96::1]:80", "[fd01::2]:8080")] {
        let listener = pod.run(|| TcpListener::bind(at(real_at)).unwrap()).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"here").unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        });
        kernel.bind(&[at(virtual_at).ip()]).unwrap();
        let key = tcp(virtual_at);
        let destination = Destination { forwarding: Forwarding::Masquerade, weight: 1 };
        let rr = Server { scheduler: Scheduler::round_robin(), options: Options::default(), persistence: None };
        kernel.change(&[Op::AddServer(key, rr), Op::AddDestination(key, at(real_at), destination)]).unwrap();
        let from = if at(real_at).is_ipv4() { "10.1.0.1:0" } else { "[fd01::1]:0" };
        let mut stream = node
            .run(|| {
                let socket = socket2::Socket::new(socket2::Domain::for_address(at(from)), socket2::Type::STREAM, None);
                let socket = socket.unwrap();
                socket.bind(&at(from).into()).unwrap();
                socket.connect(&at(virtual_at).into()).unwrap();
                TcpStream::from(socket)
            })
            .unwrap();
        let mut text = [0; 4];
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"here");
        let state = kernel.destinations(&key).unwrap()[&at(real_at)];
        assert_eq!(state.connections(), 1, "{virtual_at}");
        drop(stream);
        answering.join().unwrap();
    }
}
