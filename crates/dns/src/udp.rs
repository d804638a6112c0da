//! Questions by UDP: a socket per core on the same port, each with a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Transport;
use crate::resolver::{Asked, Reaction, Resolver};

/// Bursts wait here rather than get lost (the default buffer holds some 200 questions).
const RECEIVE_BUFFER: usize = 4 << 20;
/// Questions of one socket that may wait for other servers.
const WAITING_MAX: usize = 1000;
/// Longer than any question; what is cut off is malformed anyway.
const QUESTION_MAX: usize = 4096;

/// One socket per core, sharing the port (SO_REUSEPORT).
pub fn bind(address: SocketAddr) -> Result<Vec<UdpSocket>, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = |source| Error::Listen { address, transport: "UDP", source };
    (0..cores).map(|_| socket(address).map_err(failed)).collect()
}

fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel gives what its limit allows; less is no error.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers until cancelled.
pub async fn serve(socket: UdpSocket, resolver: Arc<Resolver>, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = [0; QUESTION_MAX];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = waiting.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error here is an earlier answer's (ICMP): it says nothing about the next question.
        let Ok((length, client)) = received else { continue };
        let asked = Asked { transport: Transport::Udp, client: client.ip(), keepalive: None };
        match resolver.react(&buffer[..length], asked) {
            Reaction::Respond(response) => {
                let _ = socket.send_to(&response, client).await;
            }
            Reaction::Wait(question) if waiting.len() < WAITING_MAX => {
                let (socket, resolver) = (socket.clone(), resolver.clone());
                waiting.spawn(async move {
                    let response = resolver.finish(*question).await;
                    let _ = socket.send_to(&response, client).await;
                });
            }
            Reaction::Wait(_) | Reaction::Transfer(_) | Reaction::Ignore => {}
        }
    }
}
