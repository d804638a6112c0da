//! The proxy's modes: a crate each, and a line each in `MODES`. Not responsible for what they do.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use iptables::{Flavour, Iptables, Table};
use proxy::config::settings::Mode;
use proxy::{Backends, Rules};
use proxy_iptables::{FullLook, HINTS, IptablesBackend, Options, Tuning};
use proxy_ipvs::{IpvsBackend, WhyNot};
use proxy_nftables::Nftables;
use proxy_userspace::Userspace;

/// A mode of this program.
pub struct Entry {
    pub mode: Mode,
    /// For whoever has to choose.
    pub about: &'static str,
    open: fn(&ModeOptions) -> Result<Arc<dyn proxy::Mode>, OpenError>,
    /// What a former run has left in the kernel.
    left_behind: fn(&[IpNet]) -> Vec<Arc<dyn Rules>>,
}

pub const MODES: &[Entry] = &[
    Entry {
        mode: Mode::Nftables,
        about: "One table of nf_tables, by netlink",
        open: nftables,
        left_behind: left_nftables,
    },
    Entry {
        mode: Mode::Iptables,
        about: "kube-proxy's chains, as iptables-restore writes them",
        open: iptables,
        left_behind: left_iptables,
    },
    Entry {
        mode: Mode::Userspace,
        about: "Connections and datagrams are relayed by the proxy's own process",
        open: userspace,
        left_behind: left_userspace,
    },
    Entry {
        mode: Mode::Ipvs,
        about: "The kernel's own balancer; iptables where it has none",
        open: ipvs,
        left_behind: left_ipvs,
    },
];

/// What a mode is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeOptions {
    pub masquerade_mark: u32,
    pub drop_invalid: bool,
    pub sync_period: Duration,
    pub ipvs: proxy_ipvs::Options,
}

