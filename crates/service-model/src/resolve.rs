//! One Service and its slices become its ServicePorts for one node and family. This is where traffic policies and
//! masquerade decisions become verdicts. Not responsible for conflicts between Services (`table`) nor for endpoints'
//! readiness (`endpoints`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::endpoints::{Choice, candidates, choose};
use crate::names::{IpFamily, Port, Protocol, ServiceName, ServicePortName};
use crate::node::NodeView;
use crate::objects::{EndpointSlice, Service, ServicePortSpec};
use crate::problem::{Problem, ProblemReason};
use crate::table::{
    Affinity, EndpointSet, Frontend, HealthCheck, Masquerade, MasqueradeRule, ServicePort, SourceRanges, Verdict,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when absent.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;
/// The API allows no more than a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(crate) struct Resolved {
    pub ports: Vec<(ServicePortName, ServicePort)>,
    pub problems: Vec<Problem>,
}

/// What all ports of a Service share.
struct Shared {
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    source_ranges: Option<SourceRanges>,
    affinity: Option<Affinity>,
    internal_local: bool,
    external_local: bool,
    masquerade: MasqueradeRule,
}

type Report = (ServiceName, Vec<Problem>);

pub(crate) fn resolve_service<'a>(
    name: &ServiceName,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &NodeView,
    family: IpFamily,
) -> Resolved {
    let mut report: Report = (name.clone(), Vec::new());
    let slices = slices.filter(|slice| !slice.is_excluded());
    let mut ports = Vec::new();
    if let Some(shared) = shared(service, node, family, &mut report) {
        for spec in &service.spec.ports {
            let Some(protocol) = Protocol::parse(&spec.protocol) else {
                push(&mut report, ProblemReason::BadProtocol { value: spec.protocol.to_string() });
                continue;
            };
            let Some(port) = Port::from_api(spec.port) else {
                push(&mut report, ProblemReason::BadPort { field: "spec.ports.port", value: spec.port });
                continue;
            };
            let found = candidates(slices.clone(), (&spec.name, protocol), family, node, &mut report);
            let frontends = frontends(&shared, service, spec, port, &mut report);
            let mut resolved = service_port(&shared, protocol, frontends, choose(&found, node), service);
            if protocol == Protocol::Udp {
                let serving = found.iter().filter(|candidate| candidate.ready || candidate.serving);
                resolved.flows_may_stay_with = serving.map(|candidate| candidate.endpoint.socket()).collect();
            }
            let port = Arc::from(spec.name.as_str());
            ports.push((ServicePortName { service: name.clone(), port, protocol }, resolved));
        }
    }
    let mut problems = report.1;
    problems.sort();
    problems.dedup();
    Resolved { ports, problems }
}

/// `None` if the Service has no virtual IP in this family, or is another proxy's.
fn shared(service: &Service, node: &NodeView, family: IpFamily, report: &mut Report) -> Option<Shared> {
    let spec = &service.spec;
    if service.is_excluded() || spec.type_ == "ExternalName" {
        return None;
    }
    let listed = if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips };
    let listed: Vec<&String> = listed.iter().filter(|ip| !ip.is_empty() && *ip != "None").collect();
    let cluster_ip = addresses("spec.clusterIPs", listed, family, node.serves_loopback, report).first().copied()?;
    let external_ips = addresses("spec.externalIPs", &spec.external_ips, family, false, report);
    // KEP-1860: with ipMode Proxy the balancer in front of the cluster must see the traffic, so it is not captured.
    let captured = service.status.load_balancer.ingress.iter().filter(|ingress| {
        let mode = ingress.ip_mode.as_deref().unwrap_or("VIP");
        !ingress.ip.is_empty() && mode != "Proxy"
    });
    let load_balancer_ips =
        addresses("status.loadBalancer.ingress", captured.map(|ingress| &ingress.ip), family, false, report);
    let internal_local = policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy, report);
    let external_local = policy("spec.externalTrafficPolicy", &spec.external_traffic_policy, report);
    Some(Shared {
        cluster_ip,
        external_ips,
        load_balancer_ips,
        source_ranges: source_ranges(&spec.load_balancer_source_ranges, node, family, report),
        affinity: affinity(service, report),
        internal_local,
        external_local,
        masquerade: masquerade(node, family, external_local),
    })
}

/// Whether the policy is Local.
fn policy(field: &'static str, value: &str, report: &mut Report) -> bool {
    if !matches!(value, "" | "Cluster" | "Local") {
        push(report, ProblemReason::BadValue { field, value: value.to_owned() });
    }
    value == "Local"
}

fn affinity(service: &Service, report: &mut Report) -> Option<Affinity> {
    match service.spec.session_affinity.as_ref() {
        "" | "None" => None,
        "ClientIP" => {
            let configured = service.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = configured.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
            let seconds = seconds.clamp(1, MAX_AFFINITY_SECONDS);
            Some(Affinity { timeout_seconds: u32::try_from(seconds).unwrap_or(u32::MAX) })
        }
        other => {
            push(report, ProblemReason::BadValue { field: "spec.sessionAffinity", value: other.to_owned() });
            None
        }
    }
}

