//! Questions about a generated cluster: what is there, what almost is, and what can't be.

use serde_json::Value;

use super::ask::Question;
use super::objects::{World, text};
use crate::dice::Dice;

/// Types of a question, the common ones several times.
const TYPES: [u16; 24] = [1, 1, 1, 1, 1, 28, 28, 28, 28, 33, 33, 33, 33, 12, 16, 5, 6, 2, 15, 255, 65, 35, 99, 65280];
const SRV: u16 = 33;
const PTR: u16 = 12;
const ZONE: &str = "cluster.local";

pub fn generate(dice: &mut Dice, world: &World, count: usize) -> Vec<Question> {
    (0..count).map(|_| question(dice, world)).collect()
}

fn question(dice: &mut Dice, world: &World) -> Question {
    let (mut name, rr_type) = match dice.below(100) {
        0..25 => (service(dice, world), *dice.pick(&TYPES)),
        25..40 => (port(dice, world), if dice.chance(70) { SRV } else { *dice.pick(&TYPES) }),
        40..58 => (endpoint(dice, world), *dice.pick(&TYPES)),
        58..73 => (reverse(dice, world), if dice.chance(80) { PTR } else { *dice.pick(&TYPES) }),
        73..83 => (pod(dice, world), *dice.pick(&TYPES)),
        83..93 => (odd(dice, world), *dice.pick(&TYPES)),
        _ => (zonal(dice, world), *dice.pick(&TYPES)),
    };
    if dice.chance(30) {
        name = name.chars().map(|c| if dice.chance(50) { c.to_ascii_uppercase() } else { c }).collect();
    }
    Question { name, rr_type }
}

fn some<'a>(dice: &mut Dice, of: &'a [Value]) -> &'a Value {
    dice.pick(of)
}

fn of(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{}.{}.svc.{ZONE}", text(&metadata["name"]), text(&metadata["namespace"]))
}

fn service(dice: &mut Dice, world: &World) -> String {
    of(some(dice, &world.services))
}

fn port(dice: &mut Dice, world: &World) -> String {
    let service = some(dice, &world.services);
    let known = service["spec"]["ports"].as_array().filter(|ports| !ports.is_empty() && dice.chance(60));
    let (name, protocol) = match known {
        Some(ports) => {
            let port = some(dice, ports);
            (text(&port["name"]), port["protocol"].as_str().unwrap_or("TCP").to_lowercase())
        }
        None => {
            let name = *dice.pick(&["http", "https", "dns", "dns-tcp", "nope", "sig"]);
            (name.to_owned(), (*dice.pick(&["tcp", "udp", "sctp", "quic"])).to_owned())
        }
    };
    let name = if name.is_empty() { "http".to_owned() } else { name };
    match dice.below(12) {
        0 => format!("{name}.{protocol}.{}", of(service)),
        1 => format!("_{name}.{protocol}.{}", of(service)),
        2 => format!("_{protocol}.{}", of(service)),
        _ => format!("_{name}._{protocol}.{}", of(service)),
    }
}

/// Below a Service, by what one of some slice's endpoints is called or could be.
fn endpoint(dice: &mut Dice, world: &World) -> String {
    let slice = some(dice, &world.slices);
    let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
    let namespace = text(&slice["metadata"]["namespace"]);
    let service = if service.is_empty() { "nobody".to_owned() } else { service };
    let base = format!("{service}.{namespace}.svc.{ZONE}");
    let endpoints = slice["endpoints"].as_array().filter(|all| !all.is_empty());
    let Some(endpoints) = endpoints else { return format!("host-{}.{base}", dice.below(4)) };
    let endpoint = some(dice, endpoints);
    let label = match dice.below(10) {
        0 => "10-244-0-300".to_owned(),
        1..4 => format!("host-{}", dice.below(4)),
        4..6 => text(&endpoint["targetRef"]["name"]),
        _ => dashed(&text(&endpoint["addresses"][0])),
    };
    if label.is_empty() || label.len() > 63 { format!("a.b.c.{base}") } else { format!("{label}.{base}") }
}

