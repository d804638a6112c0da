//! What every runtime must do, whatever it is made of. A runtime's own test gives a `Subject` and runs each case.
//!
//! Cases panic when the runtime is wrong. Not responsible for what only one implementation can leave behind (mounts,
//! groups, processes): its own test looks after every case.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;

use crate::{
    ContainerId, ContainerSpec, ContainerState, Exit, Mount, PodRuntime, RuntimeError, STATUS_UNKNOWN, SandboxId,
    SandboxNetwork, SandboxSpec,
};

/// More than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SIGTERM: i32 = 15;
const PODS: usize = 20;

/// A runtime under test and what its images can do.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The runtime as an agent that's up has it.
    fn runtime(&self) -> Arc<dyn PodRuntime>;
    /// The agent goes: nothing of the runtime runs in this process any more.
    async fn down(&mut self);
    /// The agent comes back.
    async fn up(&mut self);
    /// An image that is on the node.
    fn image(&self) -> &str;
    /// A directory for logs and mounts.
    fn directory(&self) -> &Path;
    /// A command in that image.
    fn command(&self, act: Act) -> Vec<String>;
}

/// What a container is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// End with this code.
    Exit(i32),
    /// Say `up` on standard output, and end with code 0 at SIGTERM.
    Stay,
    /// Say `up`, and do nothing at SIGTERM.
    Stubborn,
    /// Write the first to standard output, the second to standard error, and end.
    Say(String, String),
    /// Say who and where it is: `uid=`, `gid=`, `groups=` (comma-separated), `host=`, `cwd=`, `net=` (the namespace's
    /// link), then the environment as `env:NAME=VALUE`; a line each.
    Tell,
    /// Write a file; end with 0 if that worked, else with 1.
    Write(PathBuf),
    /// End with 0 if there is such a file, else with 1.
    Look(PathBuf),
    /// End with this code as soon as there is such a file.
    EndAt(PathBuf, i32),
}

/// The names `run` takes.
pub const CASES: [&str; 16] = [
    "exit-codes",
    "logs",
    "graceful-stop",
    "kill-after-grace",
    "end-with-node",
    "exec",
    "environment",
    "mounts",
    "cannot-run",
    "repeatable",
    "restarted-container",
    "one-pod-one-network",
    "agent-restart",
    "end-while-agent-is-down",
    "many-pods",
    "images",
];

/// Runs one case, and removes what it made.
pub async fn run(case: &str, subject: &mut dyn Subject) {
    match case {
        "exit-codes" => exit_codes(subject).await,
        "logs" => logs(subject).await,
        "graceful-stop" => graceful_stop(subject).await,
        "kill-after-grace" => kill_after_grace(subject).await,
        "end-with-node" => end_with_node(subject).await,
        "exec" => exec(subject).await,
        "environment" => environment(subject).await,
        "mounts" => mounts(subject).await,
        "cannot-run" => cannot_run(subject).await,
        "repeatable" => repeatable(subject).await,
        "restarted-container" => restarted_container(subject).await,
        "one-pod-one-network" => one_pod_one_network(subject).await,
        "agent-restart" => agent_restart(subject).await,
        "end-while-agent-is-down" => end_while_agent_is_down(subject).await,
        "many-pods" => many_pods(subject).await,
        "images" => images(subject).await,
        unknown => panic!("no case {unknown:?}"),
    }
    let runtime = subject.runtime();
    let left = runtime.sandboxes().await.expect("sandboxes are listed");
    let left: Vec<_> = left.iter().map(|sandbox| &sandbox.spec.id).collect();
    assert!(left.is_empty(), "sandboxes left: {left:?}");
    assert!(runtime.containers(None).await.expect("containers are listed").is_empty());
}

/// One pod of the case at hand.
struct Pod {
    runtime: Arc<dyn PodRuntime>,
    id: SandboxId,
    template: ContainerSpec,
    directory: PathBuf,
}

impl Pod {
    async fn run(subject: &dyn Subject, name: &str) -> Self {
        let pod = Self {
            runtime: subject.runtime(),
            id: SandboxId(format!("{name}-0")),
            template: ContainerSpec { image: subject.image().to_owned(), ..ContainerSpec::default() },
            directory: subject.directory().join(name),
        };
        let status = pod.runtime.run_sandbox(&sandbox_spec(name)).await.expect("the sandbox runs");
        assert!(status.ready);
        assert_eq!(status.spec, sandbox_spec(name));
        pod
    }

