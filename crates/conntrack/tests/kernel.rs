//! The flow table of the real kernel, in network namespaces of their own.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use conntrack::flow::TcpState;
use conntrack::{Conntrack, Filter, Flow, Status};

/// Runs a test in a fresh namespace where 10.96.0.1:53 and [fd00::1]:53 lead to a loopback port.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need CAP_SYS_ADMIN");
        run("ip", &["link", "set", "lo", "up"], "");
        run("ip", &["addr", "add", "10.0.0.1/32", "dev", "lo"], "");
        run("ip", &["route", "add", "10.96.0.0/16", "dev", "lo"], "");
        run("ip", &["addr", "add", "fd00::2/128", "dev", "lo", "nodad"], "");
        run("ip", &["route", "add", "fd00::/64", "dev", "lo"], "");
        run(
            "nft",
            &["-f", "-"],
            "table inet t {
                chain out {
                    type nat hook output priority -100
                    ip daddr 10.96.0.1 meta l4proto { tcp, udp } th dport 53 ct mark set 7 dnat ip to 10.0.0.1:5353
                    ip6 daddr fd00::1 meta l4proto { tcp, udp } th dport 53 dnat ip6 to [fd00::2]:5353
                }
            }\n",
        );
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn list(filter: &Filter) -> Vec<Flow> {
    Conntrack::open().unwrap().list(filter).unwrap()
}

#[test]
fn translated_flows_show_both_directions_and_can_be_deleted_one_by_one() {
    in_namespace(|| {
        let server = UdpSocket::bind("10.0.0.1:5353").unwrap();
        let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("10.0.0.1:0").unwrap()).collect();
        let mut buffer = [0; 8];
        for client in &clients {
            client.send_to(b"?", "10.96.0.1:53").unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"!", from).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap().1, "10.96.0.1:53".parse().unwrap());
        }
        let filter = Filter::default().proto(17).to(addr("10.96.0.1")).port(53);
        let flows = list(&filter);
        assert_eq!(flows.len(), 3);
        let client = clients[0].local_addr().unwrap().port();
        let flow = flows.iter().find(|flow| flow.original.source.port == client).unwrap();
        assert_eq!((flow.reply.source.addr, flow.reply.source.port), (addr("10.0.0.1"), 5353));
        assert_eq!((flow.reply.destination.port, flow.mark, flow.zone), (client, 7, 0));
        assert!(flow.status.is_destination_translated() && flow.status.replied());
        assert!(flow.status.has(Status::CONFIRMED) && flow.timeout.is_some());

        let mut table = Conntrack::open().unwrap();
        let before = table.count().unwrap();
        assert!(table.delete(flow).unwrap());
        assert!(!table.delete(flow).unwrap(), "it is gone");
        assert_eq!(table.count().unwrap(), before - 1);
        let left = list(&filter);
        assert_eq!(left.len(), 2);
        assert!(left.iter().all(|other| other.id != flow.id));
    });
}

#[test]
fn filters_select() {
    in_namespace(|| {
        let v4 = UdpSocket::bind("10.0.0.1:0").unwrap();
        v4.send_to(b"?", "10.96.0.1:53").unwrap();
        v4.send_to(b"?", "10.96.0.1:54").unwrap();
        let v6 = UdpSocket::bind("[fd00::2]:0").unwrap();
        v6.send_to(b"?", "[fd00::1]:53").unwrap();
        let ports = |filter: Filter| {
            let mut ports: Vec<u16> = list(&filter).iter().map(|f| f.original.destination.port).collect();
            ports.sort_unstable();
            ports
        };
        assert_eq!(ports(Filter::default().to(addr("10.96.0.1"))), [53, 54]);
        assert_eq!(ports(Filter::default().to(addr("10.96.0.1")).port(54)), [54]);
        assert_eq!(ports(Filter::default().to(addr("10.96.0.1")).proto(6)), [] as [u16; 0]);
        assert_eq!(ports(Filter { mark: Some((0xff, 7)), ..Filter::default() }), [53]);
        assert_eq!(ports(Filter { zone: Some(5), ..Filter::default() }), [] as [u16; 0]);
        let six = list(&Filter::default().to(addr("fd00::1")));
        assert_eq!(six.len(), 1);
        assert_eq!((six[0].reply.source.addr, six[0].reply.source.port), (addr("fd00::2"), 5353));
        assert!(Conntrack::open().unwrap().delete(&six[0]).unwrap());
    });
}

#[test]
fn tcp_flows_carry_their_state() {
    in_namespace(|| {
        let listener = TcpListener::bind("10.0.0.1:5353").unwrap();
        let stream = TcpStream::connect("10.96.0.1:53").unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let flows = list(&Filter::default().proto(6).to(addr("10.96.0.1")));
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].tcp_state, Some(TcpState::Established));
        assert_eq!(flows[0].original.source.port, stream.local_addr().unwrap().port());
        let listed = run("conntrack", &["-L", "-p", "tcp"], "");
        assert!(listed.contains("ESTABLISHED") && listed.contains("dst=10.96.0.1"), "{listed}");
    });
}
