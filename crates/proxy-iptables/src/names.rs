//! Chains by name. The names are the mark of ownership: a chain that is called like one of ours is ours. kube-proxy's are
//! called the same, so whoever knows its rules finds ours, and taking over from it changes little.

use std::net::SocketAddr;
use std::sync::Arc;

use iptables::{ChainName, Table};
use service_model::ServicePortName;
use sha2::{Digest, Sha256};

pub const SERVICES: &str = "KUBE-SERVICES";
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
pub const MARK_MASQUERADE: &str = "KUBE-MARK-MASQ";
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub const FORWARD: &str = "KUBE-FORWARD";
pub const FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// Empty; its absence tells that somebody has flushed the table.
pub const CANARY: &str = "KUBE-PROXY-CANARY";
/// There only while we find out what the kernel can't do.
pub const PROBE: &str = "KUBE-PROXY-PROBE";
/// kube-proxy has no counterpart of these.
pub const CLUSTER_IPS: &str = "KUBE-CLUSTER-IPS";
pub const CLOSED_NODE_PORTS: &str = "KUBE-CLOSED-NODEPORTS";
pub const REJECT: &str = "KUBE-PROXY-REJECT";
pub const MARTIANS: &str = "KUBE-PROXY-MARTIANS";

const NAT: [&str; 6] = [SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQUERADE, CANARY, PROBE];
const FILTER: [&str; 10] = [
    SERVICES,
    NODE_PORTS,
    EXTERNAL_SERVICES,
    FORWARD,
    FIREWALL,
    CANARY,
    CLUSTER_IPS,
    CLOSED_NODE_PORTS,
    REJECT,
    MARTIANS,
];

/// Chains that belong to one Service port or endpoint: a prefix and a hash.
const SERVICE: &str = "KUBE-SVC-";
const LOCAL: &str = "KUBE-SVL-";
const EXTERNAL: &str = "KUBE-EXT-";
const FIREWALLED: &str = "KUBE-FW-";
const ENDPOINT: &str = "KUBE-SEP-";
/// Marks for masquerading whom a set of letters names; see `layout`.
pub const MARK_SOME: &str = "KUBE-MARK-MASQ-";
const HASH_LENGTH: usize = 16;

/// Whether a chain is ours, by its name.
pub fn is_ours(table: Table, chain: &str) -> bool {
    let hashed = |prefix: &str| {
        let hash =
            |rest: &str| rest.len() == HASH_LENGTH && rest.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
        chain.strip_prefix(prefix).is_some_and(hash)
    };
    match table {
        Table::Nat => {
            NAT.contains(&chain)
                || chain
                    .strip_prefix(MARK_SOME)
                    .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b"PNO".contains(&b)))
                || [SERVICE, LOCAL, EXTERNAL, FIREWALLED, ENDPOINT].into_iter().any(hashed)
        }
        Table::Filter => FILTER.contains(&chain) || hashed(FIREWALLED),
        Table::Mangle => false,
    }
}

/// The chains of one Service port.
pub struct PortNames {
    hash: String,
    /// What the hash is of.
    text: String,
}

impl PortNames {
    pub fn of(name: &ServicePortName) -> PortNames {
        let text = format!("{}{}", label(name), protocol(name));
        PortNames { hash: hash(&text), text }
    }

    /// For the endpoints that traffic from anywhere is spread over.
    pub fn service(&self) -> ChainName {
        self.with(SERVICE)
    }

    /// For other, narrower lists of endpoints; a second one has a hash of its own.
    pub fn local(&self, number: usize) -> ChainName {
        match number {
            0 => self.with(LOCAL),
            number => Arc::from(format!("{LOCAL}{}", hash(&format!("{}#{number}", self.text)))),
        }
    }

    pub fn external(&self) -> ChainName {
        self.with(EXTERNAL)
    }

    pub fn firewall(&self) -> ChainName {
        self.with(FIREWALLED)
    }

    /// Also the name of the list of clients that stay with this endpoint.
    pub fn endpoint(&self, endpoint: SocketAddr) -> ChainName {
        Arc::from(format!("{ENDPOINT}{}", hash(&format!("{}{endpoint}", self.text))))
    }

    fn with(&self, prefix: &str) -> ChainName {
        Arc::from(format!("{prefix}{}", self.hash))
    }
}

/// A Service port as comments name it.
pub fn label(name: &ServicePortName) -> String {
    if name.port.is_empty() { name.service.to_string() } else { format!("{}:{}", name.service, name.port) }
}

fn protocol(name: &ServicePortName) -> String {
    name.protocol.to_string().to_ascii_lowercase()
}

/// The first 80 bits of a SHA-256 in base 32 (RFC 4648 §6).
fn hash(text: &str) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest.iter().take(10).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let digit = |place: usize| char::from(DIGITS[(bits >> (75 - 5 * place) & 31) as usize]);
    (0..HASH_LENGTH).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_model::{Protocol, ServiceName};

    fn name(namespace: &str, service: &str, port: &str, protocol: Protocol) -> ServicePortName {
        ServicePortName { service: ServiceName::new(namespace, service), port: port.into(), protocol }
    }

    #[test]
    fn chains_are_called_as_kube_proxy_calls_them() {
        for (of, chain) in [
            (name("default", "kubernetes", "https", Protocol::Tcp), "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            (name("kube-system", "kube-dns", "dns", Protocol::Udp), "KUBE-SVC-TCOU7JCQXEZGVUNU"),
            (name("kube-system", "kube-dns", "dns-tcp", Protocol::Tcp), "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ] {
            assert_eq!(&*PortNames::of(&of).service(), chain);
        }
    }

    #[test]
    fn ours_are_known_by_name_and_nobody_elses_are() {
        let names = PortNames::of(&name("ns", "s", "", Protocol::Tcp));
        let endpoint = names.endpoint("10.0.0.1:80".parse().unwrap());
        for chain in [names.service(), names.local(0), names.local(1), names.external(), names.firewall(), endpoint] {
            assert!(is_ours(Table::Nat, &chain) && chain.len() <= 28, "{chain}");
        }
        for chain in
            ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "KUBE-SVC-SHORT", "DOCKER", "KUBE-MARK-MASQ-"]
        {
            assert!(!is_ours(Table::Nat, chain) && !is_ours(Table::Filter, chain), "{chain}");
        }
        assert!(!is_ours(Table::Filter, &names.service()), "chains are ours in their own table");
    }
}
