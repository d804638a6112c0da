//! The kernel's encoding of nf_tables: message and attribute numbers of `linux/netfilter/nf_tables.h`, writing, reading.

pub(crate) mod decode;
pub(crate) mod decode_expr;
pub(crate) mod encode;
pub(crate) mod encode_expr;
pub(crate) mod foreign;

use crate::expr::{CtKey, MetaKey};
use crate::object::{ChainType, Family, Hook};

pub(crate) mod msg {
    pub(crate) const NEWTABLE: u8 = 0;
    pub(crate) const GETTABLE: u8 = 1;
    pub(crate) const DELTABLE: u8 = 2;
    pub(crate) const NEWCHAIN: u8 = 3;
    pub(crate) const GETCHAIN: u8 = 4;
    pub(crate) const DELCHAIN: u8 = 5;
    pub(crate) const NEWRULE: u8 = 6;
    pub(crate) const GETRULE: u8 = 7;
    pub(crate) const DELRULE: u8 = 8;
    pub(crate) const NEWSET: u8 = 9;
    pub(crate) const GETSET: u8 = 10;
    pub(crate) const DELSET: u8 = 11;
    pub(crate) const NEWSETELEM: u8 = 12;
    pub(crate) const GETSETELEM: u8 = 13;
    pub(crate) const DELSETELEM: u8 = 14;
    pub(crate) const NEWGEN: u8 = 15;
    pub(crate) const GETGEN: u8 = 16;
}

pub(crate) mod set_flag {
    pub(crate) const CONSTANT: u32 = 0x2;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVAL: u32 = 0x20;
    pub(crate) const CONCAT: u32 = 0x80;
}

/// The set key attributes that several messages share.
pub(crate) mod elem {
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 4;
    pub(crate) const EXPIRATION: u16 = 5;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const FLAG_INTERVAL_END: u32 = 1;
}

pub(crate) const LIST_ELEM: u16 = 1;
pub(crate) const DATA_VALUE: u16 = 1;
pub(crate) const DATA_VERDICT: u16 = 2;
pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// nft's tag of a comment in the user data of rules and elements.
pub(crate) const UDATA_COMMENT: u8 = 0;

pub(crate) mod nat_flag {
    pub(crate) const RANDOM: u32 = 4;
    pub(crate) const PERSISTENT: u32 = 8;
    pub(crate) const FULLY_RANDOM: u32 = 16;
    /// What the kernel adds by itself: addresses given, ports given.
    pub(crate) const IMPLIED: u32 = 1 | 2;
}

impl Family {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Inet),
            2 => Some(Self::Ip),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }
}

impl Hook {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prerouting),
            1 => Some(Self::Input),
            2 => Some(Self::Forward),
            3 => Some(Self::Output),
            4 => Some(Self::Postrouting),
            _ => None,
        }
    }
}

impl ChainType {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|kind| kind.name() == name)
    }
}

impl MetaKey {
    pub(crate) const ALL: [Self; 7] =
        [Self::Mark, Self::Iif, Self::Oif, Self::IifName, Self::OifName, Self::NfProto, Self::L4Proto];

    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::Iif => 4,
            Self::Oif => 5,
            Self::IifName => 6,
            Self::OifName => 7,
            Self::NfProto => 15,
            Self::L4Proto => 16,
        }
    }
}

impl CtKey {
    pub(crate) const ALL: [Self; 10] = [
        Self::State,
        Self::Direction,
        Self::Status,
        Self::Mark,
        Self::ProtoSrc,
        Self::ProtoDst,
        Self::SrcIp,
        Self::DstIp,
        Self::SrcIp6,
        Self::DstIp6,
    ];

    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
            Self::Mark => 3,
            Self::ProtoSrc => 11,
            Self::ProtoDst => 12,
            Self::SrcIp => 19,
            Self::DstIp => 20,
            Self::SrcIp6 => 21,
            Self::DstIp6 => 22,
        }
    }
}
