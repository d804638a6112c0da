//! The table's fixed shape: which sets and chains there are and what their rules say. At run time only elements change,
//! and a chain is added when an endpoint count or an affinity timeout is met for the first time.
//!
//! A new connection's way: `prerouting` or `output` keep a foreign mark, find the frontend and put its endpoint list into
//! the mark; `dispatch` checks source ranges and goes to the chain of the list's class, which picks a slot and
//! translates. One hook later the choice is recorded if the class is sticky and the mark is handed back, with one bit
//! set if the packet is to be masqueraded, which `postrouting` does. What is to be rejected goes on, marked, to `input` or
//! `forward`. Later packets meet none of this.

use std::time::Duration;

use ipnet::IpNet;
use nft::expr::{ct_state, ct_status};
use nft::rule::{AddrType, Load};
use nft::{Chain, ChainType, DataType, DynsetOp, Family, Hook, L3, Reject, Rule, Set, Table};
use service_model::{InterfaceMatch, IpFamily, Protocol};

use crate::mark::{ClassId, ListId, Mark, MasqueradeMode};

/// Whoever's table has this name, it is ours: the ownership mark.
pub const TABLE_NAME: &str = "portolan";
/// Marks packets to be masqueraded between the two NAT hooks; the bit kube-proxy uses (`masqueradeBit: 14`).
pub const MASQUERADE_BIT: u32 = 1 << 14;

/// Marks packets that will be rejected when the kernel knows where they would go; no frontend's mark looks like it.
pub const REJECT_MARK: u32 = 0x7000_0001;

/// Clients remembered for session affinity, and foreign marks in flight. The kernel wants a limit for maps that rules
/// write to.
const AFFINITY_SIZE: u32 = 262_144;
const SAVED_MARKS_SIZE: u32 = 16_384;
/// A foreign mark is needed again within the same packet's next hook.
const SAVED_MARK_LIFE: Duration = Duration::from_secs(1);

/// What the rules depend on besides Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: IpFamily,
    pub local_pods: Vec<IpNet>,
    /// The links that the node's own pods are told by instead.
    pub local_interface: Option<InterfaceMatch>,
    pub service_cidrs: Vec<IpNet>,
    /// NodePorts answer on the addresses in a set instead of on every local one.
    pub listed_node_ports: bool,
    /// One of those addresses is the node's loopback, which its neighbours must not reach.
    pub guards_loopback: bool,
}

/// The sets and maps by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Address, protocol and port of a frontend, for everybody.
    Frontends,
    /// The same for this node and its pods, where that differs.
    LocalFrontends,
    NodePorts,
    LocalNodePorts,
    /// List and slot to endpoint.
    Endpoints,
    ClusterIps,
    NodePortAddresses,
    /// Frontends with source ranges.
    Restricted,
    AllowedSources,
    /// Endpoints that may meet themselves.
    Hairpin,
    /// Class to chain.
    Classes,
    /// Class to the chain that records the choice.
    Sticky,
    Affinity,
    SavedMarks,
}

/// What lists of one class have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    pub endpoints: u32,
    pub affinity_seconds: Option<u32>,
}

pub const DISPATCH: &str = "dispatch";
const FROM_HERE: &str = "from-here";
const FROM_ELSEWHERE: &str = "from-elsewhere";
pub const NO_FRONTEND: &str = "no-frontend";
const CHECK_SOURCE: &str = "check-source";
pub const REJECT: &str = "reject-packet";
const REJECT_HERE: &str = "reject-here";
pub const DROP: &str = "drop-packet";
const FINISH_HERE: &str = "finish-here";
const FINISH_ELSEWHERE: &str = "finish-elsewhere";
const HAND_BACK: &str = "hand-back";
const HAND_BACK_MASQUERADE: &str = "hand-back-masquerade";

/// IFNAMSIZ
const INTERFACE_NAME_LEN: usize = 16;
/// The loopback link's number in every network namespace.
const LOOPBACK_LINK: u32 = 1;

/// `dstnat` and `srcnat`, and the first moment after `dstnat`.
const DSTNAT: i32 = -100;
const AFTER_DSTNAT: i32 = -99;
const SRCNAT: i32 = 100;
/// Before a host's own filter drops what should be answered.
const BEFORE_FILTER: i32 = -10;

pub fn table(family: IpFamily) -> Table {
    Table::new(if family == IpFamily::V4 { Family::Ip } else { Family::Ip6 }, TABLE_NAME)
}

