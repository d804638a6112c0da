//! The table's fixed shape: which sets and chains there are and what their rules say. At run time only elements change.
//!
//! A new connection's way: `prerouting` or `output` find the frontend by who sends, and its verdict: go on to IPVS, marked
//! if it is to be masqueraded or to be given another list of endpoints; be dropped; be rejected, which `input` does. IPVS
//! takes what goes on, since its destination is an address of this node. `postrouting` masquerades. Later packets meet none
//! of this.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nft::expr::ct_state;
use nft::rule::{AddrType, Load};
use nft::{Chain, ChainType, DataType, Family, Hook, L3, Reject, Rule, Set, Table, Value};
use service_model::{ForwardingTable, IpFamily, NodePortAddresses, Protocol};

use crate::object::ListMark;

/// Whoever's table has this name, it is ours: the ownership mark.
pub const TABLE_NAME: &str = "portolan-ipvs";
/// Marks packets that will be rejected when the kernel knows where they would go.
const REJECT_MARK: u32 = 0x7000_0001;

/// What the rules depend on besides Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: IpFamily,
    pub local_pods: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// NodePorts answer on the addresses in a set instead of on every local one.
    pub listed_node_ports: bool,
    /// Marks packets to be masqueraded between the two NAT hooks (`masqueradeBit`).
    pub masquerade_bit: u32,
}

/// The sets and maps by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Address, protocol and port of a frontend to its verdict, for everybody.
    Frontends,
    /// The same for pods here, where that differs.
    PodFrontends,
    /// And for the node itself.
    NodeFrontends,
    NodePorts,
    PodNodePorts,
    NodeNodePorts,
    /// Frontends to the mark of the list that pods here and the node are given instead.
    Lists,
    NodePortLists,
    /// Frontends with source ranges.
    Restricted,
    AllowedSources,
    ClusterIps,
    /// All addresses on our device.
    Bound,
    NodePortAddresses,
    /// Endpoints that may meet themselves.
    Hairpin,
    /// The virtual servers that are ours: others' are left alone.
    Servers,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Anybody,
    Pod,
    Node,
}

/// What a frontend's verdict leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Forward,
    Masquerade,
    /// To the other list.
    OtherList,
    Reject,
    Drop,
}

const FROM_ELSEWHERE: &str = "from-elsewhere";
const FROM_POD: &str = "from-pod";
const FROM_NODE: &str = "from-node";
const NO_FRONTEND: &str = "no-frontend";
const CHECK_SOURCE: &str = "check-source";

/// `dstnat` and `srcnat`. IPVS comes right after the first, and in the input hook right before the second.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
/// Before a host's own filter drops what should be answered.
const BEFORE_FILTER: i32 = -10;

pub fn table(family: IpFamily) -> Table {
    Table::new(if family == IpFamily::V4 { Family::Ip } else { Family::Ip6 }, TABLE_NAME)
}

impl SetName {
    pub const ALL: [SetName; 15] = [
        SetName::Frontends,
        SetName::PodFrontends,
        SetName::NodeFrontends,
        SetName::NodePorts,
        SetName::PodNodePorts,
        SetName::NodeNodePorts,
        SetName::Lists,
        SetName::NodePortLists,
        SetName::Restricted,
        SetName::AllowedSources,
        SetName::ClusterIps,
        SetName::Bound,
        SetName::NodePortAddresses,
        SetName::Hairpin,
        SetName::Servers,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SetName::Frontends => "frontends",
            SetName::PodFrontends => "pod-frontends",
            SetName::NodeFrontends => "node-frontends",
            SetName::NodePorts => "node-ports",
            SetName::PodNodePorts => "pod-node-ports",
            SetName::NodeNodePorts => "node-node-ports",
            SetName::Lists => "lists",
            SetName::NodePortLists => "node-port-lists",
            SetName::Restricted => "restricted",
            SetName::AllowedSources => "allowed-sources",
            SetName::ClusterIps => "cluster-ips",
            SetName::Bound => "bound",
            SetName::NodePortAddresses => "node-port-addresses",
            SetName::Hairpin => "hairpin",
            SetName::Servers => "servers",
        }
    }

    pub fn set(self, family: IpFamily) -> Set {
        use DataType::{InetProto, InetService, Mark};
        let addr = if family == IpFamily::V4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr };
        let (name, frontend, node_port) =
            (self.name(), vec![addr, InetProto, InetService], vec![InetProto, InetService]);
        match self {
            SetName::Frontends | SetName::PodFrontends | SetName::NodeFrontends => Set::verdict_map(name, frontend),
            SetName::NodePorts | SetName::PodNodePorts | SetName::NodeNodePorts => Set::verdict_map(name, node_port),
            SetName::Lists => Set::map(name, frontend, vec![Mark]),
            SetName::NodePortLists => Set::map(name, node_port, vec![Mark]),
            SetName::Restricted | SetName::Servers => Set::set(name, frontend),
            SetName::AllowedSources => Set::set(name, vec![addr, InetProto, InetService, addr]).interval(),
            SetName::ClusterIps | SetName::Bound | SetName::NodePortAddresses => Set::set(name, vec![addr]),
            SetName::Hairpin => Set::set(name, vec![addr, addr]),
        }
    }
}

