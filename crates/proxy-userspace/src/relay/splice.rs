//! Bytes moved between two TCP connections by the kernel, without passing through this process. An end in one direction
//! is handed on as an end of that direction alone; a failure ends both.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::spare::Spares;

/// A burst: what one splice moves at most. Within the limit for unprivileged processes (`pipe-max-size`).
const BURST: usize = 256 * 1024;

/// Where bytes are between two sockets. Always empty when nobody uses it.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    pub fn new() -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // One that stays small is slower and nothing else: a user's pipes are limited together (pipe-user-pages-soft).
        let _ = fcntl_setpipe_size(&write, BURST);
        Ok(Pipe { read, write })
    }
}

/// Both ways, until both have ended.
pub(super) async fn both_ways(one: &TcpStream, other: &TcpStream, pipes: &Spares<Pipe>) -> io::Result<()> {
    tokio::try_join!(one_way(one, other, pipes), one_way(other, one, pipes))?;
    Ok(())
}

async fn one_way(from: &TcpStream, to: &TcpStream, pipes: &Spares<Pipe>) -> io::Result<()> {
    loop {
        from.readable().await?;
        // Held while bytes are under way: connections on which nothing is said have none. One that may hold bytes, because
        // this future failed or was dropped, is not given back.
        let pipe = pipes.take()?;
        let more = burst(from, to, &pipe).await?;
        pipes.give(pipe);
        if !more {
            // Whoever is gone altogether makes the other direction fail.
            let _ = SockRef::from(to).shutdown(Shutdown::Write);
            return Ok(());
        }
        // A stream that never pauses must not keep others waiting.
        tokio::task::coop::consume_budget().await;
    }
}

/// Moves what there is now; false when there will be no more.
async fn burst(from: &TcpStream, to: &TcpStream, pipe: &Pipe) -> io::Result<bool> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let taken = from.try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, BURST, flags)?));
    let mut left = match taken {
        Ok(0) => return Ok(false),
        Ok(taken) => taken,
        Err(error) if is_momentary(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    while left > 0 {
        to.writable().await?;
        match to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, to, None, left, flags)?)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(given) => left = left.saturating_sub(given),
            Err(error) if is_momentary(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
