//! Ports of the node that lead to pods (`hostPort`): a table of their own in nf_tables, written anew when a pod with such
//! ports comes or goes.
//!
//! The agent's and not the proxy's: they come and go with sandboxes, whose addresses only the agent gives out, and no
//! Service is involved. Not responsible for two pods that want the same port (the scheduler keeps them apart).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netns::NetNs;
use nft::expr::ct_status;
use nft::rule::{AddrType, Load};
use nft::{Chain, ChainType, Family, Hook, Kernel, L3, Nft as _, Rule, Table, Transaction, Value};
use pod_runtime::{HostPort, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};

use super::{NetworkError, load, save};

pub const TABLE_NAME: &str = "portolan-host-ports";
/// Just before `dstnat`, where the proxy is: a port that a pod took by name isn't a NodePort.
const BEFORE_DSTNAT: i32 = -101;
const SRCNAT: i32 = 100;
const PORTS: &str = "ports";

/// One sandbox's ports and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holder {
    ports: Vec<HostPort>,
    addresses: Vec<IpAddr>,
}

/// Kept on disk, so that a restarted agent knows what the table is made from.
#[derive(Debug)]
pub(super) struct HostPorts {
    path: PathBuf,
    holders: BTreeMap<SandboxId, Holder>,
}

impl HostPorts {
    pub(super) fn open(path: &Path) -> Self {
        HostPorts { path: path.to_owned(), holders: load(path) }
    }

    /// Gives a sandbox its ports. Nothing happens when it has them.
    pub(super) fn add(
        &mut self,
        node: &NetNs,
        sandbox: &SandboxSpec,
        addresses: &[IpAddr],
    ) -> Result<(), NetworkError> {
        let holder = Holder { ports: sandbox.host_ports.clone(), addresses: addresses.to_vec() };
        if holder.ports.is_empty() || self.holders.get(&sandbox.id) == Some(&holder) {
            return Ok(());
        }
        self.holders.insert(sandbox.id.clone(), holder);
        self.write(node)
    }

    pub(super) fn remove(&mut self, node: &NetNs, sandbox: &SandboxId) -> Result<(), NetworkError> {
        if self.holders.remove(sandbox).is_none() {
            return Ok(());
        }
        self.write(node)
    }

    /// First the kernel: what isn't in effect must not be on record.
    fn write(&self, node: &NetNs) -> Result<(), NetworkError> {
        let transactions = [Family::Ip, Family::Ip6].map(|family| table(family, self.holders.values()));
        node.run(|| {
            let mut kernel = Kernel::open()?;
            transactions.iter().try_for_each(|transaction| kernel.apply(transaction).map(drop))
        })?
        .map_err(NetworkError::HostPorts)?;
        save(&self.path, &self.holders)
    }
}

/// The whole table of a family, or its removal when no port is left.
fn table<'a>(family: Family, holders: impl Iterator<Item = &'a Holder>) -> Transaction {
    let l3 = if family == Family::Ip { L3::V4 } else { L3::V6 };
    let forwards: Vec<Forward> = holders.flat_map(|holder| forwards(holder, l3)).collect();
    let mut transaction = Transaction::new(Table::new(family, TABLE_NAME));
    transaction.destroy_table();
    if forwards.is_empty() {
        return transaction;
    }
    transaction.add_table().add_chain(Chain::regular(PORTS));
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        transaction.add_chain(Chain::base(name, ChainType::Nat, hook, BEFORE_DSTNAT));
        // What comes from a loopback address can't leave by another link.
        let local = Rule::new().daddr_type(AddrType::Local).outside(Load::Daddr(l3), loopback(l3));
        transaction.add_rule(name, local.jump(PORTS));
    }
    transaction.add_chain(Chain::base("postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT));
    for forward in forwards {
        let mut rule = Rule::new();
        if let Some(ip) = forward.host_ip {
            rule = rule.is(Load::Daddr(l3), Value::addr(ip));
        }
        let rule = rule.l4proto(forward.protocol).is(Load::Dport, Value::port(forward.host_port));
        transaction.add_rule(PORTS, rule.dnat(forward.to));
        // A pod that reaches itself would get its answer from an address it didn't ask.
        let own = IpNet::from(forward.to.ip());
        let itself = Rule::new().ct_status(ct_status::DNAT).within(Load::Saddr(l3), own).within(Load::Daddr(l3), own);
        transaction.add_rule("postrouting", itself.masquerade());
    }
    transaction
}

struct Forward {
    protocol: u8,
    host_ip: Option<IpAddr>,
    host_port: u16,
    to: SocketAddr,
}

fn forwards(holder: &Holder, l3: L3) -> Vec<Forward> {
    let address = holder.addresses.iter().find(|address| L3::of(**address) == l3);
    let ports = holder.ports.iter().filter(|port| port.host_ip.is_none_or(|ip| L3::of(ip) == l3));
    let forward = |port: &HostPort, address: &IpAddr| Forward {
        protocol: port.protocol.number(),
        host_ip: port.host_ip,
        host_port: port.host_port,
        to: SocketAddr::new(*address, port.container_port),
    };
    ports.filter_map(|port| Some(forward(port, address?))).collect()
}

fn loopback(l3: L3) -> IpNet {
    match l3 {
        L3::V4 => IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8),
        L3::V6 => IpNet::new_assert(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
    }
}