fn dashed(address: &str) -> String {
    let label = address.replace(['.', ':'], "-");
    if label.ends_with('-') { label + "0" } else { label }
}

fn reverse(dice: &mut Dice, world: &World) -> String {
    let address = match dice.below(10) {
        0..4 => {
            let addresses = &some(dice, &world.services)["spec"]["clusterIPs"];
            addresses.as_array().map_or_else(String::new, |all| text(some(dice, all)))
        }
        4..8 => {
            let endpoints = some(dice, &world.slices)["endpoints"].as_array().filter(|all| !all.is_empty());
            endpoints.map_or_else(String::new, |all| text(&some(dice, all)["addresses"][0]))
        }
        8 => format!("10.{}.{}.{}", *dice.pick(&[96, 244, 7]), dice.below(256), dice.below(256)),
        _ => format!("fd00:10:244::{:x}", dice.below(0xffff)),
    };
    let Ok(address) = address.parse() else { return "9.9.244.10.in-addr.arpa".to_owned() };
    let name = match address {
        std::net::IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        std::net::IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    };
    let cut = if dice.chance(10) { dice.below(4) } else { 0 };
    name.splitn(cut + 1, '.').last().unwrap_or_default().to_owned()
}

fn pod(dice: &mut Dice, world: &World) -> String {
    let pod = some(dice, &world.pods);
    let namespace = match dice.below(10) {
        0 => "nowhere".to_owned(),
        1 => "kube-system".to_owned(),
        _ => text(&pod["metadata"]["namespace"]),
    };
    let addresses = pod["status"]["podIPs"].as_array().map_or(&[][..], Vec::as_slice);
    let label = match dice.below(10) {
        0 => "1-2-3".to_owned(),
        1 => "1-2-3-4".to_owned(),
        2 => text(&pod["metadata"]["name"]),
        _ => dashed(&text(&some(dice, addresses)["ip"])),
    };
    format!("{label}.{namespace}.pod.{ZONE}")
}

fn odd(dice: &mut Dice, world: &World) -> String {
    let fixed = [
        ZONE,
        ZONE,
        "svc.cluster.local",
        "pod.cluster.local",
        "dns.cluster.local",
        "ns.dns.cluster.local",
        "x.dns.cluster.local",
        "dns-version.cluster.local",
        "dns-version.svc.cluster.local",
        "nope.cluster.local",
        "alpha.svc.cluster.local",
        "gamma.svc.cluster.local",
        "nope.svc.cluster.local",
        "alpha.pod.cluster.local",
        "gamma.pod.cluster.local",
        "nope.pod.cluster.local",
        "s0.nope.svc.cluster.local",
        "nope.alpha.svc.cluster.local",
        "kubernetes.default.svc.cluster.local",
        "_https._tcp.kubernetes.default.svc.cluster.local",
        "kube-dns.kube-system.svc.cluster.local",
        "in-addr.arpa",
        "ip6.arpa",
        "10.in-addr.arpa",
        "hostmaster.cluster.local",
        "h2.outside.example",
        "nope.outside.example",
        "other.example",
        "last.alpha.svc.other.example",
    ];
    match dice.below(6) {
        0 => format!("x.{}", service(dice, world)),
        1 => format!("a.b.c.{}", service(dice, world)),
        2 => service(dice, world).replace(ZONE, "other.example"),
        _ => (*dice.pick(&fixed)).to_owned(),
    }
}

fn zonal(dice: &mut Dice, world: &World) -> String {
    let place = *dice.pick(&["eu-1a", "eu-1b", "corp.example.com", "nowhere"]);
    let directive = *dice.pick(&["pin", "prefer", "pin", "prefer", "near"]);
    let name = service(dice, world);
    match dice.below(10) {
        0 => format!("{directive}._zone.{name}"),
        1 => format!("_zone.{name}"),
        _ => format!("{place}.{directive}._zone.{name}"),
    }
}
