//! Those who answer: at each of their addresses they say which one it is and whom they saw. Not responsible for where the
//! addresses are.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use netns::NetNs;
use service_model::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The SCTP sockets of RFC 6458 §4 (one-to-one) are used as TCP's are.
pub fn socket(to: SocketAddr, protocol: Protocol) -> std::io::Result<Socket> {
    let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    Socket::new(Domain::for_address(to), kind, Some(i32::from(protocol.number()).into()))
}

/// Listeners of any number of namespaces, served by one thread until this is dropped.
#[derive(Default)]
pub struct Servers {
    listeners: Vec<(SocketAddr, Listener)>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

enum Listener {
    Stream(std::net::TcpListener),
    Datagrams(std::net::UdpSocket),
}

impl Servers {
    /// Is heard from `start` on; until then connections wait.
    pub fn listen(&mut self, namespace: &NetNs, at: SocketAddr, protocol: Protocol) {
        let open = || -> std::io::Result<Socket> {
            let socket = socket(at, protocol)?;
            socket.set_nonblocking(true)?;
            if protocol != Protocol::Udp {
                socket.set_reuse_address(true)?;
            }
            socket.bind(&at.into())?;
            if protocol != Protocol::Udp {
                socket.listen(1_024)?;
            }
            Ok(socket)
        };
        let socket = namespace.run(open).unwrap().unwrap_or_else(|error| panic!("listen at {protocol} {at}: {error}"));
        let listener = match protocol {
            Protocol::Udp => Listener::Datagrams(socket.into()),
            Protocol::Tcp | Protocol::Sctp => Listener::Stream(socket.into()),
        };
        self.listeners.push((at, listener));
    }

    pub fn start(&mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime.block_on(async move {
                let mut answering = JoinSet::new();
                for (at, listener) in listeners {
                    match listener {
                        Listener::Stream(listener) => answering.spawn(answer_streams(listener, at)),
                        Listener::Datagrams(socket) => answering.spawn(answer_datagrams(socket, at)),
                    };
                }
                stopped.await.ok();
            });
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            thread.join().ok();
        }
    }
}

async fn answer_streams(listener: std::net::TcpListener, at: SocketAddr) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        // An empty send buffer takes the whole of it at once.
        if stream.writable().await.is_ok() {
            stream.try_write(format!("{at} {peer}").as_bytes()).ok();
        }
    }
}

async fn answer_datagrams(socket: std::net::UdpSocket, at: SocketAddr) {
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let mut buffer = [0; 64];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            socket.send_to(format!("{at} {peer}").as_bytes(), peer).await.ok();
        }
    }
}
