//! Whether the kernel passes on packets that come for others, without which a Service answers the node and nobody else. What
//! attaches pods (the network plugin, Portolan's agent) switches it on; here it is only looked at.

use service_model::IpFamily;

/// The parameter that should be 1 and is 0.
pub(crate) fn switched_off(family: IpFamily) -> Option<&'static str> {
    let (name, path) = match family {
        IpFamily::V4 => ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        IpFamily::V6 => ("net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
    };
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0").then_some(name)
}
