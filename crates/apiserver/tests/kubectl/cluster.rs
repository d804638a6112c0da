//! A server with TLS on loopback and the kubectls of this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use apiserver::pki::{Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer, server_config};
use async_trait::async_trait;
use store::{Embedded, Options};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Every node's agent has one thing to say.
struct Agents;

#[async_trait]
impl NodeDialer for Agents {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        let (ours, theirs) = tokio::io::duplex(4096);
        let line = format!("said on {node}\n");
        tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            let mut head = String::new();
            while theirs.read_line(&mut head).await.unwrap() > 2 {}
            let length = line.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{line}");
            theirs.write_all(answer.as_bytes()).await.unwrap();
        });
        Ok(Box::new(ours))
    }
}

/// The kubectls to test with: 1.33 must be there, 1.36 is used where it is.
pub fn kubectls() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    places.push("/usr/lib/google-cloud-sdk/bin".into());
    let named = |name: &str| places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    let mut found = vec![
        named("kubectl.1.33").or_else(|| named("kubectl")).expect("kubectl 1.33 is needed: put kubectl on the PATH"),
    ];
    let peers =
        std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".cache/portolan-peers/bin/kubectl");
    found.extend(Some(peers).filter(|path| path.is_file()));
    found
}

/// A running server with a directory of its own.
pub struct Cluster {
    pub directory: PathBuf,
    pub pki: Pki,
    pub url: String,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Cluster {
    pub async fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("apiserver-kubectl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let store = Embedded::open(&directory.join("state.db"), Options::default()).unwrap();
        let config = Config {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_port_range: 30000..=32767,
            advertise: "172.30.0.2:6443".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
        };
        let api = ApiServer::new(Arc::new(store), config, Arc::new(Agents)).unwrap();
        api.bootstrap().await.unwrap();
        let names = ServerNames { cluster_domain: "cluster.local".into(), ..ServerNames::default() };
        let pki = Pki::open(&directory.join("pki"), &names).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        apiserver::pki::write(&directory.join("kubeconfig"), &pki.kubeconfig("portolan", &url)).unwrap();
        let stop = CancellationToken::new();
        let tls = server_config(&pki).unwrap();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { api.serve_tls(listener, tls, stop).await }
        });
        Cluster { directory, pki, url, stop, serving: Some(serving) }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        self.serving.take().unwrap().await.unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    /// A file of the cluster's directory.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn kubectl(&self, program: &Path) -> Kubectl {
        Kubectl { program: program.to_owned(), directory: self.directory.clone() }
    }
}

/// One kubectl with its kubeconfig and cache.
pub struct Kubectl {
    program: PathBuf,
    directory: PathBuf,
}

impl Kubectl {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(shlex::split(line).unwrap())
            .current_dir(&self.directory)
            .env("HOME", &self.directory)
            .env("KUBECONFIG", self.directory.join("kubeconfig"))
            .env("KUBE_EDITOR", self.directory.join("editor"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command that must succeed; answers what it printed.
    pub async fn run(&self, line: &str) -> String {
        let output = self.command(line).output().await.unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "kubectl {line}\n{out}{err}");
        assert!(!err.contains("Warning"), "kubectl {line}\n{err}");
        out
    }

    /// Runs a command that must fail; answers its complaint.
    pub async fn refused(&self, line: &str) -> String {
        let output = self.command(line).output().await.unwrap();
        assert!(!output.status.success(), "kubectl {line}\n{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts a command that goes on.
    pub fn follow(&self, line: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }
}
