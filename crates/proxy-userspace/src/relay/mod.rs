//! Connections and datagrams relayed from listeners to the endpoints of a [`Pool`]. Knows no Kubernetes: whoever opens a
//! listener says which pool it leads to. Sockets to endpoints are opened in the network namespace of the runtime's
//! threads. Not responsible for how clients come to a listener, nor for binding it.

mod pool;
mod room;
mod spare;
mod splice;
mod tcp;
mod udp;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use pool::{Aim, Memory, Pool};
use room::{Limits, Room, Seldom};
use spare::Spares;
use splice::Pipe;

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
    turned_away: Arc<AtomicU64>,
}

/// What all tasks use. One for the whole process, whose descriptors they are.
struct Shared {
    pipes: Spares<Pipe>,
    buffers: Spares<Vec<u8>>,
    room: Arc<Room>,
    sessions: Arc<Semaphore>,
    most_sessions: usize,
    /// Said of connections that are turned away, and of those that can't be accepted.
    full: Seldom,
    failed: Seldom,
}

static OF_PROCESS: LazyLock<Arc<Shared>> = LazyLock::new(|| Arc::new(Shared::within(Limits::of_process())));

/// An open listener. Dropping it closes it and ends its UDP sessions; TCP connections that came by it go on.
pub struct Door {
    address: SocketAddr,
    open: DropGuard,
    task: JoinHandle<()>,
}

impl Relay {
    /// `stop` ends everything.
    pub fn new(stop: CancellationToken) -> Relay {
        Relay::on(OF_PROCESS.clone(), stop)
    }

    fn on(shared: Arc<Shared>, stop: CancellationToken) -> Relay {
        Relay { shared, tasks: TaskTracker::new(), stop, turned_away: Arc::default() }
    }

    /// How many connections there was no room for, so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Serves a listener that doesn't block. Needs a runtime around it.
    pub fn tcp(&self, listener: TcpListener, pool: Arc<Pool>) -> std::io::Result<Door> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (address, open) = (listener.local_addr()?, self.stop.child_token());
        let (shared, tasks, stop) = (self.shared.clone(), self.tasks.clone(), self.stop.clone());
        let serving = tcp::Serving { shared, tasks, stop, pool, turned_away: self.turned_away.clone() };
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

impl Shared {
    fn within(limits: Limits) -> Shared {
        Shared {
            pipes: Spares::new(SPARE_PIPES, Pipe::new),
            buffers: Spares::new(SPARE_BUFFERS, || Ok(vec![0; DATAGRAM_MAX])),
            room: Room::new(limits.connections),
            sessions: Arc::new(Semaphore::new(limits.sessions)),
            most_sessions: limits.sessions,
            full: Seldom::default(),
            failed: Seldom::default(),
        }
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
