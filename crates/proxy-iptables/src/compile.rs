//! What one Service port asks for: rules in the shared chains, and chains of its own. Pure, and the same whatever else
//! there is, so that a change of one Service is found by looking at it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use iptables::{ChainName, Chance, Recent, Rule, Table, Target};
use service_model::{Endpoint, EndpointSet, Frontend, ServicePort, ServicePortName, SourceRanges, Verdict};

use crate::layout::{Shared, denial};
use crate::names::{PortNames, REJECT, label};
use crate::settings::Settings;

/// The kernel keeps 255 bytes; a name that is longer than the API allows costs its comment, not its rules.
const COMMENT_LIMIT: usize = 255;

pub struct Compiler<'a> {
    settings: &'a Settings,
    port: &'a ServicePort,
    names: PortNames,
    label: String,
    /// Endpoint lists that something leads to, each with its chain.
    lists: Vec<(ChainName, &'a EndpointSet)>,
}

impl<'a> Compiler<'a> {
    pub fn new(settings: &'a Settings, name: &ServicePortName, port: &'a ServicePort) -> Compiler<'a> {
        let names = PortNames::of(name);
        let mut compiler = Compiler { settings, port, names, label: label(name), lists: Vec::new() };
        let internal = compiler.port.frontends.iter().any(Frontend::is_internal).then_some(&port.internal);
        let external = compiler.reachable_from_outside().then_some(&port.external);
        let local = compiler.reachable_from_outside().then_some(port.local_traffic.as_ref()).flatten();
        for verdict in [local, external, internal].into_iter().flatten() {
            compiler.take_list(verdict);
        }
        compiler
    }

    /// The widest list has the name that every Service has; others have names of their own.
    fn take_list(&mut self, verdict: &'a Verdict) {
        let Verdict::Forward(endpoints) = verdict else { return };
        if self.list(endpoints).is_some() {
            return;
        }
        let widest = self.port.local_traffic.as_ref().unwrap_or(&self.port.external);
        let wide = matches!(widest, Verdict::Forward(widest) if same(widest, endpoints));
        let service = self.names.service();
        let narrow = self.lists.iter().filter(|(chain, _)| *chain != service).count();
        self.lists.push((if wide { service } else { self.names.local(narrow) }, endpoints));
    }

    fn list(&self, endpoints: &EndpointSet) -> Option<&ChainName> {
        self.lists.iter().find(|(_, list)| same(list, endpoints)).map(|(chain, _)| chain)
    }

    fn chain(&self, verdict: &Verdict) -> Option<&ChainName> {
        match verdict {
            Verdict::Forward(endpoints) => self.list(endpoints),
            _ => None,
        }
    }

    fn reachable_from_outside(&self) -> bool {
        self.port.frontends.iter().any(|frontend| !frontend.is_internal())
    }

    /// What pods here and the node meet at external frontends, and what everybody else does.
    fn external(&self) -> [&'a Verdict; 2] {
        [self.port.local_traffic.as_ref().unwrap_or(&self.port.external), &self.port.external]
    }

    fn forwards_external(&self) -> bool {
        self.external().into_iter().any(forwards)
    }

    /// The rules in shared chains, in the order they have there.
    pub fn entries(&self) -> Vec<(Shared, Rule)> {
        let mut entries = Vec::new();
        let mut external: BTreeMap<IpAddr, &'static str> = BTreeMap::new();
        for frontend in &self.port.frontends {
            match *frontend {
                Frontend::ClusterIp { address, .. } => self.cluster_ip(address, frontend, &mut entries),
                Frontend::ExternalIp { address, .. } => drop(external.entry(address).or_insert("external IP")),
                // One address may be both; then what limits the load balancer's sources limits it.
                Frontend::LoadBalancerIp { address, .. } => drop(external.insert(address, "loadbalancer IP")),
                Frontend::NodePort { .. } => {
                    let base = self.comment(self.to_frontend(frontend), "");
                    if self.forwards_external() {
                        entries.push((Shared::NodePorts, base.clone().jump(self.names.external())));
                    }
                    let denied = self.denials(&base).into_iter().map(|rule| (Shared::DeniedNodePorts, rule));
                    entries.extend(denied);
                }
            }
        }
        for frontend in &self.port.frontends {
            if let Some(kind) = frontend.address().and_then(|address| external.remove(&address))
                && !frontend.is_internal()
            {
                self.address(frontend, kind, &mut entries);
            }
        }
        for frontend in self.port.frontends.iter().chain(&self.port.shadowed) {
            if let Frontend::ClusterIp { address, .. } = frontend {
                entries.push((Shared::ClusterIps, Rule::new().destination_address(*address).jump(REJECT)));
            }
        }
        if let Some(check) = self.port.health_check {
            let rule = Rule::new().port(service_model::Protocol::Tcp.number(), check.port.number());
            let rule = self.comment(rule, "health check node port").then(Target::Accept);
            entries.push((Shared::HealthChecks, rule));
        }
        entries
    }

    fn cluster_ip(&self, address: IpAddr, frontend: &Frontend, entries: &mut Vec<(Shared, Rule)>) {
        let base = self.to_frontend(frontend).destination_address(address);
        match (self.chain(&self.port.internal), denial(&self.port.internal, self.port.protocol)) {
            (Some(chain), _) => {
                entries.push((Shared::Services, self.comment(base, "cluster IP").jump(chain.clone())));
            }
            (None, Some(denial)) => {
                entries.push((Shared::DeniedServices, self.comment(base, said(&self.port.internal)).then(denial)));
            }
            (None, None) => {}
        }
    }

    /// A frontend with an address that is not internal.
    fn address(&self, frontend: &Frontend, kind: &str, entries: &mut Vec<(Shared, Rule)>) {
        let Some(address) = frontend.address() else { return };
        let base = self.to_frontend(frontend).destination_address(address);
        let guarded = self.guard().is_some() && self.load_balancer_ips().any(|ip| ip == address);
        if self.forwards_external() {
            let chain = if guarded { self.names.firewall() } else { self.names.external() };
            entries.push((Shared::Services, self.comment(base.clone(), kind).jump(chain)));
        }
        if self.settings.node_addresses.contains(&address) {
            // NodePorts are looked for behind this, and another Service's may have the same number.
            entries.push((Shared::Services, base.clone().then(Target::Return)));
        }
        if guarded {
            let firewall = self.names.firewall();
            let rule = self.comment(base.clone(), &format!("traffic not accepted by {firewall}"));
            let all = self.external().into_iter().all(forwards);
            // Admitted packets that are not forwarded have still to meet their own denial.
            entries.push((Shared::Firewall, if all { rule.then(Target::Drop) } else { rule.jump(firewall) }));
        }
        entries.extend(self.denials(&base).into_iter().map(|rule| (Shared::DeniedExternal, rule)));
    }

    /// Denies whom the verdicts at external frontends don't forward.
    fn denials(&self, base: &Rule) -> Vec<Rule> {
        let [local, others] = self.external();
        let denial = |verdict| denial(verdict, self.port.protocol);
        let comment = |rule: Rule, verdict: &Verdict| self.comment(rule, said(verdict));
        let mut rules = Vec::new();
        if let Some(target) = denial(local)
            && denial(others).as_ref() != Some(&target)
        {
            rules.extend(self.each_from_here(base).map(|rule| comment(rule, local).then(target.clone())));
        }
        // Whoever is forwarded doesn't come here.
        if let Some(target) = denial(others) {
            rules.push(comment(base.clone(), others).then(target));
        }
        rules
    }

    /// The same of packets from the node itself and from its pods.
    fn each_from_here(&self, base: &Rule) -> impl Iterator<Item = Rule> {
        let pods = self.settings.local_pods.iter().map(|pods| pods.among(base.clone()));
        std::iter::once(base.clone().source_is_local()).chain(pods).collect::<Vec<_>>().into_iter()
    }

    /// The chains of this port alone, with all their rules.
    pub fn chains(&self) -> Vec<(Table, ChainName, Vec<Rule>)> {
        let mut chains = Vec::new();
        for (chain, endpoints) in &self.lists {
            chains.push((Table::Nat, chain.clone(), self.spread(chain, endpoints)));
        }
        if self.reachable_from_outside() && self.forwards_external() {
            chains.push((Table::Nat, self.names.external(), self.external_chain()));
        }
        if let Some(ranges) = self.guard() {
            if self.forwards_external() {
                let target = Target::Jump(self.names.external());
                chains.push((Table::Nat, self.names.firewall(), self.admit(ranges, &target)));
            }
            if !self.external().into_iter().all(forwards) {
                let mut rules = self.admit(ranges, &Target::Return);
                rules.push(Rule::new().then(Target::Drop));
                chains.push((Table::Filter, self.names.firewall(), rules));
            }
        }
        let endpoints: BTreeSet<&Endpoint> = self.lists.iter().flat_map(|(_, list)| list.iter()).collect();
        chains.extend(endpoints.into_iter().map(|endpoint| self.endpoint(endpoint)));
        chains
    }

    /// Picks an endpoint: the one the client had, else any with the same probability.
    fn spread(&self, chain: &ChainName, endpoints: &EndpointSet) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.chain(&self.port.internal) == Some(chain) {
            for frontend in &self.port.frontends {
                if let Frontend::ClusterIp { address, .. } = *frontend {
                    let base = self.comment(self.to_frontend(frontend).destination_address(address), "cluster IP");
                    rules.extend(self.settings.masquerade(&base, self.port.masquerade.internal));
                }
            }
        }
        let names: Vec<ChainName> = endpoints.iter().map(|endpoint| self.names.endpoint(endpoint.socket())).collect();
        let rule = |endpoint: &Endpoint| match self.settings.commented {
            true => self.comment(Rule::new(), &format!("-> {endpoint}")),
            false => Rule::new(),
        };
        if let Some(affinity) = self.port.affinity {
            let within = Recent::Within { seconds: affinity.timeout_seconds };
            let known =
                |(endpoint, name): (&Endpoint, &ChainName)| rule(endpoint).recent(name, within).jump(name.clone());
            rules.extend(endpoints.iter().zip(&names).map(known));
        }
        for (index, (endpoint, name)) in endpoints.iter().zip(&names).enumerate() {
            let rule = match endpoints.len() - index {
                1 => rule(endpoint),
                left => rule(endpoint).chance(Chance::one_in(left)),
            };
            rules.push(rule.jump(name.clone()));
        }
        rules
    }

    fn endpoint(&self, endpoint: &Endpoint) -> (Table, ChainName, Vec<Rule>) {
        let name = self.names.endpoint(endpoint.socket());
        let rule = || match self.settings.commented {
            true => self.comment(Rule::new(), ""),
            false => Rule::new(),
        };
        // Whoever meets itself has to get the answer by way of the node, or it would see itself answer.
        let hairpin = rule().source(endpoint.address.into()).jump(crate::names::MARK_MASQUERADE);
        let mut translate = rule().protocol(self.port.protocol.number());
        if self.port.affinity.is_some() {
            translate = translate.recent(&name, Recent::Remember);
        }
        let translate = translate.then(Target::Dnat(endpoint.socket()));
        (Table::Nat, name, vec![hairpin, translate])
    }

    /// What leads from external frontends to the lists.
    fn external_chain(&self) -> Vec<Rule> {
        let text = format!("masquerade traffic for {} external destinations", self.label);
        let mut rules = self.settings.masquerade(&short(Rule::new(), text), self.port.masquerade.external);
        let [local, others] = self.external();
        if local != others {
            let target = self.chain(local).map_or(Target::Return, |chain| Target::Jump(chain.clone()));
            let base = short(Rule::new(), format!("local traffic for {} external destinations", self.label));
            rules.extend(self.each_from_here(&base).map(|rule| rule.then(target.clone())));
        }
        rules.extend(self.chain(others).map(|chain| Rule::new().jump(chain.clone())));
        rules
    }

    fn guard(&self) -> Option<&'a SourceRanges> {
        let guarded = self.load_balancer_ips().next().is_some();
        self.port.source_ranges.as_ref().filter(|_| guarded)
    }

    fn load_balancer_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.port.frontends.iter().filter_map(|frontend| match *frontend {
            Frontend::LoadBalancerIp { address, .. } => Some(address),
            _ => None,
        })
    }

    fn admit(&self, ranges: &SourceRanges, target: &Target) -> Vec<Rule> {
        let mut rules: Vec<Rule> =
            ranges.allowed.iter().map(|range| Rule::new().source(*range).then(target.clone())).collect();
        if ranges.virtual_address_too {
            let own = |ip: IpAddr| Rule::new().source(ip.into()).destination_address(ip).then(target.clone());
            rules.extend(self.load_balancer_ips().map(own));
        }
        rules
    }

    /// Protocol and port.
    fn to_frontend(&self, frontend: &Frontend) -> Rule {
        Rule::new().port(self.port.protocol.number(), frontend.port().number())
    }

    fn comment(&self, rule: Rule, what: &str) -> Rule {
        short(rule, if what.is_empty() { self.label.clone() } else { format!("{} {what}", self.label) })
    }
}

fn short(rule: Rule, comment: String) -> Rule {
    if comment.len() <= COMMENT_LIMIT { rule.comment(&comment) } else { rule }
}

fn forwards(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forward(_))
}

fn said(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Forward(_) => "",
        Verdict::Reject => "rejected",
        Verdict::Drop => "dropped",
    }
}

fn same(one: &EndpointSet, other: &EndpointSet) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
