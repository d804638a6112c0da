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
