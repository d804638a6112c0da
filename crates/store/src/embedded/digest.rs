//! One number over everything a store's file holds, kept in the file itself: SQLite has no checksum of its own over its
//! pages, so a flipped bit inside a value would otherwise be served as if somebody had written it.
//!
//! A sum of a hash per row: rows come and go in any order, and each change costs only the rows it touches. Meant against
//! accidents, not against somebody who forges it. Not responsible for when it is compared.

use super::state::Row;
use crate::Revision;

/// Odd, so that multiplying loses nothing: two rows that differ in one word never hash alike.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The sum over a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    pub fn add(&mut self, row: &Row) {
        self.0 = self.0.wrapping_add(hash(row));
    }

    pub fn remove(&mut self, row: &Row) {
        self.0 = self.0.wrapping_sub(hash(row));
    }

    /// What the file records: the rows' sum together with where history begins.
    pub fn sealed(self, compacted: Revision) -> i64 {
        mix(self.0, word(compacted.0)).cast_signed()
    }
}

fn hash((key, version): &Row) -> u64 {
    let mut hash = MULTIPLIER;
    for number in [version.modified.0, version.created.0, version.expires.unwrap_or(-1)] {
        hash = mix(hash, word(number));
    }
    hash = bytes(hash, key.as_bytes());
    match &version.value {
        Some(value) => bytes(mix(hash, 1), value),
        None => mix(hash, 0),
    }
}

fn bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    hash = mix(hash, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(padded));
    }
    hash
}

fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 29)
}

fn word(number: i64) -> u64 {
    number.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::state::Version;
    use super::*;

    fn row(key: &str, value: Option<&'static str>, modified: i64) -> Row {
        let version = Version {
            created: Revision(1),
            modified: Revision(modified),
            expires: None,
            value: value.map(|v| Bytes::from_static(v.as_bytes())),
        };
        (Arc::from(key), version)
    }

    #[test]
    fn every_part_of_a_row_counts_and_the_order_does_not() {
        let digest = |rows: &[Row]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row));
            digest
        };
        let (one, two) = (row("/a", Some("x"), 2), row("/b", None, 3));
        assert_eq!(digest(&[one.clone(), two.clone()]), digest(&[two.clone(), one.clone()]));
        let mut without = digest(&[one.clone(), two.clone()]);
        without.remove(&two);
        assert_eq!(without, digest(std::slice::from_ref(&one)));
        for other in [row("/c", Some("x"), 2), row("/a", Some("y"), 2), row("/a", Some("x"), 4), row("/a", None, 2)] {
            assert_ne!(digest(std::slice::from_ref(&one)), digest(&[other]));
        }
        assert_ne!(without.sealed(Revision(0)), without.sealed(Revision(1)));
    }
}
