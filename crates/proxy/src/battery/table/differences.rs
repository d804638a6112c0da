//! Where a mode intentionally does something else than the table says, each with its reason. One that does not differ any
//! more is a mistake as well. Not responsible for what all modes do: that is the table's.

use service_model::{IpFamily, Protocol};

use super::{Case, Expected, Pod, Sees, Sender, Target};
use crate::battery::World;

/// What is run against the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    Nftables,
    Iptables,
    Userspace,
    /// Where the kernel has IPVS.
    Ipvs,
    /// kube-proxy itself.
    OriginalNftables,
    OriginalIptables,
    OriginalIpvs,
}

#[derive(Clone, Debug)]
pub struct Difference {
    pub modes: &'static [Mode],
    pub cases: fn(&Case) -> bool,
    /// What happens instead of what the table says.
    pub expected: fn(&Expected) -> Expected,
    /// Reads after "though".
    pub reason: &'static str,
}

impl Mode {
    /// What a case comes to in this mode, with its differences.
    pub fn expects(self, case: &Case) -> Expected {
        let differs = differences().into_iter().find(|one| one.concerns(self, case));
        differs.map_or_else(|| case.expected.clone(), |one| (one.expected)(&case.expected))
    }

    /// Session affinity is kept for all of a Service's addresses together. IPVS keeps it for each virtual server, and every
    /// address is one.
    pub fn remembers_by_service(self) -> bool {
        !matches!(self, Mode::Ipvs | Mode::OriginalIpvs)
    }
}

impl Difference {
    pub fn concerns(&self, mode: Mode, case: &Case) -> bool {
        self.modes.contains(&mode) && (self.cases)(case)
    }
}

pub fn differences() -> Vec<Difference> {
    vec![
        Difference {
            modes: &[Mode::Userspace],
            cases: |case| case.probe.protocol == Protocol::Sctp && matches!(case.expected, Expected::Reaches { .. }),
            expected: |_| Expected::Rejected,
            reason: "SCTP is not relayed, and whoever comes is told so",
        },
        Difference {
            modes: &[Mode::Userspace],
            cases: shows_the_client,
            expected: Expected::by_the_node,
            reason: "this mode's connections to endpoints are the node's own",
        },
        Difference {
            modes: &[Mode::Ipvs],
            cases: forwards_at_localhost,
            expected: |_| Expected::Rejected,
            reason: "IPVS does not send on what comes from a loopback address",
        },
        Difference {
            modes: &[Mode::Ipvs, Mode::OriginalIpvs],
            cases: is_nobodys_at_an_external_address,
            expected: |_| Expected::Rejected,
            reason: "the node itself has the external addresses of Services, so nothing for them goes elsewhere, and \
                     nobody may reach what else listens on the node by them",
        },
        Difference {
            modes: &[Mode::OriginalNftables],
            cases: forwards_at_localhost,
            expected: |_| Expected::Untouched,
            reason: "the original's nftables mode leaves loopback addresses alone (KEP-3866)",
        },
        Difference {
            modes: &[Mode::OriginalIptables],
            cases: is_nobodys_in_the_range,
            expected: |_| Expected::Untouched,
            reason: "the original's iptables mode has rules for the ports of Services and for nothing else",
        },
        Difference {
            modes: &[Mode::OriginalIptables],
            cases: is_the_nodes_to_nobody,
            expected: |_| Expected::Untouched,
            reason: "the original's iptables mode does not ask its refusals of external addresses about what the node \
                     itself sends (KUBE-EXTERNAL-SERVICES hangs on INPUT and FORWARD alone)",
        },
        Difference {
            modes: &[Mode::OriginalIptables],
            cases: |case| case.scene == "ranges-nobody" && case.expected == Expected::Silent,
            expected: |_| Expected::Rejected,
            reason: "the original's iptables mode guards no address of a Service without endpoints: everybody is told",
        },
        Difference {
            modes: &[Mode::OriginalNftables, Mode::OriginalIptables, Mode::OriginalIpvs],
            cases: |case| case.scene == "ranges-ipv4" && case.probe.family == IpFamily::V6,
            expected: |_| Expected::sees_the_node([Pod::Here(0), Pod::There(0)]),
            reason: "the original takes ranges of one family for none at all in the other and admits everybody there",
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: forwards_at_localhost,
            expected: |_| Expected::Untouched,
            reason: "the original's ipvs mode makes no virtual server of a loopback address",
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: is_an_address_of_nobody,
            expected: |_| Expected::Untouched,
            reason: "the original's ipvs mode has rules for the addresses of Services and for nothing else",
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: comes_from_here_to_an_outer_address,
            expected: |table| table.reaching([Pod::Here(0)]),
            reason: "a virtual server of IPVS has one list of endpoints, whoever asks: with a policy Local those here",
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: |case| is_kept_at_a_cluster_ip(case) && case.probe.sender != Sender::Pod(Pod::Here(2)),
            expected: |_| Expected::sees_the_node([Pod::There(0)]),
            reason: ELSEWHERE,
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: |case| is_kept_at_a_cluster_ip(case) || is_taken_for_a_stranger(case),
            expected: |_| Expected::sees_the_client([Pod::There(0)]),
            reason: ELSEWHERE,
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: |case| ["internal-local-ending", "internal-local-draining-elsewhere"].contains(&case.scene),
            expected: |_| Expected::Rejected,
            reason: "for the original a Service with a policy Local and nothing but a cluster IP has no other endpoints \
                     than those here, and whoever asks is told that there are none",
        },
        Difference {
            modes: &[Mode::OriginalIpvs],
            cases: |case| case.scene == "ranges-of-pods" && case.probe.sender == Sender::Node,
            expected: |_| Expected::sees_the_node([Pod::Here(0), Pod::There(0)]),
            reason: "IPVS takes what the node sends before any rule for ranges sees it; the original's own rule for it \
                     (KUBE-IPVS-OUT-FILTER) holds for packets from the balancer's address alone",
        },
    ]
}