    fn spec(&self, name: &str, command: Vec<String>) -> ContainerSpec {
        let log_path = self.directory.join(format!("{name}.log"));
        ContainerSpec { name: name.to_owned(), command, log_path, ..self.template.clone() }
    }

    async fn start(&self, spec: &ContainerSpec) -> ContainerId {
        let id = self.runtime.create_container(&self.id, spec).await.expect("the container is created");
        assert_eq!(self.state(&id).await, ContainerState::Created);
        self.runtime.start_container(&id).await.expect("the container starts");
        id
    }

    async fn finish(&self, spec: &ContainerSpec) -> Exit {
        let id = self.start(spec).await;
        ended(&*self.runtime, &id).await
    }

    async fn state(&self, id: &ContainerId) -> ContainerState {
        state(&*self.runtime, id).await
    }

    /// Waits until the log has this many lines, and gives their stream, tag and text.
    async fn log(&self, name: &str, lines: usize) -> Vec<(String, String, String)> {
        let path = self.directory.join(format!("{name}.log"));
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let give_up = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= lines && text.ends_with('\n') || lines == 0 {
                return text.lines().map(log_line).collect();
            }
            assert!(Instant::now() < give_up, "the log never had {lines} lines: {text:?}");
            tick.tick().await;
        }
    }

    async fn remove(self) {
        self.runtime.stop_sandbox(&self.id).await.expect("the sandbox stops");
        let stopped = self.runtime.sandboxes().await.expect("sandboxes are listed");
        assert!(
            stopped.iter().any(|status| status.spec.id == self.id && !status.ready),
            "a stopped sandbox stays listed"
        );
        self.runtime.remove_sandbox(&self.id).await.expect("the sandbox is removed");
    }
}

fn sandbox_spec(name: &str) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId(format!("{name}-0")),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        hostname: format!("host-{name}"),
        network: SandboxNetwork::Pod,
        of_node: Default::default(),
        host_ports: Vec::new(),
        sysctls: [].into(),
        cpu_shares: None,
        annotations: [("a".to_owned(), "b".to_owned())].into(),
    }
}

/// The timestamp is checked here, since no case looks at it.
fn log_line(line: &str) -> (String, String, String) {
    let mut parts = line.splitn(4, ' ').map(str::to_owned);
    let mut part = || parts.next().expect("a CRI log line has four parts");
    let time = part();
    assert!(
        time.len() == "2024-01-01T00:00:00.000000000Z".len() && time.ends_with('Z'),
        "{time:?} is no RFC3339Nano time"
    );
    (part(), part(), part())
}

async fn state(runtime: &dyn PodRuntime, id: &ContainerId) -> ContainerState {
    let all = runtime.containers(None).await.expect("containers are listed");
    all.into_iter().find(|status| status.id == *id).expect("the container is listed").state
}

/// Waits for the container's end as an agent does: woken by changes, judging by the list.
async fn ended(runtime: &dyn PodRuntime, id: &ContainerId) -> Exit {
    let mut changes = runtime.changes();
    let waiting = async {
        loop {
            if let ContainerState::Exited(exit) = state(runtime, id).await {
                return exit;
            }
            changes.recv().await.expect("the runtime is there");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{id:?} never ended, or nobody said so"))
}

async fn exit_codes(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "exit-codes").await;
    for (code, reason) in [(0, "Completed"), (7, "Error"), (255, "Error")] {
        let exit = pod.finish(&pod.spec(&format!("exits-{code}"), subject.command(Act::Exit(code)))).await;
        assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (code, None, reason));
        assert!(exit.started_at > 0 && exit.finished_at >= exit.started_at);
    }
    pod.remove().await;
}

