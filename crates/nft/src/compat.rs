//! Matches and targets of xtables in a rule, which the kernel's `nft_compat` runs: what the programs of iptables on nf_tables
//! write (`linux/netfilter/nf_tables_compat.h`). Not responsible for what stands in their structs.

use netlink::Builder;

use crate::expr::Expr;
use crate::object::Rule;

/// `NFTA_MATCH_NAME` and so on; a target's have the same numbers.
const NAME: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;
/// Structs of xtables are as long as a multiple of this (`XT_ALIGN`).
const ALIGNMENT: usize = 8;

impl Rule {
    /// A match with its struct.
    pub fn xt_match(self, name: &str, revision: u32, info: &[u8]) -> Rule {
        self.push(extension("match", name, revision, info))
    }

    /// A target with its struct.
    pub fn xt_target(self, name: &str, revision: u32, info: &[u8]) -> Rule {
        self.push(extension("target", name, revision, info))
    }

    /// Tells matches and targets of xtables the rule's protocol, which some insist on. The rule has to look at it besides.
    pub fn xt_protocol(mut self, protocol: u8) -> Rule {
        self.xt_protocol = Some(protocol);
        self
    }
}

fn extension(kind: &str, name: &str, revision: u32, info: &[u8]) -> Expr {
    let mut padded = info.to_vec();
    padded.resize(info.len().next_multiple_of(ALIGNMENT), 0);
    let mut data = Builder::with_capacity(padded.len() + 64);
    data.text(NAME, name);
    data.be32(REVISION, revision);
    data.bytes(INFO, &padded);
    Expr::Unknown { name: kind.to_owned(), data: data.as_bytes().to_vec() }
}
