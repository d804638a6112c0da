//! Those who ask: the first packets of a new connection, and what comes of them. Works in the namespace of the calling
//! thread. Not responsible for what ought to come of them.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proxy::battery::table::Seen;
use service_model::Protocol;
use socket2::Socket;

use crate::serve::socket;

/// How long to wait for what ought to come: everything is on one machine, but other tests run beside.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many times slower than usual the machine is; the guest says so.
const SLOWNESS: &str = "PORTOLAN_TEST_PATIENCE";
/// How long to wait for nothing. A kernel sends the second SYN after a second: what answers that one isn't silent.
const SILENCE: Duration = Duration::from_millis(1_300);
/// After this a datagram is sent once more: a kernel sends only so many ICMP errors in a row (`icmp_msgs_burst`).
const ONCE_MORE: Duration = Duration::from_millis(400);

/// `SILENCE` is the kernel's own time and the same on a slow machine.
pub fn patience(silent: bool) -> Duration {
    let slowness = std::env::var(SLOWNESS).ok().and_then(|text| text.parse::<u32>().ok());
    if silent { SILENCE } else { PATIENCE * slowness.unwrap_or(1) }
}

pub fn ask(from: IpAddr, to: SocketAddr, protocol: Protocol, patience: Duration) -> Seen {
    let asked = match protocol {
        Protocol::Udp => ask_datagram(from, to, patience),
        Protocol::Tcp | Protocol::Sctp => ask_stream(from, to, protocol, patience),
    };
    match asked {
        Ok((by, client)) => Seen::Answered { by, client: client.ip() },
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Seen::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Seen::Nothing,
            other => Seen::Failed(other),
        },
    }
}

/// Who answered, and whom they saw.
type Answer = std::io::Result<(SocketAddr, SocketAddr)>;

fn ask_stream(from: IpAddr, to: SocketAddr, protocol: Protocol, patience: Duration) -> Answer {
    let socket = socket(to, protocol)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    connect(&socket, to, patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let mut buffer = [0; 128];
    let length = stream.read(&mut buffer)?;
    read(&buffer[..length])
}

/// Like `connect_timeout`, but hears at once of an ICMP error that comes while the kernel still holds the socket for sending
/// the SYN, as it does over a veth. That one doesn't end the connection (the next, a second later, would) and wakes nobody:
/// it is only there for who asks (`sk_err_soft`).
fn connect(socket: &Socket, to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        ended => return ended.and_then(|()| socket.set_nonblocking(false)),
    }
    let until = Instant::now() + patience;
    loop {
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        if Instant::now() >= until {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        let glance = PollTimeout::from(100u8);
        if poll(&mut waiting, glance)? == 1 && socket.take_error()?.map_or(Ok(true), Err)? {
            return socket.set_nonblocking(false);
        }
    }
}

fn ask_datagram(from: IpAddr, to: SocketAddr, patience: Duration) -> Answer {
    let socket = socket(to, Protocol::Udp)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    let socket = UdpSocket::from(socket);
    socket.connect(to)?;
    socket.set_read_timeout(Some(ONCE_MORE))?;
    let until = Instant::now() + patience;
    let mut buffer = [0; 128];
    loop {
        match socket.send(b"?") {
            // A verdict in the output hook also fails the call, and so does a translation to where there is no way from
            // this source; what the socket hears after it is what counts.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => {}
            sent => drop(sent?),
        }
        match socket.recv(&mut buffer) {
            Ok(length) => return read(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {}
            Err(error) => return Err(error),
        }
    }
}

fn read(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let parsed = text.split_once(' ').and_then(|(by, client)| Some((by.parse().ok()?, client.parse().ok()?)));
    parsed.ok_or_else(|| ErrorKind::InvalidData.into())
}
