//! One client thread and one server thread, each in a network namespace, and what processor time they take: connections
//! one after the other, requests on one connection, bytes in one direction. What a packet costs on its way is spent in
//! the context of the thread that sends it, so it is in these figures.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns::NetNs;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

/// The first byte of a connection says what it is for.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
const CHUNK: usize = 64 << 10;
/// A connection that isn't answered for so long is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// sched_setaffinity(2)
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The processors that client and server keep to. Left to itself, the scheduler puts the two of one way on one processor and
/// those of another on two, for whole runs, and to wake somebody on another processor costs more than any rule.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    client: usize,
    server: usize,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: Duration,
    /// Of client, server and, if there is one, the process in between.
    pub cpu: Duration,
}

/// A server in a thread: echoes or swallows, one connection at a time. Ends when dropped.
pub struct Server {
    address: SocketAddr,
    namespace: NetNs,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Places {
    /// On the first and the last of the processors that this process may use, or both on the last.
    pub fn choose(together: bool) -> Result<Places> {
        let allowed = sched_getaffinity(THIS_THREAD).context("cannot read which processors there are")?;
        let mut able = (0..CpuSet::count()).filter(|number| allowed.is_set(*number) == Ok(true));
        let first = able.next().context("no processor may be used")?;
        let last = able.next_back().unwrap_or(first);
        Ok(Places { client: if together { last } else { first }, server: last })
    }

    pub fn are_together(self) -> bool {
        self.client == self.server
    }
}

/// Keeps this thread on one processor.
fn stay_on(processor: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(THIS_THREAD, &only)?)
}

impl Server {
    /// Listens on a port of all addresses.
    pub fn start(namespace: &NetNs, address: SocketAddr, places: Places) -> Result<Server> {
        let listener = namespace.run(|| TcpListener::bind(address))?.context("cannot listen")?;
        let ending = Arc::new(AtomicBool::new(false));
        let until = ending.clone();
        let thread = std::thread::spawn(move || {
            if let Err(error) = stay_on(places.server) {
                eprintln!("the server may run on any processor: {error}");
            }
            for connection in listener.incoming() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                // The client's reset ends a connection as its close does.
                let _ = connection.and_then(serve);
            }
        });
        Ok(Server { address, namespace: namespace.clone(), ending, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // Wakes the thread; if it has ended already, nobody is there.
        let _ = self.namespace.run(|| TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut chunk = vec![0; CHUNK];
    let mut sink = false;
    let mut first = true;
    loop {
        let count = connection.read(&mut chunk)?;
        if count == 0 {
            return if sink { connection.write_all(b".") } else { Ok(()) };
        }
        sink |= std::mem::take(&mut first) && chunk[0] == SINK;
        if !sink {
            connection.write_all(&chunk[..count])?;
        }
    }
}

/// The processor time of this process and another one so far: of all threads that live.
fn spent(other: Option<u32>) -> Result<Duration> {
    // The kernel brings this thread's own figure up to date when it could run something else.
    std::thread::yield_now();
    Ok(of_process("self")? + other.map_or(Ok(Duration::ZERO), |pid| of_process(&pid.to_string()))?)
}

fn of_process(process: &str) -> Result<Duration> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).context("cannot read a process's threads")?;
    // RUNNING WAITING TURNS, in nanoseconds (Documentation/scheduler/sched-stats.rst).
    let running = |thread: fs::DirEntry| {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
    };
    Ok(Duration::from_nanos(threads.flatten().filter_map(running).sum()))
}

fn measured(between: Option<u32>, work: impl FnOnce() -> io::Result<()>) -> Result<Cost> {
    let (begun, before) = (Instant::now(), spent(between)?);
    work().context("a connection failed")?;
    Ok(Cost { wall: begun.elapsed(), cpu: spent(between)?.saturating_sub(before) })
}

/// New connections, one after the other: a byte there and back, then a reset, so that no port waits. In the client's
/// namespace. Also how long each took to be established.
pub fn connections(target: SocketAddr, count: usize, between: Option<u32>) -> Result<(Cost, Vec<Duration>)> {
    let mut latencies = Vec::with_capacity(count);
    let cost = measured(between, || {
        for _ in 0..count {
            let begun = Instant::now();
            let mut connection = connect(target)?;
            latencies.push(begun.elapsed());
            ask(&mut connection)?;
            reset(connection)?;
        }
        Ok(())
    })?;
    Ok((cost, latencies))
}

/// Does something as the client, where it belongs.
pub fn as_client<T>(places: Places, work: impl FnOnce() -> Result<T>) -> Result<T> {
    stay_on(places.client).context("cannot stay on one processor")?;
    work()
}

/// One connection, made and asked once.
pub fn once(target: SocketAddr) -> io::Result<()> {
    let mut connection = connect(target)?;
    ask(&mut connection)?;
    reset(connection)
}

/// Requests of one byte, answered by one, on one connection.
pub fn requests(target: SocketAddr, count: usize, between: Option<u32>) -> Result<Cost> {
    let mut connection = connect(target).context("a connection failed")?;
    let cost = measured(between, || (0..count).try_for_each(|_| ask(&mut connection)))?;
    reset(connection).context("a connection failed")?;
    Ok(cost)
}

/// So many bytes from the client to the server on one connection, until the server has them all.
pub fn bytes(target: SocketAddr, count: usize, between: Option<u32>) -> Result<Cost> {
    let mut connection = connect(target).context("a connection failed")?;
    let chunk = vec![SINK; CHUNK];
    measured(between, || {
        for _ in 0..count.div_ceil(CHUNK) {
            connection.write_all(&chunk)?;
        }
        connection.shutdown(std::net::Shutdown::Write)?;
        connection.read_exact(&mut [0])
    })
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&target, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn ask(connection: &mut TcpStream) -> io::Result<()> {
    connection.write_all(&[ECHO])?;
    connection.read_exact(&mut [0])
}

fn reset(connection: TcpStream) -> io::Result<()> {
    setsockopt(&connection, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}
