//! The proxy under test as a process on the rig's node, told of the stage's setup by kube-proxy's own configuration. Not
//! responsible for what it then does.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conformance::{Program, program};
use proxy::battery::World;
use proxy::battery::table::Setup;
use proxy_rig::Rig;
use serde_json::{Value, json};
use service_model::IpFamily;

use super::cluster::Cluster;
use super::{Mode, Options, Subject};

pub fn start(options: &Options, setup: Setup, rig: &Rig, cluster: &Cluster) -> Result<Program> {
    let directory = cluster.directory();
    let config = directory.join("kube-proxy.yaml");
    std::fs::write(&config, configuration(options.mode, setup, &cluster.kubeconfig()).to_string())?;
    let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), rig.node.as_fd().as_raw_fd());
    let mut arguments = vec![namespace, "env".to_owned()];
    if options.mode != Mode::Nftables {
        // kube-proxy takes the flavour it finds under the plain names, in ipvs mode as well; ours the one whose chains are
        // there already.
        arguments.push(format!("PATH={}", tools(directory, options.mode)?));
        rig.run(options.mode.program(), &["-w", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
    }
    match options.subject {
        Subject::KubeProxy => arguments.push(program("kube-proxy")?.display().to_string()),
        Subject::Portolan => arguments.extend([portolan()?.display().to_string(), "proxy".to_owned()]),
    }
    arguments.extend(["--config".to_owned(), config.display().to_string(), "--v=2".to_owned()]);
    Program::start(directory, Path::new("nsenter"), &arguments)
}

/// Cargo puts it beside this program.
fn portolan() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("portolan");
    path.is_file().then_some(path).context("`cargo build --release -p portolan` builds the other side")
}

/// JSON is YAML.
fn configuration(mode: Mode, setup: Setup, kubeconfig: &Path) -> Value {
    let first = IpFamily::BOTH.map(|family| {
        let address = World::new(family).node_address;
        format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
    });
    let node_ports = match setup {
        Setup::FirstAddress => first.to_vec(),
        Setup::Localhost => [&first[..], &["127.0.0.0/8".to_owned()]].concat(),
        Setup::Usual | Setup::PodsUnknown | Setup::MasqueradeAll => vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
    };
    // Whom to masquerade stands among iptables' fields for ipvs mode too.
    let masquerading = if mode == Mode::Nftables { "nftables" } else { "iptables" };
    let mut configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": mode.name(), (mode.name()): {"minSyncPeriod": "10ms", "syncPeriod": "1h"}, "hostnameOverride": "here",
        "clientConnection": {"kubeconfig": kubeconfig},
        "conntrack": {"maxPerCore": 0, "min": 0},
        "nodePortAddresses": node_ports,
        // Without a range this mode knows nothing.
        "detectLocalMode": if setup == Setup::PodsUnknown { "ClusterCIDR" } else { "NodeCIDR" },
    });
    configuration[masquerading]["masqueradeAll"] = (setup == Setup::MasqueradeAll).into();
    configuration
}

impl Mode {
    fn infix(self) -> &'static str {
        if self == Mode::IptablesLegacy { "-legacy" } else { "-nft" }
    }

    fn program(self) -> &'static str {
        if self == Mode::IptablesLegacy { "iptables-legacy" } else { "iptables-nft" }
    }
}

/// A PATH on which `iptables` and its like are of one flavour.
fn tools(directory: &Path, mode: Mode) -> Result<String> {
    let folder = directory.join("tools");
    let infix = mode.infix();
    std::fs::create_dir_all(&folder)?;
    for stem in ["iptables", "ip6tables"] {
        for what in ["", "-save", "-restore"] {
            let link = folder.join(format!("{stem}{what}"));
            if !link.is_symlink() {
                std::os::unix::fs::symlink(format!("/usr/sbin/{stem}{infix}{what}"), link)?;
            }
        }
    }
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()))
}
