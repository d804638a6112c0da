//! The chains that are always there, and who calls them. Not responsible for what a Service puts into them (`compile`).
//!
//! A new connection's way: `nat` finds its frontend in KUBE-SERVICES (or KUBE-NODEPORTS, for addresses of the node), which
//! leads to the Service's chain, which picks an endpoint's, which translates. Whatever was not translated meets `filter`:
//! there is what is denied, by frontend, then by cluster IP, then by range.

use std::collections::BTreeSet;

use iptables::{Reject, Rule, States, Table, Target};
use service_model::{IpFamily, Masquerade, NodePortAddresses, Protocol, Verdict};

use crate::names::{
    CANARY, CLOSED_NODE_PORTS, CLUSTER_IPS, EXTERNAL_SERVICES, FIREWALL, FORWARD, MARK_MASQUERADE, MARK_SOME, MARTIANS,
    NODE_PORTS, POSTROUTING, REJECT, SERVICES,
};
use crate::settings::Settings;

/// What the jumps to our chains say, here as with kube-proxy.
const PORTALS: &str = "kubernetes service portals";
const EXTERNAL_PORTALS: &str = "kubernetes externally-visible service portals";
const GUARD: &str = "kubernetes load balancer firewall";
const HEALTH_CHECKS: &str = "kubernetes health check service ports";
const FORWARDING: &str = "kubernetes forwarding rules";
const POSTROUTING_COMMENT: &str = "kubernetes postrouting rules";
const JUMP_COMMENTS: [(&str, &[&str]); 6] = [
    (SERVICES, &[PORTALS]),
    (EXTERNAL_SERVICES, &[EXTERNAL_PORTALS]),
    (FIREWALL, &[GUARD]),
    (NODE_PORTS, &[HEALTH_CHECKS]),
    (FORWARD, &[FORWARDING]),
    (POSTROUTING, &[POSTROUTING_COMMENT]),
];

/// Chains that all Services put rules into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shared {
    /// Frontends with an address.
    Services,
    NodePorts,
    /// Cluster IPs' ports that are denied.
    DeniedServices,
    /// The same of other frontends with an address.
    DeniedExternal,
    DeniedNodePorts,
    /// Every cluster IP: it answers on its ports only.
    ClusterIps,
    /// Load-balancer IPs whose sources are limited.
    Firewall,
    HealthChecks,
}

/// A chain of the kernel's and what of ours it leads to, first to last.
pub struct Hook {
    pub table: Table,
    pub chain: &'static str,
    pub jumps: Vec<Rule>,
}

impl Shared {
    pub const ALL: [Shared; 8] = [
        Shared::Services,
        Shared::NodePorts,
        Shared::DeniedServices,
        Shared::DeniedExternal,
        Shared::DeniedNodePorts,
        Shared::ClusterIps,
        Shared::Firewall,
        Shared::HealthChecks,
    ];

    pub fn place(self) -> (Table, &'static str) {
        match self {
            Shared::Services => (Table::Nat, SERVICES),
            Shared::NodePorts => (Table::Nat, NODE_PORTS),
            Shared::DeniedServices => (Table::Filter, SERVICES),
            Shared::DeniedExternal => (Table::Filter, EXTERNAL_SERVICES),
            Shared::DeniedNodePorts => (Table::Filter, CLOSED_NODE_PORTS),
            Shared::ClusterIps => (Table::Filter, CLUSTER_IPS),
            Shared::Firewall => (Table::Filter, FIREWALL),
            Shared::HealthChecks => (Table::Filter, NODE_PORTS),
        }
    }
}

