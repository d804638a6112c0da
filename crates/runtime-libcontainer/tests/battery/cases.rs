//! The inside: the agent of a node, which runs one case and then looks for leftovers.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use images::ImageStore;
use pod_runtime::battery::{Act, CASES, Subject};
use pod_runtime::{
    ContainerId, ContainerSpec, ContainerState, PodNetwork, PodRuntime, Resources, RuntimeError, STATUS_UNKNOWN,
    SandboxId, SandboxNetwork, SandboxSpec,
};
use runtime_libcontainer::{Config, Runtime};
use shim::record::{RUNNING, Running};

use crate::acts::command;

const IMAGE: &str = "portolan.local/testserver:latest";

/// What only this runtime has.
pub const OWN_CASES: [&str; 9] = [
    "shim-killed",
    "out-of-memory",
    "node-network",
    "terminal",
    "leftovers-swept",
    "two-agents",
    "pins-are-private",
    "dropped-exec",
    "imported-image",
];

pub fn run_agent(case: &str, directory: &Path) -> ExitCode {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    tokio.block_on(async {
        let mut subject = Lab::open(case, directory).await;
        match case {
            "supervisor-gone" | "node-stopped" | "outer-killed" | "lifeline-taken-up" => {
                hold_pod(&subject, directory).await
            }
            "node-came-back" if directory.join("pod-runs").exists() => came_back(&subject).await,
            "node-came-back" => hold_pod(&subject, directory).await,
            "cgroup-v2" => {
                assert_eq!(shim::cgroup::hierarchies(), [Path::new("/sys/fs/cgroup")], "needs a cgroup 2 hierarchy");
                pod_runtime::battery::run("exec", &mut subject).await;
            }
            "child-restarted" => end_once(directory).await,
            "node-joins-network" => look_around(directory),
            "two-agents" => two_agents(&mut subject).await,
            "dropped-exec" => dropped_exec(&subject).await,
            "imported-image" => imported_image(&subject).await,
            "pins-are-private" => pins_are_private(&subject).await,
            "shim-killed" => shim_killed(&subject).await,
            "out-of-memory" => out_of_memory(&subject).await,
            "node-network" => node_network(&subject).await,
            "terminal" => terminal(&subject).await,
            "leftovers-swept" => leftovers_swept(&mut subject).await,
            _ => {
                assert!(CASES.contains(&case));
                pod_runtime::battery::run(case, &mut subject).await;
            }
        }
        subject.nothing_left();
    });
    ExitCode::SUCCESS
}

struct Lab {
    config: Config,
    network: Arc<Addresses>,
    runtime: Option<Arc<Runtime>>,
    directory: PathBuf,
    parent_group: PathBuf,
}

impl Lab {
    async fn open(case: &str, directory: &Path) -> Self {
        let images = ImageStore::open(directory, None).unwrap();
        let parent_group = Path::new("/").join(directory.file_name().unwrap());
        let network = Arc::new(Addresses::default());
        let config = Config {
            private_mounts: Vec::new(),
            state_dir: directory.join("state"),
            images,
            puller: None,
            cgroup_parent: parent_group.join(case),
            network: Arc::clone(&network) as Arc<dyn PodNetwork>,
            executable: std::env::current_exe().unwrap(),
        };
        let mut lab = Self { config, network, runtime: None, directory: directory.to_owned(), parent_group };
        lab.up().await;
        lab
    }

    fn spec(&self, name: &str, act: Act) -> ContainerSpec {
        ContainerSpec {
            name: name.to_owned(),
            image: IMAGE.to_owned(),
            command: command(act),
            log_path: self.directory.join(format!("{name}.log")),
            ..ContainerSpec::default()
        }
    }

    async fn pod(&self, name: &str, network: SandboxNetwork) -> SandboxId {
        let spec = SandboxSpec {
            id: SandboxId(name.to_owned()),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            hostname: name.to_owned(),
            network,
            of_node: Default::default(),
            host_ports: Vec::new(),
            sysctls: [].into(),
            cpu_shares: None,
            annotations: [].into(),
        };
        self.runtime().run_sandbox(&spec).await.unwrap();
        spec.id
    }

