//! Rules and transactions as the tools on nf_tables hand them to the kernel. Addresses, links and protocols are compared by
//! nf_tables' own expressions, the rest by xtables' matches and targets (`xt`); where versions of the tools differ, as all of
//! them read it. What can't be said, or what the tools would refuse, has no such form: it is left to the tools.

use ipnet::IpNet;
use nft::expr::CmpOp;
use nft::{Add, ChainType, Hook, Load, Op, Place};

use crate::rule::{ChainName, Match, Recent, Rule, Target, Test};
use crate::xt::{self, Extension};
use crate::{Family, Table, Transaction};

/// The longest name of a chain that the tools take (`XT_EXTENSION_MAXNAMELEN`, without its zero byte).
const CHAIN_LIMIT: usize = 28;
/// The longest name of a link (`IFNAMSIZ`, without its zero byte).
const LINK_LIMIT: usize = 15;

/// A transaction as netlink has it; `None` if it needs the tools, as what is to be removed by its text does. Of
/// the kernel's chains those are made that something is to lead from and that aren't `there`.
pub(crate) fn transaction(family: Family, from: &Transaction, there: &[String]) -> Option<nft::Transaction> {
    let named = || from.replace.iter().map(|(chain, _)| chain).chain(&from.empty).chain(&from.delete);
    let is_builtin = |chain: &str| from.table.builtins().contains(&chain);
    let ours_alone = !named().any(|chain| is_builtin(chain));
    let inserts = from.jumps.iter().all(|jumps| jumps.remove.is_empty() && is_builtin(&jumps.chain));
    if !ours_alone || !inserts {
        return None;
    }
    let mut to = nft::Transaction::new(table(family, from.table));
    if !from.jumps.is_empty() {
        to.add_table();
    }
    let missing = from.jumps.iter().filter(|jumps| !there.contains(&jumps.chain));
    for jumps in missing {
        // Whoever makes it at the same time may give it another policy.
        to.push(Op::AddChain(Add::Exclusive, builtin(from.table, &jumps.chain)?));
    }
    for chain in named() {
        to.add_chain(nft::Chain::regular(chain_name(chain)?)).flush_chain(&**chain);
    }
    for (chain, rules) in &from.replace {
        for one in rules {
            to.add_rule(&**chain, rule(family, from.table, one)?);
        }
    }
    for jumps in &from.jumps {
        for one in jumps.insert.iter().rev() {
            let rule = rule(family, from.table, one)?;
            to.push(Op::AddRule { chain: jumps.chain.clone(), place: Place::First, rule });
        }
    }
    for chain in &from.delete {
        to.delete_chain(&**chain);
    }
    Some(to)
}

/// A table as nf_tables has it.
pub(crate) fn table(family: Family, table: Table) -> nft::Table {
    let family = match family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    };
    nft::Table::new(family, table.name())
}

/// A chain of the kernel's where the tools hook it in.
fn builtin(table: Table, name: &str) -> Option<nft::Chain> {
    // NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC, NF_IP_PRI_FILTER (linux/netfilter_ipv4.h)
    let (kind, hook, priority) = match (table, name) {
        (Table::Nat, "PREROUTING") => (ChainType::Nat, Hook::Prerouting, -100),
        (Table::Nat, "INPUT") => (ChainType::Nat, Hook::Input, 100),
        (Table::Nat, "OUTPUT") => (ChainType::Nat, Hook::Output, -100),
        (Table::Nat, "POSTROUTING") => (ChainType::Nat, Hook::Postrouting, 100),
        (Table::Filter, "INPUT") => (ChainType::Filter, Hook::Input, 0),
        (Table::Filter, "FORWARD") => (ChainType::Filter, Hook::Forward, 0),
        (Table::Filter, "OUTPUT") => (ChainType::Filter, Hook::Output, 0),
        _ => return None,
    };
    Some(nft::Chain::base(name, kind, hook, priority))
}