impl Settings {
    /// The chains whose rules don't depend on Services. `some` are the masquerade rules that need a chain.
    pub fn fixed_chains(&self, some: &BTreeSet<Masquerade>) -> Vec<(Table, String, Vec<Rule>)> {
        let mark = self.tuning.masquerade_mark;
        let mut chains = vec![
            (Table::Nat, CANARY.to_owned(), vec![]),
            (
                Table::Nat,
                MARK_MASQUERADE.to_owned(),
                vec![Rule::new().then(Target::SetMark { value: mark, mask: mark })],
            ),
            (
                Table::Nat,
                POSTROUTING.to_owned(),
                vec![
                    Rule::new().not_mark(mark, mark).then(Target::Return),
                    // The mark is taken off again: the packet may come by once more (a tunnel, IPsec).
                    Rule::new().then(Target::SetMark { value: mark, mask: 0 }),
                    Rule::new()
                        .comment("kubernetes service traffic requiring SNAT")
                        .then(Target::Masquerade { fully_random: true }),
                ],
            ),
            (Table::Filter, CANARY.to_owned(), vec![]),
            (Table::Filter, FORWARD.to_owned(), self.forward()),
            (
                Table::Filter,
                REJECT.to_owned(),
                vec![
                    Rule::new().protocol(Protocol::Tcp.number()).then(Target::Reject(Reject::TcpReset)),
                    Rule::new().then(Target::Reject(Reject::PortUnreachable)),
                ],
            ),
        ];
        if self.localhost_answers() {
            let martian = Rule::new()
                .comment("block incoming localnet connections")
                .not_source(self.loopback())
                .destination(self.loopback())
                .not_state(States::RELATED.and(States::ESTABLISHED).and(States::DNAT));
            chains.push((Table::Filter, MARTIANS.to_owned(), vec![martian.then(Target::Drop)]));
        }
        chains.extend(some.iter().map(|some| (Table::Nat, mark_some(*some), self.mark_some_rules(*some))));
        chains
    }

    fn forward(&self) -> Vec<Rule> {
        let mark = self.tuning.masquerade_mark;
        let mut rules = Vec::new();
        if self.tuning.drop_invalid {
            rules.push(Rule::new().state(States::INVALID).then(Target::Drop));
        }
        rules.push(Rule::new().comment("kubernetes forwarding rules").mark(mark, mark).then(Target::Accept));
        let known = States::RELATED.and(States::ESTABLISHED);
        rules.push(Rule::new().comment("kubernetes forwarding conntrack rule").state(known).then(Target::Accept));
        rules
    }

    /// Whether a rule of the kernel's chains that leads to ours is a jump of ours, or of a kube-proxy's that was here
    /// before. Any other is somebody's own idea, and theirs.
    pub fn is_jump(table: Table, chain: &str, spec: &str) -> bool {
        let comment = iptables::comment_of(spec);
        let target = iptables::target_of(spec);
        let known = |(of, comments): &(&str, &[&str])| {
            target.as_deref() == Some(of) && comment.as_deref().is_some_and(|comment| comments.contains(&comment))
        };
        let martians = || Rule::parse(spec) == Some(Rule::new().jump(MARTIANS));
        JUMP_COMMENTS.iter().any(known) || (table == Table::Filter && chain == "INPUT" && martians())
    }

    /// Who calls our chains.
    pub fn hooks(&self) -> Vec<Hook> {
        let portals = || Rule::new().comment(PORTALS);
        // Of a translated connection everything has been decided, and its endpoint may be somebody's frontend.
        let new = |comment: &str, chain: &str| {
            Rule::new().comment(comment).state(States::NEW).not_state(States::DNAT).jump(chain)
        };
        let firewall = || new(GUARD, FIREWALL);
        let external = || new(EXTERNAL_PORTALS, EXTERNAL_SERVICES);
        let services = || new(PORTALS, SERVICES);
        let mut input = vec![firewall(), Rule::new().comment(HEALTH_CHECKS).jump(NODE_PORTS), external()];
        if self.localhost_answers() {
            input.insert(0, Rule::new().jump(MARTIANS));
        }
        let forward = vec![firewall(), external(), services(), Rule::new().comment(FORWARDING).jump(FORWARD)];
        let postrouting = Rule::new().comment(POSTROUTING_COMMENT).jump(POSTROUTING);
        vec![
            Hook { table: Table::Nat, chain: "PREROUTING", jumps: vec![portals().jump(SERVICES)] },
            Hook { table: Table::Nat, chain: "OUTPUT", jumps: vec![portals().jump(SERVICES)] },
            Hook { table: Table::Nat, chain: "POSTROUTING", jumps: vec![postrouting] },
            Hook { table: Table::Filter, chain: "INPUT", jumps: input },
            Hook { table: Table::Filter, chain: "FORWARD", jumps: forward },
            Hook { table: Table::Filter, chain: "OUTPUT", jumps: vec![firewall(), external(), services()] },
        ]
    }

