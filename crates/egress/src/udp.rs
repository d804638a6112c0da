//! UDP flows: a socket outside for each client and server, and one in the fabric that speaks in the server's name.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netns::NetNs;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvfrom, recvmsg};
use socket2::{Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::packet::{No, undelivered};
use crate::relay::{Door, reason, transparent};
use crate::seldom::Seldom;
use crate::target::{Reach, reach};

/// How many flows there are at a time.
const MAX: usize = 2048;
/// The kernel's own times for a flow that was answered or not (`nf_conntrack_udp_timeout`, `…_stream`).
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(120);
const DATAGRAM_MAX: usize = 65_535;

/// An ICMP error makes a socket readable to those who ask for errors, and to nobody else.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

/// A flow by its client and its server.
type Ends = (SocketAddr, SocketAddr);
type Known = Arc<Mutex<HashMap<Ends, Arc<UdpSocket>>>>;

/// All flows.
pub(crate) struct Flows {
    door: Arc<Door>,
    fabric: NetNs,
    known: Known,
    room: Arc<Semaphore>,
    refusals: Seldom,
}

/// One flow: forgotten when dropped.
struct Flow {
    ends: Ends,
    outside: Arc<UdpSocket>,
    inside: UdpSocket,
    known: Known,
    door: Arc<Door>,
    _room: OwnedSemaphorePermit,
}

impl Flows {
    pub(crate) fn new(door: Arc<Door>, fabric: NetNs) -> Self {
        Flows { door, fabric, known: Known::default(), room: Arc::new(Semaphore::new(MAX)), refusals: Seldom::new() }
    }

    /// Takes one datagram from a listener. What there is to do when it begins a flow.
    pub(crate) fn readable(
        &self,
        listener: &UdpSocket,
        ready: io::Result<()>,
        buffer: &mut [u8],
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        ready.ok()?;
        let (ends, length) = listener.try_io(Interest::READABLE, || receive(listener, buffer)).ok()?;
        let message = &buffer[..length];
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&ends).cloned();
        if let Some(outside) = known {
            // A full buffer loses a datagram, as anywhere.
            let _ = SockRef::from(&*outside).send(message);
            return None;
        }
        match self.begin(ends, message) {
            Ok(flow) => Some(flow.serve()),
            Err(no) => {
                self.door.send(&undelivered(ends.0, ends.1, no));
                None
            }
        }
    }

    fn begin(&self, ends: Ends, message: &[u8]) -> Result<Flow, No> {
        let (client, server) = ends;
        if reach(server.ip()) != Reach::Outside {
            return Err(No::Forbidden);
        }
        let room = self.room.clone().try_acquire_owned().map_err(|_| {
            if let Some(more) = self.refusals.told() {
                tracing::warn!(to = %server, more, "refused: {MAX} UDP flows are relayed already");
            }
            No::Forbidden
        })?;
        let failed = |error: io::Error| reason(&error).unwrap_or(No::Unreachable);
        let outside = Arc::new(outside(server).map_err(failed)?);
        let inside = self.fabric.run(|| inside(client, server)).map_err(io::Error::other).flatten();
        let inside = inside.and_then(UdpSocket::from_std).map_err(failed)?;
        SockRef::from(&*outside).send(message).map_err(failed)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(ends, outside.clone());
        let (known, door) = (self.known.clone(), self.door.clone());
        Ok(Flow { ends, outside, inside, known, door, _room: room })
    }
}

impl Flow {
    async fn serve(self) {
        if let Err(error) = self.copy().await
            && let Some(no) = reason(&error)
        {
            self.door.send(&undelivered(self.ends.0, self.ends.1, no));
        }
    }

    /// Both ways, until nothing was said for a while or the outside says no.
    async fn copy(&self) -> io::Result<()> {
        let mut patience = UNANSWERED;
        loop {
            tokio::select! {
                () = tokio::time::sleep(patience) => return Ok(()),
                ready = self.inside.ready(HEARD) => {
                    ready?;
                    self.there();
                }
                ready = self.outside.ready(HEARD) => {
                    ready?;
                    // Taken when there is something to put in: most flows are silent most of the time.
                    let mut buffer = vec![0; DATAGRAM_MAX];
                    match heard(&self.outside, &mut buffer) {
                        Ok((length, _)) => {
                            patience = ANSWERED;
                            let _ = SockRef::from(&self.inside).send(&buffer[..length]);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Before it was connected the socket may have got what others sent to the same server: they will send it again.
    /// Where the client no longer listens, its refusal ends here, and the flow with it when its time is over.
    fn there(&self) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        if let Ok((length, from)) = heard(&self.inside, &mut buffer)
            && from == Some(self.ends.0)
        {
            let _ = SockRef::from(&*self.outside).send(&buffer[..length]);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ends);
    }
}

/// What came: a datagram or an error.
fn heard(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut receive = || {
        let received = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
        Ok((received.0, received.1.as_ref().and_then(address)))
    };
    // One after the other: tokio's `try_io` does nothing for two interests at once.
    match socket.try_io(Interest::READABLE, &mut receive) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.try_io(Interest::ERROR, &mut receive),
        other => other,
    }
}

fn outside(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The server's address, towards the client alone.
fn inside(client: SocketAddr, server: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = transparent(server.ip(), Type::DGRAM, Protocol::UDP)?;
    socket.bind(&server.into())?;
    socket.connect(&client.into())?;
    Ok(socket.into())
}

/// A datagram and between whom it goes.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(Ends, usize)> {
    let mut space = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let client = received.address.as_ref().and_then(address);
    let server = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(v4) => Some(SocketAddr::V4(nix::sys::socket::SockaddrIn::from(v4).into())),
        ControlMessageOwned::Ipv6OrigDstAddr(v6) => {
            Some(SocketAddr::V6(nix::sys::socket::SockaddrIn6::from(v6).into()))
        }
        _ => None,
    });
    let ends = client.zip(server).ok_or(io::ErrorKind::InvalidData)?;
    Ok((ends, received.bytes))
}

fn address(stored: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = stored.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| stored.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