/// kubernetes PR 97081 of the original: so that pods here reach what isn't here.
const ELSEWHERE: &str =
    "the original's ipvs mode sends what a policy Local keeps here to all endpoints if there are none here";

/// Some endpoint sees the client, and the client's address is not the one that the node itself would use.
fn shows_the_client(case: &Case) -> bool {
    let Expected::Reaches { pods, sees: Sees::TheClient, .. } = &case.expected else { return false };
    let world = World::new(case.probe.family);
    let by_the_node = world.is_the_nodes(case.probe.from);
    pods.iter().map(|pod| pod.address(&world)).any(|pod| {
        let by_its_own_link = by_the_node && !world.local_pods.contains(&pod);
        pod != case.probe.from && !by_its_own_link
    })
}

fn forwards_at_localhost(case: &Case) -> bool {
    case.probe.target == Target::LocalhostNodePort && matches!(case.expected, Expected::Reaches { .. })
}

/// An external address that a Service has, on a port or of a protocol that it has not.
fn is_nobodys_at_an_external_address(case: &Case) -> bool {
    let there = match case.probe.target {
        Target::ExternalIpOtherPort | Target::LoadBalancerIpOtherPort => true,
        Target::ExternalIp | Target::LoadBalancerIp => ["tcp-only", "udp-only"].contains(&case.scene),
        _ => false,
    };
    there && case.expected == Expected::Untouched
}

/// An address of the Service range that no Service of this proxy has.
fn is_an_address_of_nobody(case: &Case) -> bool {
    let missing = ["cluster-ip-ipv4", "cluster-ip-ipv6", "somebody-elses"];
    let is_missing = case.probe.target == Target::ClusterIp && missing.contains(&case.scene);
    case.expected == Expected::Silent && (is_missing || case.probe.target == Target::UnallocatedClusterIp)
}

/// From the node or a pod of it to an external address with a policy Local: no endpoint has to be here, but some are.
fn comes_from_here_to_an_outer_address(case: &Case) -> bool {
    let some_here = [
        "external-local",
        "external-local-draining",
        "zone-and-external-local",
        "both-local",
        "ranges-and-local",
        "sctp-external-local",
        "pods-unknown-external-local",
        "masquerade-all-external-local",
    ];
    let elsewhere = matches!(&case.expected, Expected::Reaches { pods, .. } if pods.contains(&Pod::There(0)));
    case.probe.target != Target::ClusterIp && some_here.contains(&case.scene) && elsewhere
}

/// At the cluster IP of a Service that has external addresses too, and endpoints elsewhere alone.
fn is_kept_at_a_cluster_ip(case: &Case) -> bool {
    let scenes = ["internal-local-elsewhere", "both-local-elsewhere", "sctp-internal-local-elsewhere"];
    case.probe.target == Target::ClusterIp && scenes.contains(&case.scene)
}

/// A pod of the node where nobody knows that it is one. What others send there is answered past the node.
fn is_taken_for_a_stranger(case: &Case) -> bool {
    case.scene == "pods-unknown-external-local-elsewhere" && case.probe.sender == Sender::Pod(Pod::Here(2))
}

fn is_the_nodes_to_nobody(case: &Case) -> bool {
    let external = matches!(case.probe.target, Target::ExternalIp | Target::LoadBalancerIp);
    external && case.probe.sender == Sender::Node && case.expected == Expected::Rejected
}

/// An address of the Service range on a port, or in a family, or of a protocol, that no Service of this proxy has there.
fn is_nobodys_in_the_range(case: &Case) -> bool {
    let partly_there = ["cluster-ip-ipv4", "cluster-ip-ipv6", "somebody-elses", "tcp-only", "udp-only"];
    match case.probe.target {
        Target::ClusterIpOtherPort | Target::UnallocatedClusterIp => true,
        Target::ClusterIp => {
            partly_there.contains(&case.scene) && matches!(case.expected, Expected::Rejected | Expected::Silent)
        }
        _ => false,
    }
}
