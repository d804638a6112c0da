//! The outside: a node per case, and a look at what is left when it has ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitCode, Stdio};
use std::time::Instant;

use pod_runtime::battery::CASES;
use shim::{Bind, Child, LIFELINE_END, NODE_INIT, NodeInitConfig, NodeReady, OnExit};

use crate::cases::OWN_CASES;

/// Cases that are about a node's init itself.
const NODE_CASES: [&str; 10] = [
    "supervisor-gone",
    "outer-killed",
    "lifeline-taken-up",
    "node-stopped",
    "told-to-end",
    "told-twice",
    "node-came-back",
    "child-restarted",
    "node-joins-network",
    "cgroup-v2",
];

pub fn run_all(args: &[String]) -> ExitCode {
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |case: &&str| filters.is_empty() || filters.iter().any(|filter| case.contains(filter.as_str()));
    let mut failed = Vec::new();
    let mut out = std::io::stdout();
    for case in CASES.into_iter().chain(OWN_CASES).chain(NODE_CASES).filter(wanted) {
        let before = Instant::now();
        let result = run_case(case);
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        writeln!(out, "test {case} ... {verdict} ({} ms)", before.elapsed().as_millis()).unwrap();
        if let Err(error) = result {
            writeln!(out, "{error}").unwrap();
            failed.push(case);
        }
    }
    writeln!(out, "\n{} failed {failed:?}", failed.len()).unwrap();
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_case(case: &str) -> Result<(), String> {
    let node = Node::new(case);
    let mounts = mount_table();
    let result = match case {
        "supervisor-gone" | "child-restarted" => node.supervisor_gone(),
        "node-came-back" => node.supervisor_gone().and_then(|()| node.until_end(node.config("agent", OnExit::EndNode))),
        "cgroup-v2" => node.with_unified_groups(),
        "outer-killed" => node.outer_killed(),
        "lifeline-taken-up" => node.lifeline_taken_up(),
        "node-stopped" => node.stopped(),
        "told-to-end" => node.told_to_end(" exit 0;"),
        "told-twice" => node.told_to_end(""),
        "node-joins-network" => node.joins_network(),
        _ => node.until_end(node.config("agent", OnExit::EndNode)),
    };
    assert_eq!(mount_table(), mounts, "mounts are left");
    for hierarchy in shim::cgroup::hierarchies() {
        let left = hierarchy.join(node.cgroup.strip_prefix("/").unwrap());
        assert!(!left.exists(), "{} is left", left.display());
    }
    result.map_err(|error| {
        format!("{error}\n{}", fs::read_to_string(node.directory.join("agent.log")).unwrap_or_default())
    })
}

fn mount_table() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

struct Node {
    case: String,
    directory: PathBuf,
    cgroup: PathBuf,
}

impl Node {
    fn new(case: &str) -> Self {
        let name = format!("portolan-battery-{}-{case}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).unwrap();
        Self { case: case.to_owned(), directory, cgroup: Path::new("/").join(name) }
    }

    fn config(&self, program: &str, on_exit: OnExit) -> NodeInitConfig {
        let executable = std::env::current_exe().unwrap();
        let text = |path: &Path| path.display().to_string();
        let argv = vec![text(&executable), program.to_owned(), self.case.clone(), text(&self.directory)];
        NodeInitConfig {
            hostname: "battery".to_owned(),
            network_namespace: None,
            lifeline: 0,
            wait_for_go: false,
            lifeline_grace_ms: 0,
            tmpfs: vec!["/run".into()],
            binds: Vec::new(),
            children: vec![Child {
                name: "agent".to_owned(),
                argv,
                env: vec![("RUST_BACKTRACE".to_owned(), "0".to_owned())],
                log: self.directory.join("agent.log"),
                on_exit,
                end_signal: None,
            }],
            stop_grace_ms: 2_000,
            cgroup: Some(self.cgroup.clone()),
        }
    }

    fn spawn(&self, config: &NodeInitConfig) -> Process {
        let file = self.directory.join("node.json");
        fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .arg(NODE_INIT)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn ready(process: &mut Process) -> Result<NodeReady, String> {
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        serde_json::from_str(&line).map_err(|error| format!("the node isn't ready: {line:?} {error}"))
    }

    fn until_end(&self, config: NodeInitConfig) -> Result<(), String> {
        let mut process = self.spawn(&config);
        Self::ready(&mut process)?;
        // A shell's `wait` closes standard input first, which would end the node.
        let lifeline = process.stdin.take();
        let status = process.wait().unwrap();
        drop(lifeline);
        if status.success() { Ok(()) } else { Err(format!("{status}")) }
    }

    /// A node whose agent holds a pod: ends, with the pod, when the lifeline does.
    fn supervisor_gone(&self) -> Result<(), String> {
        let mut process = self.spawn(&self.config("agent", OnExit::Restart));
        let ready = Self::ready(&mut process)?;
        self.wait_for_pod();
        drop(process.stdin.take());
        process.wait().unwrap();
        assert!(!Path::new(&format!("/proc/{}", ready.pid)).exists());
        Ok(())
    }

    /// PID 1 notices and ends; only the groups stay, for the next start to sweep.
    fn outer_killed(&self) -> Result<(), String> {
        let mut process = self.spawn(&self.config("agent", OnExit::Restart));
        let ready = Self::ready(&mut process)?;
        self.wait_for_pod();
        process.kill().unwrap();
        process.wait().unwrap();
        let before = Instant::now();
        while Path::new(&format!("/proc/{}/ns/pid", ready.pid)).exists() {
            assert!(before.elapsed().as_secs() < 60, "the node goes on without its outer process");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        shim::cgroup::remove_tree(&self.cgroup).map_err(|error| error.to_string())
    }

    /// A node outlives its supervisor by its grace; who takes the lifeline up has the node, and ends it with a word.
    fn lifeline_taken_up(&self) -> Result<(), String> {
        let config = NodeInitConfig { lifeline_grace_ms: 60_000, ..self.config("agent", OnExit::Restart) };
        let mut process = self.spawn(&config);
        Self::ready(&mut process)?;
        self.wait_for_pod();
        let began = || fs::metadata(self.directory.join("pod-runs")).unwrap().modified().unwrap();
        let before = began();
        drop(process.stdin.take());
        let path = format!("/proc/{}/fd/0", process.id());
        let mut lifeline = File::options().write(true).open(path).unwrap();
        assert!(process.try_wait().unwrap().is_none(), "the node ended before its grace did");
        assert_eq!(began(), before, "its agent was started again");
        lifeline.write_all(&[LIFELINE_END]).unwrap();
        let status = process.wait().unwrap();
        drop(lifeline);
        if status.success() { Ok(()) } else { Err(format!("{status}")) }
    }

    fn stopped(&self) -> Result<(), String> {
        let mut process = self.spawn(&self.config("agent", OnExit::Restart));
        Self::ready(&mut process)?;
        self.wait_for_pod();
        let lifeline = process.stdin.take();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id() as i32), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        let status = process.wait().unwrap();
        drop(lifeline);
        if status.success() { Ok(()) } else { Err(format!("{status}")) }
    }

    /// A child hears of the end and has all the time it needs; unless the word comes again.
    fn told_to_end(&self, then: &str) -> Result<(), String> {
        let heard = self.directory.join("heard");
        let file = heard.display();
        // `wait` is what a trap interrupts at once.
        let script =
            format!("trap 'echo told > {file};{then}' PWR; echo up > {file}; while :; do sleep 60 & wait $!; done");
        let mut config = self.config("agent", OnExit::Restart);
        config.stop_grace_ms = 600_000;
        config.children[0].argv = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        config.children[0].end_signal = Some(libc::SIGPWR);
        let mut process = self.spawn(&config);
        Self::ready(&mut process)?;
        let mut lifeline = process.stdin.take().unwrap();
        let until = |said: &str| {
            let before = Instant::now();
            while fs::read_to_string(&heard).unwrap_or_default() != said {
                assert!(before.elapsed().as_secs() < 60, "the child never said {said:?}");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        until("up\n");
        lifeline.write_all(&[LIFELINE_END]).unwrap();
        until("told\n");
        if then.is_empty() {
            assert!(process.try_wait().unwrap().is_none(), "the node didn't wait");
            lifeline.write_all(&[LIFELINE_END]).unwrap();
        }
        let before = Instant::now();
        while process.try_wait().unwrap().is_none() {
            assert!(before.elapsed().as_secs() < 60, "the node goes on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = process.wait().unwrap();
        drop(lifeline);
        if status.success() { Ok(()) } else { Err(format!("{status}")) }
    }

    /// Given a network namespace, kept open by a thread; the children wait for the go-ahead.
    fn joins_network(&self) -> Result<(), String> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            sender.send(nix::unistd::gettid()).unwrap();
            let _ = wait.recv();
        });
        let path = PathBuf::from(format!("/proc/{}/ns/net", receiver.recv().unwrap()));
        let bound = self.directory.join("bound");
        fs::create_dir_all(&bound).unwrap();
        fs::write(bound.join("file"), "from the host").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(self.directory.join("api.sock")).unwrap();
        let bind = |source: PathBuf, target: &str, read_only| Bind { source, target: target.into(), read_only };
        let config = NodeInitConfig {
            network_namespace: Some(path.clone()),
            wait_for_go: true,
            binds: vec![
                bind(bound, "/run/portolan/bound", true),
                bind(self.directory.join("api.sock"), "/run/portolan/api.sock", false),
            ],
            ..self.config("agent", OnExit::EndNode)
        };
        let mut process = self.spawn(&config);
        let ready = Self::ready(&mut process)?;
        let same = fs::read_link(format!("/proc/{}/ns/net", ready.pid)).unwrap() == fs::read_link(path).unwrap();
        let started_early = fs::metadata(self.directory.join("agent.log")).is_ok_and(|log| log.len() > 0);
        let mut lifeline = process.stdin.take().unwrap();
        lifeline.write_all(b"g").unwrap();
        let status = process.wait().unwrap();
        drop((done, lifeline, socket));
        holder.join().unwrap();
        assert!(same && !started_early);
        if status.success() { Ok(()) } else { Err(format!("{status}")) }
    }

    /// Where the machine has version 1 or a hybrid, the version 2 hierarchy (without controllers then) takes its place.
    fn with_unified_groups(&self) -> Result<(), String> {
        let mut config = self.config("agent", OnExit::EndNode);
        let unified = Path::new("/sys/fs/cgroup/unified");
        if unified.exists() {
            config.binds.push(Bind { source: unified.into(), target: "/sys/fs/cgroup".into(), read_only: false });
        }
        self.until_end(config)
    }

    fn wait_for_pod(&self) {
        let sign = self.directory.join("pod-runs");
        let before = Instant::now();
        while File::open(&sign).is_err() {
            let log = || fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default();
            assert!(before.elapsed().as_secs() < 60, "the pod never ran: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