fn rule(family: Family, table: Table, from: &Rule) -> Option<nft::Rule> {
    // The tools let nobody drop packets in `nat`, which not all packets meet.
    if from.is_impossible() || (table, &from.target) == (Table::Nat, &Some(Target::Drop)) {
        return None;
    }
    let mut to = nft::Rule::new();
    if let Some(link) = &from.input {
        to = input(to, link)?;
    }
    if let Some(protocol) = from.protocol {
        // 0 stands for any.
        to = to.l4proto((protocol != 0).then_some(protocol)?).xt_protocol(protocol);
    }
    let l3 = match family {
        Family::V4 => nft::L3::V4,
        Family::V6 => nft::L3::V6,
    };
    for (load, test) in [(Load::Saddr(l3), &from.source), (Load::Daddr(l3), &from.destination)] {
        if let Some(test) = test {
            to = address(to, family, load, test)?;
        }
    }
    for one in &from.matches {
        let Extension { name, revision, info } = extension(one, from.protocol)?;
        to = to.xt_match(name, revision, &info);
    }
    to = to.counter();
    match &from.target {
        Some(one) => target(to, family, one, from.protocol),
        None => Some(to),
    }
}

/// A whole name with its zero byte, or what it begins with.
fn input(to: nft::Rule, link: &Test<std::sync::Arc<str>>) -> Option<nft::Rule> {
    let name = link.value.as_bytes();
    let bytes = match name.strip_suffix(b"+") {
        Some(begin) => begin.to_vec(),
        None => [name, &[0]].concat(),
    };
    let is_name = (2..=LINK_LIMIT).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| to.compare(Load::IifName, comparison(link.negated), nft::Value::new(bytes)))
}

fn address(to: nft::Rule, family: Family, load: Load, test: &Test<IpNet>) -> Option<nft::Rule> {
    let fits = matches!((family, test.value), (Family::V4, IpNet::V4(_)) | (Family::V6, IpNet::V6(_)));
    fits.then(|| if test.negated { to.outside(load, test.value) } else { to.within(load, test.value) })
}

fn comparison(negated: bool) -> CmpOp {
    if negated { CmpOp::Ne } else { CmpOp::Eq }
}

fn extension(one: &Match, protocol: Option<u8>) -> Option<Extension> {
    let is_text = |text: &str, limit| (1..=limit).contains(&text.len()) && !text.contains(|c: char| c.is_control());
    match one {
        Match::Comment(text) => is_text(text, xt::COMMENT_LIMIT).then(|| xt::comment(text)),
        Match::SourceIsLocal => Some(xt::is_local(true)),
        Match::DestinationIsLocal => Some(xt::is_local(false)),
        Match::DestinationPort(port) => xt::destination_port(protocol?, *port),
        Match::State(test) => Some(xt::state(*test)),
        Match::Mark { negated, value, mask } => Some(xt::mark(*negated, *value, *mask)),
        Match::Recent { action: Recent::Within { seconds: 0 }, .. } => None,
        Match::Recent { name, action } => {
            // Behind a shorter name the tools leave what "DEFAULT" had there, and so compare it.
            let is_name = is_text(name, xt::RECENT_NAME_LIMIT) && name.len() >= "DEFAULT".len() && !name.contains('/');
            is_name.then(|| xt::recent(name, *action))
        }
        Match::Chance(chance) => Some(xt::chance(*chance)),
    }
}

fn target(to: nft::Rule, family: Family, one: &Target, protocol: Option<u8>) -> Option<nft::Rule> {
    let Extension { name, revision, info } = match one {
        Target::Jump(chain) => return Some(to.jump(chain_name(chain)?)),
        Target::Accept => return Some(to.accept()),
        Target::Drop => return Some(to.drop_packet()),
        Target::Return => return Some(to.return_()),
        Target::Reject(how) => xt::reject(family, *how),
        Target::SetMark { value, mask } => xt::set_mark(*value, *mask),
        Target::Dnat(address) => {
            let fits = address.is_ipv4() == (family == Family::V4) && address.port() != 0 && protocol.is_some();
            fits.then(|| xt::dnat(*address))?
        }
        Target::Masquerade { fully_random } => xt::masquerade(family, *fully_random),
    };
    Some(to.xt_target(name, revision, &info))
}

fn chain_name(chain: &ChainName) -> Option<&str> {
    let is_name = (1..=CHAIN_LIMIT).contains(&chain.len()) && chain.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then_some(&**chain)
}