async fn logs(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "logs").await;
    let long = "x".repeat(16 * 1024 + 5);
    let said = Act::Say(format!("one\n{long}\nno newline"), "oops\n".to_owned());
    pod.finish(&pod.spec("says", subject.command(said))).await;
    let lines = pod.log("says", 5).await;
    let of = |stream: &str| -> Vec<(&str, usize)> {
        lines.iter().filter(|line| line.0 == stream).map(|line| (line.1.as_str(), line.2.len())).collect()
    };
    assert_eq!(of("stdout"), [("F", 3), ("P", 16 * 1024), ("F", 5), ("P", 10)]);
    assert_eq!(of("stderr"), [("F", 4)]);
    pod.remove().await;
    assert!(subject.directory().join("logs/says.log").exists(), "logs outlive their pod");
}

async fn graceful_stop(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "graceful").await;
    let id = pod.start(&pod.spec("stays", subject.command(Act::Stay))).await;
    pod.log("stays", 1).await;
    assert!(matches!(pod.state(&id).await, ContainerState::Running { started_at } if started_at > 0));
    assert!(matches!(pod.runtime.remove_container(&id).await, Err(RuntimeError::StillRunning(_))));
    pod.runtime.stop_container(&id, SIGTERM, PATIENCE).await.expect("the container stops");
    assert!(
        matches!(pod.state(&id).await, ContainerState::Exited(exit) if exit.code == 0 && exit.reason == "Completed")
    );
    pod.remove().await;
}

async fn kill_after_grace(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "kill").await;
    let id = pod.start(&pod.spec("stubborn", subject.command(Act::Stubborn))).await;
    pod.log("stubborn", 1).await;
    let before = Instant::now();
    pod.runtime.stop_container(&id, SIGTERM, Duration::from_millis(300)).await.expect("the container stops");
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert!(matches!(pod.state(&id).await, ContainerState::Exited(exit) if exit.code == 137 && exit.signal == Some(9)));
    pod.remove().await;
}

async fn exec(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "exec").await;
    let mut spec = pod.spec("stays", subject.command(Act::Stay));
    spec.env = vec![("OWN".to_owned(), "value".to_owned())];
    let id = pod.start(&spec).await;
    pod.log("stays", 1).await;
    let run = |act: Act, timeout: Duration| {
        let command = subject.command(act);
        let (runtime, id) = (Arc::clone(&pod.runtime), id.clone());
        async move { runtime.exec(&id, &command, timeout).await }
    };
    let said = run(Act::Say("out".to_owned(), "err".to_owned()), Duration::ZERO).await.expect("exec works");
    assert_eq!((said.exit_code, said.stdout.as_slice(), said.stderr.as_slice()), (0, &b"out"[..], &b"err"[..]));
    assert_eq!(run(Act::Exit(5), PATIENCE).await.expect("exec works").exit_code, 5);
    let told = String::from_utf8(run(Act::Tell, PATIENCE).await.expect("exec works").stdout).expect("text");
    assert!(told.contains("env:OWN=value\n") && told.contains("host=host-exec\n"), "{told}");
    let timeout = Duration::from_millis(200);
    assert!(matches!(run(Act::Stubborn, timeout).await, Err(RuntimeError::ExecTimeout(after)) if after == timeout));
    let missing = pod.runtime.exec(&id, &["/no/such/program".to_owned()], PATIENCE).await;
    assert!(matches!(missing, Err(RuntimeError::CannotRun(message)) if message.contains("no such file")));
    let at_once = join_all((0..8).map(|code| run(Act::Exit(code), PATIENCE))).await;
    let codes: Vec<i32> = at_once.into_iter().map(|output| output.expect("exec works").exit_code).collect();
    assert_eq!(codes, (0..8).collect::<Vec<_>>());
    pod.runtime.stop_container(&id, SIGTERM, PATIENCE).await.expect("the container stops");
    assert!(matches!(run(Act::Exit(0), PATIENCE).await, Err(RuntimeError::NotRunning(_))));
    let nobody = ContainerId("nobody".to_owned());
    assert!(matches!(pod.runtime.exec(&nobody, &["/x".to_owned()], PATIENCE).await, Err(RuntimeError::NoContainer(_))));
    pod.remove().await;
}

