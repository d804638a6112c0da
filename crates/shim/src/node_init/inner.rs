//! A node's PID 1: its namespaces and mounts, then a loop over four kinds of news: a child ended, a signal came, the
//! supervisor is gone, a child is due to start again.
//!
//! Not responsible for how often a child is started (`children`).
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::children::{Children, Ending, Told};
use super::outer::{READY, signals};
use super::{Bind, LIFELINE_END, NodeInitConfig, NodeInitError, at, step};

/// Runs until the node ends; the value is its exit code.
pub(super) fn run(config: &NodeInitConfig, ready: OwnedFd, outer_life: OwnedFd) -> i32 {
    let mut ready = File::from(ready);
    let prepared = prepare(config);
    let (lifeline, children) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = write!(ready, "{error}");
            return 1;
        }
    };
    let _ = ready.write_all(READY);
    drop(ready);
    if config.wait_for_go && !wait_for_go(&lifeline, &outer_life) {
        return 0;
    }
    match keep_running(config, &lifeline, &outer_life, children) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("node: {error}");
            1
        }
    }
}

fn prepare(config: &NodeInitConfig) -> Result<(OwnedFd, Children), NodeInitError> {
    let lifeline = take_lifeline(config.lifeline).map_err(step("take the lifeline"))?;
    let children = Children::open(&config.children)?;
    enter_network(config.network_namespace.as_deref())?;
    // SAFETY: this process has one thread, and holds nothing that depends on these namespaces.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC) }
        .map_err(step("make mount, UTS and IPC namespaces"))?;
    rustix::system::sethostname(config.hostname.as_bytes()).map_err(step("set the host name"))?;
    crate::loopback::raise().map_err(step("raise lo"))?;
    make_mounts(config)?;
    let _ = rustix::process::chdir("/");
    Ok((lifeline, children))
}

/// Moves the lifeline out of the children's reach; standard input becomes empty.
fn take_lifeline(number: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: the supervisor gave this descriptor, or fcntl says that it is none.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let lifeline = rustix::io::fcntl_dupfd_cloexec(given, 3)?;
    if number > 2 {
        // SAFETY: nothing else in this process knows the number.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(lifeline)
}

fn enter_network(namespace: Option<&Path>) -> Result<(), NodeInitError> {
    match namespace {
        Some(path) => {
            let file = File::open(path).map_err(at("open the network namespace", path))?;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                .map_err(at("join the network namespace", path))
        }
        // SAFETY: this process has one thread and no socket.
        None => {
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(step("make a network namespace"))
        }
    }
}

fn make_mounts(config: &NodeInitConfig) -> Result<(), NodeInitError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("make the mounts private"))?;
    // Before a tmpfs hides them.
    let open = |bind: &Bind| {
        rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(at("open", &bind.source))
    };
    let sources = config.binds.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", safe, None).map_err(step("mount /proc"))?;
    for directory in &config.tmpfs {
        fs::create_dir_all(directory).map_err(at("make the directory", directory))?;
        mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
            .map_err(at("mount a tmpfs on", directory))?;
    }
    for (bind, source) in config.binds.iter().zip(&sources) {
        bind_one(bind, source)?;
    }
    Ok(())
}

