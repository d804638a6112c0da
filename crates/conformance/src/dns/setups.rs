//! The configurations that are compared: each once as a server block of a Corefile, once as ours has it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use dns::{Fallthrough, Name, Pods, Records};

/// Where names outside the cluster are answered: `h0` to `h5.outside.example` are there.
const OUTSIDE: u16 = 5390;
/// Zones of most of them.
const USUAL: &[&str] = &["cluster.local", "in-addr.arpa", "ip6.arpa"];

/// One configuration, served by CoreDNS and by ours.
pub struct Setup {
    pub name: &'static str,
    pub port: u16,
    pub our_port: u16,
    pub zones: &'static [&'static str],
    /// CoreDNS's lines, and the same in our words.
    lines: &'static [&'static str],
    change: fn(&mut Records),
}

pub const SETUPS: &[Setup] = &[
    Setup {
        name: "kubeadm",
        port: 5301,
        our_port: 5401,
        zones: USUAL,
        lines: &["pods insecure", "fallthrough in-addr.arpa ip6.arpa", "ttl 30"],
        change: |records| {
            (records.pods, records.ttl) = (Pods::Insecure, 30);
            records.fallthrough = Fallthrough::Zones(names(&["in-addr.arpa", "ip6.arpa"]));
        },
    },
    Setup { name: "defaults", port: 5302, our_port: 5402, zones: USUAL, lines: &[], change: |_| {} },
    Setup {
        name: "verified",
        port: 5303,
        our_port: 5403,
        zones: USUAL,
        lines: &["pods verified", "endpoint_pod_names", "ignore empty_service", "namespaces alpha beta", "ttl 0"],
        change: |records| {
            (records.pods, records.endpoint_pod_names, records.ignore_empty_service) = (Pods::Verified, true, true);
            (records.namespaces, records.ttl) = (vec!["alpha".to_owned(), "beta".to_owned()], 0);
        },
    },
    Setup {
        name: "labels",
        port: 5304,
        our_port: 5404,
        zones: USUAL,
        lines: &["pods verified", "labels tier=front", "namespace_labels team in (a)", "fallthrough"],
        change: |records| {
            (records.pods, records.fallthrough) = (Pods::Verified, Fallthrough::Always);
            records.labels = Some("tier=front".to_owned());
            records.namespace_labels = Some("team in (a)".to_owned());
        },
    },
    Setup {
        name: "noendpoints",
        port: 5305,
        our_port: 5405,
        zones: &["cluster.local", "96.10.in-addr.arpa"],
        lines: &["noendpoints", "pods insecure"],
        change: |records| (records.noendpoints, records.pods) = (true, Pods::Insecure),
    },
    Setup {
        name: "zonal",
        port: 5306,
        our_port: 5406,
        zones: &["other.example", "cluster.local", "10.in-addr.arpa", "ip6.arpa"],
        lines: &["zonal", "ttl 3600"],
        change: |records| (records.zonal, records.ttl) = (true, 3600),
    },
];

impl Setup {
    /// Ours.
    pub fn config(&self) -> Result<dns::Config> {
        let mut records = Records { zones: names(self.zones), own_addresses: own_addresses()?, ..Records::default() };
        (self.change)(&mut records);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(dns::Config {
            listen: vec![at(self.our_port)],
            records,
            upstreams: vec![at(OUTSIDE)],
            ..dns::Config::default()
        })
    }

    pub fn shows_labelled_only(&self) -> bool {
        self.name == "labels"
    }

    pub fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|l| l.starts_with(line))
    }
}

fn names(of: &[&str]) -> Vec<Name> {
    of.iter().filter_map(|name| Name::parse(name)).collect()
}

/// The addresses that CoreDNS takes for its own: those of the machine's links but the loopback.
fn own_addresses() -> Result<Vec<IpAddr>> {
    let links = nix::ifaddrs::getifaddrs().context("listing the machine's addresses")?;
    let address = |link: nix::ifaddrs::InterfaceAddress| {
        let address = link.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(links.filter_map(address).filter(|address| !address.is_loopback()).collect())
}

/// All of them in one process, and what is asked for names outside.
pub fn corefile(kubeconfig: &Path, outside: &Path) -> String {
    let mut text = String::new();
    for setup in SETUPS {
        let _ = writeln!(text, ".:{} {{", setup.port);
        let _ = writeln!(text, "    kubernetes {} {{", setup.zones.join(" "));
        let _ = writeln!(text, "        kubeconfig {}", kubeconfig.display());
        for line in setup.lines {
            let _ = writeln!(text, "        {line}");
        }
        let _ = writeln!(text, "    }}\n    forward . 127.0.0.1:{OUTSIDE}\n}}");
    }
    let _ = writeln!(text, ".:{OUTSIDE} {{\n    template ANY ANY . {{\n        rcode NXDOMAIN\n    }}\n}}");
    let _ = writeln!(text, "outside.example:{OUTSIDE} {{\n    file {}\n}}", outside.display());
    text
}

/// What is outside the cluster.
pub fn outside() -> String {
    let mut text =
        "$ORIGIN outside.example.\n@ 60 IN SOA ns hostmaster 1 7200 1800 86400 5\n@ 60 IN NS ns\n".to_owned();
    for n in 0..6 {
        let _ = writeln!(text, "h{n} 60 IN A 198.51.100.{n}");
        if n % 2 == 0 {
            let _ = writeln!(text, "h{n} 60 IN AAAA 2001:db8::{n}");
        }
    }
    text
}