    async fn start(&self, pod: &SandboxId, spec: &ContainerSpec) -> ContainerId {
        let id = self.runtime().create_container(pod, spec).await.unwrap();
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    async fn state(&self, id: &ContainerId) -> ContainerState {
        let all = self.runtime().containers(None).await.unwrap();
        all.into_iter().find(|status| status.id == *id).unwrap().state
    }

    async fn ended(&self, id: &ContainerId) -> pod_runtime::Exit {
        let runtime = self.runtime();
        let mut changes = runtime.changes();
        loop {
            if let ContainerState::Exited(exit) = self.state(id).await {
                return exit;
            }
            tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.expect("news").unwrap();
        }
    }

    /// Until a container that stays has said so. Before, it has no say about signals, and as the first process of its
    /// namespace it isn't ended by SIGTERM either (pid_namespaces(7)).
    async fn up_and_listening(&self, name: &str) {
        let path = self.directory.join(format!("{name}.log"));
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let give_up = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(&path).is_ok_and(|log| log.contains(" stdout F up\n")) {
            assert!(Instant::now() < give_up, "{name} never came up");
            tick.tick().await;
        }
    }

    fn processes(&self, id: &ContainerId) -> Running {
        let file = self.config.state_dir.join("containers").join(&id.0).join(RUNNING);
        shim::record::read(&file).unwrap().unwrap()
    }

    /// No file, mount, group, address or process of any pod.
    fn nothing_left(&self) {
        for part in ["sandboxes", "containers", "writable", "namespaces"] {
            let left: Vec<_> =
                fs::read_dir(self.config.state_dir.join(part)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let below = format!("{}/", self.config.state_dir.join("namespaces").display());
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&below), "mounts are left");
        assert!(shim::cgroup::children(&self.config.cgroup_parent).is_empty(), "groups are left");
        assert!(self.network.given.lock().unwrap().is_empty(), "addresses are left");
        let (me, before) = (std::process::id().to_string(), Instant::now());
        loop {
            let others: Vec<String> = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != me && *name != "1")
                .collect();
            if others.is_empty() {
                break;
            }
            let tell = || {
                others
                    .iter()
                    .map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
                    .collect::<String>()
            };
            assert!(before.elapsed() < Duration::from_secs(10), "processes are left: {}", tell());
            std::thread::sleep(Duration::from_millis(2));
        }
        shim::cgroup::remove_if_empty(&self.config.cgroup_parent);
        shim::cgroup::remove_if_empty(&self.parent_group);
    }
}

#[async_trait]
impl Subject for Lab {
    fn runtime(&self) -> Arc<dyn PodRuntime> {
        Arc::clone(self.runtime.as_ref().expect("the agent is up")) as Arc<dyn PodRuntime>
    }

    async fn down(&mut self) {
        self.runtime = None;
    }

    async fn up(&mut self) {
        self.runtime = Some(Arc::new(Runtime::open(self.config.clone()).await.unwrap()));
    }

    fn image(&self) -> &str {
        IMAGE
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn command(&self, act: Act) -> Vec<String> {
        command(act)
    }
}

/// Gives each pod an address, and knows which namespace it was for.
#[derive(Default)]
struct Addresses {
    given: Mutex<HashMap<SandboxId, IpAddr>>,
}

#[async_trait]
impl PodNetwork for Addresses {
    async fn attach(&self, sandbox: &SandboxSpec, namespace: &Path) -> Result<Vec<IpAddr>, RuntimeError> {
        assert!(fs::File::open(namespace).is_ok(), "the namespace can be opened");
        let mut given = self.given.lock().unwrap();
        let next = given.values().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(_) => None,
        });
        let next = next.max().unwrap_or(1) + 1;
        Ok(vec![*given.entry(sandbox.id.clone()).or_insert(IpAddr::V4(Ipv4Addr::new(10, 0, 0, next)))])
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        self.given.lock().unwrap().remove(sandbox);
        Ok(())
    }
}

async fn hold_pod(lab: &Lab, directory: &Path) {
    let pod = lab.pod("held", SandboxNetwork::Pod).await;
    lab.start(&pod, &lab.spec("stubborn", Act::Stubborn)).await;
    fs::write(directory.join("pod-runs"), "").unwrap();
    std::future::pending::<()>().await;
}

