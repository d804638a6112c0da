//! TCP: a client is accepted, an endpoint is found that answers, and bytes go both ways until both sides have ended. The
//! client is accepted first, so a client whom no endpoint takes is reset, not refused.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
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
                    let (shared, pool) = (self.shared.clone(), self.pool.clone());
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = serve(client, from, &pool, &shared) => {}
                        }
                    });
                }
                Err(error) if is_the_client_s(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::select! {
                        () = open.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
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
