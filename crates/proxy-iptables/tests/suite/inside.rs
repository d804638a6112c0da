//! iptables' own tools, run in a namespace whoever calls them.

use iptables::{EachLine, Error, Family, Flavour, Iptables, Table, Tool, Transaction};
use netns::NetNs;
use service_model::IpFamily;

/// A lock for each network namespace, where the machine has one for all.
pub const LOCK: &str = "/proc/self/ns/net";

/// A tool that works in a namespace, whoever calls it.
pub struct Inside {
    namespace: NetNs,
    tool: Tool,
}

impl Inside {
    /// How many transactions needed no tool.
    pub fn written_natively(&self) -> u64 {
        self.tool.written_natively()
    }
}

impl Iptables for Inside {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        self.namespace.run(|| self.tool.save(table, each)).unwrap()
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        self.namespace.run(|| self.tool.restore(transactions)).unwrap()
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        self.namespace.run(|| self.tool.has_chain(table, chain)).unwrap()
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        self.namespace.run(|| self.tool.generation()).unwrap()
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.namespace.run(|| self.tool.route_loopback()).unwrap()
    }
}

pub fn of(family: IpFamily) -> Family {
    if family == IpFamily::V4 { Family::V4 } else { Family::V6 }
}

pub fn inside(namespace: &NetNs, family: IpFamily, flavour: Flavour) -> Inside {
    let tool = namespace.run(|| Tool::open(of(family), flavour)).unwrap();
    let tool = tool.expect("the package iptables has the tools of both flavours").locked_by(LOCK);
    Inside { namespace: namespace.clone(), tool }
}