impl Action {
    pub const ALL: [Action; 5] = [Action::Forward, Action::Masquerade, Action::OtherList, Action::Reject, Action::Drop];

    pub fn chain(self) -> &'static str {
        match self {
            Action::Forward => "forward-packet",
            Action::Masquerade => "masquerade-packet",
            Action::OtherList => "other-list",
            Action::Reject => "reject-packet",
            Action::Drop => "drop-packet",
        }
    }
}

impl Settings {
    pub fn new(table: &ForwardingTable, masquerade_bit: u32) -> Settings {
        Settings {
            family: table.family,
            local_pods: table.local_pods.clone(),
            service_cidrs: table.service_cidrs.clone(),
            listed_node_ports: matches!(table.node_ports, NodePortAddresses::Only(_)),
            masquerade_bit,
        }
    }

    /// For what doesn't depend on them: which chains there are.
    pub fn plain(family: IpFamily) -> Settings {
        let (local_pods, service_cidrs) = (Vec::new(), Vec::new());
        Settings { family, local_pods, service_cidrs, listed_node_ports: false, masquerade_bit: 0 }
    }

    /// All chains, callees first, each with its rules.
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains: Vec<(Chain, Vec<Rule>)> =
            Action::ALL.into_iter().map(|action| (Chain::regular(action.chain()), self.execute(action))).collect();
        chains.extend([
            (Chain::regular(CHECK_SOURCE), self.check_source()),
            (Chain::regular(NO_FRONTEND), self.no_frontend()),
            (Chain::regular(FROM_ELSEWHERE), self.find_frontend(Sender::Anybody)),
            (Chain::regular(FROM_POD), self.find_frontend(Sender::Pod)),
            (Chain::regular(FROM_NODE), self.find_frontend(Sender::Node)),
        ]);
        let saddr = || Load::Saddr(self.l3());
        let mut prerouting: Vec<Rule> =
            self.local_pods.iter().map(|pods| Rule::new().within(saddr(), *pods).goto(FROM_POD)).collect();
        prerouting.push(Rule::new().goto(FROM_ELSEWHERE));
        let nat = |name: &str, hook, priority| Chain::base(name, ChainType::Nat, hook, priority);
        let filter = |name: &str, hook| Chain::base(name, ChainType::Filter, hook, BEFORE_FILTER);
        chains.extend([
            (nat("prerouting", Hook::Prerouting, DSTNAT), prerouting),
            (nat("output", Hook::Output, DSTNAT), vec![Rule::new().goto(FROM_NODE)]),
            (filter("input", Hook::Input), self.reject_marked()),
            (filter("forward", Hook::Forward), self.reject_marked()),
            (nat("postrouting", Hook::Postrouting, SRCNAT), self.postrouting()),
        ]);
        chains
    }

    pub fn l3(&self) -> L3 {
        match self.family {
            IpFamily::V4 => L3::V4,
            IpFamily::V6 => L3::V6,
        }
    }

    fn frontend(&self) -> [Load; 3] {
        [Load::Daddr(self.l3()), Load::L4Proto, Load::Dport]
    }

    fn execute(&self, action: Action) -> Vec<Rule> {
        let node_port = [Load::L4Proto, Load::Dport];
        match action {
            Action::Forward => vec![Rule::new().accept()],
            Action::Masquerade => {
                vec![Rule::new().change_mark(!self.masquerade_bit, self.masquerade_bit).accept()]
            }
            Action::OtherList => vec![
                Rule::new().set_mark_from_map(&self.frontend(), SetName::Lists.name()).accept(),
                Rule::new().set_mark_from_map(&node_port, SetName::NodePortLists.name()).accept(),
            ],
            Action::Reject => self.reject(),
            Action::Drop => vec![Rule::new().drop_packet()],
        }
    }

    /// Addresses win over NodePorts, so an external IP may be a node's own address. Addresses on our device are local too,
    /// but no NodePort answers there.
    fn find_frontend(&self, sender: Sender) -> Vec<Rule> {
        let frontend = self.frontend();
        let node_port = [Load::L4Proto, Load::Dport];
        let by_address = |map: SetName| Rule::new().vmap(&frontend, map.name());
        let by_node_port = |map: SetName| self.to_node_port_address().vmap(&node_port, map.name());
        let (own, own_node_ports) = match sender {
            Sender::Anybody => (None, None),
            Sender::Pod => (Some(SetName::PodFrontends), Some(SetName::PodNodePorts)),
            Sender::Node => (Some(SetName::NodeFrontends), Some(SetName::NodeNodePorts)),
        };
        let mut rules = vec![Rule::new().in_set(&frontend, SetName::Restricted.name()).jump(CHECK_SOURCE)];
        rules.extend(own.map(by_address));
        rules.push(by_address(SetName::Frontends));
        rules.push(Rule::new().in_set(&[Load::Daddr(self.l3())], SetName::Bound.name()).goto(NO_FRONTEND));
        rules.extend(own_node_ports.map(by_node_port));
        rules.push(by_node_port(SetName::NodePorts));
        rules.push(Rule::new().goto(NO_FRONTEND));
        rules
    }

    fn to_node_port_address(&self) -> Rule {
        let daddr = Load::Daddr(self.l3());
        if self.listed_node_ports {
            return Rule::new().in_set(&[daddr], SetName::NodePortAddresses.name());
        }
        let loopback = match self.family {
            IpFamily::V4 => IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpFamily::V6 => IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
        };
        Rule::new().daddr_type(AddrType::Local).outside(daddr, loopback)
    }

    /// A cluster IP answers on its ports only; addresses that no Service has answer not at all. What else we made an address
    /// of this node would otherwise lead to whatever listens on all of them; pings may be answered.
    fn no_frontend(&self) -> Vec<Rule> {
        let daddr = || Load::Daddr(self.l3());
        let mut rules = vec![Rule::new().in_set(&[daddr()], SetName::ClusterIps.name()).goto(Action::Reject.chain())];
        rules.extend(self.service_cidrs.iter().map(|cidr| Rule::new().within(daddr(), *cidr).drop_packet()));
        let not_icmp = Rule::new().is_not(Load::L4Proto, Value::proto(self.icmp()));
        rules.push(not_icmp.in_set(&[daddr()], SetName::Bound.name()).goto(Action::Reject.chain()));
        rules
    }

    pub fn icmp(&self) -> u8 {
        match self.family {
            IpFamily::V4 => 1,
            IpFamily::V6 => 58,
        }
    }

    fn check_source(&self) -> Vec<Rule> {
        let mut key = self.frontend().to_vec();
        key.push(Load::Saddr(self.l3()));
        vec![Rule::new().in_set(&key, SetName::AllowedSources.name()).return_(), Rule::new().drop_packet()]
    }

    /// A socket of this node is locked while it sends, so that TCP would take in an ICMP error only with the next try, a
    /// second later; a reset it takes in at once. Anybody else's packet goes on, marked, to where the kernel rejects in both
    /// families.
    fn reject(&self) -> Vec<Rule> {
        let from_node = |rule: Rule| rule.is_not(Load::Oif, Value::mark(0));
        vec![
            from_node(Rule::new().l4proto(Protocol::Tcp.number())).reject(Reject::TcpReset),
            from_node(Rule::new()).reject(self.port_unreachable()),
            Rule::new().set_mark(REJECT_MARK).accept(),
        ]
    }

    /// A reset for TCP: ICMP errors are limited to one a second for each client (icmp(7), icmp_ratelimit).
    fn reject_marked(&self) -> Vec<Rule> {
        let marked = || Rule::new().ct_state(ct_state::NEW).is(Load::Mark, Value::mark(REJECT_MARK));
        vec![
            marked().l4proto(Protocol::Tcp.number()).reject(Reject::TcpReset),
            marked().reject(self.port_unreachable()),
        ]
    }

    /// RFC 792 and RFC 4443: destination unreachable, port unreachable.
    pub fn port_unreachable(&self) -> Reject {
        match self.family {
            IpFamily::V4 => Reject::Icmp(3),
            IpFamily::V6 => Reject::Icmpv6(4),
        }
    }

    /// IPVS has translated the destination by now. Whoever has one of our addresses as a source is this node, which took it
    /// because it was the destination's: nobody could answer it.
    fn postrouting(&self) -> Vec<Rule> {
        let l3 = self.l3();
        let bit = self.masquerade_bit;
        let list = |mode| Rule::new().mark_is(ListMark::KIND_MASK, mode);
        let mut rules = vec![
            Rule::new().in_set(&[Load::Saddr(l3), Load::Daddr(l3)], SetName::Hairpin.name()).masquerade_fully_random(),
            leaves().in_set(&[Load::Saddr(l3)], SetName::Bound.name()).masquerade_fully_random(),
        ];
        let unless = ListMark::UNLESS_LOCAL_POD;
        rules.extend(
            self.local_pods.iter().map(|pods| list(unless).within(Load::Saddr(l3), *pods).set_mark(0).accept()),
        );
        rules.push(list(unless).set_mark(0).masquerade_fully_random());
        rules.push(list(ListMark::ALWAYS).set_mark(0).masquerade_fully_random());
        rules.push(list(ListMark::NEVER).set_mark(0).accept());
        rules.push(Rule::new().mark_is(bit, bit).change_mark(!bit, 0).masquerade_fully_random());
        rules
    }
}

/// Of a packet that doesn't stay on this node, whose loopback device always is the first.
pub fn leaves() -> Rule {
    Rule::new().is_not(Load::Oif, Value::mark(1))
}
