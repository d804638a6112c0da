//! A machine of its own for one system: a fresh network namespace for the host, a data directory, and the commands that
//! run there. Whatever a test does, the machine's end takes the system down and fails when anything is left.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use netns::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::remains::UPLINK;
use crate::{Api, Net, Process, Ran, Running, Temporary, eventually, remains, run, slowly};

/// A machine, and perhaps a system on it.
pub struct System {
    program: PathBuf,
    host: Net,
    scratch: Temporary,
    data_dir: PathBuf,
    /// What every command of the product is run with.
    environment: Vec<(&'static str, OsString)>,
    api: Option<Api>,
    cgroup: Option<String>,
    begun: Instant,
}

/// The default of `up --timeout`.
const UP_TAKES: Duration = Duration::from_secs(30);
/// What `up` says when everything answers.
const READY: &str = "export KUBECONFIG=";

impl System {
    /// A machine on which nothing runs. Its network has a loopback and nothing else.
    pub fn new(program: &str) -> Self {
        let namespace = NetNs::new().expect("a network namespace needs CAP_SYS_ADMIN: run the tests as root");
        let scratch = Temporary::new();
        let data_dir = scratch.path().join("data");
        let program = PathBuf::from(program);
        let host = Net::new(namespace);
        // Everything the system starts inherits it: that is how remains are recognised.
        let environment = vec![("PORTOLAN_DATA_DIR", data_dir.clone().into())];
        let begun = Instant::now();
        let system = System { program, host, scratch, data_dir, environment, api: None, cgroup: None, begun };
        system.on_host(&["ip", "link", "set", "lo", "up"]).ok();
        system
    }

    /// A machine on which nothing runs, and whose commands a user calls by way of sudo, with a state folder and no
    /// `--data-dir`.
    pub fn called_by(program: &str, user: u32) -> Self {
        let mut system = System::new(program);
        let state = system.scratch().join("state");
        fs::create_dir(&state).unwrap_or_else(|e| panic!("cannot make {}: {e}", state.display()));
        std::os::unix::fs::chown(&state, Some(user), None).expect("giving a directory away needs CAP_CHOWN");
        system.data_dir = state.join("portolan");
        system.environment = vec![
            ("SUDO_UID", user.to_string().into()),
            ("XDG_STATE_HOME", state.into()),
            ("PORTOLAN_TEST_MARK", system.data_dir.clone().into()),
        ];
        system
    }

    /// A machine on which `up --detach` with these arguments has succeeded.
    #[track_caller]
    pub fn up(program: &str, args: &[&str]) -> Self {
        let mut system = System::new(program);
        system.start(args);
        system
    }

    /// `up --detach`; returns what it said.
    #[track_caller]
    pub fn start(&mut self, args: &[&str]) -> String {
        let said = self.portolan(&[&["up", "--detach"], args].concat()).ok();
        assert!(said.contains(READY), "{said}");
        self.runs();
        said
    }

    /// `up` in the foreground, when it says that everything answers.
    #[track_caller]
    pub fn start_in_foreground(&mut self, args: &[&str]) -> Running {
        let mut running = Running::start(self.host.namespace(), self.command(&[&["up"], args].concat()));
        running.line(READY);
        self.runs();
        running
    }

    /// From here on the system is expected to run.
    pub fn runs(&mut self) {
        self.api = Some(Api::new(&self.data_dir.join("run/sockets/api.sock")));
        self.cgroup = self.record()["cgroup"].as_str().map(str::to_owned);
        assert!(self.cgroup.is_some(), "the system's record names no cgroup");
    }

    /// `down`, after which nothing may be left.
    #[track_caller]
    pub fn down(&mut self) {
        self.portolan(&["down"]).ok();
        self.assert_nothing_left();
    }

    #[track_caller]
    pub fn assert_nothing_left(&mut self) {
        self.api = None;
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    fn left(&self) -> Vec<String> {
        remains::find(self.host.namespace(), &self.data_dir, self.cgroup.as_deref())
    }

    /// What the supervisor wrote down about what runs.
    pub fn record(&self) -> Value {
        let path = self.data_dir.join("run/system.json");
        let text = fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        serde_json::from_slice(&text).expect("the record is JSON")
    }

    /// A node's init as a process, the node counted from 1; everything of the node descends from it.
    #[track_caller]
    pub fn node_init(&self, node: usize) -> Process {
        let name = format!("node-{node}");
        eventually(&name, || {
            let record = self.record();
            let node = record["nodes"].as_array().into_iter().flatten().find(|node| node["name"] == name.as_str());
            let pid = node.and_then(|node| node["init"].as_i64()).and_then(|pid| pid.try_into().ok());
            pid.and_then(Process::find).ok_or_else(|| "it isn't there".to_owned())
        })
    }

    /// Kills the supervisor: it alone, not what it started. Doesn't wait for its end: nobody who kills it does.
    #[track_caller]
    pub fn kill_supervisor(&self) {
        let supervisor = self.record()["supervisor"].as_i64().expect("the supervisor's process id");
        let pid = Pid::from_raw(supervisor.try_into().expect("a process id"));
        kill(pid, Signal::SIGKILL).expect("the supervisor runs");
    }

    /// Kills the supervisor and starts another one, which has to take over every node. Returns what that one said.
    #[track_caller]
    pub fn replace_supervisor(&mut self, args: &[&str]) -> String {
        let nodes = |system: &System| {
            let record = system.record();
            let inits = record["nodes"].as_array().into_iter().flatten().map(|node| node["init"].as_i64());
            inits.collect::<std::collections::BTreeSet<_>>()
        };
        let before = nodes(self);
        self.kill_supervisor();
        let said = self.start(args);
        assert_eq!(nodes(self), before, "nodes were made anew: {said}");
        said
    }

    /// Kills a node's init, and with it the node; returns when another runs in its place.
    #[track_caller]
    pub fn kill_node(&self, node: usize) {
        let init = self.node_init(node);
        init.kill();
        eventually("another node in its place", || match self.node_init(node) {
            other if other != init && !other.descendants().is_empty() => Ok(()),
            init => Err(format!("{init:?} is there")),
        });
    }

    /// Runs the product on the host, with this system's data directory.
    #[track_caller]
    pub fn portolan(&self, args: &[&str]) -> Ran {
        run(self.host.namespace(), self.command(args))
    }

    /// The product, to be changed before it's run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env_remove("PORTOLAN_DATA_DIR").envs(self.environment.iter().cloned());
        if args.first() == Some(&"up") && !args.contains(&"--timeout") && slowly(UP_TAKES) > UP_TAKES {
            command.args(["--timeout", &slowly(UP_TAKES).as_secs().to_string()]);
        }
        command
    }

