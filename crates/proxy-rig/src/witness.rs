//! A witness on the node: a table beside the proxy's that notes which questions came by before anybody decided about them.
//! Silence says nothing about who never asked. Not responsible for what became of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proxy::battery::table::{Case, OTHER_NODE_PORT, OTHER_PORT, Place, SERVICE_PORT};
use serde_json::Value;
use service_model::Protocol;

use crate::Rig;

/// Who asked whom by what.
pub type Question = (IpAddr, SocketAddr, u8);

pub fn question(case: &Case) -> Question {
    let probe = &case.probe;
    (probe.from, probe.to, probe.protocol.number())
}

/// Has to be there before the first question. It looks before conntrack does (-200), so even at what goes on unanswered.
pub fn install(rig: &Rig) {
    let [first, last] = [Place(0), Place(u8::MAX)].map(Place::node_port);
    let ports = format!("{{ {SERVICE_PORT}, {OTHER_PORT}, {first}-{last}, {OTHER_NODE_PORT} }}");
    let set = |(name, family)| {
        let key = format!("{family} . {family} . inet_proto . inet_service");
        format!("set {name} {{ type {key}; size 65535; flags dynamic, timeout; timeout 1h; }}")
    };
    let note =
        |ip, set| format!("th dport {ports} update @{set} {{ {ip} saddr . {ip} daddr . meta l4proto . th dport }}");
    let chain = |hook| {
        let (v4, v6) = (note("ip", "asked4"), note("ip6", "asked6"));
        format!("chain {hook} {{ type filter hook {hook} priority -450; {v4}; {v6}; }}")
    };
    let [asked4, asked6] = [("asked4", "ipv4_addr"), ("asked6", "ipv6_addr")].map(set);
    let (arriving, leaving) = (chain("prerouting"), chain("output"));
    let table = format!("table inet witness {{ {asked4}; {asked6}; {arriving}; {leaving}; }}");
    rig.run("nft", &[&table]);
}

/// What was asked so far.
pub fn asked(rig: &Rig) -> BTreeSet<Question> {
    let mut asked = BTreeSet::new();
    for set in ["asked4", "asked6"] {
        let text = rig.run("nft", &["-j", "-n", "list", "set", "inet", "witness", set]);
        let listed: Value = serde_json::from_str(&text).unwrap();
        let sets = listed["nftables"].as_array().unwrap().iter();
        let elements = sets.filter_map(|one| one["set"]["elem"].as_array()).flatten();
        asked.extend(elements.map(|element| read(&element["elem"]["val"]["concat"]).unwrap()));
    }
    asked
}

fn read(element: &Value) -> Option<Question> {
    let [from, to] = [0, 1].map(|place| element[place].as_str().and_then(|text| text.parse::<IpAddr>().ok()));
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let number = match &element[2] {
        Value::String(name) => protocols.iter().find(|one| one.to_string().eq_ignore_ascii_case(name))?.number(),
        number => u8::try_from(number.as_u64()?).ok()?,
    };
    let port = u16::try_from(element[3].as_u64()?).ok()?;
    Some((from?, SocketAddr::new(to?, port), number))
}
