//! The relay and the refusal on the real kernel: a client behind a fabric, a host, and a server outside that only the
//! host can reach.

#![allow(clippy::unwrap_used, reason = "a step of a test that fails ends it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egress::Relay;
use ipnet::IpNet;
use netns::{LinkName, Links, NetNs, Route};
use socket2::{Domain, SockRef, Socket, Type};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// client ─ fabric (│ host) ─ outside
struct World {
    client: NetNs,
    fabric: NetNs,
    host: NetNs,
    outside: NetNs,
}

/// Ends the relay when dropped.
struct Running {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

async fn join(left: &NetNs, left_end: (&str, &[&str]), right: &NetNs, right_end: (&str, &[&str])) {
    let (a, b) = (Links::of(left).unwrap(), Links::of(right).unwrap());
    a.add_veth(&name(left_end.0), &name(right_end.0), right).await.unwrap();
    for (links, (link, addresses)) in [(&a, left_end), (&b, right_end)] {
        for address in addresses {
            links.add_address(&name(link), address.parse().unwrap()).await.unwrap();
        }
        links.up(&name(link)).await.unwrap();
        links.loopback_up().await.unwrap();
    }
}

impl World {
    async fn new() -> Self {
        let [client, fabric, host, outside] = [(); 4].map(|()| NetNs::new().unwrap());
        let inside: (&[&str], &[&str]) = (&["172.30.0.11/24", "fd00:30::11/64"], &["172.30.0.2/24", "fd00:30::2/64"]);
        join(&client, ("eth0", inside.0), &fabric, ("client", inside.1)).await;
        join(
            &host,
            ("eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
            &outside,
            ("eth0", &["192.0.2.7/24", "2001:db8::7/64"]),
        )
        .await;
        let links = Links::of(&client).unwrap();
        for (to, via) in [("0.0.0.0/0", "172.30.0.2"), ("::/0", "fd00:30::2")] {
            links.add_route(&Route::via(to.parse().unwrap(), via.parse().unwrap())).await.unwrap();
        }
        World { client, fabric, host, outside }
    }

    fn inside() -> [IpNet; 2] {
        ["172.30.0.0/24".parse().unwrap(), "fd00:30::/64".parse().unwrap()]
    }

    /// The relay runs in a thread of the host.
    fn relay(&self) -> Running {
        let stop = CancellationToken::new();
        let (host, fabric, until) = (self.host.clone(), self.fabric.clone(), stop.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let relay = Relay::new(&fabric, &Self::inside()).await.unwrap();
                    ready.send(()).unwrap();
                    relay.run(until).await;
                });
            };
            host.run(run).unwrap();
        });
        is_ready.recv().unwrap();
        Running { stop, thread: Some(thread) }
    }

    fn listen(&self, at: &str) -> TcpListener {
        self.outside.run(|| TcpListener::bind(at).unwrap()).unwrap()
    }

    fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.client
            .run(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                socket.connect_timeout(&to.into(), PATIENCE)?;
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            })
            .unwrap()
    }

    fn datagrams(&self, namespace: &NetNs, at: &str) -> UdpSocket {
        let socket = namespace.run(|| UdpSocket::bind(at).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

#[tokio::test]
async fn connections_end_in_each_direction_by_itself() {
    let world = World::new().await;
    let _relay = world.relay();
    for at in ["192.0.2.7:8080", "[2001:db8::7]:8080"] {
        let listener = world.listen(at);
        let server = std::thread::spawn(move || {
            let (mut stream, client) = listener.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(b"you said ").unwrap();
            stream.write_all(&asked).unwrap();
            client.ip()
        });
        let mut stream = world.connect(at).unwrap();
        let said = vec![b'x'; 300_000];
        stream.write_all(&said).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [b"you said ".to_vec(), said].concat());
        let seen = server.join().unwrap();
        let host: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert!(host.contains(&seen), "{at} was asked by {seen}, not by the host");
    }
}

#[tokio::test]
async fn what_refuses_outside_refuses_inside_and_at_once() {
    let world = World::new().await;
    let _relay = world.relay();
    for (to, expected) in [
        ("192.0.2.7:9", ErrorKind::ConnectionRefused),
        ("[2001:db8::7]:9", ErrorKind::ConnectionRefused),
        // The host has no route there.
        ("198.51.100.1:80", ErrorKind::NetworkUnreachable),
        ("[2001:db8:1::1]:80", ErrorKind::NetworkUnreachable),
        // Where clouds keep their machines' credentials.
        ("169.254.169.254:80", ErrorKind::HostUnreachable),
    ] {
        // Refused by packets that arrive, not by a limit's leftovers: more than any burst allows.
        for _ in 0..20 {
            let begun = Instant::now();
            let error = world.connect(to).unwrap_err();
            assert_eq!(error.kind(), expected, "{to}: {error}");
            assert!(begun.elapsed() < PATIENCE, "{to}");
        }
    }
    // The relay's own loopback, in a spelling that leaves the client.
    let listener = world.host.run(|| TcpListener::bind("127.0.0.1:7777").unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let error = world.connect("[::ffff:7f00:1]:7777");
    assert!(error.is_err() && listener.accept().is_err());
    // The relay's own port leads nowhere.
    let read = world.connect("172.30.0.2:1").and_then(|mut stream| stream.read(&mut [0; 1]));
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    let world = World::new().await;
    let _relay = world.relay();
    let listener = world.listen("192.0.2.7:8080");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut stream = world.connect("192.0.2.7:8080").unwrap();
    stream.write_all(b"x").unwrap();
    server.join().unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn datagrams_and_their_refusals_come_back() {
    let world = World::new().await;
    let _relay = world.relay();
    for (any, at) in [("0.0.0.0:0", "192.0.2.7:5353"), ("[::]:0", "[2001:db8::7]:5353")] {
        let server = world.datagrams(&world.outside, at);
        let echo = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            for _ in 0..6 {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        // Two clients with one server don't get each other's answers, nor does size matter.
        let clients = [world.datagrams(&world.client, any), world.datagrams(&world.client, any)];
        for size in [1, 1_400, 30_000] {
            for (client, letter) in clients.iter().zip([b'a', b'b']) {
                client.connect(at).unwrap();
                client.send(&vec![letter; size]).unwrap();
            }
            for (client, letter) in clients.iter().zip([b'a', b'b']) {
                let mut answer = vec![0; 65_535];
                let length = client.recv(&mut answer).unwrap();
                assert_eq!(answer[..length], vec![letter; size], "{at} {size}");
            }
        }
        echo.join().unwrap();
        let nowhere = if at.starts_with('[') {
            ("[2001:db8:1::1]:9", ErrorKind::PermissionDenied)
        } else {
            ("198.51.100.1:9", ErrorKind::NetworkUnreachable)
        };
        for (to, expected) in [(at, ErrorKind::ConnectionRefused), nowhere] {
            let client = world.datagrams(&world.client, any);
            client.connect(to).unwrap();
            client.send(b"anybody?").unwrap();
            let error = client.recv(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), expected, "{to}: {error}");
        }
    }
}

#[tokio::test]
async fn without_a_way_out_everything_is_refused_at_once() {
    let world = World::new().await;
    egress::refuse(&world.fabric, &World::inside()).await.unwrap();
    let _listener = world.listen("192.0.2.7:8080");
    for to in ["192.0.2.7:8080", "[2001:db8::7]:8080"] {
        for _ in 0..20 {
            assert_eq!(world.connect(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        }
    }
    for (any, to) in [("0.0.0.0:0", "192.0.2.7:53"), ("[::]:0", "[2001:db8::7]:53")] {
        let client = world.datagrams(&world.client, any);
        client.connect(to).unwrap();
        client.send(b"anybody?").unwrap();
        let error = client.recv(&mut [0; 1]).unwrap_err();
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{to}: {error}");
    }
}