async fn environment(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "environment").await;
    let mut spec = pod.spec("tells", subject.command(Act::Tell));
    spec.env = vec![("A".to_owned(), "first".to_owned()), ("A".to_owned(), "last".to_owned())];
    spec.user = Some("1234:56".to_owned());
    spec.supplemental_groups = vec![77];
    spec.working_dir = Some("/made/for/this".to_owned());
    assert_eq!(pod.finish(&spec).await.code, 0);
    let told: Vec<String> = pod.log("tells", 6).await.into_iter().map(|line| line.2).collect();
    let expected = ["uid=1234", "gid=56", "groups=77", "host=host-environment", "cwd=/made/for/this", "env:A=last"];
    for line in expected {
        assert!(told.iter().any(|told| told == line), "{line} is missing in {told:?}");
    }
    assert!(!told.iter().any(|told| told == "env:A=first"));
    pod.remove().await;
}

async fn mounts(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "mounts").await;
    let (file, shared) = (subject.directory().join("mounts/file"), subject.directory().join("mounts/shared"));
    std::fs::create_dir_all(&shared).expect("a directory");
    std::fs::write(&file, "content").expect("a file");
    let mount = |source: &Path, target: &str, read_only| Mount {
        source: source.to_owned(),
        inside: None,
        target: target.into(),
        read_only,
    };
    let with = |name: &str, act: Act| ContainerSpec {
        mounts: vec![
            mount(&file, "/etc/hosts", true),
            mount(&shared, "/shared", false),
            mount(&shared, "/shared-ro", true),
        ],
        ..pod.spec(name, subject.command(act))
    };
    assert_eq!(pod.finish(&with("reads", Act::Look("/etc/hosts".into()))).await.code, 0);
    assert_eq!(pod.finish(&with("writes", Act::Write("/shared/new".into()))).await.code, 0);
    assert!(shared.join("new").exists());
    assert_eq!(pod.finish(&with("writes-ro", Act::Write("/shared-ro/newer".into()))).await.code, 1);
    assert_eq!(pod.finish(&with("writes-file", Act::Write("/etc/hosts".into()))).await.code, 1);
    assert_eq!(pod.finish(&with("writes-root", Act::Write("/anything".into()))).await.code, 0);
    let read_only = ContainerSpec { read_only_root: true, ..with("read-only-root", Act::Write("/anything".into())) };
    assert_eq!(pod.finish(&read_only).await.code, 1);
    let missing = ContainerSpec {
        mounts: vec![mount(Path::new("/no/such"), "/x", true)],
        ..pod.spec("missing", subject.command(Act::Stay))
    };
    let refused = pod.runtime.create_container(&pod.id, &missing).await;
    assert!(matches!(refused, Err(RuntimeError::CannotRun(message)) if message.contains("/no/such")));
    pod.remove().await;
}

async fn cannot_run(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "cannot-run").await;
    for (name, program, wanted) in [
        ("absolute", "/no/such/program", "no such file or directory"),
        ("bare", "no-such-program", "executable file not found in $PATH"),
        ("directory", "/etc", "permission denied"),
    ] {
        let id = pod
            .runtime
            .create_container(&pod.id, &pod.spec(name, vec![program.to_owned()]))
            .await
            .expect("it is created");
        let refused = pod.runtime.start_container(&id).await;
        assert!(matches!(&refused, Err(RuntimeError::CannotRun(message)) if message.contains(wanted)), "{refused:?}");
        let ContainerState::Exited(exit) = pod.state(&id).await else { panic!("it has no exit") };
        assert_eq!((exit.code, exit.reason.as_str()), (128, "ContainerCannotRun"));
        assert!(exit.message.contains(wanted));
    }
    let nobody =
        ContainerSpec { user: Some("no-such-user".to_owned()), ..pod.spec("user", subject.command(Act::Stay)) };
    let refused = pod.runtime.create_container(&pod.id, &nobody).await;
    assert!(matches!(refused, Err(RuntimeError::CannotRun(message)) if message.contains("no-such-user")));
    pod.remove().await;
}

