//! Whether packets to and from 127.0.0.0/8 may use other links than the loopback one (`route_localnet`), without which a
//! NodePort cannot answer on 127.0.0.1. It opens the node's loopback to its neighbours (CVE-2020-8558): rules that keep them
//! out have to be in force before it is switched on, and until after it is switched off. Not responsible for those rules.
//! IPv6 has no such switch.

use std::io::Error;

use service_model::{ForwardingTable, IpFamily, NodePortAddresses};

const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Whether NodePorts answer on 127.0.0.0/8 according to a table.
pub(crate) fn answers(table: &ForwardingTable) -> bool {
    match &table.node_ports {
        NodePortAddresses::AllLocal => false,
        NodePortAddresses::Only(only) => {
            table.family == IpFamily::V4 && only.iter().any(|address| address.is_ipv4() && address.is_loopback())
        }
    }
}

pub(crate) fn open() -> Result<(), Error> {
    write("1")
}

pub(crate) fn close() -> Result<(), Error> {
    write("0")
}

fn write(value: &str) -> Result<(), Error> {
    if std::fs::read_to_string(ROUTE_LOCALNET)?.trim() == value {
        return Ok(());
    }
    std::fs::write(ROUTE_LOCALNET, value)
}
