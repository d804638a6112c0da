//! The table's fixed shape. At run time only elements change.
//!
//! A new connection's way: `prerouting` or `output` find the frontend and translate to the process's listener. What is not
//! translated meets `input`, `forward` or `output` with its own destination, where it is refused if the Service has nobody
//! for it. Later packets meet none of this: connection tracking knows them, also when their Service has gone.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nft::expr::{ct_state, ct_status};
use nft::rule::{AddrType, Load};
use nft::{Chain, ChainType, DataType, Family, Hook, L3, Reject, Rule, Set, Table, Transaction, Value};
use service_model::{IpFamily, Protocol};

/// Whoever's table has this name, it is ours: the ownership mark.
pub const TABLE_NAME: &str = "portolan-userspace";

/// What the rules depend on besides Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: IpFamily,
    pub local_pods: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// NodePorts answer on the addresses in a set instead of on every local one.
    pub listed_node_ports: bool,
    /// NodePorts answer on 127.0.0.1. Here that takes no rules, but connections that another mode translated there go on by
    /// `route_localnet`, and neighbours have to be kept out for as long as it is on (CVE-2020-8558).
    pub guards_loopback: bool,
}

/// The sets and maps by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Address, protocol and port of a frontend to a listener.
    Frontends,
    /// The same for this node and its pods, where that differs.
    LocalFrontends,
    NodePorts,
    LocalNodePorts,
    /// Frontends that nobody serves, to what becomes of their packets.
    Denied,
    LocalDenied,
    DeniedNodePorts,
    LocalDeniedNodePorts,
    /// Where the process listens: nobody is to come there but by a frontend.
    Listeners,
    ClusterIps,
    NodePortAddresses,
    /// Frontends with source ranges.
    Restricted,
    AllowedSources,
}

pub const REJECT: &str = "reject-packet";
const FROM_HERE: &str = "from-here";
const FROM_ELSEWHERE: &str = "from-elsewhere";
const CHECK_SOURCE: &str = "check-source";
const UNTRANSLATED: &str = "untranslated";
const UNTRANSLATED_HERE: &str = "untranslated-here";
pub const NOBODY: &str = "nobody";
pub const GUARD: &str = "guard-loopback";

/// `raw`: answers that will be translated to a loopback address have the node's own still.
const RAW: i32 = -300;
/// Linux's LOOPBACK_IFINDEX.
const LOOPBACK_LINK: u32 = 1;
/// `dstnat`.
const DSTNAT: i32 = -100;
/// Before a host's own filter drops what should be answered.
const BEFORE_FILTER: i32 = -10;

pub fn table(family: IpFamily) -> Table {
    Table::new(if family == IpFamily::V4 { Family::Ip } else { Family::Ip6 }, TABLE_NAME)
}

impl SetName {
    pub const ALL: [SetName; 13] = [
        SetName::Frontends,
        SetName::LocalFrontends,
        SetName::NodePorts,
        SetName::LocalNodePorts,
        SetName::Denied,
        SetName::LocalDenied,
        SetName::DeniedNodePorts,
        SetName::LocalDeniedNodePorts,
        SetName::Listeners,
        SetName::ClusterIps,
        SetName::NodePortAddresses,
        SetName::Restricted,
        SetName::AllowedSources,
    ];

    /// Those that say where a frontend's packets go; the others are about who may send them.
    pub const LEADING: [SetName; 8] = [
        SetName::Frontends,
        SetName::LocalFrontends,
        SetName::NodePorts,
        SetName::LocalNodePorts,
        SetName::Denied,
        SetName::LocalDenied,
        SetName::DeniedNodePorts,
        SetName::LocalDeniedNodePorts,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SetName::Frontends => "frontends",
            SetName::LocalFrontends => "local-frontends",
            SetName::NodePorts => "node-ports",
            SetName::LocalNodePorts => "local-node-ports",
            SetName::Denied => "denied",
            SetName::LocalDenied => "local-denied",
            SetName::DeniedNodePorts => "denied-node-ports",
            SetName::LocalDeniedNodePorts => "local-denied-node-ports",
            SetName::Listeners => "listeners",
            SetName::ClusterIps => "cluster-ips",
            SetName::NodePortAddresses => "node-port-addresses",
            SetName::Restricted => "restricted",
            SetName::AllowedSources => "allowed-sources",
        }
    }

    pub fn set(self, family: IpFamily) -> Set {
        use DataType::{InetProto, InetService};
        let addr = if family == IpFamily::V4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr };
        let (name, frontend) = (self.name(), vec![addr, InetProto, InetService]);
        let node_port = vec![InetProto, InetService];
        match self {
            SetName::Frontends | SetName::LocalFrontends => Set::map(name, frontend, vec![addr, InetService]),
            SetName::NodePorts | SetName::LocalNodePorts => Set::map(name, node_port, vec![addr, InetService]),
            SetName::Denied | SetName::LocalDenied => Set::verdict_map(name, frontend),
            SetName::DeniedNodePorts | SetName::LocalDeniedNodePorts => Set::verdict_map(name, node_port),
            SetName::Listeners | SetName::Restricted => Set::set(name, frontend),
            SetName::ClusterIps | SetName::NodePortAddresses => Set::set(name, vec![addr]),
            SetName::AllowedSources => Set::set(name, vec![addr, InetProto, InetService, addr]).interval(),
        }
    }
}

