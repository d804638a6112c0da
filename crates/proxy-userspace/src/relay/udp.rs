//! UDP: a session for each client of a door, with a socket of its own to the endpoint that was chosen for it. It lasts
//! while something is said and its endpoint may be used; the next datagram begins another. Replies leave by the door, so
//! that they come from where the client sent to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::pool::Pool;

/// The kernel's own times for a question with its answer and for a flow that goes on (`nf_conntrack_udp_timeout`,
/// `nf_conntrack_udp_timeout_stream`), and after how long it takes a flow for one of those (since Linux 5.1).
const BRIEF: Duration = Duration::from_secs(30);
const GOING_ON: Duration = Duration::from_secs(120);
const GOES_ON_AFTER: Duration = Duration::from_secs(2);
/// How often silent sessions are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// When less than this part of the room for sessions is free, this part of a door's are ended: those silent the longest.
const SCARCE: usize = 8;
/// Datagrams taken in before anything else is looked at.
const BATCH: usize = 64;

pub(super) struct Serving {
    door: Arc<UdpSocket>,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    sessions: HashMap<SocketAddr, Session>,
    /// Of the sessions: each ends with its client's address.
    tasks: JoinSet<SocketAddr>,
    begun: Instant,
}

struct Session {
    line: Arc<Line>,
    task: AbortHandle,
}

/// Between a client and its endpoint.
struct Line {
    client: SocketAddr,
    endpoint: SocketAddr,
    socket: UdpSocket,
    /// Milliseconds since the door began, when anything was said first and last.
    first: u64,
    last: AtomicU64,
    answered: AtomicBool,
    _room: OwnedSemaphorePermit,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Serving {
    pub fn new(door: Arc<UdpSocket>, pool: Arc<Pool>, shared: Arc<Shared>) -> Serving {
        let (sessions, tasks) = (HashMap::new(), JoinSet::new());
        Serving { door, pool, shared, sessions, tasks, begun: Instant::now() }
    }

    /// Until the door is closed; all sessions end with it.
    pub async fn run(mut self, open: CancellationToken) {
        let mut aim = self.pool.follow();
        let mut sweep = tokio::time::Instant::now() + SWEEP;
        loop {
            tokio::select! {
                biased;
                () = open.cancelled() => break,
                Ok(()) = aim.changed() => {
                    let aim = aim.borrow_and_update().clone();
                    self.sessions.retain(|_, session| aim.may_stay.contains(&session.line.endpoint));
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended.ok()),
                () = tokio::time::sleep_until(sweep), if !self.sessions.is_empty() => {
                    sweep = tokio::time::Instant::now() + SWEEP;
                    let now = self.now();
                    self.sessions.retain(|_, session| !session.line.is_silent(now));
                }
                ready = self.door.readable() => {
                    if ready.is_ok() && let Ok(mut buffer) = self.shared.buffers.take() {
                        self.take_in(&mut buffer, || open.is_cancelled() || aim.has_changed().unwrap_or(true)).await;
                        self.shared.buffers.give(buffer);
                    }
                }
            }
        }
        // They have the door's socket too, whose address is free only when they are gone.
        self.sessions.clear();
        self.tasks.shutdown().await;
    }

    async fn take_in(&mut self, buffer: &mut [u8], other_news: impl Fn() -> bool) {
        for _ in 0..BATCH {
            if other_news() {
                return;
            }
            match self.door.try_recv_from(buffer) {
                Ok((length, client)) => self.forward(client, &buffer[..length]).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A reply to a client that no longer listens came back.
                Err(_) => {}
            }
        }
    }

    async fn forward(&mut self, client: SocketAddr, datagram: &[u8]) {
        let now = self.now();
        if let Some(Session { line, .. }) = self.sessions.get(&client) {
            match line.send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => drop(self.sessions.remove(&client)),
                // A full buffer loses a datagram, as anywhere.
                _ => return line.heard(now),
            }
        }
        self.make_room().await;
        for endpoint in self.pool.candidates(client.ip(), Instant::now()) {
            match self.begin(client, endpoint).await {
                Ok(line) => {
                    self.pool.chosen(client.ip(), endpoint, Instant::now());
                    let _ = line.send(datagram);
                    let replies = replies(line.clone(), self.door.clone(), self.shared.clone(), self.begun);
                    let task = self.tasks.spawn(replies);
                    self.sessions.insert(client, Session { line, task });
                    return;
                }
                Err(error) => tracing::debug!(%error, %endpoint, "no UDP session with an endpoint"),
            }
        }
    }

