//! A container's shim: makes its root and the container, starts it, writes its output to the log, and when it has
//! ended reaps it, removes its groups and says how it ended.
//!
//! The shim is nobody's child (so it outlives the agent that asked for it) and has a mount namespace of its own (so a
//! container's mounts end with its shim). Not responsible for stopping the container: a runtime signals its init.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::unistd::{ForkResult, fork, setsid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags, flock, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::UnshareFlags;

use crate::cgroup;
use crate::executor::ReportingExecutor;
use crate::log_file::LogFile;
use crate::log_pump::{LogPump, Stream};
use crate::overlay::mount_overlay;
use crate::parts;
use crate::process::{Ended, ProcessIdentity, reap};
use crate::record::{self, ExitRecord, Running, ShimConfig, StartReport};

/// Held by the shim as long as it lives, so that a container has one.
const LOCK: &str = "shim.lock";
/// How long output is still waited for when the container's init has ended (all its processes end with it).
const DRAIN: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// What kubelet shows for a program that couldn't be started.
const CANNOT_RUN_CODE: i32 = 128;
/// For how long a full disk is waited for: ten minutes.
const EXIT_TRIES: u32 = 6000;
const EXIT_PAUSE: Duration = Duration::from_millis(100);

/// What went wrong before the container's program ran.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("another shim has this container")]
    Busy,
    #[error("{0}")]
    CannotRun(String),
    #[error("{step}: {source}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{step}: {}", crate::chain(source))]
    Container {
        step: &'static str,
        #[source]
        source: Box<libcontainer::error::LibcontainerError>,
    },
}

fn io_at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Io { step, source: source.into() }
}

fn container_at(step: &'static str) -> impl FnOnce(libcontainer::error::LibcontainerError) -> StartError {
    move |source| StartError::Container { step, source: Box::new(source) }
}

/// A container that runs, with what the shim holds for it.
struct Started {
    container: Container,
    init: i32,
    started_at: i64,
    output: Vec<(OwnedFd, LogPump)>,
    log: LogFile,
    /// The shim's lock, the layers' locks, the write end of standard input: released by ending.
    _held: Vec<OwnedFd>,
}

/// Prints a `StartReport` line on standard output, then goes on without standard output until the container ends.
pub(crate) fn run(directory: &Path) -> ExitCode {
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(errno) => {
            report(&StartReport::Failed { message: format!("fork: {errno}") });
            return ExitCode::FAILURE;
        }
    }
    let _ = setsid();
    let config = match record::read::<ShimConfig>(&directory.join(record::SHIM_CONFIG)) {
        Ok(Some(config)) => config,
        other => {
            report(&StartReport::Failed { message: format!("read the shim's configuration: {other:?}") });
            return ExitCode::FAILURE;
        }
    };
    match start(directory, &config) {
        Ok(started) => {
            report(&StartReport::Started);
            supervise(directory, &config, started)
        }
        Err(error) => {
            report(&match error {
                StartError::Busy => StartReport::Busy,
                StartError::CannotRun(message) => StartReport::CannotRun { message },
                other => StartReport::Failed { message: other.to_string() },
            });
            ExitCode::FAILURE
        }
    }
}

/// Prints the line and lets go of standard output, whose reader waits for its end.
fn report(report: &StartReport) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    let _ = io::stdout().write_all(&line);
    let _ = io::stdout().flush();
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

fn start(directory: &Path, config: &ShimConfig) -> Result<Started, StartError> {
    let mut held = vec![lock(&directory.join(LOCK))?];
    held.extend(lock_layers(&config.lower_dirs)?);
    let log = LogFile::open(&config.log_path, config.log_limit).map_err(io_at("open the container's log"))?;
    enter_own_mounts(directory, config)?;

    let io = Stdio::new(directory, config).map_err(io_at("make the container's standard streams"))?;
    let (failure_reader, failure_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(io_at("make a pipe"))?;
    let mut container = create(directory, config, &io, &failure_writer)?;
    let init = container.pid().map_or(0, |pid| pid.as_raw());
    for mount in &config.detach {
        // This namespace's copy only; it must not keep other pods' namespaces alive.
        let _ = unmount(mount, UnmountFlags::DETACH);
    }
    drop(failure_writer);
    if let Err(source) = cgroup::bound_memory(&config.cgroup) {
        // It waits for the start, and holds what is read from below.
        abandon(&mut container, init);
        return Err(io_at("bound the container's memory")(source));
    }
    let started_at = record::now();
    let started = container.start().map_err(container_at("start the container"));
    let mut message = String::new();
    let _ = File::from(failure_reader).read_to_string(&mut message);
    if started.is_err() || !message.is_empty() {
        abandon(&mut container, init);
        started?;
        write_exit(directory, &cannot_run(started_at, &message));
        return Err(StartError::CannotRun(message));
    }
    let output = io.into_output(&mut held).map_err(io_at("take the container's terminal"))?;
    let running =
        running(init, started_at).and_then(|running| record::write(&directory.join(record::RUNNING), &running));
    if let Err(source) = running {
        abandon(&mut container, init);
        return Err(StartError::Io { step: "record the container's processes", source });
    }
    Ok(Started { container, init, started_at, output, log, _held: held })
}

fn running(init: i32, started_at: i64) -> io::Result<Running> {
    let shim = ProcessIdentity::of(rustix::process::getpid().as_raw_nonzero().get())?;
    // An init that has ended already is still there, as a zombie of ours.
    Ok(Running { shim, init: ProcessIdentity::of(init)?, started_at })
}

fn lock(path: &Path) -> Result<OwnedFd, StartError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_at("open the shim's lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(StartError::Busy),
        Err(errno) => Err(io_at("lock the shim's lock")(errno)),
    }
}

