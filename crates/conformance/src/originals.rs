//! A real control plane: etcd and kube-apiserver, and whatever else of it is asked for. Ends with its handle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apiserver::pki::{Pki, ServerNames};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::{ADDRESS, SERVICE_CIDR};

/// How long a program may take until it is ready.
const READY: Duration = Duration::from_secs(90);
/// How many times slower than usual the machine is; a guest says so.
const SLOWNESS: &str = "PORTOLAN_TEST_PATIENCE";
const ETCD: &str = "http://127.0.0.1:2379";
const URL: &str = "https://127.0.0.1:6443";

/// Where `cargo xtask peers` put a program.
pub fn program(name: &str) -> Result<PathBuf> {
    let cache = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let home = std::env::var_os("PORTOLAN_PEERS").map(PathBuf::from);
    let home = home.or_else(|| Some(cache()?.join("portolan-peers"))).context("HOME is not set")?;
    let path = home.join("bin").join(name);
    if !path.is_file() {
        bail!("there is no {}: `cargo xtask peers {name}` builds it", path.display());
    }
    Ok(path)
}

/// A program that runs until its handle is dropped. Its words are in a file.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts one with its output in `directory`. It is also killed when the thread that starts it ends, so start it
    /// from one that lives as long as the program is needed (the main one, say).
    pub fn start(directory: &Path, path: &Path, arguments: &[String]) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(path).args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Program { name, child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` says so; fails when the program ends first.
    pub fn until(&mut self, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        let (begun, patience) = (Instant::now(), patience());
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, last_lines(&self.said()));
            }
            if ready(self) {
                return Ok(());
            }
            if begun.elapsed() > patience {
                bail!("{} is not ready within {patience:?}: {}", self.name, last_lines(&self.said()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only for a process that is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn patience() -> Duration {
    READY * std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// A running control plane. Dropping it ends its programs and removes its files.
pub struct Originals {
    // In the order in which they have to end.
    parts: Vec<Program>,
    apiserver: Program,
    _etcd: Program,
    directory: PathBuf,
    started_in: Duration,
}

impl Originals {
    /// The bearer token of the administrator.
    pub const TOKEN: &str = "the-administrator";

    /// Starts etcd and kube-apiserver with further flags (of equal flags the last counts) and waits until it is ready.
    /// Blocks. Call `enter_own_network` before: the ports are the usual ones.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("portolan-originals-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        write_credentials(&directory)?;
        let etcd = etcd(&directory)?;
        let begun = Instant::now();
        let apiserver = apiserver(&directory, flags)?;
        Ok(Originals { parts: Vec::new(), apiserver, _etcd: etcd, directory, started_in: begun.elapsed() })
    }

    pub fn url(&self) -> &'static str {
        URL
    }

    /// Of an administrator, with a client certificate.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Where its files and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn apiserver(&self) -> &Program {
        &self.apiserver
    }

    /// From the start of kube-apiserver's process to its first `ok` on /readyz.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// A client of the real server, as administrator.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// Adds kube-controller-manager, by default with every controller; waits until it leads. `flags` are added.
    pub fn controller_manager(&mut self, flags: &[&str]) -> Result<&Program> {
        let kubeconfig = self.kubeconfig();
        let mut arguments = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-ca-file={}", self.directory.join("ca.crt").display()),
            format!("--service-account-private-key-file={}", self.directory.join("server.key").display()),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=false".to_owned(),
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=2000".to_owned(),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut program = Program::start(&self.directory, &program("kube-controller-manager")?, &arguments)?;
        program.until(|_| answers("https://127.0.0.1:10257/healthz"))?;
        self.part(program)
    }

    /// Adds kube-proxy for a node, which has to exist with an InternalIP. `flags` are added. Doesn't wait.
    pub fn proxy(&mut self, node: &str, flags: &[&str]) -> Result<&Program> {
        let mut arguments = vec![
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--hostname-override={node}"),
            "--conntrack-max-per-core=0".to_owned(),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let program = Program::start(&self.directory, &program("kube-proxy")?, &arguments)?;
        self.part(program)
    }

    fn part(&mut self, program: Program) -> Result<&Program> {
        self.parts.push(program);
        self.parts.last().context("a part was just added")
    }
}

impl Drop for Originals {
    fn drop(&mut self) {
        self.parts.clear();
        // What is left of a directory for temporary files hurts nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A client by a kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("reading the kubeconfig")?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // What a server answers is to be seen, whatever it is.
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

fn write_credentials(directory: &Path) -> Result<()> {
    let names = ServerNames { addresses: vec![ADDRESS.into()], cluster_domain: "cluster.local".into(), names: vec![] };
    let pki = Pki::in_memory(&names)?;
    let files = [
        ("ca.crt", pki.ca().to_owned()),
        ("server.crt", pki.server.certificate.clone()),
        ("server.key", pki.server.key.clone()),
        ("kubeconfig", pki.kubeconfig("original", URL)),
        ("tokens", format!("{},administrator,administrator,system:masters\n", Originals::TOKEN)),
    ];
    for (name, content) in files {
        apiserver::pki::write(&directory.join(name), &content)?;
    }
    Ok(())
}

fn etcd(directory: &Path) -> Result<Program> {
    let arguments = [
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let mut etcd = Program::start(directory, &program("etcd")?, &arguments)?;
    etcd.until(|_| answers(&format!("{ETCD}/health")))?;
    Ok(etcd)
}

fn apiserver(directory: &Path, flags: &[&str]) -> Result<Program> {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut arguments = vec![
        format!("--etcd-servers={ETCD}"),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={ADDRESS}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("server.crt")),
        format!("--service-account-signing-key-file={}", file("server.key")),
        format!("--token-auth-file={}", file("tokens")),
        "--authorization-mode=Node,RBAC".to_owned(),
    ];
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut apiserver = Program::start(directory, &program("kube-apiserver")?, &arguments)?;
    apiserver.until(|_| answers(&format!("{URL}/readyz")))?;
    Ok(apiserver)
}

/// Whether a GET is answered by a success.
fn answers(url: &str) -> bool {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--fail", "--max-time", "2", "--output", "/dev/null"]);
    curl.args(["--header", &format!("Authorization: Bearer {}", Originals::TOKEN), url]);
    curl.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