/// In a new node with an old one's files: nothing runs, and the same pod can run again.
async fn came_back(lab: &Lab) {
    let sandbox = lab.runtime().sandboxes().await.unwrap().remove(0);
    assert!(!sandbox.ready && sandbox.network_namespace.is_none());
    let container = lab.runtime().containers(None).await.unwrap().remove(0);
    let ContainerState::Exited(exit) = container.state else { panic!("{container:?}") };
    assert_eq!((exit.code, exit.reason.as_str()), (137, STATUS_UNKNOWN));
    let pod = lab.pod("held", SandboxNetwork::Pod).await;
    assert_eq!(pod, sandbox.spec.id);
    let again = lab.start(&pod, &ContainerSpec { attempt: 1, ..lab.spec("stubborn", Act::Exit(2)) }).await;
    assert_eq!(lab.ended(&again).await.code, 2);
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

/// Ends badly the first time, then stays.
async fn end_once(directory: &Path) {
    let mark = directory.join("ended-once");
    if !mark.exists() {
        fs::write(mark, "").unwrap();
        std::process::exit(3);
    }
    fs::write(directory.join("pod-runs"), "").unwrap();
    std::future::pending::<()>().await;
}

/// What a node sees of the host and of itself.
fn look_around(directory: &Path) {
    let bound = directory.join("bound");
    assert_eq!(fs::read_to_string("/run/portolan/bound/file").unwrap(), "from the host");
    assert!(fs::write("/run/portolan/bound/new", "").is_err(), "it is read-only");
    assert!(std::os::unix::net::UnixStream::connect("/run/portolan/api.sock").is_ok());
    let seen: Vec<_> = fs::read_dir("/run").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(seen, ["portolan"]);
    assert!(bound.exists(), "the host's files stay where they are");
    assert_eq!(fs::read_to_string("/proc/1/comm").unwrap(), fs::read_to_string("/proc/self/comm").unwrap());
    assert_eq!(nix::unistd::gethostname().unwrap(), "battery");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(std::net::TcpStream::connect(listener.local_addr().unwrap()).is_ok(), "lo is up");
}

/// An agent that was killed while it started a container, and the next one, which starts it again.
async fn two_agents(lab: &mut Lab) {
    let pod = lab.pod("two-agents", SandboxNetwork::Pod).await;
    let id = lab.runtime().create_container(&pod, &lab.spec("stays", Act::Stay)).await.unwrap();
    let first = lab.runtime();
    let second = Runtime::open(lab.config.clone()).await.unwrap();
    let (one, two) = tokio::join!(first.start_container(&id), second.start_container(&id));
    one.unwrap();
    two.unwrap();
    assert!(matches!(lab.state(&id).await, ContainerState::Running { .. }));
    lab.up_and_listening("stays").await;
    second.stop_container(&id, 15, Duration::from_secs(60)).await.unwrap();
    // Both notice.
    assert_eq!(lab.ended(&id).await.code, 0);
    let up = fs::read_to_string(lab.directory.join("stays.log")).unwrap();
    assert_eq!(up.lines().count(), 1, "it ran once");
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

/// Else every container would keep alive the namespaces of all pods that were there when it started.
async fn pins_are_private(lab: &Lab) {
    let (other, pod) = (lab.pod("other", SandboxNetwork::Pod).await, lab.pod("own", SandboxNetwork::Pod).await);
    let id = lab.start(&pod, &lab.spec("stays", Act::Stay)).await;
    let processes = lab.processes(&id);
    for process in [processes.shim, processes.init] {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap();
        assert!(!mounts.contains("namespaces/other"), "{mounts}");
    }
    lab.runtime().remove_sandbox(&other).await.unwrap();
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

/// A command nobody waits for any more ends.
async fn dropped_exec(lab: &Lab) {
    let pod = lab.pod("dropped-exec", SandboxNetwork::Pod).await;
    let id = lab.start(&pod, &lab.spec("stays", Act::Stay)).await;
    let runtime = lab.runtime();
    let group = shim::cgroup::hierarchies()[0]
        .join(lab.config.cgroup_parent.strip_prefix("/").unwrap())
        .join(format!("uid-dropped-exec/{}/cgroup.procs", id.0));
    let settled = |count: usize| {
        let group = group.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            while fs::read_to_string(&group).unwrap().lines().count() != count {
                tick.tick().await;
            }
        }
    };
    let within = |wait| tokio::time::timeout(Duration::from_secs(60), wait);
    let (stubborn, mark) = (command(Act::Stubborn), settled(2));
    tokio::select! {
        ended = runtime.exec(&id, &stubborn, Duration::ZERO) => panic!("{ended:?}"),
        started = within(mark) => started.expect("the command starts"),
    }
    within(settled(1)).await.expect("the command ends");
    runtime.remove_sandbox(&pod).await.unwrap();
}

fn add(layer: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    layer.append_data(&mut header, path, content).unwrap();
}

/// A docker archive of two layers; the upper one deletes of the lower.
fn archive() -> Vec<u8> {
    let (mut lower, mut upper) = (tar::Builder::new(Vec::new()), tar::Builder::new(Vec::new()));
    add(&mut lower, "bin/testserver", 0o755, &fs::read("/proc/self/exe").unwrap());
    add(&mut lower, "etc/passwd", 0o644, b"root:x:0:0::/:\nweb:x:33:44::/:\n");
    for file in ["data/gone", "data/kept", "cache/old"] {
        add(&mut lower, file, 0o644, b"");
    }
    let mut null = tar::Header::new_gnu();
    null.set_entry_type(tar::EntryType::Char);
    null.set_mode(0o666);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    null.set_size(0);
    lower.append_data(&mut null, "data/null", std::io::empty()).unwrap();
    add(&mut upper, "data/.wh.gone", 0, b"");
    add(&mut upper, "cache/", 0o755, b"");
    add(&mut upper, "cache/.wh..wh..opq", 0, b"");
    add(&mut upper, "cache/new", 0o644, b"");
    let layers = [lower.into_inner().unwrap(), upper.into_inner().unwrap()];
    let config = serde_json::json!({
        "architecture": "any", "os": "linux", "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| images::Digest::of(layer))},
        "config": {"Entrypoint": ["testserver"], "Cmd": ["tell"], "User": "web", "WorkingDir": "/data", "Env": ["PATH=/bin", "FROM=image"]},
    });
    let manifest = serde_json::json!([{"Config": "config", "RepoTags": ["web:1"], "Layers": ["lower", "upper"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    let documents = [serde_json::to_vec(&config).unwrap(), serde_json::to_vec(&manifest).unwrap()];
    for (name, content) in
        [("config", &documents[0]), ("manifest.json", &documents[1]), ("lower", &layers[0]), ("upper", &layers[1])]
    {
        add(&mut archive, name, 0o644, content);
    }
    archive.into_inner().unwrap()
}

async fn imported_image(lab: &Lab) {
    let images = lab.config.images.clone();
    let layers = images.import(&archive()[..]).unwrap().remove(0).layers;
    let pod = lab.pod("imported", SandboxNetwork::Pod).await;
    let of_image = |name: &str, args: &[&str]| ContainerSpec {
        image: "web:1".to_owned(),
        command: Vec::new(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..lab.spec(name, Act::Stay)
    };
    let tells = lab.start(&pod, &of_image("tells", &[])).await;
    assert_eq!(lab.ended(&tells).await.code, 0);
    let told = fs::read_to_string(lab.directory.join("tells.log")).unwrap();
    for line in ["uid=33", "gid=44", "cwd=/data", "env:FROM=image"] {
        assert!(told.contains(&format!("stdout F {line}\n")), "{line} is missing in {told}");
    }
    for (number, (file, code)) in
        [("data/kept", 0), ("data/gone", 1), ("cache/new", 0), ("cache/old", 1)].into_iter().enumerate()
    {
        let id = lab.start(&pod, &of_image(&format!("looks-{number}"), &["look", &format!("/{file}")])).await;
        assert_eq!(lab.ended(&id).await.code, code, "{file}");
    }
    for (name, device, code) in [("image-device", "/data/null", 1), ("own-device", "/dev/null", 0)] {
        let id = lab.start(&pod, &of_image(name, &["write", device])).await;
        assert_eq!(lab.ended(&id).await.code, code, "{device}");
    }
    let stays = lab.start(&pod, &of_image("stays", &["stay"])).await;
    assert!(images.remove("web:1").unwrap());
    assert!(layers.iter().all(|layer| layer.exists()), "a running container's layers stay");
    let again =
        lab.runtime().exec(&stays, &["testserver".to_owned(), "exit".to_owned(), "6".to_owned()], Duration::ZERO).await;
    assert_eq!(again.unwrap().exit_code, 6);
    lab.runtime().remove_sandbox(&pod).await.unwrap();
    images.import(&archive()[..]).unwrap();
    images.remove("web:1").unwrap();
    assert!(!layers.iter().any(|layer| layer.exists()));
}

/// Then nobody can tell how the container ends any more: it ends now, and the pod can go on.
async fn shim_killed(lab: &Lab) {
    let pod = lab.pod("shim-killed", SandboxNetwork::Pod).await;
    let id = lab.start(&pod, &lab.spec("stays", Act::Stay)).await;
    let processes = lab.processes(&id);
    let shim = nix::unistd::Pid::from_raw(processes.shim.pid);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = lab.ended(&id).await;
    assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (137, None, STATUS_UNKNOWN));
    assert!(exit.message.contains("shim"));
    let again = ContainerSpec { attempt: 1, ..lab.spec("stays", Act::Exit(0)) };
    let again = lab.start(&pod, &again).await;
    assert_eq!(lab.ended(&again).await.code, 0);
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

async fn out_of_memory(lab: &Lab) {
    let pod = lab.pod("oom", SandboxNetwork::Pod).await;
    let mut spec = lab.spec("eats", Act::Exit(0));
    spec.command = ["/testserver", "allocate", "200000000"].map(str::to_owned).to_vec();
    spec.resources = Resources { memory_limit_bytes: Some(32 << 20), oom_score_adj: Some(-500), ..Default::default() };
    let id = lab.start(&pod, &spec).await;
    let exit = lab.ended(&id).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

async fn node_network(lab: &Lab) {
    let pod = lab.pod("node-network", SandboxNetwork::Node).await;
    let id = lab.start(&pod, &lab.spec("tells", Act::Tell)).await;
    lab.ended(&id).await;
    let log = fs::read_to_string(lab.directory.join("tells.log")).unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(log.contains(&format!("net={}", own.display())), "{log}");
    assert!(log.contains("host=battery"), "the node's own name: {log}");
    let status = lab.runtime().sandboxes().await.unwrap().remove(0);
    assert!(status.ready && status.addresses.is_empty() && status.network_namespace.is_none());
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

async fn terminal(lab: &Lab) {
    let pod = lab.pod("terminal", SandboxNetwork::Pod).await;
    let mut spec = lab.spec("says", Act::Say("to a terminal\n".to_owned(), "and this\n".to_owned()));
    (spec.tty, spec.stdin) = (true, true);
    let id = lab.start(&pod, &spec).await;
    assert_eq!(lab.ended(&id).await.code, 0);
    let log = fs::read_to_string(lab.directory.join("says.log")).unwrap();
    assert!(log.contains(" stdout F to a terminal\r\n") && log.contains(" stdout F and this\r\n"), "{log:?}");
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}

/// A crash may leave any part without the others.
async fn leftovers_swept(lab: &mut Lab) {
    let pod = lab.pod("kept", SandboxNetwork::Pod).await;
    let kept = lab.start(&pod, &lab.spec("stays", Act::Stay)).await;
    let lost = lab.pod("lost", SandboxNetwork::Pod).await;
    let orphan = lab.start(&lost, &lab.spec("orphan", Act::Stubborn)).await;
    let processes = lab.processes(&orphan);
    lab.down().await;
    let state = lab.config.state_dir.clone();
    fs::remove_dir_all(state.join("sandboxes/lost")).unwrap();
    lab.network.given.lock().unwrap().remove(&lost);
    for garbage in
        ["containers/half-made/oci", "writable/nobody/upper", "sandboxes/empty", "sandboxes/torn", "containers/torn"]
    {
        fs::create_dir_all(state.join(garbage)).unwrap();
    }
    fs::write(state.join("sandboxes/torn/sandbox.json"), "").unwrap();
    fs::write(state.join("containers/torn/container.json"), "{\"id\"").unwrap();
    lab.up().await;
    assert!(processes.init.open().unwrap().is_none(), "the orphan is ended");
    assert!(matches!(lab.state(&kept).await, ContainerState::Running { .. }));
    assert_eq!(lab.runtime().containers(None).await.unwrap().len(), 1);
    assert_eq!(fs::read_dir(state.join("namespaces")).unwrap().count(), 1);
    assert_eq!(shim::cgroup::children(&lab.config.cgroup_parent), ["uid-kept"]);
    lab.runtime().remove_sandbox(&pod).await.unwrap();
}
