//! What a kube-proxy leaves behind when it ends, in whichever mode it was, and how it is removed: by its own marks, which
//! are the names of its chains, tables, sets and device. Not responsible for when.
//!
//! Our iptables mode calls its chains as kube-proxy does. While it is in force, those in its flavour are its own, and only
//! what it doesn't have is removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use iptables::sets::SetError;
use iptables::{ChainName, Family, Flavour, Iptables, Jumps, Saved, Table, Tool, Transaction};
use ipvs::{Destination, DestinationState, Ipvs, IpvsError, Op, ServerKey};
use nft::Nft;
use proxy::{ModeError, ModeStep, Retired, Rules};
use proxy_iptables::HINTS;
use service_model::IpFamily;

/// The tables of its nftables mode.
const NFTABLES: &str = "kube-proxy";
/// What the jumps into its chains say begins with this.
const COMMENT: &str = "kubernetes";
/// Chains that only a kube-proxy has: a canary, those of ipvs mode, those of versions before 1.24.
const OTHERS: [(Table, &str); 8] = [
    (Table::Mangle, "KUBE-PROXY-CANARY"),
    (Table::Nat, "KUBE-FIREWALL"),
    (Table::Nat, "KUBE-LOAD-BALANCER"),
    (Table::Nat, "KUBE-NODE-PORT"),
    (Table::Filter, "KUBE-NODE-PORT"),
    (Table::Filter, "KUBE-IPVS-FILTER"),
    (Table::Filter, "KUBE-IPVS-OUT-FILTER"),
    (Table::Filter, "KUBE-SOURCE-RANGES-FIREWALL"),
];
/// The sets of its ipvs mode. IPv6's are called `KUBE-6-…`. Other programs have sets whose names begin alike.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "IPVS-IPS",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
];
const BEFORE_1_24: &str = "KUBE-XLB-";
const TABLES: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

/// How long the last connections of its virtual servers are waited for, as by kube-proxy itself.
const DRAIN: Duration = Duration::from_secs(15 * 60);

