//! The stream of probes: new connections from several addresses, each closed by a reset; new datagram flows; connections
//! and flows that stay. Counts what is lost: a connection that needs a second SYN is.

use std::collections::HashMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netns::NetNs;
use socket2::{Domain, SockRef, Socket, Type};
use testkit::{eventually, patience, slowly};

use crate::place::{CLIENTS, Place, TCP, UDP};

/// Threads of each kind.
const PROBERS: usize = 4;
/// Connections and flows that stay.
const KEPT: usize = 6;
/// How often each of those is used.
const BEAT: Duration = Duration::from_millis(10);
/// A datagram that isn't answered within it is lost.
const LOST: Duration = Duration::from_secs(4);

pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    clients: NetNs,
    reached: Box<dyn Fn(usize) -> Option<Instant>>,
    retransmitted: u64,
    begun: Instant,
}

#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    connections: AtomicUsize,
    datagrams: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// When a new datagram flow last reached each endpoint.
    latest: Mutex<HashMap<u8, Instant>>,
    /// Which endpoint each kept flow is with.
    flows: Mutex<HashMap<usize, u8>>,
}

/// What the whole stream was.
pub struct Done {
    connections: usize,
    datagrams: usize,
    lasted: Duration,
    again: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.connections + self.datagrams) as f64 / self.lasted.as_secs_f64();
        write!(f, "{} connections and {} datagrams, {rate:.0} a second, none lost", self.connections, self.datagrams)?;
        if self.again > 0 { write!(f, ", {} SYNs sent again", self.again) } else { Ok(()) }
    }
}

