//! What a proxy mode is: pure functions from a ForwardingTable to what it wants and from what is there to a plan, and the
//! few steps that touch the kernel. Backends know no traffic policy by name. Not responsible for when anything happens:
//! that is the Syncer's.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::net::SocketAddr;

use service_model::{ForwardingTable, FrontendKey, IpFamily, ServicePortName};

/// Turns ForwardingTables of one family into whatever forwards packets.
pub trait Backend: Send + Sync + 'static {
    /// What the table asks for, in the backend's terms. Cheap: it may share the table's contents.
    type Desired: Send + Sync;
    /// What is in force, as far as it is ours.
    type Observed: Send + Sync;
    type Plan: Plan;
    type Error: std::error::Error + Send + Sync + 'static;

    fn name(&self) -> &'static str;

    fn family(&self) -> IpFamily;

    fn desired(&self, table: &ForwardingTable) -> Self::Desired;

    /// What has to be done. Right whatever `observed` is; empty if there is nothing to do.
    fn plan(&self, desired: &Self::Desired, observed: &Self::Observed) -> Self::Plan;

    /// Reads what is in force: at start, after a failure, when somebody else has interfered.
    fn observe(&self) -> impl Future<Output = Result<Self::Observed, Self::Error>> + Send;

    /// Executes a plan made for `observed`, step by step, and returns what is in force after it.
    fn apply(
        &self,
        plan: &Self::Plan,
        observed: Self::Observed,
    ) -> impl Future<Output = Result<Self::Observed, Self::Error>> + Send;

    /// Whether somebody else may have changed what `observed` says since.
    fn is_stale(&self, observed: &Self::Observed) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Whether its rules can keep neighbours from the node's loopback. Of a mode that can't, no NodePort may answer there by
    /// rules.
    fn can_guard_loopback(&self) -> bool {
        false
    }

    /// Whether the rules keep neighbours from the node's loopback (CVE-2020-8558), so that NodePorts may answer there.
    fn guards_loopback(&self, _observed: &Self::Observed) -> bool {
        false
    }

    /// How much is in force.
    fn sizes(&self, _observed: &Self::Observed) -> Vec<Size> {
        Vec::new()
    }

    /// What some of the rules have met since they were written. Asked now and then.
    fn packets(&self, _observed: &Self::Observed) -> impl Future<Output = Result<Packets, Self::Error>> + Send {
        std::future::ready(Ok(Packets::default()))
    }

    /// What strangers, or else this node and its pods, meet at a frontend according to the rules that are in force.
    fn seen(&self, _observed: &Self::Observed, _frontend: FrontendKey, _here: bool) -> Seen {
        Seen::Untold
    }

    /// Removes everything of ours.
    fn cleanup(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The same when another mode has taken over, but for what connections still need: those go on. Asked again until all is
    /// gone.
    fn retire(&self) -> impl Future<Output = Result<Retired, Self::Error>> + Send {
        async { self.cleanup().await.map(|()| Retired::Gone) }
    }

    /// Whether this process itself answers there, so that a UDP flow that was translated to it is served as well as it
    /// can be, also after another mode has taken over.
    fn answers_at(&self, _address: SocketAddr) -> bool {
        false
    }

    /// Whether Services may have loopback addresses.
    fn serves_loopback(&self) -> bool {
        false
    }

    /// Whether packets are led by rules, so that the kernel tracks them and has to forward.
    fn programs_the_kernel(&self) -> bool {
        true
    }
}

/// What is to be done, as a value. Printed, it is what the mode's own tool would be fed.
pub trait Plan: Eq + Debug + Display + Send + Sync {
    fn is_empty(&self) -> bool {
        self.steps() == 0
    }

    /// How many steps it has; each takes effect at once or not at all.
    fn steps(&self) -> usize;

    /// The first steps only: what is done when the proxy is killed then.
    fn first(&self, steps: usize) -> Self;

    /// How many of what is counted as rules it writes, by table.
    fn written(&self) -> Vec<Size> {
        Vec::new()
    }

    /// Service ports the backend can't serve, and why.
    fn refused(&self) -> &[Refusal];
}

/// What was counted by rules and by the process. A rule that is written anew begins at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Dropped because connection tracking can't place them.
    pub invalid_dropped: u64,
    /// To NodePorts on the node's loopback; the first one of each connection.
    pub to_localhost: u64,
    /// Connections that the process had no room for.
    pub connections_turned_away: u64,
}

impl Packets {
    /// Those since an earlier look.
    pub fn since(self, before: Packets) -> Packets {
        let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Packets {
            invalid_dropped: more(self.invalid_dropped, before.invalid_dropped),
            to_localhost: more(self.to_localhost, before.to_localhost),
            connections_turned_away: more(self.connections_turned_away, before.connections_turned_away),
        }
    }
}

/// How far rules have gone whose place another mode's have taken; the greater, the sooner they are asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retired {
    Gone,
    /// They take no new connections, and there are some left that need them.
    Draining,
    /// They take no new connections, and this process still owes answers: for some seconds.
    Answering,
}

/// What a frontend's rules do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The mode's rules can't be read back frontend by frontend.
    Untold,
    /// There are none.
    Nothing,
    Forwards(BTreeSet<SocketAddr>),
    Rejects,
    Drops,
}

/// So many of something, in one of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub table: &'static str,
    /// In the mode's own terms: rules, chains, the name of a set.
    pub kind: &'static str,
    pub number: usize,
}

/// What iptables mode calls the rules in its sizes; kube-proxy's metrics count them.
pub const RULES: &str = "rules";

/// A Service port a backend had to leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub port: ServicePortName,
    pub reason: RefusalReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    #[error("there are more endpoint lists than this mode can number")]
    TooManyLists,
    #[error("there are more different endpoint counts and affinity timeouts than this mode can number")]
    TooManyClasses,
    #[error("this kernel has no match for SCTP's ports (xt_sctp)")]
    NoSctp,
    #[error("this kernel has no match that remembers clients, which session affinity needs (xt_recent)")]
    NoAffinity,
    #[error("the kernel refuses its rules")]
    RulesRefused,
    #[error("this mode relays TCP and UDP, and no other protocol")]
    NotRelayed,
    #[error("without CAP_NET_ADMIN only loopback addresses without source ranges can be served")]
    NeedsRules,
    #[error("the node has no address of this IP family to listen on")]
    NoNodeAddress,
    #[error("there are more listeners than this node has free ports for")]
    TooManyListeners,
    #[error("another process has its address and port")]
    AddressInUse,
    #[error("listening on a port below 1024 takes CAP_NET_BIND_SERVICE")]
    PortNotPermitted,
    #[error("its address is none of this node")]
    NotLocal,
    #[error("the process cannot open any more sockets")]
    NoSockets,
}
