//! Connections from inside a network namespace: what a client there sees of an address, in one word.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netns::NetNs;
use socket2::{Domain, Socket, Type};

use crate::slowly;

/// Longer than any answer takes here, shorter than TCP's own patience.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What came of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The body of an answer with status 200, or a datagram.
    Answered(String),
    Status(u16),
    Refused,
    TimedOut,
    Failed(String),
}

impl Outcome {
    /// The answer's text.
    #[track_caller]
    pub fn text(self) -> String {
        match self {
            Outcome::Answered(text) => text,
            other => panic!("no answer: {other}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(text) => f.write_str(text),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A network to be a client in. Clones share it.
#[derive(Clone)]
pub struct Net(NetNs);

impl Net {
    pub fn new(namespace: NetNs) -> Self {
        Net(namespace)
    }

    pub fn namespace(&self) -> &NetNs {
        &self.0
    }

    /// `GET path` on a connection of its own.
    pub fn get(&self, to: &str, path: &str) -> Outcome {
        self.enter(|| get(None, address(to), path))
    }

    /// The same from an address of the client's own choice.
    pub fn get_from(&self, from: IpAddr, to: &str, path: &str) -> Outcome {
        self.enter(|| get(Some(from), address(to), path))
    }

    /// One datagram and the answer to it.
    pub fn udp(&self, to: &str, message: &str) -> Outcome {
        self.enter(|| outcome(udp(address(to), message)))
    }

    /// Who answered how many of `count` connections made one after another.
    pub fn spread(&self, to: &str, count: usize) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        self.enter(|| {
            for _ in 0..count {
                *answers.entry(get(None, address(to), "/hostname").to_string()).or_default() += 1;
            }
        });
        answers
    }

    fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.0.run(f).expect("entering a network namespace needs CAP_SYS_ADMIN")
    }
}

#[track_caller]
fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn get(from: Option<IpAddr>, to: SocketAddr, path: &str) -> Outcome {
    match exchange(from, to, path) {
        Ok((200, body)) => Outcome::Answered(body),
        Ok((status, _)) => Outcome::Status(status),
        Err(error) => outcome(Err(error)),
    }
}

fn exchange(from: Option<IpAddr>, to: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), slowly(TIMEOUT))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(slowly(TIMEOUT)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

fn udp(to: SocketAddr, message: &str) -> io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(slowly(TIMEOUT)))?;
    socket.connect(to)?;
    socket.send(message.as_bytes())?;
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn outcome(result: io::Result<String>) -> Outcome {
    match result {
        Ok(text) => Outcome::Answered(text),
        Err(e) => match e.kind() {
            // A datagram that the sender's own machine rejects fails in send(2), with EPERM.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied => Outcome::Refused,
            // A receive timeout is EAGAIN (socket(7)).
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::TimedOut,
            _ => Outcome::Failed(e.to_string()),
        },
    }
}