    /// Runs a program on the host.
    #[track_caller]
    pub fn run(&self, command: Command) -> Ran {
        run(self.host.namespace(), command)
    }

    /// Starts a program on the host, in the background.
    #[track_caller]
    pub fn run_in_background(&self, command: Command) -> Running {
        Running::start(self.host.namespace(), command)
    }

    /// Runs a program of this machine in a pod's network.
    #[track_caller]
    pub fn in_pod(&self, pod: &str, words: &[&str]) -> Ran {
        self.portolan(&[&["run", "--pod", pod, "--"], words].concat())
    }

    #[track_caller]
    pub fn on_node(&self, node: &str, words: &[&str]) -> Ran {
        self.portolan(&[&["run", "--node", node, "--"], words].concat())
    }

    #[track_caller]
    pub fn on_host(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        run(self.host.namespace(), command)
    }

    /// Joins the host to a network outside by a link `uplink`. What is on it is the test's and doesn't count as left.
    #[track_caller]
    pub fn uplink(&self, here: &[&str], there: &[&str]) -> Net {
        let outside = Net::new(NetNs::new().expect("a network namespace needs CAP_SYS_ADMIN"));
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        let on = |net: &Net, line: &str| {
            let mut command = Command::new("ip");
            command.args(words(line));
            run(net.namespace(), command).ok()
        };
        // The veth is made outside and its end moved here, named by a process that is here.
        on(&self.host, &format!("link add {UPLINK} type veth peer name far"));
        let mut command = Command::new("ip");
        let fd = outside.namespace().as_fd().as_raw_fd();
        let path = format!("/proc/{}/fd/{fd}", std::process::id());
        command.args(["link", "set", "far", "netns", &path]);
        run(self.host.namespace(), command).ok();
        for (net, link, addresses) in [(&self.host, UPLINK, here), (&outside, "far", there)] {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                on(net, &format!("address add {address} dev {link}{nodad}"));
            }
            on(net, &format!("link set {link} up"));
        }
        on(&outside, "link set lo up");
        outside
    }

    pub fn host(&self) -> &Net {
        &self.host
    }

    /// A pod's network, to be a client in.
    #[track_caller]
    pub fn pod_net(&self, pod: &str) -> Net {
        self.net(&["run", "--pod", pod, "--", "cat"])
    }

    #[track_caller]
    pub fn node_net(&self, node: &str) -> Net {
        self.net(&["run", "--node", node, "--", "cat"])
    }

    /// The network that `run` enters: that of the program it becomes.
    #[track_caller]
    fn net(&self, args: &[&str]) -> Net {
        let mut cat = Running::start(self.host.namespace(), self.command(args));
        cat.say("entered");
        cat.line("entered");
        Net::new(NetNs::of_process(cat.pid()).expect("the program's network"))
    }

    #[track_caller]
    pub fn api(&self) -> &Api {
        self.api.as_ref().expect("a system that runs")
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a file for the test and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        self.scratch.file(name, text).to_string_lossy().into_owned()
    }

    /// Says how far the test is, and when.
    pub fn step(&self, what: &str) {
        eprintln!("{:7.2} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// The ends of the system's logs.
    fn logs(&self) -> String {
        const LINES: usize = 12;
        let mut text = String::new();
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.data_dir.join("log")).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
            text.push_str(&format!("--- {}\n{end}\n", file.file_name().unwrap_or(OsStr::new("?")).display()));
        }
        text
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs());
        }
        self.api = None;
        let mut command = self.command(&["down"]);
        let down = self.host.namespace().run(|| command.output());
        let left = self.left();
        if left.is_empty() || failed {
            eprintln!(
                "{:7.2} s  over{}",
                self.begun.elapsed().as_secs_f64(),
                if left.is_empty() { "" } else { ", with remains" }
            );
            return;
        }
        panic!("`portolan down` ({down:?}) left behind:\n{}", left.join("\n"));
    }
}
