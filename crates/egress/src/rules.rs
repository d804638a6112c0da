//! The fabric's rules: what is sent to addresses that aren't inside goes to the relay, or is refused.
//!
//! The table is in the fabric's own namespace and ends with it.

use ipnet::IpNet;
use netns::{Links, NetNs, Route, sysctl};
use nft::{Chain, ChainType, Family, Hook, Kernel, L3, Load, Nft, Reject, Rule, Table, Transaction};

use crate::Error;

/// Marks a connection's first packet, which the relay looks at before the fabric does.
pub(crate) const ASKS: u32 = 1;
/// Where so marked packets are routed.
pub(crate) const ASKS_TABLE: u8 = 100;

const TABLE: &str = "portolan-egress";
/// `mangle` and `filter`.
const MANGLE: i32 = -150;
const FILTER: i32 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Refuses what is sent outside, at once: TCP by a reset, the rest by ICMP.
pub async fn refuse(fabric: &NetNs, inside: &[IpNet]) -> Result<(), Error> {
    take_in_everything(fabric).await?;
    program(fabric, |family| {
        let mut input: Vec<Rule> = pass(family, inside);
        input.push(Rule::new().l4proto(TCP).reject(Reject::TcpReset));
        input.push(Rule::new().reject(forbidden(family)));
        vec![(Chain::base("input", ChainType::Filter, Hook::Input, FILTER), input)]
    })
}

/// Leads what is sent outside to the relay's sockets: a connection's first packet by way of a link, where the relay
/// gives it back when the real connection is there.
pub(crate) async fn relay(fabric: &NetNs, inside: &[IpNet], link: &str, port: u16) -> Result<(), Error> {
    take_in_everything(fabric).await?;
    program(fabric, |family| {
        let mut prerouting = pass(family, inside);
        let from_link = || Rule::new().is(Load::IifName, nft::Value::ifname(link));
        prerouting.push(from_link().l4proto(TCP).tproxy(family, port).accept());
        prerouting.push(Rule::new().l4proto(UDP).tproxy(family, port).accept());
        prerouting.push(Rule::new().tcp_syn().set_mark(ASKS));
        let mut input = pass(family, inside);
        // The fabric would answer in the name of whoever was asked.
        let echo = if family == L3::V4 { 8 } else { 128 };
        input.push(Rule::new().icmp_type(family, echo).reject(forbidden(family)));
        vec![
            (Chain::base("prerouting", ChainType::Filter, Hook::Prerouting, MANGLE), prerouting),
            (Chain::base("input", ChainType::Filter, Hook::Input, FILTER), input),
        ]
    })
}

/// The fabric's default route leads to itself.
async fn take_in_everything(fabric: &NetNs) -> Result<(), Error> {
    let links = Links::of(fabric)?;
    for everything in [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())] {
        links.add_route(&Route::local(everything)).await?;
    }
    // One refusal a second for each client (icmp(7)) would leave the second one waiting.
    sysctl::set(fabric, "net.ipv4.icmp_ratelimit", "0")?;
    sysctl::set(fabric, "net.ipv6.icmp.ratelimit", "0")?;
    Ok(())
}

fn program(fabric: &NetNs, chains: impl Fn(L3) -> Vec<(Chain, Vec<Rule>)>) -> Result<(), Error> {
    let mut kernel = fabric.run(Kernel::open)??;
    for (family, l3) in [(Family::Ip, L3::V4), (Family::Ip6, L3::V6)] {
        let mut transaction = Transaction::new(Table::new(family, TABLE));
        transaction.destroy_table().add_table();
        for (chain, rules) in chains(l3) {
            let name = chain.name.clone();
            transaction.add_chain(chain);
            for rule in rules {
                transaction.add_rule(name.clone(), rule);
            }
        }
        kernel.apply(&transaction)?;
    }
    Ok(())
}

/// What is inside, and what a link's neighbours say to each other.
fn pass(family: L3, inside: &[IpNet]) -> Vec<Rule> {
    let on_link: &[&str] = match family {
        L3::V4 => &["224.0.0.0/4", "255.255.255.255/32"],
        L3::V6 => &["fe80::/10", "ff00::/8"],
    };
    let on_link = on_link.iter().filter_map(|net| net.parse::<IpNet>().ok());
    let of_family = |net: &IpNet| L3::of(net.addr()) == family;
    let nets = inside.iter().copied().filter(of_family).chain(on_link);
    nets.map(|net| Rule::new().within(Load::Daddr(family), net).accept()).collect()
}

/// Administratively prohibited: RFC 1812 section 5.2.7.1, RFC 4443 section 3.1.
fn forbidden(family: L3) -> Reject {
    match family {
        L3::V4 => Reject::Icmp(13),
        L3::V6 => Reject::Icmpv6(1),
    }
}
