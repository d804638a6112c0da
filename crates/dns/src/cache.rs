//! Replies of other servers, kept as long as they allow (RFC 2308 for negative ones) and no longer than half a minute.
//! Names of the cluster are never in here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dns_zone::{Name, Query, Rcode, RrType, wire};

/// A question, as far as it makes a difference to the reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    rr_type: RrType,
    class: u16,
    edns: bool,
    dnssec_ok: bool,
}

impl Key {
    pub fn of(query: &Query) -> Self {
        let dnssec_ok = query.edns.is_some_and(|e| e.dnssec_ok);
        Key {
            name: query.name.clone(),
            rr_type: query.rr_type,
            class: query.class,
            edns: query.edns.is_some(),
            dnssec_ok,
        }
    }
}

/// As long as kubeadm's Corefile keeps an answer.
const POSITIVE_MAX: Duration = Duration::from_secs(30);
/// A name that appears should not stay unknown for long.
const NEGATIVE_MAX: Duration = Duration::from_secs(5);
/// How many entries are compared to find one to drop.
const SAMPLE: usize = 8;

/// A bounded cache.
pub struct Cache {
    entries: Mutex<HashMap<Key, Entry>>,
    capacity: usize,
}

struct Entry {
    reply: Bytes,
    ttls_at: Vec<usize>,
    stored: Instant,
    expires: Instant,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Cache { entries: Mutex::default(), capacity }
    }

    /// A reply with its TTLs counted down.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let entries = self.lock();
        let entry = entries.get(key).filter(|e| e.expires > now)?;
        let age = now.duration_since(entry.stored).as_secs() as u32;
        let mut reply = entry.reply.to_vec();
        for at in &entry.ttls_at {
            let Some(field) = reply.get_mut(*at..*at + 4) else { continue };
            let ttl = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
        }
        Some(reply)
    }

    /// Keeps a reply that may be kept.
    pub fn put(&self, key: Key, reply: &Bytes, now: Instant) {
        let code = reply.get(3).copied().unwrap_or_default() & 0xf;
        if code != Rcode::NoError as u8 && code != Rcode::NxDomain as u8 {
            return;
        }
        let Ok(lifetime) = wire::lifetime(reply) else { return };
        let cap = if lifetime.negative { NEGATIVE_MAX } else { POSITIVE_MAX };
        let Some(keep) = lifetime.seconds.map(|s| Duration::from_secs(s.into()).min(cap)).filter(|k| !k.is_zero())
        else {
            return;
        };
        let mut entries = self.lock();
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            let oldest = entries.iter().take(SAMPLE).min_by_key(|(_, e)| e.expires).map(|(k, _)| k.clone());
            oldest.map(|k| entries.remove(&k));
        }
        entries
            .insert(key, Entry { reply: reply.clone(), ttls_at: lifetime.ttls_at, stored: now, expires: now + keep });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dns_zone::{Data, Record, Response};

    use super::*;

    fn reply(query: &Query, ttl: u32) -> Bytes {
        let data = Data::A(Ipv4Addr::LOCALHOST);
        let mut response = Response::code(Rcode::NoError);
        response.answers.push(Record { owner: query.name.clone(), ttl, data });
        response.write(query, 512).into()
    }

    fn query(name: &str) -> Query {
        Query::new(Name::parse(name).unwrap(), RrType::A, None)
    }

    #[test]
    fn a_reply_is_kept_for_its_time_and_counted_down() {
        let (cache, now, query) = (Cache::new(10), Instant::now(), query("example.com"));
        cache.put(Key::of(&query), &reply(&query, 20), now);
        let later = cache.get(&Key::of(&query), now + Duration::from_secs(7)).unwrap();
        assert_eq!(wire::lifetime(&later).unwrap().seconds, Some(13));
        assert!(cache.get(&Key::of(&query), now + Duration::from_secs(20)).is_none());
        cache.put(Key::of(&query), &reply(&query, 3600), now);
        assert!(cache.get(&Key::of(&query), now + POSITIVE_MAX).is_none());
    }

    #[test]
    fn a_negative_reply_lives_by_its_soa_and_without_one_not_at_all() {
        let (cache, now, query) = (Cache::new(10), Instant::now(), query("nope.example"));
        let none: Bytes = Response::code(Rcode::NxDomain).write(&query, 512).into();
        cache.put(Key::of(&query), &none, now);
        assert!(cache.get(&Key::of(&query), now).is_none());
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let (cache, now) = (Cache::new(4), Instant::now());
        for n in 0..20 {
            let query = query(&format!("n{n}.example"));
            cache.put(Key::of(&query), &reply(&query, 10), now);
        }
        assert_eq!(cache.lock().len(), 4);
    }
}