impl Settings {
    /// All chains, callees first, each with its rules.
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![
            (Chain::regular(REJECT), self.reject()),
            (Chain::regular(CHECK_SOURCE), self.check_source()),
            (Chain::regular(FROM_ELSEWHERE), self.find_listener(false)),
            (Chain::regular(FROM_HERE), self.find_listener(true)),
            (Chain::regular(NOBODY), self.nobody()),
            (Chain::regular(UNTRANSLATED_HERE), self.untranslated(true)),
            (Chain::regular(UNTRANSLATED), self.untranslated(false)),
        ];
        chains.extend(self.hooks());
        chains
    }

    /// The same while not all Services are there: what is at no frontend may be somebody else's still, namely IPVS's, which
    /// takes in what has the node's address. Nobody comes to a listener directly, though.
    pub fn chains_before_services(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = self.chains();
        chains.iter_mut().filter(|(chain, _)| chain.name == NOBODY).for_each(|(_, rules)| rules.truncate(1));
        chains
    }

    fn hooks(&self) -> Vec<(Chain, Vec<Rule>)> {
        let from_pods = |chain: &str| -> Vec<Rule> {
            let pods = self.local_pods.iter();
            pods.map(|pods| Rule::new().within(Load::Saddr(self.l3()), *pods).goto(chain)).collect()
        };
        let mut prerouting = from_pods(FROM_HERE);
        prerouting.push(Rule::new().goto(FROM_ELSEWHERE));
        // What was translated has a listener's address now.
        let only_untranslated =
            || Rule::new().ct_state(ct_state::NEW).masked(Load::CtStatus, Value::mark(ct_status::DNAT), Value::mark(0));
        let mut filter: Vec<Rule> = self
            .local_pods
            .iter()
            .map(|pods| only_untranslated().within(Load::Saddr(self.l3()), *pods).goto(UNTRANSLATED_HERE))
            .collect();
        filter.push(only_untranslated().goto(UNTRANSLATED));
        let base = |name: &str, hook| Chain::base(name, ChainType::Filter, hook, BEFORE_FILTER);
        vec![
            (Chain::base(GUARD, ChainType::Filter, Hook::Prerouting, RAW), self.guard()),
            (Chain::base("prerouting", ChainType::Nat, Hook::Prerouting, DSTNAT), prerouting),
            (Chain::base("output", ChainType::Nat, Hook::Output, DSTNAT), vec![Rule::new().goto(FROM_HERE)]),
            (base("input", Hook::Input), filter.clone()),
            (base("forward", Hook::Forward), filter),
            (base("after-output", Hook::Output), vec![only_untranslated().goto(UNTRANSLATED_HERE)]),
        ]
    }

    /// Addresses win over NodePorts, so an external IP may be a node's own address.
    fn find_listener(&self, here: bool) -> Vec<Rule> {
        let (l3, frontend, node_port) = (self.l3(), self.frontend(), [Load::L4Proto, Load::Dport]);
        let mut rules = vec![Rule::new().in_set(&frontend, SetName::Restricted.name()).jump(CHECK_SOURCE)];
        let addresses = [SetName::LocalFrontends, SetName::Frontends];
        let node_ports = [SetName::LocalNodePorts, SetName::NodePorts];
        let skip = usize::from(!here);
        rules.extend(addresses[skip..].iter().map(|map| Rule::new().dnat_map(l3, &frontend, map.name())));
        rules.extend(
            node_ports[skip..].iter().map(|map| self.to_node_port_address().dnat_map(l3, &node_port, map.name())),
        );
        rules
    }

    fn check_source(&self) -> Vec<Rule> {
        let mut key = self.frontend().to_vec();
        key.push(Load::Saddr(self.l3()));
        vec![Rule::new().in_set(&key, SetName::AllowedSources.name()).return_(), Rule::new().drop_packet()]
    }

    fn untranslated(&self, here: bool) -> Vec<Rule> {
        let (frontend, node_port) = (self.frontend(), [Load::L4Proto, Load::Dport]);
        let skip = usize::from(!here);
        let mut rules = Vec::new();
        let addresses = [SetName::LocalDenied, SetName::Denied];
        rules.extend(addresses[skip..].iter().map(|map| Rule::new().vmap(&frontend, map.name())));
        let node_ports = [SetName::LocalDeniedNodePorts, SetName::DeniedNodePorts];
        rules.extend(node_ports[skip..].iter().map(|map| self.to_node_port_address().vmap(&node_port, map.name())));
        rules.push(Rule::new().goto(NOBODY));
        rules
    }

    /// Nobody comes to a listener directly. A cluster IP answers on its ports only; addresses that no Service has answer
    /// not at all.
    fn nobody(&self) -> Vec<Rule> {
        let daddr = || Load::Daddr(self.l3());
        let mut rules = vec![
            // The first: it holds also while there are no Services.
            Rule::new().in_set(&self.frontend(), SetName::Listeners.name()).goto(REJECT),
            Rule::new().in_set(&[daddr()], SetName::ClusterIps.name()).goto(REJECT),
        ];
        rules.extend(self.service_cidrs.iter().map(|cidr| Rule::new().within(daddr(), *cidr).drop_packet()));
        rules
    }

    /// Empties a table: nothing leads to the listeners any more, and nothing is refused but direct ways to them.
    pub fn quiet(family: IpFamily) -> Transaction {
        let (local_pods, service_cidrs) = (Vec::new(), Vec::new());
        let plain = Settings { family, local_pods, service_cidrs, listed_node_ports: false, guards_loopback: false };
        let mut transaction = Transaction::new(table(family));
        for (chain, rules) in plain.chains_before_services().into_iter().filter(|(chain, _)| chain.name == NOBODY) {
            transaction.replace_rules(&chain.name, &rules);
        }
        for set in SetName::ALL.into_iter().filter(|set| *set != SetName::Listeners) {
            transaction.flush_set(&set.set(family));
        }
        transaction
    }

    /// What has a loopback address on the way in from elsewhere is nobody's answer.
    pub fn guard(&self) -> Vec<Rule> {
        let elsewhere = Rule::new().is_not(Load::Iif, Value::mark(LOOPBACK_LINK));
        let guard = elsewhere.within(Load::Daddr(self.l3()), self.loopback()).drop_packet();
        if self.guards_loopback { vec![guard] } else { Vec::new() }
    }

    fn to_node_port_address(&self) -> Rule {
        let daddr = Load::Daddr(self.l3());
        if self.listed_node_ports {
            return Rule::new().in_set(&[daddr], SetName::NodePortAddresses.name());
        }
        Rule::new().daddr_type(AddrType::Local).outside(daddr, self.loopback())
    }

    fn loopback(&self) -> IpNet {
        match self.family {
            IpFamily::V4 => IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpFamily::V6 => IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
        }
    }

    /// A reset for TCP: ICMP errors are limited to one a second for each client (icmp(7), icmp_ratelimit), and a socket of
    /// this node takes one in only with its next try. RFC 792 and RFC 4443: port unreachable.
    fn reject(&self) -> Vec<Rule> {
        let unreachable = match self.family {
            IpFamily::V4 => Reject::Icmp(3),
            IpFamily::V6 => Reject::Icmpv6(4),
        };
        let tcp = Rule::new().l4proto(Protocol::Tcp.number());
        vec![tcp.reject(Reject::TcpReset), Rule::new().reject(unreachable)]
    }

    fn frontend(&self) -> [Load; 3] {
        [Load::Daddr(self.l3()), Load::L4Proto, Load::Dport]
    }

    fn l3(&self) -> L3 {
        match self.family {
            IpFamily::V4 => L3::V4,
            IpFamily::V6 => L3::V6,
        }
    }
}