    /// What stands in a shared chain behind the Services' rules.
    pub fn behind(&self, shared: Shared) -> Vec<Rule> {
        match shared {
            Shared::Services => self.to_node_ports(
                "kubernetes service nodeports; NOTE: this must be the last rule in this chain",
                NODE_PORTS,
            ),
            Shared::DeniedExternal => self.to_node_ports("kubernetes service nodeports", CLOSED_NODE_PORTS),
            Shared::DeniedServices => {
                self.service_cidrs.iter().map(|cidr| Rule::new().destination(*cidr).jump(CLUSTER_IPS)).collect()
            }
            // Addresses in the ranges that no Service has answer not at all.
            Shared::ClusterIps => {
                self.service_cidrs.iter().map(|cidr| Rule::new().destination(*cidr).then(Target::Drop)).collect()
            }
            _ => vec![],
        }
    }

    /// Leads packets to the addresses that NodePorts answer on to a chain.
    fn to_node_ports(&self, comment: &str, chain: &str) -> Vec<Rule> {
        let rule = || Rule::new().comment(comment);
        match &self.node_ports {
            NodePortAddresses::AllLocal => {
                vec![rule().not_destination(self.loopback()).destination_is_local().jump(chain)]
            }
            NodePortAddresses::Only(addresses) => {
                addresses.iter().map(|address| rule().destination_address(*address).jump(chain)).collect()
            }
        }
    }

    /// Marks those whom `who` names, of the packets that `base` is about.
    pub fn masquerade(&self, base: &Rule, who: Masquerade) -> Vec<Rule> {
        let mark = |rule: Rule| rule.jump(MARK_MASQUERADE);
        match (who, &self.local_pods[..]) {
            (Masquerade::NEVER, _) => vec![],
            (Masquerade::ALWAYS, _) | (Masquerade { node: true, others: true, .. }, []) => vec![mark(base.clone())],
            (Masquerade { local_pods: false, node: true, others: true }, [pods]) => {
                vec![mark(pods.beside(base.clone()))]
            }
            (Masquerade { local_pods: false, node: true, others: false }, _) => {
                vec![mark(base.clone().source_is_local())]
            }
            _ => vec![base.clone().jump(mark_some(who))],
        }
    }

    /// Whether `masquerade` leads to a chain of its own.
    pub fn needs_chain(&self, who: Masquerade) -> bool {
        self.masquerade(&Rule::new(), who) == [Rule::new().jump(mark_some(who))]
    }

    /// The node's own addresses count as the node's, also where they are in the pods' range.
    fn mark_some_rules(&self, who: Masquerade) -> Vec<Rule> {
        let verdict =
            |yes: bool, rule: Rule| rule.then(if yes { Target::Jump(MARK_MASQUERADE.into()) } else { Target::Return });
        let mut rules = vec![verdict(who.node, Rule::new().source_is_local())];
        if who.node {
            rules.push(Rule::new().source_is_local().then(Target::Return));
        }
        for pods in &self.local_pods {
            rules.push(verdict(who.local_pods, pods.among(Rule::new())));
            if who.local_pods {
                rules.push(pods.among(Rule::new()).then(Target::Return));
            }
        }
        if who.others {
            rules.push(Rule::new().jump(MARK_MASQUERADE));
        }
        rules
    }
}

fn mark_some(who: Masquerade) -> String {
    let letters = [(who.local_pods, 'P'), (who.node, 'N'), (who.others, 'O')];
    let letters: String = letters.into_iter().filter(|(yes, _)| *yes).map(|(_, letter)| letter).collect();
    format!("{MARK_SOME}{letters}")
}

/// What denies a packet of a protocol; `None` for what is forwarded.
pub fn denial(verdict: &Verdict, protocol: Protocol) -> Option<Target> {
    match verdict {
        Verdict::Forward(_) => None,
        Verdict::Drop => Some(Target::Drop),
        // ICMP errors are limited to one a second for each client (icmp(7), icmp_ratelimit), and a socket of this node
        // takes in a reset at once.
        Verdict::Reject if protocol == Protocol::Tcp => Some(Target::Reject(Reject::TcpReset)),
        Verdict::Reject => Some(Target::Reject(Reject::PortUnreachable)),
    }
}

pub fn family(family: IpFamily) -> iptables::Family {
    match family {
        IpFamily::V4 => iptables::Family::V4,
        IpFamily::V6 => iptables::Family::V6,
    }
}
