//! What the mode needs of a kernel before the first rule: whether it can be had at all, kernel parameters, timeouts.

use std::time::Duration;

use conntrack::ConntrackError;
use ipnet::IpNet;
use ipvs::{IpvsError, Kernel, Scheduler, Timeouts};
use netns::{NetNs, sysctl};

/// What an operator may choose for this mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub scheduler: Scheduler,
    /// Virtual servers with these addresses are never touched, nor made.
    pub exclude_cidrs: Vec<IpNet>,
    /// Addresses of Services are not answered for by ARP on other devices.
    pub strict_arp: bool,
    /// Those that are 0 stay as they are.
    pub timeouts: Timeouts,
    /// Marks packets to be masqueraded (`masqueradeBit: 14`).
    pub masquerade_bit: u32,
    /// The kernel doesn't say when virtual servers are changed: everything is read again this often.
    pub full_look: Duration,
    /// How long a removed endpoint keeps the connections it has.
    pub drain: Duration,
}

/// Why a kernel can't do it.
#[derive(Debug, thiserror::Error)]
pub enum WhyNot {
    #[error("nf_tables, which says what IPVS can't, cannot be reached")]
    Nftables(#[source] nft::NftError),
    #[error("connection tracking cannot be reached")]
    Conntrack(#[source] ConntrackError),
    #[error("the network namespace cannot be told")]
    Namespace(#[source] netns::Error),
    #[error("the kernel's IPVS cannot be used")]
    Kernel(#[source] IpvsError),
    #[error("no virtual server with the scheduler {scheduler} and a device for its address can be had")]
    Scheduler {
        scheduler: Scheduler,
        #[source]
        source: IpvsError,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("cannot set a kernel parameter")]
    Parameter(#[source] netns::Error),
    #[error("cannot read the kernel's release")]
    Release(#[source] netns::Error),
    #[error("cannot set IPVS's timeouts")]
    Timeouts(#[source] IpvsError),
}

/// IPVS's connections are tracked, so that they can be masqueraded and their packets told from others'; a connection whose
/// endpoint is gone ends; a client that is stuck to one that takes no more gets another.
const PARAMETERS: &[(&str, &str)] = &[
    ("net.ipv4.vs.conntrack", "1"),
    ("net.ipv4.vs.expire_nodest_conn", "1"),
    ("net.ipv4.vs.expire_quiescent_template", "1"),
];
const REUSE: &str = "net.ipv4.vs.conn_reuse_mode";
/// With connections tracked, reusing a port took a second (4.1 is the first with the parameter, 5.9 the first that doesn't).
const REUSE_IS_SLOW: std::ops::Range<(u32, u32)> = (4, 1)..(5, 9);
const STRICT_ARP: &[(&str, &str)] = &[("net.ipv4.conf.all.arp_ignore", "1"), ("net.ipv4.conf.all.arp_announce", "2")];

impl Default for Options {
    fn default() -> Self {
        Options {
            scheduler: Scheduler::round_robin(),
            exclude_cidrs: Vec::new(),
            strict_arp: false,
            timeouts: Timeouts::default(),
            masquerade_bit: 1 << 14,
            full_look: Duration::from_secs(30),
            drain: Duration::from_secs(15 * 60),
        }
    }
}

/// Whether the kernel of the calling thread's namespace can do it. Leaves nothing behind.
pub fn supported(scheduler: &Scheduler) -> Result<(), WhyNot> {
    let mut kernel = Kernel::open().map_err(WhyNot::Kernel)?;
    let failed = |source| WhyNot::Scheduler { scheduler: scheduler.clone(), source };
    kernel.probe(scheduler).map_err(failed)
}

/// Sets parameters and timeouts of a namespace; `kernel` is its IPVS.
pub fn prepare(namespace: &NetNs, kernel: &mut Kernel, options: &Options) -> Result<(), PrepareError> {
    let set = |(name, value): &(&str, &str)| sysctl::set(namespace, name, value).map_err(PrepareError::Parameter);
    PARAMETERS.iter().try_for_each(set)?;
    // As kube-proxy in this mode; what comes from elsewhere would otherwise be dropped before IPVS has it back.
    sysctl::forward(namespace, false).map_err(PrepareError::Parameter)?;
    if options.strict_arp {
        STRICT_ARP.iter().try_for_each(set)?;
    }
    let release = sysctl::get(namespace, "kernel.osrelease").map_err(PrepareError::Release)?;
    if release_of(&release).is_some_and(|release| REUSE_IS_SLOW.contains(&release)) {
        set(&(REUSE, "0"))?;
    }
    kernel.set_timeouts(options.timeouts).map_err(PrepareError::Timeouts)
}

/// The first two numbers of "6.1.0-56-cloud-amd64".
fn release_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_reused_as_the_kernel_s_release_wants() {
        assert_eq!(release_of("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(release_of("5.8-rc1"), Some((5, 8)));
        assert_eq!(release_of("unknown"), None);
        let slow = |text| release_of(text).is_some_and(|release| REUSE_IS_SLOW.contains(&release));
        assert_eq!([slow("3.10.0"), slow("4.19.1"), slow("5.8.18"), slow("5.9.0")], [false, true, true, false]);
    }

    #[test]
    fn a_kernel_without_ipvs_says_so() {
        // Where there is IPVS, the guest's tests say more.
        match supported(&Scheduler::round_robin()) {
            Ok(()) => {}
            Err(WhyNot::Kernel(IpvsError::NoIpvs)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}