/// A layer that somebody holds isn't removed from the image store.
fn lock_layers(layers: &[PathBuf]) -> Result<Vec<OwnedFd>, StartError> {
    let open = |layer: &PathBuf| -> Result<OwnedFd, StartError> {
        let fd = rustix::fs::open(layer, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io_at("open an image layer"))?;
        flock(&fd, FlockOperation::LockShared).map_err(io_at("lock an image layer"))?;
        Ok(fd)
    };
    layers.iter().map(open).collect()
}

fn enter_own_mounts(directory: &Path, config: &ShimConfig) -> Result<(), StartError> {
    // SAFETY: this process has one thread, and nothing it holds depends on its mount namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io_at("make a mount namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(io_at("make the mounts private"))?;
    check_dev_null()?;
    let rootfs = directory.join(record::ROOTFS);
    fs::create_dir_all(&rootfs).map_err(io_at("make the root's mount point"))?;
    mount_overlay(&config.lower_dirs, &config.upper_dir, &config.work_dir, &rootfs)
        .map_err(io_at("mount the container's overlay"))?;
    make_inside(&rootfs, &config.working_dir).map_err(io_at("make the working directory"))?;
    parts::bind(&config.parts).map_err(StartError::CannotRun)
}

/// Makes a directory and those above it, as seen with `root` as root: a link in the image leads nowhere else.
fn make_inside(root: &Path, directory: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut so_far = PathBuf::from(".");
    for component in directory.components() {
        let std::path::Component::Normal(name) = component else { continue };
        let parent = openat2(&root, &so_far, flags, Mode::empty(), inside)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => so_far.push(name),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Masked paths are covered by /dev/null; a replaced one would be a way out (CVE-2025-31133).
fn check_dev_null() -> Result<(), StartError> {
    let stat = rustix::fs::stat("/dev/null").map_err(io_at("look at /dev/null"))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if kind == rustix::fs::FileType::CharacterDevice && device == (1, 3) {
        return Ok(());
    }
    Err(io_at("look at /dev/null")(io::Error::new(io::ErrorKind::InvalidData, "it is not the null device")))
}

fn create(directory: &Path, config: &ShimConfig, io: &Stdio, failure: &OwnedFd) -> Result<Container, StartError> {
    let oci_state = directory.join(record::OCI_STATE);
    // A shim that was killed while creating leaves its state behind.
    let _ = fs::remove_dir_all(&oci_state);
    fs::create_dir_all(&oci_state).map_err(io_at("make libcontainer's directory"))?;
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(ReportingExecutor::new(failure))
        .validate_id()
        .and_then(|builder| builder.with_root_path(&oci_state))
        .map_err(container_at("prepare the container"))?;
    match io {
        Stdio::Terminal { socket_path, .. } => builder = builder.with_console_socket(Some(socket_path)),
        Stdio::Pipes { stdin, stdout, stderr, .. } => {
            let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(io_at("duplicate a descriptor"));
            builder =
                builder.with_stdin(duplicate(stdin)?).with_stdout(duplicate(stdout)?).with_stderr(duplicate(stderr)?);
        }
    }
    // Detached means here: the builder neither waits nor needs a terminal of its own.
    builder
        .as_init(directory)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(container_at("create the container"))
}

/// Ends a container whose program doesn't run.
fn abandon(container: &mut Container, init: i32) {
    if let Some(pid) = Pid::from_raw(init) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = reap(init);
    }
    let _ = container.delete(true);
}

fn cannot_run(started_at: i64, message: &str) -> ExitRecord {
    ExitRecord {
        code: CANNOT_RUN_CODE,
        signal: None,
        started_at,
        finished_at: record::now(),
        reason: "ContainerCannotRun".to_owned(),
        message: message.to_owned(),
    }
}

/// Nobody else knows how the container ended: on a full disk this waits for room, which its end may have made.
fn write_exit(directory: &Path, exit: &ExitRecord) {
    let path = directory.join(record::EXIT);
    let mut tries = 0;
    while let Err(error) = record::write(&path, exit) {
        tries += 1;
        if error.kind() != io::ErrorKind::StorageFull || tries > EXIT_TRIES {
            complain(&format!("record the container's exit: {error}"));
            return;
        }
        std::thread::sleep(EXIT_PAUSE);
    }
}

/// Into a file that may be on a full disk too.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// The container's standard streams: its ends until it runs, and ours.
enum Stdio {
    Pipes {
        stdin: OwnedFd,
        /// Our end, when standard input is to stay open.
        keep_open: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        readers: [OwnedFd; 2],
    },
    Terminal {
        listener: UnixListener,
        socket_path: PathBuf,
    },
}

impl Stdio {
    fn new(directory: &Path, config: &ShimConfig) -> io::Result<Self> {
        if config.terminal {
            let socket_path = directory.join("console.sock");
            let _ = fs::remove_file(&socket_path);
            // By its name alone: an address has room for 107 bytes (unix(7)).
            rustix::process::chdir(directory)?;
            let listener = UnixListener::bind("console.sock")?;
            return Ok(Self::Terminal { listener, socket_path });
        }
        let (stdin, keep_open) = if config.stdin {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            (reader, Some(writer))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let (out_reader, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_reader, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self::Pipes { stdin, keep_open, stdout, stderr, readers: [out_reader, err_reader] })
    }

    /// Lets go of the container's ends, so that the streams end with its processes.
    fn into_output(self, held: &mut Vec<OwnedFd>) -> io::Result<Vec<(OwnedFd, LogPump)>> {
        match self {
            Self::Pipes { keep_open, readers: [out_reader, err_reader], .. } => {
                held.extend(keep_open);
                Ok(vec![(out_reader, LogPump::new(Stream::Stdout)), (err_reader, LogPump::new(Stream::Stderr))])
            }
            Self::Terminal { listener, socket_path } => {
                let _ = fs::remove_file(socket_path);
                let master = receive_descriptor(&listener)?;
                Ok(vec![(master, LogPump::new(Stream::Stdout))])
            }
        }
    }
}

/// The pseudo-terminal's master, which the container's init sends over the console socket.
fn receive_descriptor(listener: &UnixListener) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 4096];
    recvmsg(&stream, &mut [io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came over the console socket"))
}

/// Pumps output until the container has ended, then leaves nothing of it but its files and the exit record.
fn supervise(directory: &Path, config: &ShimConfig, mut started: Started) -> ExitCode {
    let _ = rustix::process::chdir("/");
    let ended = pump_until_end(&mut started, config).and_then(|()| reap(started.init));
    let finished_at = record::now();
    let oom = cgroup::oom_killed(&config.cgroup);
    if let Err(error) = started.container.delete(true) {
        complain(&format!("delete the container: {}", crate::chain(&error)));
    }
    let ended = ended.unwrap_or_else(|error| {
        complain(&format!("wait for the container: {error}"));
        Ended { code: 255, signal: None }
    });
    let reason = match ended {
        _ if oom && ended.signal == Some(libc::SIGKILL) => "OOMKilled",
        Ended { code: 0, .. } => "Completed",
        _ => "Error",
    };
    write_exit(
        directory,
        &ExitRecord {
            code: ended.code,
            signal: ended.signal,
            started_at: started.started_at,
            finished_at,
            reason: reason.to_owned(),
            message: String::new(),
        },
    );
    ExitCode::SUCCESS
}

fn pump_until_end(started: &mut Started, config: &ShimConfig) -> io::Result<()> {
    let pid = Pid::from_raw(started.init).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let init = pidfd_open(pid, PidfdFlags::empty())?;
    let (mut buffer, mut lines) = (vec![0_u8; 64 * 1024], Vec::new());
    let mut init_ended = false;
    while !(init_ended && started.output.is_empty()) {
        let mut watched: Vec<PollFd<'_>> =
            started.output.iter().map(|(fd, _)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
        if !init_ended {
            watched.push(PollFd::new(&init, PollFlags::IN));
        }
        match poll(&mut watched, init_ended.then_some(&DRAIN)) {
            // Somebody outside the container still holds its output open.
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        if !init_ended && ready.last() == Some(&true) {
            init_ended = true;
            if config.shares_processes {
                cgroup::kill(&config.cgroup);
            }
        }
        let mut index = 0;
        started.output.retain_mut(|(fd, pump)| {
            index += 1;
            !ready[index - 1] || read_some(fd, pump, &mut buffer, &mut lines)
        });
        // A full disk must not stall the container: what can't be written is lost.
        let _ = started.log.append(&lines);
        lines.clear();
    }
    Ok(())
}

/// Whether the stream goes on.
fn read_some(fd: &OwnedFd, pump: &mut LogPump, buffer: &mut [u8], lines: &mut Vec<u8>) -> bool {
    match rustix::io::read(fd, &mut *buffer) {
        Ok(count) if count > 0 => {
            pump.feed(&buffer[..count], Timestamp::now(), lines);
            true
        }
        Err(Errno::INTR | Errno::AGAIN) => true,
        // A terminal ends with EIO.
        Ok(_) | Err(_) => {
            pump.finish(Timestamp::now(), lines);
            false
        }
    }
}