    async fn begin(&self, client: SocketAddr, endpoint: SocketAddr) -> io::Result<Arc<Line>> {
        let room = self.shared.sessions.clone().try_acquire_owned().map_err(io::Error::other)?;
        let any: IpAddr = if endpoint.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(endpoint).await?;
        let first = self.now();
        let (last, answered) = (AtomicU64::new(first), AtomicBool::new(false));
        Ok(Arc::new(Line { client, endpoint, socket, first, last, answered, _room: room }))
    }

    /// Who sends one datagram from each port there is must not keep others out for as long as a session lasts.
    async fn make_room(&mut self) {
        let Shared { sessions: room, most_sessions, .. } = &*self.shared;
        let doomed = self.sessions.len() / SCARCE;
        if room.available_permits() >= most_sessions / SCARCE || doomed == 0 {
            return;
        }
        let mut times: Vec<u64> = self.sessions.values().map(|session| session.line.last()).collect();
        let (_, last_to_go, _) = times.select_nth_unstable(doomed - 1);
        let (last_to_go, before) = (*last_to_go, self.sessions.len());
        self.sessions.retain(|_, session| session.line.last() > last_to_go);
        // Their room is free when their tasks have ended, which they do at once.
        for _ in self.sessions.len()..before {
            let ended = self.tasks.join_next().await;
            self.ended(ended.and_then(Result::ok));
        }
    }

    /// The session's endpoint refused. A later session of the same client has a task of its own.
    fn ended(&mut self, client: Option<SocketAddr>) {
        let Some(client) = client else { return };
        if self.sessions.get(&client).is_some_and(|session| session.task.is_finished()) {
            self.sessions.remove(&client);
        }
    }

    fn now(&self) -> u64 {
        milliseconds(self.begun)
    }
}

impl Line {
    /// By the socket itself: the runtime knows of a new one's readiness only later.
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        SockRef::from(&self.socket).send(datagram)
    }

    fn heard(&self, now: u64) {
        self.last.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn is_silent(&self, now: u64) -> bool {
        let last = self.last();
        let longer_than = |time: u64, limit: Duration| u128::from(time) >= limit.as_millis();
        let goes_on = self.answered.load(Ordering::Relaxed) && longer_than(last - self.first.min(last), GOES_ON_AFTER);
        longer_than(now.saturating_sub(last), if goes_on { GOING_ON } else { BRIEF })
    }
}

/// What the endpoint says, until it refuses.
async fn replies(line: Arc<Line>, door: Arc<UdpSocket>, shared: Arc<Shared>, begun: Instant) -> SocketAddr {
    while line.socket.readable().await.is_ok() {
        // Taken when there is something to put in: most sessions are silent most of the time.
        let Ok(mut buffer) = shared.buffers.take() else { break };
        let received = line.socket.try_recv(&mut buffer);
        let failed = match received {
            Ok(length) => {
                line.answered.store(true, Ordering::Relaxed);
                line.heard(milliseconds(begun));
                // A client that can't be reached loses a datagram.
                let _ = door.send_to(&buffer[..length], line.client).await;
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        shared.buffers.give(buffer);
        if failed {
            break;
        }
    }
    line.client
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::pool::{Aim, Memory};
    use super::super::{Limits, Relay};
    use super::*;

    /// A thousand clients that each ask once, where there is room for a few dozen.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn those_silent_the_longest_make_room() {
        let endpoint = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let at = endpoint.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while let Ok((length, from)) = endpoint.recv_from(&mut bytes) {
                if &bytes[..length] == b"end" {
                    return;
                }
                endpoint.send_to(&bytes[..length], from).unwrap();
            }
        });
        let shared = Shared::within(Limits { connections: 0, sessions: 64 });
        let relay = Relay::on(Arc::new(shared), CancellationToken::new());
        let aim = Aim { endpoints: vec![at], may_stay: [at].into(), sticky: None };
        let door = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        door.set_nonblocking(true).unwrap();
        let door = relay.udp(door, Arc::new(Pool::new(aim, Arc::new(Memory::default())))).unwrap();
        let to = door.address();
        let asked = tokio::task::spawn_blocking(move || {
            let client = || {
                let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                socket
            };
            let busy = client();
            for number in 0..1_000 {
                // Somebody who goes on asking keeps the session; what is said on it comes back in order.
                for socket in [&busy, &client()] {
                    let text = format!("{number}");
                    let mut bytes = [0; 16];
                    socket.send_to(text.as_bytes(), to).unwrap();
                    let length = socket.recv(&mut bytes).unwrap();
                    assert_eq!(&bytes[..length], text.as_bytes());
                }
            }
            busy.send_to(b"end", to).unwrap();
        });
        asked.await.unwrap();
        echo.join().unwrap();
        door.close().await;
    }
}