async fn repeatable(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "repeatable").await;
    let (runtime, spec) = (Arc::clone(&pod.runtime), pod.spec("stays", subject.command(Act::Stay)));
    let first = runtime.run_sandbox(&sandbox_spec("repeatable")).await.expect("it runs again");
    assert_eq!(runtime.run_sandbox(&sandbox_spec("repeatable")).await.expect("and again"), first);
    let id = pod.start(&spec).await;
    assert_eq!(runtime.create_container(&pod.id, &spec).await.expect("it is created again"), id);
    runtime.start_container(&id).await.expect("it starts again");
    assert_eq!(runtime.containers(Some(&pod.id)).await.expect("listed").len(), 1);
    for _ in 0..2 {
        runtime.stop_container(&id, SIGTERM, Duration::from_millis(200)).await.expect("it stops");
    }
    for _ in 0..2 {
        runtime.remove_container(&id).await.expect("it is removed");
    }
    let sandbox = pod.id.clone();
    pod.remove().await;
    runtime.stop_sandbox(&sandbox).await.expect("a removed sandbox stops");
    runtime.remove_sandbox(&sandbox).await.expect("a removed sandbox is removed");
    assert!(matches!(runtime.start_container(&id).await, Err(RuntimeError::NoContainer(_))));
    assert!(matches!(runtime.create_container(&sandbox, &spec).await, Err(RuntimeError::NoSandbox(_))));
}

async fn restarted_container(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "restarted").await;
    let mut spec = pod.spec("writes", subject.command(Act::Write("/written".into())));
    assert_eq!(pod.finish(&spec).await.code, 0);
    spec.attempt = 1;
    spec.command = subject.command(Act::Look("/written".into()));
    assert_eq!(pod.finish(&spec).await.code, 1, "what a container wrote ends with it");
    let all = pod.runtime.containers(Some(&pod.id)).await.expect("listed");
    assert_eq!(all.iter().map(|status| status.attempt).collect::<Vec<_>>(), [0, 1]);
    pod.remove().await;
}

async fn one_pod_one_network(subject: &mut dyn Subject) {
    let (pod, other) = (Pod::run(subject, "network").await, Pod::run(subject, "network-other").await);
    let mut seen = Vec::new();
    for (pod, name) in [(&pod, "one"), (&pod, "two"), (&other, "three")] {
        pod.finish(&pod.spec(name, subject.command(Act::Tell))).await;
        let lines = pod.log(name, 6).await;
        seen.push(lines.into_iter().map(|line| line.2).find(|text| text.starts_with("net=")).expect("it tells"));
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
    let statuses = pod.runtime.sandboxes().await.expect("listed");
    let addresses: Vec<_> = statuses.iter().map(|status| status.addresses.clone()).collect();
    assert!(addresses.iter().all(|list| !list.is_empty()) && addresses[0] != addresses[1], "{addresses:?}");
    assert!(statuses.iter().all(|status| status.network_namespace.as_ref().is_some_and(|path| path.exists())));
    pod.remove().await;
    other.remove().await;
}

async fn agent_restart(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "survivor").await;
    let id = pod.start(&pod.spec("stays", subject.command(Act::Stay))).await;
    pod.log("stays", 1).await;
    let created = pod
        .runtime
        .create_container(&pod.id, &pod.spec("created", subject.command(Act::Exit(3))))
        .await
        .expect("created");
    let (before, sandboxes) = (pod.state(&id).await, pod.runtime.sandboxes().await.expect("listed"));
    let Pod { runtime, id: sandbox, template, directory } = pod;
    drop(runtime);
    subject.down().await;
    subject.up().await;
    let pod = Pod { runtime: subject.runtime(), id: sandbox, template, directory };
    assert_eq!(pod.state(&id).await, before);
    assert_eq!(pod.runtime.sandboxes().await.expect("listed"), sandboxes);
    let output = pod.runtime.exec(&id, &subject.command(Act::Exit(4)), PATIENCE).await.expect("exec works");
    assert_eq!(output.exit_code, 4);
    pod.runtime.start_container(&created).await.expect("what was only created starts");
    assert_eq!(ended(&*pod.runtime, &created).await.code, 3);
    pod.runtime.stop_container(&id, SIGTERM, PATIENCE).await.expect("it stops");
    assert!(matches!(pod.state(&id).await, ContainerState::Exited(exit) if exit.code == 0));
    pod.remove().await;
}

