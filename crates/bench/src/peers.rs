//! The originals as processes: kube-apiserver with its etcd, and kube-proxy. Not responsible for building them: `cargo
//! xtask peers` does.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apiserver::pki::{Pki, ServerNames};
use netns::NetNs;
use testkit::Temporary;

use crate::lab::{self, run};
use crate::process::Process;
use crate::source::{Mode, NODE};

const STARTS: Duration = Duration::from_secs(60);

/// The real kube-apiserver, and the etcd it needs.
pub struct RealApi {
    server: Process,
    _etcd: Process,
    pub namespace: NetNs,
    pub address: SocketAddr,
    pub began: Instant,
    _scratch: Temporary,
}

impl RealApi {
    /// Starts etcd, waits for it, then starts the server; it isn't ready yet.
    pub fn start(program: &Path, etcd: &Path) -> Result<RealApi> {
        let (namespace, scratch) = (lab::namespace()?, Temporary::new());
        // The server wants an address of its own and a route.
        run(&namespace, &["ip", "link", "add", "self", "type", "veth", "peer", "name", "other"])?;
        run(&namespace, &["ip", "address", "add", "192.0.2.1/24", "dev", "self"])?;
        for link in ["self", "other"] {
            run(&namespace, &["ip", "link", "set", link, "up"])?;
        }
        run(&namespace, &["ip", "route", "add", "default", "dev", "self"])?;
        let mut command = Command::new(etcd);
        command.arg("--data-dir").arg(scratch.path().join("etcd"));
        let mut etcd = Process::start(&namespace, command, &scratch.path().join("etcd.log"))?;
        etcd.until("etcd", STARTS, |_| {
            let connect = || std::net::TcpStream::connect(("127.0.0.1", 2379)).ok();
            namespace.run(connect).ok().flatten()
        })?;
        let names =
            ServerNames { addresses: Vec::new(), names: Vec::new(), cluster_domain: "cluster.local".to_owned() };
        let server = Pki::in_memory(&names).context("cannot make keys")?.server;
        let certificate = scratch.file("server.crt", &server.certificate);
        let key = scratch.file("server.key", &server.key);
        let tokens = scratch.file("tokens.csv", "bench,bench,bench,system:masters\n");
        let mut command = Command::new(program);
        command
            .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--advertise-address=192.0.2.1"])
            .args(["--service-cluster-ip-range=10.96.0.0/12", "--service-account-issuer=https://bench"])
            .args(["--authorization-mode=Node,RBAC"])
            .arg(format!("--service-account-key-file={}", certificate.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!("--cert-dir={}", scratch.path().join("certificates").display()));
        let server = Process::start(&namespace, command, &scratch.path().join("apiserver.log"))?;
        let (address, began) = (SocketAddr::from(([127, 0, 0, 1], 6443)), server.began);
        Ok(RealApi { server, _etcd: etcd, namespace, address, began, _scratch: scratch })
    }

    /// An error with its last words, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.server.check()
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// Starts the real kube-proxy, against an API by kubeconfig; `name` tells it apart from others.
pub fn kube_proxy(
    program: &Path,
    namespace: &NetNs,
    kubeconfig: &Path,
    scratch: &Temporary,
    mode: Mode,
    name: &str,
) -> Result<Process> {
    let config = scratch.file(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             hostnameOverride: {NODE}\nclientConnection:\n  kubeconfig: {}\n  contentType: application/json\n  \
             acceptContentTypes: application/json\nconntrack:\n  maxPerCore: 0\n  min: 0\n{mode}:\n  \
             minSyncPeriod: 10ms\n  syncPeriod: 1h\n",
            kubeconfig.display(),
            mode = mode.name(),
        ),
    );
    let mut command = Command::new(program);
    command.arg("--config").arg(config).arg("--v=2");
    if mode.is_iptables() {
        command.env("PATH", flavour(scratch, mode)?);
    }
    Process::start(namespace, command, &scratch.path().join(format!("{name}.log")))
}

/// A PATH on which `iptables` and its like are of one flavour.
fn flavour(scratch: &Temporary, mode: Mode) -> Result<OsString> {
    let (folder, infix) = match mode {
        Mode::IptablesLegacy => ("legacy", "-legacy"),
        _ => ("nft", "-nft"),
    };
    let folder = scratch.path().join(folder);
    std::fs::create_dir_all(&folder)?;
    for stem in ["iptables", "ip6tables"] {
        for what in ["", "-save", "-restore"] {
            let link = folder.join(format!("{stem}{what}"));
            if !link.exists() {
                std::os::unix::fs::symlink(format!("/usr/sbin/{stem}{infix}{what}"), link)?;
            }
        }
    }
    let mut path = folder.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Ok(path)
}