fn bind_one(bind: &Bind, source: &OwnedFd) -> Result<(), NodeInitError> {
    let stat = rustix::fs::fstat(source).map_err(at("look at", &bind.source))?;
    make_mount_point(&bind.target, FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        .map_err(at("make the mount point", &bind.target))?;
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount_bind_recursive(source, &bind.target).map_err(at("bind to", &bind.target))?;
    if bind.read_only {
        mount_remount(&bind.target, MountFlags::BIND | MountFlags::RDONLY, "")
            .map_err(at("make read-only", &bind.target))?;
    }
    Ok(())
}

fn make_mount_point(target: &Path, directory: bool) -> std::io::Result<()> {
    if directory {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(target).map(drop)
}

/// Whether the node may start; not when its supervisor ended first.
fn wait_for_go(lifeline: &OwnedFd, outer_life: &OwnedFd) -> bool {
    loop {
        let mut watched = [PollFd::new(lifeline, PollFlags::IN), PollFd::new(outer_life, PollFlags::IN)];
        if poll(&mut watched, None).is_err() {
            continue;
        }
        if !watched[1].revents().is_empty() {
            return false;
        }
        if !watched[0].revents().is_empty() {
            return matches!(rustix::io::read(lifeline, &mut [0_u8; 1]), Ok(1));
        }
    }
}

/// How often a lifeline is looked at that nobody holds: that somebody took it up is no news to wait for.
const LOOSE_LOOK: Duration = Duration::from_millis(50);

fn keep_running(
    config: &NodeInitConfig,
    lifeline: &OwnedFd,
    outer_life: &OwnedFd,
    mut children: Children,
) -> Result<i32, NodeInitError> {
    let news = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(step("make a signalfd"))?;
    let grace = Duration::from_millis(config.lifeline_grace_ms);
    let mut loose_since: Option<Instant> = None;
    let mut stop: Option<Stop> = None;
    loop {
        if stop.is_none() {
            children.start_due(Instant::now());
        }
        let look = loose_since.map(|_| Instant::now() + LOOSE_LOOK);
        let next = stop.map(|stop| stop.until).or_else(|| children.next_start()).into_iter().chain(look).min();
        let timeout = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut watched = vec![PollFd::new(outer_life, PollFlags::IN), PollFd::new(&news, PollFlags::IN)];
        if loose_since.is_none() {
            watched.push(PollFd::new(lifeline, PollFlags::IN));
        }
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(step("wait for news")(errno)),
        }
        if !watched[0].revents().is_empty() || stop.is_some_and(|stop| stop.until <= Instant::now()) {
            return Ok(0);
        }
        let line = listen(lifeline);
        loose_since = (line == Line::Loose).then(|| loose_since.unwrap_or_else(Instant::now));
        let told = match line {
            // Who says it again waits for nobody.
            Line::Ended if stop.is_some() => return Ok(0),
            Line::Ended => Some(Told::WhoAsked),
            Line::Held | Line::Loose => {
                let given_up = loose_since.is_some_and(|since| since.elapsed() >= grace);
                if asked_to_end(&news) { Some(Told::Everybody) } else { given_up.then_some(Told::WhoAsked) }
            }
        };
        if let (None, Some(told)) = (stop, told) {
            children.tell(told);
            stop = Some(Stop { told, until: Instant::now() + Duration::from_millis(config.stop_grace_ms) });
        }
        if let Ending::Node(code) = children.reap(Instant::now()) {
            return Ok(code);
        }
        if stop.is_some_and(|stop| children.have_ended(stop.told)) {
            return Ok(0);
        }
    }
}

/// The node's end has begun.
#[derive(Clone, Copy)]
struct Stop {
    told: Told,
    until: Instant,
}

/// By signal. Takes in what signals there are.
fn asked_to_end(news: &SignalFd) -> bool {
    let mut asked = false;
    while let Ok(Some(signal)) = news.read_signal() {
        asked |= [libc::SIGTERM, libc::SIGINT].contains(&signal.ssi_signo.cast_signed());
    }
    asked
}

/// What the lifeline says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Held,
    /// Nobody holds the other end.
    Loose,
    /// The supervisor ends, and the node with it.
    Ended,
}

/// Never blocks: whoever takes the lifeline up again has nothing to say at first.
fn listen(lifeline: &OwnedFd) -> Line {
    let mut watched = [PollFd::new(lifeline, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut watched, Some(&now)).is_err() {
        return Line::Held;
    }
    let found = watched[0].revents();
    if found.contains(PollFlags::IN) {
        let mut said = [0_u8; 64];
        return match rustix::io::read(lifeline, &mut said) {
            Ok(0) => Line::Loose,
            Ok(length) if said[..length].contains(&LIFELINE_END) => Line::Ended,
            _ => Line::Held,
        };
    }
    if found.is_empty() { Line::Held } else { Line::Loose }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up to a millisecond, so that the loop doesn't spin just before the time.
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_millis()) * 1_000_000 + 999_999,
    }
}