/// Who listens ends; who doesn't isn't waited for. Neither is said to have done what it was for.
async fn end_with_node(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "farewell").await;
    let listens = pod.start(&pod.spec("listens", subject.command(Act::Stay))).await;
    let never = subject.directory().join("never");
    let deaf = pod.start(&pod.spec("deaf", subject.command(Act::EndAt(never, 0)))).await;
    pod.log("listens", 1).await;
    for id in [&listens, &deaf] {
        pod.runtime.end_with_node(id, SIGTERM).await.expect("the container is told");
    }
    assert!(matches!(pod.state(&deaf).await, ContainerState::Running { .. }), "nobody listens there");
    let Pod { runtime, id, template, directory } = pod;
    drop(runtime);
    subject.down().await;
    subject.up().await;
    let pod = Pod { runtime: subject.runtime(), id, template, directory };
    let ContainerState::Exited(exit) = pod.state(&listens).await else { panic!("it has not ended") };
    assert_eq!((exit.code, exit.reason.as_str()), (137, STATUS_UNKNOWN), "it ended with 0, but was interrupted");
    pod.remove().await;
}

async fn end_while_agent_is_down(subject: &mut dyn Subject) {
    let pod = Pod::run(subject, "unseen").await;
    let signs = subject.directory().join("unseen/signs");
    std::fs::create_dir_all(&signs).expect("a directory");
    let mut ids = Vec::new();
    for (name, code) in [("down", 9), ("up", 8)] {
        let mut spec = pod.spec(name, subject.command(Act::EndAt(Path::new("/signs").join(name), code)));
        spec.mounts = vec![Mount { source: signs.clone(), inside: None, target: "/signs".into(), read_only: true }];
        ids.push(pod.start(&spec).await);
    }
    let Pod { runtime, id: sandbox, template, directory } = pod;
    drop(runtime);
    subject.down().await;
    std::fs::write(signs.join("down"), "").expect("a file");
    subject.up().await;
    let pod = Pod { runtime: subject.runtime(), id: sandbox, template, directory };
    assert_eq!(ended(&*pod.runtime, &ids[0]).await.code, 9);
    std::fs::write(signs.join("up"), "").expect("a file");
    assert_eq!(ended(&*pod.runtime, &ids[1]).await.code, 8);
    pod.remove().await;
}

async fn many_pods(subject: &mut dyn Subject) {
    let subject = &*subject;
    let one = |number: usize| async move {
        let pod = Pod::run(subject, &format!("many-{number}")).await;
        let id = pod.start(&pod.spec("stays", subject.command(Act::Stay))).await;
        pod.log("stays", 1).await;
        let exit = pod.finish(&pod.spec("exits", subject.command(Act::Exit(number as i32)))).await;
        assert_eq!(exit.code, number as i32);
        assert!(matches!(pod.state(&id).await, ContainerState::Running { .. }));
        pod
    };
    let pods = join_all((0..PODS).map(one)).await;
    let runtime = subject.runtime();
    let statuses = runtime.sandboxes().await.expect("listed");
    assert_eq!(statuses.iter().filter(|status| status.ready).count(), PODS);
    assert_eq!(runtime.containers(None).await.expect("listed").len(), 2 * PODS);
    join_all(pods.into_iter().map(Pod::remove)).await;
}

async fn images(subject: &mut dyn Subject) {
    let runtime = subject.runtime();
    let image = runtime.image(subject.image()).await.expect("it is looked up").expect("it is there");
    assert!(image.id.starts_with("sha256:") && image.tags.iter().any(|tag| tag == subject.image()));
    assert!(runtime.images().await.expect("listed").contains(&image));
    assert_eq!(runtime.image("registry.invalid/none:1").await.expect("it is looked up"), None);
    let pulled = runtime.pull("registry.invalid/none:1", &[]).await;
    assert!(matches!(pulled, Err(RuntimeError::Pull { reference, .. }) if reference == "registry.invalid/none:1"));
    assert!(matches!(runtime.image("NO NAME").await, Err(RuntimeError::InvalidImageName { .. })));
    let pod = Pod::run(subject, "images").await;
    let spec =
        ContainerSpec { image: "registry.invalid/none:1".to_owned(), ..pod.spec("none", subject.command(Act::Stay)) };
    assert!(matches!(pod.runtime.create_container(&pod.id, &spec).await, Err(RuntimeError::NoImage(_))));
    pod.remove().await;
}
