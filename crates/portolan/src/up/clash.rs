//! Whether the machine has a system's networks free.

use anyhow::{Context, Result, bail};
use netns::Links;

use super::network::{FABRIC_FLAG, POD_FLAG, Plan, SERVICE_FLAG};

impl Plan {
    /// Fails when a route of the host leads to one of our networks or to a part of it, or when the host has an address
    /// in one: what is sent there would no longer be ours, or no longer the host's. A route to something wider (a VPN's
    /// 10.0.0.0/8, say) does no harm: ours are more specific.
    pub async fn check_host(&self, host: &Links) -> Result<()> {
        let routes = host.routes().await.context("cannot read the host's routes")?;
        let addresses = host.addresses().await.context("cannot read the host's addresses")?;
        let mut clashes = Vec::new();
        for (flag, ours) in self.named() {
            let route = routes.iter().find(|(to, _)| ours.contains(to));
            let address = addresses.iter().find(|(address, _)| ours.contains(&address.addr()));
            match (route, address) {
                (Some((to, device)), _) => clashes.push(format!("a route to {to}{}, inside {flag} {ours}", on(device))),
                (None, Some((address, device))) => {
                    clashes.push(format!("the address {}{}, inside {flag} {ours}", address.addr(), on(device)));
                }
                (None, None) => {}
            }
        }
        if clashes.is_empty() {
            return Ok(());
        }
        let clashing = |flag: &&str| clashes.iter().any(|clash| clash.contains(flag));
        let flags: Vec<&str> = [POD_FLAG, SERVICE_FLAG, FABRIC_FLAG].into_iter().filter(clashing).collect();
        bail!("this machine has {}; choose others with {}", clashes.join("; "), flags.join(" and "))
    }

    /// The same on the machine we are on.
    pub async fn check_here(&self) -> Result<()> {
        self.check_host(&Links::of(&netns::NetNs::current()?)?).await
    }
}

fn on(device: &Option<String>) -> String {
    device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ipnet::IpNet;
    use netns::{LinkName, NetNs, Route};

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(flags: &[&str]) -> Plan {
        let Command::Up(options) = Cli::parse_from(["portolan", "up"].iter().chain(flags)).command else {
            panic!("no up")
        };
        Plan::new(&options).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn only_a_route_or_an_address_inside_ours_is_a_clash() {
        let namespace = NetNs::new().unwrap();
        let host = Links::of(&namespace).unwrap();
        let plan = plan(&["--dual-stack"]);
        host.loopback_up().await.unwrap();
        for wider in ["10.0.0.0/8", "172.16.0.0/12", "fd00::/8", "0.0.0.0/0", "::/0"] {
            host.add_route(&Route::direct(net(wider), "lo")).await.unwrap();
        }
        plan.check_host(&host).await.unwrap();
        let lo = LinkName::new("lo").unwrap();
        host.add_address(&lo, net("172.30.0.77/32")).await.unwrap();
        host.add_route(&Route::direct(net("10.96.7.0/24"), "lo")).await.unwrap();
        host.add_route(&Route::unreachable(net("fd00:10:244::/56"))).await.unwrap();
        let error = plan.check_host(&host).await.unwrap_err().to_string();
        for part in [
            "a route to 10.96.7.0/24 on lo, inside --service-cidr 10.96.0.0/16",
            "the address 172.30.0.77 on lo, inside --fabric-cidr 172.30.0.0/24",
            "a route to fd00:10:244::/56",
            "choose others with --pod-cidr and --service-cidr and --fabric-cidr",
        ] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        let elsewhere = ["--service-cidr", "10.97.0.0/16", "--fabric-cidr", "172.30.1.0/24"];
        self::plan(&elsewhere).check_host(&host).await.unwrap();
    }
}