/// A mode ready to run.
pub struct Opened {
    pub mode: Arc<dyn proxy::Mode>,
    pub asked: Mode,
    /// Why it is another than the one that was asked for.
    pub instead: Option<OpenError>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot reach nf_tables (CAP_NET_ADMIN is needed)")]
    Nftables(#[source] nft::NftError),
    #[error("cannot reach nf_tables")]
    Userspace(#[source] nft::NftError),
    #[error("cannot tell which iptables to use")]
    Flavour(#[source] iptables::Error),
    #[error("cannot use iptables")]
    Iptables(#[source] iptables::Error),
    #[error("this kernel has no IPVS (modules ip_vs and ip_vs_rr, or that of another scheduler), or no dummy devices")]
    NoIpvs(#[source] WhyNot),
    #[error("mode: {} is not among this program's modes", .0.name())]
    NotHere(Mode),
}

impl Default for ModeOptions {
    fn default() -> Self {
        let (Tuning { masquerade_mark, drop_invalid }, FullLook(sync_period)) = Default::default();
        ModeOptions { masquerade_mark, drop_invalid, sync_period, ipvs: Default::default() }
    }
}

/// Makes the mode that is asked for. One that this kernel cannot do is replaced by iptables mode, as kube-proxy used to.
pub fn open(mode: Mode, options: &ModeOptions) -> Result<Opened, OpenError> {
    let entry = MODES.iter().find(|entry| entry.mode == mode).ok_or(OpenError::NotHere(mode))?;
    match (entry.open)(options) {
        Ok(opened) => Ok(Opened { mode: opened, asked: mode, instead: None }),
        Err(error @ OpenError::NoIpvs(_)) => Ok(Opened { mode: iptables(options)?, asked: mode, instead: Some(error) }),
        Err(error) => Err(error),
    }
}

/// What former runs have left of all modes but this one. What is at `excluded` addresses was never ours (ipvs mode's
/// `excludeCIDRs`).
pub fn left_behind(but: &str, excluded: &[IpNet]) -> Vec<Arc<dyn Rules>> {
    let others = MODES.iter().filter(|entry| entry.mode.name() != but);
    others.flat_map(|entry| (entry.left_behind)(excluded)).collect()
}

/// Every mode's rules, or why they can't be got at.
pub fn all(excluded: &[IpNet]) -> Vec<Result<Arc<dyn Rules>, OpenError>> {
    let options = sparing(excluded);
    let open = |entry: &Entry| (entry.open)(&options).map(|mode| mode as Arc<dyn Rules>);
    MODES.iter().map(open).collect()
}

fn nftables(_: &ModeOptions) -> Result<Arc<dyn proxy::Mode>, OpenError> {
    let kernel = nft::Kernel::open().map_err(OpenError::Nftables)?;
    Ok(Arc::new(Backends::new(Nftables::pair(kernel))))
}

fn left_nftables(_: &[IpNet]) -> Vec<Arc<dyn Rules>> {
    left_table(proxy_nftables::TABLE_NAME, |kernel| Arc::new(Backends::new(Nftables::pair(kernel))))
}

fn iptables(options: &ModeOptions) -> Result<Arc<dyn proxy::Mode>, OpenError> {
    let flavour = iptables::detect(HINTS).map_err(OpenError::Flavour)?;
    tracing::info!(?flavour, "iptables");
    Ok(Arc::new(iptables_of(flavour, options)?))
}

fn iptables_of(
    flavour: Flavour,
    options: &ModeOptions,
) -> Result<Backends<IptablesBackend<iptables::Tool>>, OpenError> {
    let tuning = Tuning { masquerade_mark: options.masquerade_mark, drop_invalid: options.drop_invalid };
    let options = Options { tuning, full_look: FullLook(options.sync_period) };
    let backends = IptablesBackend::open_pair(flavour, options).map_err(OpenError::Iptables)?;
    Ok(Backends::new(backends))
}

/// By a chain that a kube-proxy doesn't make. A tool runs only where there are tables that nothing else can read.
fn left_iptables(_: &[IpNet]) -> Vec<Arc<dyn Rules>> {
    let ours = [(Table::Filter, proxy_iptables::OURS_ALONE)];
    let mut left: Vec<Arc<dyn Rules>> = Vec::new();
    for flavour in iptables::traces(&ours).unwrap_or_default() {
        if flavour == Flavour::Nft || legacy_has(&ours) {
            left.extend(iptables_of(flavour, &ModeOptions::default()).map(|rules| Arc::new(rules) as Arc<dyn Rules>));
        }
    }
    left
}

fn legacy_has(chains: &[(Table, &str)]) -> bool {
    [iptables::Family::V4, iptables::Family::V6].into_iter().any(|family| {
        let tool = iptables::Tool::open(family, Flavour::Legacy);
        tool.is_ok_and(|mut tool| chains.iter().any(|(table, chain)| tool.has_chain(*table, chain).unwrap_or(false)))
    })
}

/// A process has its listeners once: another configuration goes on with them.
fn userspace(_: &ModeOptions) -> Result<Arc<dyn proxy::Mode>, OpenError> {
    static LISTENING: Mutex<Weak<Backends<Userspace<nft::Kernel>>>> = Mutex::new(Weak::new());
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mode) = listening.upgrade() {
        return Ok(mode);
    }
    let mode = Arc::new(Backends::new(Userspace::open_pair().map_err(OpenError::Userspace)?));
    *listening = Arc::downgrade(&mode);
    Ok(mode)
}

fn left_userspace(_: &[IpNet]) -> Vec<Arc<dyn Rules>> {
    left_table(proxy_userspace::TABLE_NAME, |kernel| Arc::new(Backends::new(Userspace::pair(kernel))))
}

fn left_table(name: &str, rules: impl FnOnce(nft::Kernel) -> Arc<dyn Rules>) -> Vec<Arc<dyn Rules>> {
    match nft::Kernel::open().and_then(|mut kernel| Ok((kernel.tables()?, kernel))) {
        Ok((tables, kernel)) if tables.iter().any(|table| table.name == name) => vec![rules(kernel)],
        _ => Vec::new(),
    }
}

fn ipvs(options: &ModeOptions) -> Result<Arc<dyn proxy::Mode>, OpenError> {
    let backends = IpvsBackend::open_pair(options.ipvs.clone()).map_err(OpenError::NoIpvs)?;
    Ok(Arc::new(Backends::new(backends)))
}

/// Whatever else was asked for when the rules were made.
fn sparing(excluded: &[IpNet]) -> ModeOptions {
    let ipvs = proxy_ipvs::Options { exclude_cidrs: excluded.to_vec(), ..Default::default() };
    ModeOptions { ipvs, ..ModeOptions::default() }
}

fn left_ipvs(excluded: &[IpNet]) -> Vec<Arc<dyn Rules>> {
    let ours = |table: &nft::Table| table.name == proxy_ipvs::TABLE_NAME;
    if !nft::Kernel::open().and_then(|mut kernel| kernel.tables()).is_ok_and(|tables| tables.iter().any(ours)) {
        return Vec::new();
    }
    ipvs(&sparing(excluded)).map(|mode| mode as Arc<dyn Rules>).into_iter().collect()
}