impl SetName {
    pub const ALL: [SetName; 14] = [
        SetName::Frontends,
        SetName::LocalFrontends,
        SetName::NodePorts,
        SetName::LocalNodePorts,
        SetName::Endpoints,
        SetName::ClusterIps,
        SetName::NodePortAddresses,
        SetName::Restricted,
        SetName::AllowedSources,
        SetName::Hairpin,
        SetName::Classes,
        SetName::Sticky,
        SetName::Affinity,
        SetName::SavedMarks,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SetName::Frontends => "frontends",
            SetName::LocalFrontends => "local-frontends",
            SetName::NodePorts => "node-ports",
            SetName::LocalNodePorts => "local-node-ports",
            SetName::Endpoints => "endpoints",
            SetName::ClusterIps => "cluster-ips",
            SetName::NodePortAddresses => "node-port-addresses",
            SetName::Restricted => "restricted",
            SetName::AllowedSources => "allowed-sources",
            SetName::Hairpin => "hairpin",
            SetName::Classes => "classes",
            SetName::Sticky => "sticky",
            SetName::Affinity => "affinity",
            SetName::SavedMarks => "saved-marks",
        }
    }

    pub fn set(self, family: IpFamily) -> Set {
        use DataType::{InetProto, InetService, Mark, Slot};
        let addr = if family == IpFamily::V4 { DataType::Ipv4Addr } else { DataType::Ipv6Addr };
        let (name, frontend) = (self.name(), vec![addr, InetProto, InetService]);
        match self {
            SetName::Frontends | SetName::LocalFrontends => Set::map(name, frontend, vec![Mark]),
            SetName::NodePorts | SetName::LocalNodePorts => Set::map(name, vec![InetProto, InetService], vec![Mark]),
            SetName::Endpoints => Set::map(name, vec![Mark, Slot], vec![addr, InetService]),
            SetName::ClusterIps | SetName::NodePortAddresses => Set::set(name, vec![addr]),
            SetName::Restricted => Set::set(name, frontend),
            SetName::AllowedSources => Set::set(name, vec![addr, InetProto, InetService, addr]).interval(),
            SetName::Hairpin => Set::set(name, vec![addr, addr]),
            SetName::Classes | SetName::Sticky => Set::verdict_map(name, vec![Mark]),
            SetName::Affinity => {
                Set::map(name, vec![Mark, addr], vec![addr, InetService]).dynamic().timeout(None).size(AFFINITY_SIZE)
            }
            SetName::SavedMarks => Set::map(name, vec![InetProto, addr, InetService], vec![Mark])
                .dynamic()
                .timeout(Some(SAVED_MARK_LIFE))
                .size(SAVED_MARKS_SIZE),
        }
    }
}

impl Class {
    /// The chain that picks an endpoint.
    pub fn chain(self) -> String {
        match self.affinity_seconds {
            None => format!("pick-{}", self.endpoints),
            Some(seconds) => format!("pick-{}-sticky-{seconds}s", self.endpoints),
        }
    }

    /// The inverse of `chain`.
    pub fn from_chain(name: &str) -> Option<Class> {
        let rest = name.strip_prefix("pick-")?;
        let class = match rest.split_once("-sticky-") {
            None => Class { endpoints: rest.parse().ok()?, affinity_seconds: None },
            Some((endpoints, seconds)) => Class {
                endpoints: endpoints.parse().ok()?,
                affinity_seconds: Some(seconds.strip_suffix('s')?.parse().ok()?),
            },
        };
        (class.chain() == name && class.endpoints > 0).then_some(class)
    }

    pub fn rules(self, family: IpFamily) -> Vec<Rule> {
        let l3 = l3(family);
        let list = Load::MarkMasked(ListId::MASK);
        let random = Load::Random { modulus: self.endpoints, offset: 0 };
        let mut rules = Vec::new();
        if self.affinity_seconds.is_some() {
            rules.push(Rule::new().dnat_map(l3, &[list.clone(), Load::Saddr(l3)], SetName::Affinity.name()));
        }
        rules.push(Rule::new().dnat_map(l3, &[list, random], SetName::Endpoints.name()));
        rules.push(Rule::new().drop_packet());
        rules
    }

    /// The chain that records a client's endpoint; one per timeout.
    pub fn record_chain(self) -> Option<String> {
        self.affinity_seconds.map(|seconds| format!("record-{seconds}s"))
    }

    pub fn record_rules(self, family: IpFamily) -> Vec<Rule> {
        let l3 = l3(family);
        let timeout = self.affinity_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let key = [Load::MarkMasked(ListId::MASK), Load::Saddr(l3)];
        vec![Rule::new().update(SetName::Affinity.name(), &key, &[Load::Daddr(l3), Load::Dport], timeout)]
    }