impl Stream {
    /// Begins when the Service answers.
    pub fn start(place: &Place) -> Stream {
        for to in TCP {
            let once = || place.clients.run(|| connect((CLIENTS[0], 0).into(), to.into())).unwrap();
            eventually("the Service answers", || once().map_err(|error| format!("{error}\n{}", place.log())));
        }
        let mut stream = Stream::flows_alone(place);
        stream.until_all_flow();
        let asked = std::env::var("PORTOLAN_TEST_PROBES").ok().and_then(|text| text.parse().ok());
        let pace = Duration::from_secs(1) * u32::try_from(2 * PROBERS).unwrap() / asked.unwrap_or(400);
        for (number, client) in CLIENTS.into_iter().enumerate() {
            let (to, from) = (TCP[number % 2].into(), SocketAddr::from((client, 0)));
            stream.prober(pace, move |shared| {
                connect(from, to)?;
                shared.connections.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            let to: SocketAddr = UDP[number % 2].into();
            stream.prober(pace, move |shared| {
                let by = ask(&fresh(from, to)?)?;
                shared.latest.lock().unwrap().insert(by, Instant::now());
                shared.datagrams.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        stream.keep_more();
        stream.retransmitted = retransmitted(&stream.clients);
        stream
    }

    /// Only flows that stay, and whose datagrams may be lost.
    pub fn flows_alone(place: &Place) -> Stream {
        let reached = place.servers.reached();
        let (shared, clients) = (Arc::<Shared>::default(), place.clients.clone());
        let mut stream =
            Stream { shared, threads: Vec::new(), clients, reached, retransmitted: 0, begun: Instant::now() };
        for number in 0..KEPT {
            stream.keep_flow(number);
        }
        stream
    }

    fn spawn(&mut self, work: impl FnOnce(&Shared) + Send + 'static) {
        let (shared, clients) = (self.shared.clone(), self.clients.clone());
        self.threads.push(std::thread::spawn(move || clients.run(|| work(&shared)).unwrap()));
    }

    fn prober(&mut self, pace: Duration, probe: impl Fn(&Shared) -> std::io::Result<()> + Send + 'static) {
        let begun = self.begun;
        self.spawn(move |shared| {
            let mut next = Instant::now();
            while !shared.ending.load(Ordering::Relaxed) {
                let asked = begun.elapsed();
                if let Err(error) = probe(shared) {
                    shared.fail(&error, asked);
                }
                // The pace of what is asked; behind it, the next comes at once.
                next = (next + pace).max(Instant::now());
                std::thread::sleep(next - Instant::now());
            }
        });
    }

    /// More connections that stay, begun now.
    pub fn keep_more(&mut self) {
        for number in 0..KEPT {
            let (to, asked): (SocketAddr, Duration) = (TCP[number % 2].into(), self.lasted());
            self.spawn(move |shared| {
                if let Err(error) = keep(to, shared) {
                    shared.fail(&error, asked);
                }
            });
        }
    }

    fn keep_flow(&mut self, number: usize) {
        let (from, to) = (SocketAddr::from((CLIENTS[number % CLIENTS.len()], 0)), UDP[number % 2].into());
        self.spawn(move |shared| {
            let socket = fresh(from, to).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut by = [0];
            while !shared.ending.load(Ordering::Relaxed) {
                // With no endpoint it is refused, which is right then; what is lost is the probers' to tell.
                let _ = socket.send(b"?");
                while let Ok(1) = socket.recv(&mut by) {
                    shared.flows.lock().unwrap().insert(number, by[0]);
                    shared.latest.lock().unwrap().insert(by[0], Instant::now());
                }
                std::thread::sleep(BEAT / 2);
            }
        });
    }

    /// Waits until there have been some more of all kinds.
    #[track_caller]
    pub fn go_on(&self) {
        let count = || [&self.shared.connections, &self.shared.datagrams].map(|count| count.load(Ordering::Relaxed));
        let before = count();
        eventually("the stream goes on", || {
            let now = count();
            if before.iter().zip(now).all(|(before, now)| now >= before + 60) {
                return Ok(());
            }
            Err(format!("{before:?}, then {now:?}; {:#?}", self.failures()))
        });
    }

    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.shared.failures.lock().unwrap().clone();
        let again = self.sent_again();
        // A processor that is emulated, and has stood still for a second, looks the same.
        if again > 0 && slowly(LOST) == LOST {
            failures.push(format!("{again} SYNs were sent again"));
        }
        failures
    }

    fn sent_again(&self) -> u64 {
        retransmitted(&self.clients) - self.retransmitted
    }

    pub fn lasted(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn flows(&self) -> HashMap<usize, u8> {
        self.shared.flows.lock().unwrap().clone()
    }

    fn until_all_flow(&self) {
        eventually("all flows are answered", || {
            let flows = self.flows();
            if flows.len() == KEPT { Ok(()) } else { Err(format!("{flows:?}")) }
        });
    }

    #[track_caller]
    pub fn until_new_ones_reach(&self, endpoint: usize) {
        let since = Instant::now();
        eventually("the endpoint is reached", || {
            let latest = self.latest(endpoint);
            if latest.is_some_and(|latest| latest > since) { Ok(()) } else { Err(format!("{latest:?}")) }
        });
    }

    /// Waits until so many have been answered since by others that it would have been one of those who did.
    #[track_caller]
    pub fn until_new_ones_spare(&self, endpoint: usize, since: Instant) {
        self.go_on();
        eventually("the endpoint is left alone", || {
            let latest = self.latest(endpoint).max(Some(since));
            let before = self.shared.datagrams.load(Ordering::Relaxed);
            self.go_on();
            let after = self.latest(endpoint).max(Some(since));
            let count = self.shared.datagrams.load(Ordering::Relaxed) - before;
            if latest == after { Ok(()) } else { Err(format!("{count} datagrams, some to it")) }
        });
    }

    fn latest(&self, endpoint: usize) -> Option<Instant> {
        self.shared.latest.lock().unwrap().get(&u8::try_from(endpoint).unwrap()).copied()
    }

    /// When the endpoint last had a datagram.
    pub fn last_datagram(&self, endpoint: usize) -> Instant {
        (self.reached)(endpoint).expect("it had some")
    }

    /// Ends it; nothing may have failed.
    pub fn end(mut self) -> Done {
        self.stop();
        let failures = self.failures();
        assert!(failures.is_empty(), "{failures:#?}");
        let [connections, datagrams] =
            [&self.shared.connections, &self.shared.datagrams].map(|count| count.load(Ordering::Relaxed));
        Done { connections, datagrams, lasted: self.lasted(), again: self.sent_again() }
    }

    fn stop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// `asked` is how long after the beginning it was.
    fn fail(&self, error: &std::io::Error, asked: Duration) {
        self.failures.lock().unwrap().push(format!("asked at {:.1} s: {error}", asked.as_secs_f64()));
    }
}

/// A connection that is made, and reset.
fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), patience()).map_err(|error| named(&error, from, to))?;
    socket.set_linger(Some(Duration::ZERO))
}

/// A connection that is used until the end.
fn keep(to: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience())?;
    stream.set_read_timeout(Some(patience()))?;
    let mut by = None;
    while !shared.ending.load(Ordering::Relaxed) {
        let mut byte = [0];
        stream.write_all(b"?")?;
        stream.read_exact(&mut byte).map_err(|error| named(&error, stream.local_addr().unwrap_or(to), to))?;
        if by.replace(byte).is_some_and(|before| before != byte) {
            return Err(ErrorKind::InvalidData.into());
        }
        std::thread::sleep(BEAT);
    }
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

fn fresh(from: SocketAddr, to: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Who answers a datagram.
fn ask(socket: &UdpSocket) -> std::io::Result<u8> {
    socket.set_read_timeout(Some(slowly(LOST)))?;
    let mut by = [0];
    let said = |error: std::io::Error| match (socket.local_addr(), socket.peer_addr()) {
        (Ok(from), Ok(to)) => named(&error, from, to),
        _ => error,
    };
    socket.send(b"?").map_err(said)?;
    socket.recv(&mut by).map_err(said)?;
    Ok(by[0])
}

fn named(error: &std::io::Error, from: SocketAddr, to: SocketAddr) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{from} to {to}: {error}"))
}

/// How many SYNs the namespace has sent again: the first was lost then. (A later segment that is lost comes again, and a
/// pause of the machine looks the same; connections that stay tell of theirs by what they don't hear.)
fn retransmitted(clients: &NetNs) -> u64 {
    let text = clients.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap()).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPSynRetrans").unwrap().1.parse().unwrap()
}
