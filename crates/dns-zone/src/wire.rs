//! Reading messages that others made: names with compression, and where the TTLs of a reply stand (RFC 1035 section 4).
//! Every read is bounded; a malformed message is an error, never a panic.

use crate::name::Name;

/// Octets of a header.
pub const HEADER: usize = 12;
const OPT: u16 = 41;
const SOA: u16 = 6;

/// Why a message can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the message ends early")]
    Short,
    #[error("a name is too long, loops, or uses a reserved label type")]
    Name,
}

/// A 16-bit number at an offset.
pub fn u16_at(message: &[u8], at: usize) -> Result<u16, WireError> {
    let bytes = message.get(at..at + 2).ok_or(WireError::Short)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn u32_at(message: &[u8], at: usize) -> Result<u32, WireError> {
    Ok(u32::from(u16_at(message, at)?) << 16 | u32::from(u16_at(message, at + 2)?))
}

/// The name at an offset and the offset behind it. Pointers must lead backwards, so that they end.
pub fn name_at(message: &[u8], start: usize) -> Result<(Name, usize), WireError> {
    let mut name = Name::root();
    let (mut at, mut end, mut lowest) = (start, None, start);
    loop {
        let length = *message.get(at).ok_or(WireError::Short)?;
        match length {
            0 => return Ok((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length)).ok_or(WireError::Short)?;
                name.push(label).ok_or(WireError::Name)?;
                at += 1 + usize::from(length);
            }
            0xc0..=0xff => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                if target >= lowest {
                    return Err(WireError::Name);
                }
                end.get_or_insert(at + 2);
                (at, lowest) = (target, target);
            }
            _ => return Err(WireError::Name),
        }
    }
}

/// A resource record of a message, by where its parts stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    pub owner: Name,
    pub rr_type: u16,
    pub class: u16,
    pub ttl: u32,
    pub ttl_at: usize,
    pub data: std::ops::Range<usize>,
    /// 0 answer, 1 authority, 2 additional.
    pub section: u8,
}

/// Every record of a message, in order.
pub fn records(message: &[u8]) -> Result<Vec<RawRecord>, WireError> {
    let mut at = HEADER;
    for _ in 0..u16_at(message, 4)? {
        at = name_at(message, at)?.1 + 4;
    }
    let mut found = Vec::new();
    for (section, count_at) in [(0, 6), (1, 8), (2, 10)] {
        for _ in 0..u16_at(message, count_at)? {
            let (owner, fixed) = name_at(message, at)?;
            let length = usize::from(u16_at(message, fixed + 8)?);
            let data = fixed + 10..fixed + 10 + length;
            message.get(data.clone()).ok_or(WireError::Short)?;
            at = data.end;
            let (rr_type, class) = (u16_at(message, fixed)?, u16_at(message, fixed + 2)?);
            let (ttl, ttl_at) = (u32_at(message, fixed + 4)?, fixed + 4);
            found.push(RawRecord { owner, rr_type, class, ttl, ttl_at, data, section });
        }
    }
    Ok(found)
}

/// The serial that an SOA record says.
pub fn soa_serial(message: &[u8], soa: &RawRecord) -> Result<u32, WireError> {
    let (_, rname) = name_at(message, soa.data.start)?;
    u32_at(message, name_at(message, rname)?.1)
}

/// What a cache needs of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Seconds until the first record expires; by RFC 2308 for a negative reply, none when that has no SOA.
    pub seconds: Option<u32>,
    /// Where the TTLs stand, the OPT pseudo-record's left out (RFC 6891 section 6.1.3: its field holds flags).
    pub ttls_at: Vec<usize>,
    /// The reply says that something isn't there.
    pub negative: bool,
}

/// How long a reply may be kept.
pub fn lifetime(message: &[u8]) -> Result<Lifetime, WireError> {
    let records = records(message)?;
    let ttls_at = records.iter().filter(|r| r.rr_type != OPT).map(|r| r.ttl_at).collect();
    let negative = !records.iter().any(|r| r.section == 0);
    let seconds = if negative {
        let soa = records.iter().find(|r| r.section == 1 && r.rr_type == SOA && r.data.len() >= 20);
        match soa {
            Some(soa) => Some(soa.ttl.min(u32_at(message, soa.data.end - 4)?)),
            None => None,
        }
    } else {
        records.iter().filter(|r| r.rr_type != OPT).map(|r| r.ttl).min()
    };
    Ok(Lifetime { seconds, ttls_at, negative })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pointers_that_loop_or_lead_forward_are_refused() {
        let mut message = vec![0; HEADER];
        message.extend([0xc0, 12]);
        assert_eq!(name_at(&message, HEADER), Err(WireError::Name));
        let mut forward = vec![0; HEADER];
        forward.extend([0xc0, 14, 1, b'a', 0]);
        assert_eq!(name_at(&forward, HEADER), Err(WireError::Name));
        assert_eq!(name_at(&[], 0), Err(WireError::Short));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = records(&bytes);
            let _ = lifetime(&bytes);
        }
    }
}
