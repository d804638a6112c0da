//! Which endpoint a client's connection goes to: in turn, or where its last one went if clients stick. Several pools may
//! share one memory of clients. Not responsible for connecting.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How many endpoints one connection tries at most.
const TRIES: usize = 8;
/// Clients remembered by one memory, as many as the nftables mode's map holds.
const CLIENTS: usize = 262_144;

/// Where a pool leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aim {
    /// For new connections and sessions.
    pub endpoints: Vec<SocketAddr>,
    /// With whom a UDP session may stay that began earlier. `endpoints` are not implied.
    pub may_stay: BTreeSet<SocketAddr>,
    /// How long a client sticks to its endpoint after its last connection.
    pub sticky: Option<Duration>,
}

pub struct Pool {
    aim: watch::Sender<Arc<Aim>>,
    memory: Arc<Memory>,
    next: AtomicUsize,
}

/// Where clients went last.
#[derive(Default)]
pub struct Memory {
    clients: Mutex<HashMap<IpAddr, Remembered>>,
}

struct Remembered {
    endpoint: SocketAddr,
    last: Instant,
}

impl Pool {
    pub fn new(aim: Aim, memory: Arc<Memory>) -> Pool {
        // Not every node of a cluster should begin with the same endpoint.
        let first = RandomState::new().hash_one(aim.endpoints.len());
        let next = AtomicUsize::new(usize::try_from(first >> 32).unwrap_or(0));
        Pool { aim: watch::Sender::new(Arc::new(aim)), memory, next }
    }

    /// From now on. Sessions with endpoints that they may not stay with end.
    pub fn lead(&self, aim: Aim) {
        self.aim.send_replace(Arc::new(aim));
    }

    /// Tells of changes.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Aim>> {
        self.aim.subscribe()
    }

    /// Whom to try for a client, in this order.
    pub(super) fn candidates(&self, client: IpAddr, now: Instant) -> Vec<SocketAddr> {
        let aim = self.aim.borrow().clone();
        let endpoints = &aim.endpoints;
        if endpoints.is_empty() {
            return Vec::new();
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len();
        let in_turn = endpoints.iter().cycle().skip(first).take(endpoints.len().min(TRIES));
        let known = aim.sticky.and_then(|timeout| self.memory.recall(client, now, timeout));
        let Some(known) = known.filter(|known| endpoints.contains(known)) else { return in_turn.copied().collect() };
        let others = in_turn.copied().filter(|endpoint| *endpoint != known);
        std::iter::once(known).chain(others).collect()
    }

    /// A client's connection goes to an endpoint.
    pub(super) fn chosen(&self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        if let Some(timeout) = self.aim.borrow().sticky {
            self.memory.remember(client, endpoint, now, timeout);
        }
    }
}

impl Memory {
    /// Forgets the clients of endpoints that are gone.
    pub fn keep(&self, alive: impl Fn(&SocketAddr) -> bool) {
        self.lock().retain(|_, remembered| alive(&remembered.endpoint));
    }

    fn recall(&self, client: IpAddr, now: Instant, timeout: Duration) -> Option<SocketAddr> {
        let clients = self.lock();
        let known = clients.get(&client)?;
        (now.saturating_duration_since(known.last) < timeout).then_some(known.endpoint)
    }

    fn remember(&self, client: IpAddr, endpoint: SocketAddr, now: Instant, timeout: Duration) {
        let mut clients = self.lock();
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, remembered| now.saturating_duration_since(remembered.last) < timeout);
            if clients.len() >= CLIENTS {
                return;
            }
        }
        clients.insert(client, Remembered { endpoint, last: now });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Remembered>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn aim(endpoints: &[u16], sticky: Option<Duration>) -> Aim {
        let endpoints = endpoints.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
        Aim { endpoints, sticky, ..Aim::default() }
    }

    fn connect(pool: &Pool, client: u8, now: Instant) -> u16 {
        let client = IpAddr::from([192, 0, 2, client]);
        let endpoint = pool.candidates(client, now)[0];
        pool.chosen(client, endpoint, now);
        endpoint.port()
    }

    #[test]
    fn endpoints_take_turns_and_all_can_be_tried() {
        let pool = Pool::new(aim(&[1, 2, 3], None), Arc::default());
        let now = Instant::now();
        let seen: Vec<u16> = (0..6).map(|_| connect(&pool, 1, now)).collect();
        assert_eq!(seen[..3], seen[3..]);
        assert_eq!(seen[..3].iter().collect::<BTreeSet<_>>().len(), 3);
        let all: BTreeSet<SocketAddr> = pool.candidates([192, 0, 2, 1].into(), now).into_iter().collect();
        assert_eq!(all.len(), 3);
        pool.lead(aim(&[], None));
        assert_eq!(pool.candidates([192, 0, 2, 1].into(), now), []);
    }

    #[test]
    fn a_client_sticks_in_all_pools_of_a_memory_until_it_was_away_too_long() {
        let memory = Arc::<Memory>::default();
        let [one, two] = [0, 1].map(|_| Pool::new(aim(&[1, 2, 3], Some(MINUTE)), memory.clone()));
        let mut now = Instant::now();
        let first = connect(&one, 1, now);
        for _ in 0..20 {
            now += MINUTE - Duration::from_secs(1);
            assert_eq!([connect(&one, 1, now), connect(&two, 1, now)], [first; 2], "each connection starts it anew");
        }
        let late: BTreeSet<u16> = (0..9)
            .map(|_| {
                now += MINUTE;
                connect(&one, 1, now)
            })
            .collect();
        assert_eq!(late.len(), 3, "after the timeout it is anybody's turn");
    }

    #[test]
    fn a_client_leaves_an_endpoint_that_is_gone_and_does_not_return_with_it() {
        let pool = Pool::new(aim(&[1, 2], Some(MINUTE)), Arc::default());
        let now = Instant::now();
        let first = connect(&pool, 1, now);
        let other = 3 - first;
        pool.lead(aim(&[other], Some(MINUTE)));
        pool.memory.keep(|endpoint| endpoint.port() == other);
        assert_eq!(connect(&pool, 1, now), other);
        pool.lead(aim(&[1, 2], Some(MINUTE)));
        assert_eq!([connect(&pool, 1, now), connect(&pool, 1, now)], [other; 2]);
    }
}