    /// The timeout of a `record-` chain.
    pub fn recorded_by(name: &str) -> Option<u32> {
        let seconds: u32 = name.strip_prefix("record-")?.strip_suffix('s')?.parse().ok()?;
        (format!("record-{seconds}s") == name).then_some(seconds)
    }
}

impl Settings {
    /// The chains that are always there, callees first, each with its rules.
    pub fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = vec![
            (Chain::regular(REJECT), self.reject()),
            (Chain::regular(REJECT_HERE), self.reject_here()),
            (Chain::regular(DROP), vec![Rule::new().drop_packet()]),
            (Chain::regular(CHECK_SOURCE), self.check_source()),
            (Chain::regular(DISPATCH), self.dispatch()),
            (Chain::regular(NO_FRONTEND), self.no_frontend()),
            (Chain::regular(FROM_ELSEWHERE), self.find_frontend(false)),
            (Chain::regular(FROM_HERE), self.find_frontend(true)),
            (Chain::regular(HAND_BACK), self.hand_back(false)),
            (Chain::regular(HAND_BACK_MASQUERADE), self.hand_back(true)),
            (Chain::regular(FINISH_HERE), self.finish(true)),
            (Chain::regular(FINISH_ELSEWHERE), self.finish(false)),
        ];
        chains.extend(self.hooks());
        chains
    }

    /// The same while not all Services are there: what is at no frontend may be somebody else's still, of another mode that
    /// translates after this one, or IPVS, which takes in what has the node's address.
    pub fn chains_before_services(&self) -> Vec<(Chain, Vec<Rule>)> {
        let mut chains = self.chains();
        chains.iter_mut().filter(|(chain, _)| chain.name == NO_FRONTEND).for_each(|(_, rules)| rules.clear());
        chains
    }

    fn hooks(&self) -> Vec<(Chain, Vec<Rule>)> {
        let l3 = l3(self.family);
        let mut prerouting = self.keep_from_loopback();
        prerouting.extend(self.save_mark());
        prerouting.extend(self.sent_by_pods().into_iter().map(|rule| rule.goto(FROM_HERE)));
        prerouting.push(Rule::new().goto(FROM_ELSEWHERE));
        let mut output = self.save_mark().to_vec();
        output.push(Rule::new().goto(FROM_HERE));
        // Masqueraded packets of a pod here would be told from others by source below; hairpin ones only now, when the
        // endpoint is known.
        let hairpin = [Load::Saddr(l3), Load::Daddr(l3)];
        let postrouting = vec![
            Rule::new()
                .mark_is(MASQUERADE_BIT, MASQUERADE_BIT)
                .change_mark(!MASQUERADE_BIT, 0)
                .masquerade_fully_random(),
            Rule::new().ct_status(ct_status::DNAT).in_set(&hairpin, SetName::Hairpin.name()).masquerade_fully_random(),
        ];
        let translated = |chain: &str| {
            // Every packet comes by here: what nearly none has is asked first.
            let ours = Rule::new().mark_is(Mark::OURS_MASK, Mark::OURS);
            vec![ours.ct_state(ct_state::NEW).ct_status(ct_status::DNAT).goto(chain)]
        };
        let mut input = self.let_answers_to_loopback_in();
        input.extend(reject_marked());
        // Type `route`: the kernel has routed the translated packet by a mark that was not its own.
        let after_output = Chain::base("after-output", ChainType::Route, Hook::Output, AFTER_DSTNAT);
        vec![
            (Chain::base("prerouting", ChainType::Nat, Hook::Prerouting, DSTNAT), prerouting),
            (Chain::base("output", ChainType::Nat, Hook::Output, DSTNAT), output),
            (
                Chain::base("after-prerouting", ChainType::Filter, Hook::Prerouting, AFTER_DSTNAT),
                translated(FINISH_ELSEWHERE),
            ),
            (after_output, translated(FINISH_HERE)),
            (Chain::base("input", ChainType::Filter, Hook::Input, BEFORE_FILTER), input),
            (Chain::base("forward", ChainType::Filter, Hook::Forward, BEFORE_FILTER), reject_marked()),
            (Chain::base("postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT), postrouting),
        ]
    }

    /// Matches what the node's own pods send, on its way in.
    fn sent_by_pods(&self) -> Vec<Rule> {
        let saddr = || Load::Saddr(l3(self.family));
        let link = self.local_interface.as_ref().map(|link| Rule::new().is(Load::IifName, interface(link)));
        self.local_pods.iter().map(|pods| Rule::new().within(saddr(), *pods)).chain(link).collect()
    }

    /// With `route_localnet`, which NodePorts on 127.0.0.1 need, neighbours could begin connections to what listens there
    /// (CVE-2020-8558), also by way of a NodePort.
    fn keep_from_loopback(&self) -> Vec<Rule> {
        if self.guards_loopback { vec![self.to_loopback_from_elsewhere().drop_packet()] } else { Vec::new() }
    }

    /// What connection tracking can't place or doesn't track has passed by the NAT hook.
    fn let_answers_to_loopback_in(&self) -> Vec<Rule> {
        let known = nft::Value::mark(ct_state::ESTABLISHED | ct_state::RELATED);
        let unknown = self.to_loopback_from_elsewhere().masked(Load::CtState, known, nft::Value::mark(0));
        if self.guards_loopback { vec![unknown.drop_packet()] } else { Vec::new() }
    }

    fn to_loopback_from_elsewhere(&self) -> Rule {
        let rule = Rule::new().is_not(Load::Iif, nft::Value::mark(LOOPBACK_LINK));
        rule.within(Load::Daddr(l3(self.family)), loopback(self.family))
    }

    /// Whether rules that were found in the hook say it.
    pub fn guard_is_among(prerouting: &[Rule]) -> bool {
        let guard = Settings { guards_loopback: true, ..Settings::plain(IpFamily::V4) }.keep_from_loopback();
        prerouting.iter().any(|rule| guard.contains(rule))
    }

    /// Settings with which every chain has its name and hook.
    pub fn plain(family: IpFamily) -> Settings {
        Settings {
            family,
            local_pods: Vec::new(),
            local_interface: None,
            service_cidrs: Vec::new(),
            listed_node_ports: false,
            guards_loopback: false,
        }
    }

    /// The mark is about to be overwritten; nearly always there is none. What an earlier connection from the same port
    /// left must not be taken for this one's, and `update` would keep it.
    fn save_mark(&self) -> [Rule; 2] {
        let set = SetName::SavedMarks.name();
        [
            Rule::new().dynset(DynsetOp::Delete, set, &self.flow(), &[Load::Mark], None),
            Rule::new().is_not(Load::Mark, nft::Value::mark(0)).update(set, &self.flow(), &[Load::Mark], None),
        ]
    }

    /// Addresses win over NodePorts, so an external IP may be a node's own address.
    fn find_frontend(&self, here: bool) -> Vec<Rule> {
        let frontend = frontend(l3(self.family));
        let node_port = [Load::L4Proto, Load::Dport];
        let by_address = |map: SetName| Rule::new().set_mark_from_map(&frontend, map.name()).goto(DISPATCH);
        let by_node_port =
            |map: SetName| self.to_node_port_address().set_mark_from_map(&node_port, map.name()).goto(DISPATCH);
        let mut rules = Vec::new();
        if here {
            rules.push(by_address(SetName::LocalFrontends));
        }
        rules.push(by_address(SetName::Frontends));
        if here {
            rules.push(by_node_port(SetName::LocalNodePorts));
        }
        rules.push(by_node_port(SetName::NodePorts));
        rules.push(Rule::new().goto(NO_FRONTEND));
        rules
    }

    fn to_node_port_address(&self) -> Rule {
        let l3 = l3(self.family);
        let daddr = Load::Daddr(l3);
        if self.listed_node_ports {
            return Rule::new().in_set(&[daddr], SetName::NodePortAddresses.name());
        }
        Rule::new().daddr_type(AddrType::Local).outside(daddr, loopback(self.family))
    }

    /// A packet of this node, the only kind with an outgoing link here, is rejected at once; any other goes on, marked, to
    /// where the kernel rejects in both families (on 6.18 it sends no ICMPv6 error from prerouting). A socket of this node
    /// is locked while it sends, so that TCP would take in an ICMP error only with the next try, a second later; a reset it
    /// takes in at once.
    fn reject(&self) -> Vec<Rule> {
        let from_node = |rule: Rule| rule.is_not(Load::Oif, nft::Value::mark(0));
        let tcp = Rule::new().l4proto(Protocol::Tcp.number());
        vec![
            from_node(tcp).reject(Reject::TcpReset),
            from_node(Rule::new()).reject(port_unreachable(self.family)),
            Rule::new().set_mark(REJECT_MARK).accept(),
        ]
    }

    /// A reset for TCP: ICMP errors are limited to one a second for each client (icmp(7), icmp_ratelimit).
    fn reject_here(&self) -> Vec<Rule> {
        vec![
            Rule::new().l4proto(Protocol::Tcp.number()).reject(Reject::TcpReset),
            Rule::new().reject(port_unreachable(self.family)),
        ]
    }

    /// A cluster IP answers on its ports only; addresses that no Service has answer not at all.
    fn no_frontend(&self) -> Vec<Rule> {
        let daddr = || Load::Daddr(l3(self.family));
        let mut rules = vec![Rule::new().in_set(&[daddr()], SetName::ClusterIps.name()).goto(REJECT)];
        rules.extend(self.service_cidrs.iter().map(|cidr| Rule::new().within(daddr(), *cidr).drop_packet()));
        rules
    }

    /// Whatever finds no class, which only a half-written foreign change could cause, must not leave with a mark of ours.
    fn dispatch(&self) -> Vec<Rule> {
        vec![
            Rule::new().in_set(&frontend(l3(self.family)), SetName::Restricted.name()).jump(CHECK_SOURCE),
            Rule::new().vmap(&[Load::MarkMasked(ClassId::MASK)], SetName::Classes.name()),
            Rule::new().drop_packet(),
        ]
    }

    fn check_source(&self) -> Vec<Rule> {
        let l3 = l3(self.family);
        let mut key = frontend(l3).to_vec();
        key.push(Load::Saddr(l3));
        vec![Rule::new().in_set(&key, SetName::AllowedSources.name()).return_(), Rule::new().drop_packet()]
    }

    fn finish(&self, here: bool) -> Vec<Rule> {
        let mode = |mode: MasqueradeMode| Rule::new().mark_is(MasqueradeMode::MASK, mode.bits());
        let mut rules = vec![
            Rule::new().vmap(&[Load::MarkMasked(ClassId::MASK)], SetName::Sticky.name()),
            mode(MasqueradeMode::Always).goto(HAND_BACK_MASQUERADE),
        ];
        if !here {
            rules.extend(self.sent_by_pods().into_iter().map(|rule| rule.goto(HAND_BACK)));
        }
        rules.push(mode(MasqueradeMode::UnlessLocalPod).goto(HAND_BACK_MASQUERADE));
        rules.push(Rule::new().goto(HAND_BACK));
        rules
    }

    fn hand_back(&self, masquerade: bool) -> Vec<Rule> {
        let mut rules =
            vec![Rule::new().set_mark(0), Rule::new().set_mark_from_map(&self.flow(), SetName::SavedMarks.name())];
        if masquerade {
            rules.push(Rule::new().change_mark(!MASQUERADE_BIT, MASQUERADE_BIT));
        }
        rules
    }

    /// What of a packet the translation of its destination leaves alone.
    fn flow(&self) -> [Load; 3] {
        [Load::L4Proto, Load::Saddr(l3(self.family)), Load::Sport]
    }
}

pub fn l3(family: IpFamily) -> L3 {
    match family {
        IpFamily::V4 => L3::V4,
        IpFamily::V6 => L3::V6,
    }
}

/// A whole name with the zeros behind it, or as much of one as has to be the same.
fn interface(link: &InterfaceMatch) -> nft::Value {
    match link {
        InterfaceMatch::Named(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(INTERFACE_NAME_LEN, 0);
            nft::Value::new(bytes)
        }
        InterfaceMatch::Prefix(prefix) => nft::Value::new(prefix.as_bytes()),
    }
}

fn loopback(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpFamily::V6 => IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    }
}

/// Every packet comes by here, and one comparison lets nearly all pass.
fn reject_marked() -> Vec<Rule> {
    vec![Rule::new().is(Load::Mark, nft::Value::mark(REJECT_MARK)).ct_state(ct_state::NEW).goto(REJECT_HERE)]
}

fn frontend(l3: L3) -> [Load; 3] {
    [Load::Daddr(l3), Load::L4Proto, Load::Dport]
}

/// RFC 792 and RFC 4443: destination unreachable, port unreachable.
fn port_unreachable(family: IpFamily) -> Reject {
    match family {
        IpFamily::V4 => Reject::Icmp(3),
        IpFamily::V6 => Reject::Icmpv6(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_known_by_its_chain() {
        for class in
            [Class { endpoints: 1, affinity_seconds: None }, Class { endpoints: 17, affinity_seconds: Some(10_800) }]
        {
            assert_eq!(Class::from_chain(&class.chain()), Some(class));
        }
        for name in ["pick-", "pick-0", "pick-01", "pick-3-sticky-", "pick-3-sticky-5", "dispatch", "record-5s"] {
            assert_eq!(Class::from_chain(name), None, "{name}");
        }
    }
}
