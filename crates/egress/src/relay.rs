//! The relay: its sockets and its link in the fabric, and the loop that serves them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use netns::{LinkName, Links, NetNs, Route, Tun, sysctl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::packet::{No, Syn};
use crate::seldom::Seldom;
use crate::tcp::Connections;
use crate::udp::Flows;
use crate::{Error, rules};

/// The link by which the relay sees a connection's first packet and says no to packets.
const LINK: &str = "outside";
/// Where the transparent sockets listen: any port will do, since packets are led there whatever port they name.
const PORT: u16 = 1;
const PACKET_MAX: usize = 65_535;
const BACKLOG: i32 = 1024;

/// A relay whose rules and sockets are in the fabric.
pub struct Relay {
    door: Arc<Door>,
    tcp: [TcpListener; 2],
    udp: [UdpSocket; 2],
    fabric: NetNs,
}

/// The relay's link.
pub(crate) struct Door(Tun);

impl Relay {
    /// Takes over everything that is sent to the fabric and not to one of the networks inside. Packets to the outside
    /// must be routed to the fabric, which must have routes to whoever sends them. Outgoing sockets are opened in the
    /// network namespace of the threads that run it.
    pub async fn new(fabric: &NetNs, inside: &[IpNet]) -> Result<Self, Error> {
        let (links, name) = (Links::of(fabric)?, LinkName::new(LINK)?);
        let tun = Tun::new(fabric, &name)?;
        // What is written to the link comes from addresses that the fabric takes for its own.
        sysctl::set(fabric, "net.ipv4.conf.outside.accept_local", "1")?;
        for link in ["all", LINK] {
            sysctl::set(fabric, &format!("net.ipv4.conf.{link}.rp_filter"), "0")?;
        }
        for v6 in [false, true] {
            sysctl::forward(fabric, v6)?;
        }
        links.up(&name).await?;
        for everything in [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())] {
            links.add_mark_rule(everything.addr().is_ipv6(), rules::ASKS, rules::ASKS_TABLE).await?;
            links.add_route(&Route::direct(everything, LINK).in_table(rules::ASKS_TABLE)).await?;
        }
        let (tcp, udp) = fabric.run(|| (both(listener), both(datagrams)))?;
        let (tcp, udp) = (tcp.map_err(Error::Socket)?, udp.map_err(Error::Socket)?);
        rules::relay(fabric, inside, LINK, PORT).await?;
        let [tcp4, tcp6] = tcp.map(|socket| TcpListener::from_std(socket.into()).map_err(Error::Socket));
        let [udp4, udp6] = udp.map(|socket| UdpSocket::from_std(socket.into()).map_err(Error::Socket));
        Ok(Relay { door: Arc::new(Door(tun)), tcp: [tcp4?, tcp6?], udp: [udp4?, udp6?], fabric: fabric.clone() })
    }

    /// Relays until cancelled. Connections that are relayed end with it.
    pub async fn run(self, stop: CancellationToken) {
        let Relay { door, tcp: [tcp4, tcp6], udp: [udp4, udp6], fabric } = self;
        let connections = Connections::new(door.clone());
        let flows = Flows::new(door.clone(), fabric);
        let mut tasks = JoinSet::new();
        let (mut buffer, mut datagram) = (vec![0; PACKET_MAX], vec![0; PACKET_MAX]);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = tasks.join_next() => {}
                received = door.0.receive(&mut buffer) => {
                    let Ok(length) = received else { continue };
                    let Some(syn) = Syn::read(&buffer[..length]) else { continue };
                    if let Some(serving) = connections.asked(syn) {
                        tasks.spawn(serving);
                    }
                }
                accepted = tcp4.accept() => connections.accepted(accepted),
                accepted = tcp6.accept() => connections.accepted(accepted),
                received = udp4.readable() => {
                    if let Some(serving) = flows.readable(&udp4, received, &mut datagram) {
                        tasks.spawn(serving);
                    }
                }
                received = udp6.readable() => {
                    if let Some(serving) = flows.readable(&udp6, received, &mut datagram) {
                        tasks.spawn(serving);
                    }
                }
            }
        }
    }
}

impl Door {
    /// Gives the fabric a packet. One that is lost is sent again by whoever waits for an answer.
    pub(crate) fn send(&self, packet: &[u8]) {
        if let Err(error) = self.0.send(packet) {
            tracing::debug!(%error, "cannot give a packet to the fabric");
        }
    }
}

/// What a failed attempt to get outside says to whoever is inside. `None`: nothing, as the outside did.
pub(crate) fn reason(error: &io::Error) -> Option<No> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Some(No::Refused),
        io::ErrorKind::NetworkUnreachable => Some(No::Unrouted),
        io::ErrorKind::HostUnreachable => Some(No::Unreachable),
        io::ErrorKind::PermissionDenied => Some(No::Forbidden),
        io::ErrorKind::TimedOut => None,
        _ => {
            static FAILURES: Seldom = Seldom::new();
            if let Some(more) = FAILURES.told() {
                tracing::warn!(%error, more, "cannot open a socket for a pod");
            }
            Some(No::Unreachable)
        }
    }
}

/// A socket in the calling thread's namespace that may have others' addresses.
pub(crate) fn transparent(family: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if family.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(socket)
}

fn both(open: impl Fn(IpAddr) -> io::Result<Socket>) -> io::Result<[Socket; 2]> {
    Ok([open(Ipv4Addr::UNSPECIFIED.into())?, open(Ipv6Addr::UNSPECIFIED.into())?])
}

fn listener(any: IpAddr) -> io::Result<Socket> {
    let socket = transparent(any, Type::STREAM, Protocol::TCP)?;
    socket.bind(&SocketAddr::new(any, PORT).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A datagram's own destination is asked for with it: the socket's address says nothing.
fn datagrams(any: IpAddr) -> io::Result<Socket> {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = transparent(any, Type::DGRAM, Protocol::UDP)?;
    if any.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    socket.bind(&SocketAddr::new(any, PORT).into())?;
    Ok(socket)
}
