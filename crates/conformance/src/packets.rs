//! The Service proxy's packet table through the real kube-proxy: for each setup a node, our API server with the table's
//! objects, and kube-proxy told the same as ours would be. Where the original differs is written down in
//! `proxy::battery::table`; anything else that differs is a finding. Not responsible for our own modes: their crates' tests
//! send the same table.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use conformance::{Ours, Program, program};
use kube::Client;
use proxy::battery::World;
use proxy::battery::table::{self, Case, Expected, SERVICE_CIDRS, Setup, Stage};
use proxy_rig::{Rig, Tally, holds, protocols};
use serde_json::{Value, json};
use service_model::{IpFamily, NodeView};

const PORT: u16 = 6443;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value_t = Mode::Nftables)]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Nftables,
    /// By the tools on nf_tables.
    Iptables,
    /// By those on the kernel's older tables.
    IptablesLegacy,
}

pub async fn run(options: &Options) -> Result<bool> {
    let program = program("kube-proxy")?;
    let mut tally = Tally::default();
    for stage in table::stages(&protocols()) {
        let rig = Rig::for_stage(&stage);
        let listener = rig.node.run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)))??;
        listener.set_nonblocking(true)?;
        let ours = Ours::start_at(tokio::net::TcpListener::from_std(listener)?, &SERVICE_CIDRS).await?;
        populate(&Client::new(ours.server().service(), "default"), &stage).await?;
        let mut proxy = start(&program, options.mode, stage.setup, &rig, &ours)?;
        tokio::task::block_in_place(|| settle(&mut proxy, &rig, &stage))?;
        tokio::task::block_in_place(|| tally.play(options.mode.in_table(), &rig, &stage));
        eprintln!("{:?}: {} cases", stage.setup, stage.cases.len());
    }
    tally.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    eprintln!("{tally}");
    Ok(tally.complaints.is_empty())
}

impl Mode {
    fn in_table(self) -> table::Mode {
        match self {
            Mode::Nftables => table::Mode::OriginalNftables,
            Mode::Iptables | Mode::IptablesLegacy => table::Mode::OriginalIptables,
        }
    }

    fn name(self) -> &'static str {
        if self == Mode::Nftables { "nftables" } else { "iptables" }
    }
}

async fn populate(client: &Client, stage: &Stage) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "table"}});
    send(client, "POST", "/api/v1/namespaces", &namespace).await?;
    let node = stage.node();
    send(client, "POST", "/api/v1/nodes", &node_object(&node)).await?;
    let addresses: Vec<Value> =
        IpFamily::BOTH.map(|family| json!({"type": "InternalIP", "address": World::new(family).node_address})).to_vec();
    send(client, "PATCH", "/api/v1/nodes/here/status", &json!({"status": {"addresses": addresses}})).await?;
    for mut object in stage.objects() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match object["kind"].as_str() {
            Some("Service") => {
                let status = object["status"].take();
                object.as_object_mut().context("an object")?.remove("status");
                let path = "/api/v1/namespaces/table/services";
                send(client, "POST", path, &object).await?;
                if !status.is_null() {
                    send(client, "PATCH", &format!("{path}/{name}/status"), &json!({ "status": status })).await?;
                }
            }
            Some("EndpointSlice") => {
                let path = "/apis/discovery.k8s.io/v1/namespaces/table/endpointslices";
                send(client, "POST", path, &object).await?;
            }
            // The server has made the Service range itself.
            _ => {}
        }
    }
    Ok(())
}

fn node_object(node: &NodeView) -> Value {
    // Also where nobody is to know them: then kube-proxy isn't told to look here.
    let ranges = Setup::Usual.node().pod_cidrs;
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": {(service_model::ZONE_LABEL): node.zone}},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
    })
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let name = &body["metadata"]["name"];
    client
        .request(request.body(body.to_string().into_bytes())?)
        .await
        .with_context(|| format!("{method} {path} {name}"))
}

fn start(program: &Path, mode: Mode, setup: Setup, rig: &Rig, ours: &Ours) -> Result<Program> {
    let config = ours.directory().join("kube-proxy.yaml");
    std::fs::write(&config, configuration(mode, setup, &ours.kubeconfig()).to_string())?;
    let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), rig.node.as_fd().as_raw_fd());
    let mut arguments = vec![namespace];
    if mode != Mode::Nftables {
        arguments.extend(["env".to_owned(), format!("PATH={}", tools(ours.directory(), mode)?)]);
    }
    arguments.extend([program.display().to_string(), "--config".to_owned(), config.display().to_string()]);
    arguments.push("--v=2".to_owned());
    Program::start(ours.directory(), Path::new("nsenter"), &arguments)
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
    let of_mode = json!({"masqueradeAll": setup == Setup::MasqueradeAll, "minSyncPeriod": "10ms", "syncPeriod": "1h"});
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": mode.name(), (mode.name()): of_mode, "hostnameOverride": "here",
        "clientConnection": {"kubeconfig": kubeconfig},
        "conntrack": {"maxPerCore": 0, "min": 0},
        "nodePortAddresses": node_ports,
        // Without a range this mode knows nothing.
        "detectLocalMode": if setup == Setup::PodsUnknown { "ClusterCIDR" } else { "NodeCIDR" },
    })
}

/// A PATH on which `iptables` and its like are of one flavour.
fn tools(directory: &Path, mode: Mode) -> Result<String> {
    let infix = if mode == Mode::IptablesLegacy { "-legacy" } else { "-nft" };
    let folder = directory.join("tools");
    std::fs::create_dir_all(&folder)?;
    for stem in ["iptables", "ip6tables"] {
        for what in ["", "-save", "-restore"] {
            std::os::unix::fs::symlink(format!("/usr/sbin/{stem}{infix}{what}"), folder.join(format!("{stem}{what}")))?;
        }
    }
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()))
}

/// Waits until connections of each family arrive: a sync takes in everything of a family.
fn settle(proxy: &mut Program, rig: &Rig, stage: &Stage) -> Result<()> {
    let reaches = |case: &&Case| matches!(case.expected, Expected::Reaches { .. });
    for family in IpFamily::BOTH {
        let case = stage.cases.iter().filter(reaches).find(|case| case.probe.family == family);
        let case = case.with_context(|| format!("{:?} reaches nobody by {family}", stage.setup))?;
        proxy.until(|_| holds(rig, case)).with_context(|| case.to_string())?;
    }
    Ok(())
}
