//! Resource records of the kinds we answer with.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::message::RrType;
use crate::name::Name;

/// One record of class IN. TTL in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub owner: Name,
    pub ttl: u32,
    pub data: Data,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ptr(Name),
    Ns(Name),
    /// RFC 2782.
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Txt(String),
    Soa {
        mname: Name,
        rname: Name,
        serial: u32,
        refresh: u32,
        retry: u32,
        expire: u32,
        minimum: u32,
    },
}

impl Record {
    /// Octets that it takes in a message at most.
    pub fn octets_max(&self) -> usize {
        const FIXED: usize = 10;
        let data = match &self.data {
            Data::A(_) => 4,
            Data::Aaaa(_) => 16,
            Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => name.wire_len(),
            Data::Srv { target, .. } => 6 + target.wire_len(),
            Data::Txt(text) => 1 + text.len(),
            Data::Soa { mname, rname, .. } => 20 + mname.wire_len() + rname.wire_len(),
        };
        self.owner.wire_len() + FIXED + data
    }
}

impl Data {
    pub fn rr_type(&self) -> RrType {
        match self {
            Data::A(_) => RrType::A,
            Data::Aaaa(_) => RrType::AAAA,
            Data::Cname(_) => RrType::CNAME,
            Data::Ptr(_) => RrType::PTR,
            Data::Ns(_) => RrType::NS,
            Data::Srv { .. } => RrType::SRV,
            Data::Txt(_) => RrType::TXT,
            Data::Soa { .. } => RrType::SOA,
        }
    }
}
