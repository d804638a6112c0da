//! TCP: a client is accepted, an endpoint is found that answers, and bytes go both ways until both sides have ended. The
//! client is accepted first, so a client whom no endpoint takes is reset, not refused.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pool::Pool;
use super::{Shared, splice};

/// How long an endpoint may take, each time it is tried: one that is slow is tried again after the others.
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Everything together.
const CONNECTING: Duration = Duration::from_secs(10);
/// How soon somebody who vanished without a word is noticed. It is the only reason why a silent connection ends.
const PROBE_AFTER: Duration = Duration::from_secs(120);
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// No descriptors left: some may be free again soon.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Serving {
    pub shared: Arc<Shared>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    pub pool: Arc<Pool>,
    pub turned_away: Arc<AtomicU64>,
}

impl Serving {
    /// Accepts until the door is closed. Connections end with the relay only.
    pub async fn run(self, listener: TcpListener, open: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = open.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, from)) => {
                    let Some(seat) = self.shared.room.admit(from.ip()) else {
                        self.turn_away(&client, from);
                        continue;
                    };
                    let (shared, pool) = (self.shared.clone(), self.pool.clone());
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = serve(client, from, &pool, &shared) => {}
                        }
                        drop(seat);
                    });
                }
                Err(error) if is_the_client_s(&error) => {}
                Err(error) => {
                    if self.shared.failed.is_due() {
                        tracing::warn!(%error, "connections cannot be accepted; said once a minute at most");
                    }
                    tokio::select! {
                        () = open.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
        }
    }
}

impl Serving {
    fn turn_away(&self, client: &TcpStream, from: SocketAddr) {
        reset(client);
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        if self.shared.full.is_due() {
            tracing::warn!(
                client = %from.ip(),
                "connections are turned away: their share of the process's descriptors (ulimit -n) is used up; said once a \
                 minute at most",
            );
        }
    }
}

async fn serve(client: TcpStream, from: SocketAddr, pool: &Pool, shared: &Shared) {
    let server = match tokio::time::timeout(CONNECTING, connect(pool, from.ip())).await {
        Ok(Some(server)) => server,
        Ok(None) | Err(_) => return reset(&client),
    };
    let copied = async {
        prepare(&client)?;
        prepare(&server)?;
        splice::both_ways(&client, &server, &shared.pipes).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(%error, client = %from, "a relayed connection was reset");
        reset(&client);
        reset(&server);
    }
}

/// One endpoint after the other. Who refuses is not asked again; who says nothing is, with more patience.
async fn connect(pool: &Pool, client: IpAddr) -> Option<TcpStream> {
    let mut candidates = pool.candidates(client, Instant::now());
    for patience in PATIENCE {
        let mut silent = Vec::new();
        for endpoint in candidates {
            match tokio::time::timeout(patience, TcpStream::connect(endpoint)).await {
                Ok(Ok(server)) => {
                    pool.chosen(client, endpoint, Instant::now());
                    return Some(server);
                }
                Ok(Err(error)) => tracing::debug!(%error, %endpoint, "an endpoint can't be reached"),
                Err(_) => silent.push(endpoint),
            }
        }
        candidates = silent;
    }
    None
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Closes with a reset instead of an end.
fn reset(stream: &TcpStream) {
    // It may be closed already, which is as good.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Came and went before it was accepted.
fn is_the_client_s(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::pool::{Aim, Memory};
    use super::super::{Limits, Relay};
    use super::*;

    type Client = std::net::TcpStream;

    /// Whether bytes come back: nobody who was turned away gets any.
    fn ask(client: &mut Client) -> io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(60)))?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])
    }

    /// A reset may come before it is known that there is a connection.
    fn connect_from(last: u8, to: SocketAddr) -> io::Result<Client> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_client_takes_half_of_the_room_and_gives_it_back() {
        let endpoint = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let at = endpoint.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in endpoint.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        let shared = Shared::within(Limits { connections: 8, sessions: 1 });
        let relay = Relay::on(Arc::new(shared), CancellationToken::new());
        let door = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        door.set_nonblocking(true).unwrap();
        let aim = Aim { endpoints: vec![at], ..Aim::default() };
        let door = relay.tcp(door, Arc::new(Pool::new(aim, Arc::new(Memory::default())))).unwrap();
        let to = door.address();
        let clients = tokio::task::spawn_blocking(move || {
            let greedy: Vec<Client> = (0..20).filter_map(|_| connect_from(2, to).ok()).collect();
            let mut served: Vec<Client> = Vec::new();
            for mut client in greedy {
                if ask(&mut client).is_ok() {
                    served.push(client);
                }
            }
            assert_eq!(served.len(), 4);
            let mut other = connect_from(3, to).unwrap();
            ask(&mut other).expect("there is room for somebody else");
            served.iter_mut().for_each(|client| ask(client).expect("who was served is served on"));
            drop(served);
            // When theirs have ended there is room again.
            while connect_from(2, to).and_then(|mut client| ask(&mut client)).is_err() {
                std::thread::yield_now();
            }
            other
        });
        let mut other = clients.await.unwrap();
        assert!(relay.turned_away() >= 16);
        tokio::task::spawn_blocking(move || ask(&mut other)).await.unwrap().unwrap();
        door.close().await;
    }
}
