//! The way from the fabric to the host's resolvers: DNS messages that arrive at the fabric's address are sent on, from
//! the host's own network, to what the host's `/etc/resolv.conf` names (a resolver on 127.0.0.53 included).
//!
//! Moves messages, reads none beyond their length and identifier. Caching and choosing are the DNS server's work.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use netns::NetNs;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Questions in flight at a time; more are dropped, and asked again by those who wait.
const IN_FLIGHT: usize = 512;
/// Connections at a time, and of them those of one address: the rest stays for others.
const CONNECTIONS: usize = 128;
const CONNECTIONS_OF_ONE: usize = 32;
/// How long a connection may last. Servers may close one at any time (RFC 7766, section 6.2.3); nobody who asks for
/// an answer waits longer.
const CONNECTION: Duration = Duration::from_secs(20);
/// Longer than a resolver's own patience, so that it's the asker who gives up.
const PATIENCE: Duration = Duration::from_secs(5);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const PORT: u16 = 53;
const MESSAGE_MAX: usize = 65_535;

/// The two listeners.
pub struct Relay {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Relay {
    /// Listens on the fabric's address.
    pub fn bind(fabric: &NetNs, address: IpAddr) -> Result<Self> {
        let at = SocketAddr::new(address, PORT);
        let (udp, tcp) = fabric.run(|| (std::net::UdpSocket::bind(at), std::net::TcpListener::bind(at)))?;
        let opening = || format!("cannot listen on {at} in the fabric");
        let (udp, tcp) = (udp.with_context(opening)?, tcp.with_context(opening)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Relay { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }

    /// Relays until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let udp = Arc::new(self.udp);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let connections = Connections::default();
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                received = udp.recv_from(&mut buffer) => {
                    let (Ok((length, from)), Ok(permit)) = (received, permits.clone().try_acquire_owned()) else { continue };
                    let (message, udp) = (buffer[..length].to_vec(), udp.clone());
                    tasks.spawn(async move {
                        if let Err(error) = datagram(&udp, from, &message).await {
                            tracing::debug!(%error, "no answer from the host's resolvers");
                        }
                        drop(permit);
                    });
                }
                accepted = self.tcp.accept() => {
                    let (stream, from) = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            // Out of descriptors, say: asked again at once, it fails at once.
                            tracing::warn!(%error, "cannot accept a connection");
                            tokio::time::sleep(ACCEPT_AGAIN).await;
                            continue;
                        }
                    };
                    let Some(place) = connections.place(from.ip()) else { continue };
                    tasks.spawn(async move {
                        if let Ok(Err(error)) = tokio::time::timeout(CONNECTION, connection(stream)).await {
                            tracing::debug!(%error, "no connection to the host's resolvers");
                        }
                        drop(place);
                    });
                }
            }
        }
    }
}

/// Who has how many connections.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Room for one connection, until it's dropped.
struct Place {
    of: IpAddr,
    connections: Connections,
}

impl Connections {
    /// Room for one more of this address, if there is any.
    fn place(&self, of: IpAddr) -> Option<Place> {
        let mut held = self.held();
        let own = held.get(&of).copied().unwrap_or_default();
        if own >= CONNECTIONS_OF_ONE || held.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        held.insert(of, own + 1);
        Some(Place { of, connections: self.clone() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.connections.held();
        if let Entry::Occupied(mut own) = held.entry(self.of) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// Tries each resolver in turn; an answer must carry the question's identifier. When none gives one, the asker is told
/// so rather than kept waiting.
async fn datagram(fabric: &UdpSocket, from: SocketAddr, message: &[u8]) -> io::Result<()> {
    let mut answer = vec![0; MESSAGE_MAX];
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for resolver in resolvers().await? {
        match tokio::time::timeout(PATIENCE, ask(resolver, message, &mut answer)).await {
            Ok(Ok(length)) => return fabric.send_to(&answer[..length], from).await.map(drop),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    if let Some(failure) = server_failure(message) {
        fabric.send_to(&failure, from).await?;
    }
    Err(last)
}

/// The question itself, marked as a response with the code SERVFAIL (RFC 1035 section 4.1.1).
fn server_failure(question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const SERVFAIL: u8 = 2;
    let mut failure = question.to_vec();
    if failure.len() < HEADER || failure[2] & 0x80 != 0 {
        return None;
    }
    failure[2] |= 0x80;
    failure[3] = 0x80 | SERVFAIL;
    Some(failure)
}

async fn ask(resolver: SocketAddr, message: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let any: IpAddr = if resolver.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(message).await?;
    loop {
        let length = socket.recv(answer).await?;
        if length >= 2 && message.len() >= 2 && answer[..2] == message[..2] {
            return Ok(length);
        }
    }
}

async fn connection(mut fabric: TcpStream) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for resolver in resolvers().await? {
        match tokio::time::timeout(PATIENCE, TcpStream::connect(resolver)).await {
            Ok(Ok(mut upstream)) => return copy_bidirectional(&mut fabric, &mut upstream).await.map(drop),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    // Reading what is there lets the close be an orderly one.
    let _ = fabric.read(&mut [0; 512]).await;
    fabric.shutdown().await?;
    Err(last)
}

/// The host's resolvers as they are now: the file changes when the machine changes networks.
async fn resolvers() -> io::Result<Vec<SocketAddr>> {
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await?;
    Ok(nameservers(&text).into_iter().map(|address| SocketAddr::new(address, PORT)).collect())
}

fn nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    let value = |line: &str| line.strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok();
    resolv_conf.lines().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_connections() {
        let (connections, one, other) =
            (Connections::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut places: Vec<Place> = std::iter::from_fn(|| connections.place(one)).collect();
        assert_eq!(places.len(), CONNECTIONS_OF_ONE);
        assert!(connections.place(other).is_some());
        places.pop();
        assert!(connections.place(one).is_some());
        drop(places);
        assert!(connections.held().is_empty());
    }

    #[test]
    fn a_failure_repeats_the_question_and_a_response_gets_none() {
        let question = [0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let failure = server_failure(&question).unwrap();
        assert_eq!((&failure[..2], failure[2] & 0x80, failure[3] & 0xf), (&question[..2], 0x80, 2));
        assert_eq!(failure[4..], question[4..]);
        assert_eq!(server_failure(&failure), None);
        assert_eq!(server_failure(&question[..5]), None);
    }

    #[test]
    fn nameservers_are_read_and_the_rest_is_left() {
        let text = "# nameserver 9.9.9.9\nsearch example\nnameserver 127.0.0.53\nnameserver\tfd00::1\nnameserver x\n";
        assert_eq!(nameservers(text), ["127.0.0.53".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }
}
