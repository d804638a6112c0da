//! `up --host-dns`: the machine's own programs resolve the cluster's names. systemd-resolved is told that our link has
//! DNS servers for the cluster's domain and for nothing else; it forgets them when the link goes, and the link goes with
//! the system. No file is changed.

use std::fs;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use netns::LinkName;
use tokio::process::Command;

use super::network::Plan;
use super::view::DOMAIN;

const RESOLVECTL: &str = "resolvectl";
/// systemd-resolved by the name that the kernel has room for (proc(5), `comm`).
const RESOLVED: &str = "systemd-resolve";
/// glibc and systemd-resolved ask three servers at most.
const SERVERS: u32 = 3;
/// A network that isn't made of whole octets has this many reverse zones at most, or none.
const ZONES: u32 = 16;

/// Fails when nobody could be told, and says what to do by hand.
pub fn check(plan: &Plan) -> Result<()> {
    let by_hand = format!(
        "Without it, tell your resolver to ask {} about {DOMAIN} (dnsmasq: `server=/{DOMAIN}/{0}`), or leave --host-dns out: \
         `portolan run` knows the names in any case",
        plan.node_v4(0)
    );
    if !resolved_runs_here() {
        bail!("--host-dns needs systemd-resolved, and none runs in this network namespace. {by_hand}");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(RESOLVECTL).is_file()) {
        bail!("--host-dns needs the program {RESOLVECTL}, and there is none on the PATH. {by_hand}");
    }
    Ok(())
}

/// Tells systemd-resolved about the link. `nodes` is how many there are; each has a DNS server.
pub async fn set(link: &LinkName, plan: &Plan, nodes: u32) -> Result<()> {
    let servers: Vec<String> = (0..nodes.min(SERVERS)).map(|index| plan.node_v4(index).to_string()).collect();
    let reverse = [plan.pods_v4(), plan.services_v4()].into_iter().flat_map(reverse_zones);
    // With `~` a domain leads questions to the link, and isn't added to names that are typed without one.
    let domains: Vec<String> = std::iter::once(DOMAIN.to_owned()).chain(reverse).map(|d| format!("~{d}")).collect();
    let words = |word: &str| vec![word.to_owned()];
    for (setting, values) in [
        ("dns", servers),
        ("domain", domains),
        ("default-route", words("no")),
        // The zone is signed by nobody, and our servers know neither TLS nor multicast.
        ("dnssec", words("no")),
        ("dnsovertls", words("no")),
        ("llmnr", words("no")),
        ("mdns", words("no")),
    ] {
        let output = Command::new(RESOLVECTL)
            .args([setting, link.as_str()])
            .args(&values)
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {RESOLVECTL}"))?;
        if !output.status.success() {
            bail!(
                "systemd-resolved doesn't take `{RESOLVECTL} {setting} {} {}`: {}",
                link.as_str(),
                values.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(())
}

/// One of another network namespace would take our link's number for one of its own.
fn resolved_runs_here() -> bool {
    let Ok(ours) = fs::read_link("/proc/self/ns/net") else { return false };
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let process = entry.path();
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == RESOLVED)
            && fs::read_link(process.join("ns/net")).is_ok_and(|theirs| theirs == ours)
    })
}

/// The zones of a network's reverse names.
fn reverse_zones(network: Ipv4Net) -> Vec<String> {
    let octets = network.prefix_len().div_ceil(8).max(1);
    let count = 1u32 << (u32::from(octets) * 8 - u32::from(network.prefix_len()));
    if count > ZONES {
        return Vec::new();
    }
    let first = u32::from(network.network());
    let zone = |index: u32| {
        let address = IpAddr::V4((first + (index << (32 - u32::from(octets) * 8))).into());
        let text = address.to_string();
        let mut labels: Vec<&str> = text.split('.').take(octets.into()).collect();
        labels.reverse();
        format!("{}.in-addr.arpa", labels.join("."))
    };
    (0..count).map(zone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_reverse_zones_that_cover_it() {
        let zones = |network: &str| reverse_zones(network.parse().unwrap());
        assert_eq!(zones("10.96.0.0/16"), ["96.10.in-addr.arpa"]);
        assert_eq!(zones("10.96.0.0/15"), ["96.10.in-addr.arpa", "97.10.in-addr.arpa"]);
        assert_eq!(zones("192.168.7.0/24"), ["7.168.192.in-addr.arpa"]);
        assert!(zones("10.0.0.0/9").is_empty());
    }
}
