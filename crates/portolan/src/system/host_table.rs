//! The nftables table on the host by which `--egress nat` lets pods out. It's named after the system's link, so that
//! several systems have one each, and stands in the record before it's made.

use anyhow::{Context, Result};
use ipnet::IpNet;
use nft::expr::CmpOp;
use nft::{Chain, ChainType, Family, Hook, Kernel, L3, Load, Nft, Rule, Table, Transaction, Value};
use serde::{Deserialize, Serialize};

/// A table of ours on the host, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostTable(String);

const SRCNAT: i32 = 100;

impl HostTable {
    pub fn new(host_link: &str) -> Self {
        HostTable(format!("{host_link}-egress"))
    }

    /// What comes from the sources and leaves by another link than ours gets the host's address.
    pub fn make(&self, host_link: &str, sources: &[IpNet]) -> Result<()> {
        let mut kernel = Kernel::open().context("cannot reach nf_tables")?;
        for (family, l3) in self.families() {
            let mut transaction = Transaction::new(self.table(family));
            transaction.destroy_table();
            let own: Vec<IpNet> = sources.iter().copied().filter(|net| L3::of(net.addr()) == l3).collect();
            if !own.is_empty() {
                transaction.add_table();
                transaction.add_chain(Chain::base("postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT));
                for net in own {
                    let leaves = Rule::new().compare(Load::OifName, CmpOp::Ne, Value::ifname(host_link));
                    transaction.add_rule("postrouting", leaves.within(Load::Saddr(l3), net).masquerade());
                }
            }
            kernel.apply(&transaction).with_context(|| format!("cannot make the table {} on this machine", self.0))?;
        }
        Ok(())
    }

    /// Removes it from both families; fine if it isn't there.
    pub fn remove(&self) -> Result<()> {
        let mut kernel = Kernel::open().context("cannot reach nf_tables")?;
        for (family, _) in self.families() {
            let mut transaction = Transaction::new(self.table(family));
            transaction.destroy_table();
            kernel.apply(&transaction).with_context(|| format!("cannot remove the table {}", self.0))?;
        }
        Ok(())
    }

    fn families(&self) -> [(Family, L3); 2] {
        [(Family::Ip, L3::V4), (Family::Ip6, L3::V6)]
    }

    fn table(&self, family: Family) -> Table {
        Table::new(family, self.0.clone())
    }
}