/// A kube-proxy's remains.
pub struct KubeProxy {
    since: Instant,
    /// Chains, tables and sets are gone, and only virtual servers wait for their connections.
    rules_gone: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot look for its chains")]
    Look(#[source] iptables::Error),
    #[error("cannot remove its chains of the {flavour:?} flavour")]
    Chains {
        flavour: Flavour,
        #[source]
        source: iptables::Error,
    },
    #[error("cannot remove its tables of nf_tables")]
    Tables(#[source] nft::NftError),
    #[error("cannot remove its virtual servers")]
    Servers(#[source] IpvsError),
    #[error("cannot look at its device, or remove it")]
    Device(#[source] IpvsError),
    #[error(transparent)]
    Sets(#[from] SetError),
}

/// What one table has of it.
#[derive(Default)]
struct Found {
    chains: Vec<ChainName>,
    jumps: Vec<(String, String)>,
}

impl KubeProxy {
    pub fn new() -> KubeProxy {
        KubeProxy { since: Instant::now(), rules_gone: Arc::default() }
    }

    /// `our_mode` is the one of ours that is in force, and empty if none is.
    fn remove(&self, our_mode: &'static str, patient: bool) -> BoxFuture<'_, Result<Retired, ModeError>> {
        Box::pin(async move {
            let rules_gone = self.rules_gone.clone();
            let failed =
                |source| ModeError { mode: "kube-proxy", family: IpFamily::V4, step: ModeStep::Remove, source };
            let remove = move || {
                if !rules_gone.load(Ordering::Relaxed) {
                    remove_rules(our_mode)?;
                    rules_gone.store(true, Ordering::Relaxed);
                }
                remove_servers_unless_ours(our_mode, patient)
            };
            let removed = tokio::task::spawn_blocking(remove).await;
            removed.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
        })
    }
}

impl Rules for KubeProxy {
    fn name(&self) -> &'static str {
        "kube-proxy"
    }

    fn cleanup(&self, _close_loopback: bool) -> BoxFuture<'_, Result<(), ModeError>> {
        Box::pin(async move { self.remove("", false).await.map(drop) })
    }

    fn retire(&self, in_force: &'static str, _close_loopback: bool) -> BoxFuture<'_, Result<Retired, ModeError>> {
        self.remove(in_force, self.since.elapsed() < DRAIN)
    }
}

fn remove_rules(our_mode: &str) -> Result<(), Error> {
    remove_tables().map_err(Error::Tables)?;
    let hints: Vec<(Table, &str)> = HINTS.iter().chain(&OTHERS).copied().collect();
    let ours = if our_mode == "iptables" { Some(iptables::detect(HINTS).map_err(Error::Look)?) } else { None };
    for flavour in iptables::traces(&hints).map_err(Error::Look)? {
        for family in [Family::V4, Family::V6] {
            let chains = |source| Error::Chains { flavour, source };
            let mut tool = Tool::open(family, flavour).map_err(chains)?;
            remove_chains(&mut tool, ours == Some(flavour)).map_err(chains)?;
        }
    }
    let kept = iptables::sets::remove(is_set)?;
    if !kept.is_empty() {
        tracing::warn!(sets = kept.join(", "), "sets of kube-proxy's stay: somebody's rules have them");
    }
    Ok(())
}

/// Our ipvs mode has the same device. It takes over what is on it, and it lets it go itself.
fn remove_servers_unless_ours(our_mode: &str, patient: bool) -> Result<Retired, Error> {
    let tables = nft::Kernel::open().and_then(|mut kernel| kernel.tables()).map_err(Error::Tables)?;
    let ours = our_mode == "ipvs" || tables.iter().any(|table| table.name == proxy_ipvs::TABLE_NAME);
    if ours { Ok(Retired::Gone) } else { remove_servers_and_device(patient) }
}

/// Without the device no virtual server is told to be its, and the kernel isn't asked for IPVS, which it might load.
fn remove_servers_and_device(patient: bool) -> Result<Retired, Error> {
    let mut device = ipvs::Device::open().map_err(Error::Device)?;
    if !device.addresses(ipvs::Family::V4).map_err(Error::Device)?.device_exists {
        return Ok(Retired::Gone);
    }
    let retired = match ipvs::Kernel::open() {
        Ok(mut kernel) => remove_servers(&mut kernel, patient).map_err(Error::Servers)?,
        Err(IpvsError::NoIpvs) => Retired::Gone,
        Err(error) => return Err(Error::Servers(error)),
    };
    if retired == Retired::Gone {
        device.remove().map_err(Error::Device)?;
    }
    Ok(retired)
}

/// Those at the addresses on its device: at once, or each with its last connection.
fn remove_servers(kernel: &mut impl Ipvs, patient: bool) -> Result<Retired, IpvsError> {
    let mut retired = Retired::Gone;
    for family in [ipvs::Family::V4, ipvs::Family::V6] {
        let bound = kernel.addresses(family)?.bound;
        let its = |key: &ServerKey| matches!(key, ServerKey::Address { at, .. } if bound.contains(&at.ip()));
        for server in kernel.servers(family)?.into_keys().filter(its) {
            let destinations = kernel.destinations(&server)?;
            if patient && destinations.values().any(|state| state.connections() > 0) {
                let closed = |state: &DestinationState| Destination { weight: 0, ..state.destination };
                let open = destinations.iter().filter(|(_, state)| state.destination.weight > 0);
                let close: Vec<Op> = open.map(|(at, state)| Op::SetDestination(server, *at, closed(state))).collect();
                kernel.change(&close)?;
                retired = Retired::Draining;
            } else {
                kernel.change(&[Op::DeleteServer(server)])?;
            }
        }
    }
    Ok(retired)
}

fn is_set(name: &str) -> bool {
    let kind = name.strip_prefix("KUBE-6-").or_else(|| name.strip_prefix("KUBE-"));
    kind.is_some_and(|kind| SETS.contains(&kind))
}

fn remove_tables() -> Result<(), nft::NftError> {
    let mut kernel = nft::Kernel::open()?;
    for table in kernel.tables()?.into_iter().filter(|table| table.name == NFTABLES) {
        let mut transaction = nft::Transaction::new(table);
        transaction.destroy_table();
        kernel.apply(&transaction)?;
    }
    Ok(())
}

fn remove_chains(tool: &mut impl Iptables, ours_in_force: bool) -> Result<(), iptables::Error> {
    let mut transactions = Vec::new();
    for table in TABLES {
        let found = look(tool, table, ours_in_force)?;
        let mut transaction = Transaction::new(table);
        for (chain, spec) in found.jumps {
            transaction.jumps.push(Jumps { chain, remove: vec![spec], insert: vec![] });
        }
        transaction.delete = found.chains;
        if !transaction.is_empty() {
            transactions.push(transaction);
        }
    }
    if transactions.is_empty() { Ok(()) } else { tool.restore(&transactions) }
}

/// A chain that somebody else's rule leads to stays: it can't be deleted, and the rule isn't ours to delete.
fn look(tool: &mut impl Iptables, table: Table, ours_in_force: bool) -> Result<Found, iptables::Error> {
    let mut found = Found::default();
    let mut pinned = Vec::new();
    let is_its = |chain: &str| is_kube_proxys(table, chain, ours_in_force);
    tool.save(table, &mut |line| match line {
        Saved::Chain { name, .. } => found.chains.extend(is_its(name).then(|| name.into())),
        Saved::Rule { chain, spec } if !is_its(chain) => {
            let Some(target) = iptables::target_of(spec).filter(|target| is_its(target)) else { return };
            if iptables::comment_of(spec).is_some_and(|comment| comment.starts_with(COMMENT)) {
                found.jumps.push((chain.to_owned(), spec.to_owned()));
            } else {
                pinned.push(target);
            }
        }
        Saved::Rule { .. } => {}
    })?;
    found.chains.retain(|chain| !pinned.iter().any(|pinned| *pinned == **chain));
    Ok(found)
}

fn is_kube_proxys(table: Table, chain: &str, ours_in_force: bool) -> bool {
    OTHERS.contains(&(table, chain))
        || (table == Table::Nat && chain.starts_with(BEFORE_1_24))
        || (!ours_in_force && proxy_iptables::is_ours(table, chain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipvs::{Forwarding, Options, Scheduler, Server};

    #[test]
    fn virtual_servers_go_that_are_at_the_devices_addresses() {
        const TCP: u8 = 6;
        let mut kernel = ipvs::Fake::with_addresses(["192.0.2.2".parse().unwrap()]);
        let bound = ["10.96.0.1", "fd00:96::1"].map(|text| text.parse().unwrap());
        kernel.bind(&bound).unwrap();
        let at = |text: &str| ServerKey::Address { protocol: TCP, at: text.parse().unwrap() };
        let others = [at("192.0.2.2:80"), ServerKey::Mark { family: ipvs::Family::V4, mark: 7 }];
        let server = Server { scheduler: Scheduler::round_robin(), options: Options::default(), persistence: None };
        for key in [at("10.96.0.1:80"), at("10.96.0.1:443"), at("[fd00:96::1]:80")].into_iter().chain(others) {
            kernel.change(&[Op::AddServer(key, server.clone())]).unwrap();
        }
        let (busy, endpoint) = (at("10.96.0.1:443"), "10.244.1.5:443".parse().unwrap());
        let destination = Destination { forwarding: Forwarding::Masquerade, weight: 1 };
        kernel.change(&[Op::AddDestination(busy, endpoint, destination)]).unwrap();
        assert!(kernel.occupy(&busy, endpoint, 1, 0));
        for _ in 0..2 {
            assert_eq!(remove_servers(&mut kernel, true).unwrap(), Retired::Draining);
            assert_eq!(kernel.servers(ipvs::Family::V4).unwrap().len(), others.len() + 1, "its connections need one");
            assert_eq!(kernel.destinations(&busy).unwrap()[&endpoint].destination.weight, 0);
        }
        kernel.occupy(&busy, endpoint, 0, 0);
        assert_eq!(remove_servers(&mut kernel, true).unwrap(), Retired::Gone);
        let left: Vec<ServerKey> = kernel.servers(ipvs::Family::V4).unwrap().into_keys().collect();
        assert!(left.len() == others.len() && others.iter().all(|key| left.contains(key)), "{left:?}");
        assert!(kernel.servers(ipvs::Family::V6).unwrap().is_empty());
    }

    #[test]
    fn sets_are_told_by_their_whole_names() {
        assert!(["KUBE-CLUSTER-IP", "KUBE-6-NODE-PORT-TCP", "KUBE-LOOP-BACK"].into_iter().all(is_set));
        assert!(
            !["KUBE-SRC-ABCDEF", "KUBE-CLUSTER-IPS", "CLUSTER-IP", "kube-router-pod-subnets"].into_iter().any(is_set)
        );
    }
}