/// Who is masqueraded. To a cluster IP: whoever is not known to be a pod of this node, since the answer has to come back
/// through it. From outside under policy Cluster: everybody, since the endpoint may be on another node. Under policy
/// Local: only the node itself, whose traffic may leave for another node's endpoint.
fn masquerade(node: &NodeView, family: IpFamily, external_local: bool) -> MasqueradeRule {
    let knows_pods = !node.pod_cidrs_of(family).is_empty() || node.local_interface().is_some();
    let internal = if node.masquerade_all {
        Masquerade::ALWAYS
    } else {
        Masquerade { local_pods: false, node: knows_pods, others: knows_pods }
    };
    let external =
        if external_local { Masquerade { local_pods: false, node: true, others: false } } else { Masquerade::ALWAYS };
    MasqueradeRule { internal, external }
}

/// An unreadable range admits nobody: leaving it out must not open the address to everybody.
fn source_ranges(listed: &[String], node: &NodeView, family: IpFamily, report: &mut Report) -> Option<SourceRanges> {
    if listed.is_empty() {
        return None;
    }
    let mut allowed: Vec<IpNet> = Vec::new();
    for text in listed {
        match text.trim().parse::<IpNet>() {
            Ok(range) if IpFamily::of(range.addr()) == family => allowed.push(range.trunc()),
            Ok(_) => {}
            Err(_) => {
                let field = "spec.loadBalancerSourceRanges";
                push(report, ProblemReason::BadCidr { field, value: text.clone() });
            }
        }
    }
    allowed = IpNet::aggregate(&allowed);
    let virtual_address_too = node.addresses.iter().any(|node| allowed.iter().any(|range| range.contains(node)));
    Some(SourceRanges { allowed, virtual_address_too })
}

fn frontends(
    shared: &Shared,
    service: &Service,
    spec: &ServicePortSpec,
    port: Port,
    report: &mut Report,
) -> Vec<Frontend> {
    let mut frontends = vec![Frontend::ClusterIp { address: shared.cluster_ip, port }];
    frontends.extend(shared.external_ips.iter().map(|&address| Frontend::ExternalIp { address, port }));
    frontends.extend(shared.load_balancer_ips.iter().map(|&address| Frontend::LoadBalancerIp { address, port }));
    if spec.node_port != 0 && matches!(service.spec.type_.as_ref(), "NodePort" | "LoadBalancer") {
        match Port::from_api(spec.node_port) {
            Some(port) => frontends.push(Frontend::NodePort { port }),
            None => push(report, ProblemReason::BadPort { field: "spec.ports.nodePort", value: spec.node_port }),
        }
    }
    frontends.sort();
    frontends.dedup();
    frontends
}

fn service_port(
    shared: &Shared,
    protocol: Protocol,
    frontends: Vec<Frontend>,
    choice: Choice,
    service: &Service,
) -> ServicePort {
    let verdict = |local: bool| match (choice.any, local) {
        (false, _) => Verdict::Reject,
        (true, true) if choice.local.is_empty() => Verdict::Drop,
        (true, true) => Verdict::Forward(choice.local.clone()),
        (true, false) => forward(choice.cluster.clone()),
    };
    let reachable_from_outside = frontends.iter().any(|frontend| !frontend.is_internal());
    let short_circuit = shared.external_local && reachable_from_outside;
    ServicePort {
        protocol,
        frontends,
        shadowed: Vec::new(),
        internal: verdict(shared.internal_local),
        external: verdict(shared.external_local),
        local_traffic: short_circuit.then(|| verdict(false)),
        affinity: shared.affinity,
        source_ranges: shared.source_ranges.clone(),
        masquerade: shared.masquerade,
        health_check: health_check(service, choice.local_ready),
        flows_may_stay_with: Default::default(),
    }
}

fn forward(endpoints: EndpointSet) -> Verdict {
    if endpoints.is_empty() { Verdict::Reject } else { Verdict::Forward(endpoints) }
}

fn health_check(service: &Service, local_ready_endpoints: usize) -> Option<HealthCheck> {
    let spec = &service.spec;
    let wanted = spec.type_ == "LoadBalancer" && spec.external_traffic_policy == "Local";
    let port = Port::from_api(spec.health_check_node_port).filter(|_| wanted)?;
    Some(HealthCheck { port, local_ready_endpoints })
}

/// The usable addresses of one family; what does not parse is reported and left out.
fn addresses<'a>(
    field: &'static str,
    listed: impl IntoIterator<Item = &'a String>,
    family: IpFamily,
    loopback_too: bool,
    report: &mut Report,
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for text in listed {
        match text.parse::<IpAddr>() {
            Ok(address)
                if address.is_unspecified() || (address.is_loopback() && !loopback_too) || address.is_multicast() =>
            {
                push(report, ProblemReason::BadAddress { field, value: text.clone() });
            }
            Ok(address) if IpFamily::of(address) == family => found.push(address),
            Ok(_) => {}
            Err(_) => push(report, ProblemReason::BadAddress { field, value: text.clone() }),
        }
    }
    found
}

fn push((service, problems): &mut Report, reason: ProblemReason) {
    problems.push(Problem { service: service.clone(), reason });
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Reject => f.write_str("reject"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Forward(endpoints) => {
                f.write_str("forward to ")?;
                for (index, endpoint) in endpoints.iter().enumerate() {
                    write!(f, "{}{endpoint}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}
