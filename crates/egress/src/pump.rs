//! Copying between two TCP connections until both directions have ended. An end in one direction is handed on as an
//! end of that direction alone; a failure as a reset.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

/// kube-proxy's limits for a connection on which nothing is said (`tcpEstablishedTimeout`, `tcpCloseWaitTimeout`).
pub(crate) const IDLE: Duration = Duration::from_secs(24 * 3600);
pub(crate) const HALF_CLOSED_IDLE: Duration = Duration::from_secs(3600);
/// How soon somebody who vanished without a word is noticed.
const PROBE_AFTER: Duration = Duration::from_secs(120);
const PROBE_EVERY: Duration = Duration::from_secs(30);
const BUFFER: usize = 16 * 1024;

/// When something was last said, and whether one side has ended.
struct Life {
    begun: Instant,
    last: AtomicU64,
    half: AtomicBool,
}

/// Copies both ways until both have ended; resets both connections when anything else ends them.
pub(crate) async fn pump(mut inside: TcpStream, mut outside: TcpStream) -> io::Result<()> {
    for stream in [&inside, &outside] {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    }
    let copied = {
        let life = Life { begun: Instant::now(), last: AtomicU64::new(0), half: AtomicBool::new(false) };
        let ((from_inside, to_inside), (from_outside, to_outside)) = (inside.split(), outside.split());
        let copying = async {
            tokio::try_join!(copy(from_inside, to_outside, &life), copy(from_outside, to_inside, &life)).map(drop)
        };
        tokio::select! {
            copied = copying => copied,
            () = life.ends() => Err(io::ErrorKind::TimedOut.into()),
        }
    };
    if copied.is_err() {
        for stream in [&inside, &outside] {
            // Closing now resets the connection (socket(7), SO_LINGER).
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
    copied
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, life: &Life) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        life.said();
        if length == 0 {
            life.half.store(true, Ordering::Relaxed);
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        life.said();
    }
}

impl Life {
    fn said(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    async fn ends(&self) {
        loop {
            let patience = if self.half.load(Ordering::Relaxed) { HALF_CLOSED_IDLE } else { IDLE };
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= patience {
                return;
            }
            // Half of the shorter time: a side that ends shortens what is left.
            tokio::time::sleep_until((last + patience).min(Instant::now() + HALF_CLOSED_IDLE / 2)).await;
        }
    }
}
