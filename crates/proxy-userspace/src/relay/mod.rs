//! Connections and datagrams relayed from listeners to the endpoints of a [`Pool`]. Knows no Kubernetes: whoever opens a
//! listener says which pool it leads to. Sockets to endpoints are opened in the network namespace of the runtime's
//! threads. Not responsible for how clients come to a listener, nor for binding it.

mod pool;
mod spare;
mod splice;
mod tcp;
mod udp;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use pool::{Aim, Memory, Pool};
use spare::Spares;
use splice::Pipe;

/// UDP sessions at a time, and which part of the descriptors they may take: each has one, and who sends one datagram from
/// each port there is must not take all.
const UDP_SESSIONS: usize = 16_384;
const OF_DESCRIPTORS: u64 = 2;
/// Pipes kept for the next burst. More may be in use.
const SPARE_PIPES: usize = 256;
const SPARE_BUFFERS: usize = 64;
const DATAGRAM_MAX: usize = 65_535;

/// Opens doors. What has been relayed by them goes on without it, until its tasks are told to stop or their runtime ends.
pub struct Relay {
    shared: Arc<Shared>,
    /// Owns the tasks of connections and doors.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What all tasks use.
struct Shared {
    pipes: Spares<Pipe>,
    buffers: Spares<Vec<u8>>,
    sessions: Arc<Semaphore>,
    most_sessions: usize,
}

/// An open listener. Dropping it closes it and ends its UDP sessions; TCP connections that came by it go on.
pub struct Door {
    address: SocketAddr,
    open: DropGuard,
    task: JoinHandle<()>,
}

impl Relay {
    /// `stop` ends everything.
    pub fn new(stop: CancellationToken) -> Relay {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let room = limit.and_then(|limit| usize::try_from(limit / OF_DESCRIPTORS).ok());
        Relay::with_room(stop, room.map_or(UDP_SESSIONS, |room| room.min(UDP_SESSIONS)))
    }

    /// With room for so many UDP sessions.
    fn with_room(stop: CancellationToken, most_sessions: usize) -> Relay {
        let shared = Shared {
            pipes: Spares::new(SPARE_PIPES, Pipe::new),
            buffers: Spares::new(SPARE_BUFFERS, || Ok(vec![0; DATAGRAM_MAX])),
            sessions: Arc::new(Semaphore::new(most_sessions)),
            most_sessions,
        };
        Relay { shared: Arc::new(shared), tasks: TaskTracker::new(), stop }
    }

    /// Serves a listener that doesn't block. Needs a runtime around it.
    pub fn tcp(&self, listener: TcpListener, pool: Arc<Pool>) -> std::io::Result<Door> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (address, open) = (listener.local_addr()?, self.stop.child_token());
        let serving =
            tcp::Serving { shared: self.shared.clone(), tasks: self.tasks.clone(), stop: self.stop.clone(), pool };
        let task = self.tasks.spawn(serving.run(listener, open.clone()));
        Ok(Door { address, open: open.drop_guard(), task })
    }

    /// Serves a socket that doesn't block. Replies leave by it. Needs a runtime around it.
    pub fn udp(&self, socket: UdpSocket, pool: Arc<Pool>) -> std::io::Result<Door> {
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        let (address, open) = (socket.local_addr()?, self.stop.child_token());
        let task = self.tasks.spawn(udp::Serving::new(socket, pool, self.shared.clone()).run(open.clone()));
        Ok(Door { address, open: open.drop_guard(), task })
    }
}

impl Door {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes it and waits until its address is free.
    pub async fn close(self) {
        drop(self.open);
        // One that panicked has closed its socket as well.
        let _ = self.task.await;
    }
}
