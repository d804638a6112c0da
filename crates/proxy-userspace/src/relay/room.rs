//! How much of the process may be used for what others ask for. Its descriptors are limited, and its listeners, its health
//! ports and its watches need some too; so connections beyond a number are turned away. Not responsible for UDP sessions,
//! which make room themselves.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

/// UDP sessions at a time, however many descriptors there are.
const SESSIONS: usize = 16_384;
/// Two sockets, and a pipe for each direction while bytes are under way.
const OF_A_CONNECTION: u64 = 6;
/// How often the log says the same.
const SELDOM: Duration = Duration::from_secs(60);

/// How many of what there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub connections: usize,
    pub sessions: usize,
}

/// Room for connections.
pub(super) struct Room {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_client: HashMap<Client, usize>,
}

/// One connection's, until it's dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    client: Client,
}

/// Whom an address is of. Of IPv6's, a whole link's worth is anybody's to take (RFC 4291 section 2.5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Client::V6([a, b, c, d])
            }
        }
    }
}

/// Something that is said now and then, however often it happens.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Limits {
    /// Those of this process. Its limit is raised as far as it may be: the usual one is for programs that use select(2).
    pub fn of_process() -> Limits {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            let before = limit.current;
            limit.current = limit.maximum;
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                tracing::warn!(%error, "cannot raise the limit of open files");
                limit.current = before;
            }
        }
        Limits::of(limit.current)
    }

    /// Half of so many descriptors is for connections, a quarter for sessions, the rest for the process itself. `None`:
    /// there is no limit.
    fn of(descriptors: Option<u64>) -> Limits {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let descriptors = descriptors.unwrap_or(u64::MAX);
        Limits {
            connections: number(descriptors / 2 / OF_A_CONNECTION),
            sessions: number(descriptors / 4).min(SESSIONS),
        }
    }
}

impl Room {
    pub fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { most, held: Mutex::default() })
    }

    /// A client may have as many as are still free: alone it gets half of all, and where n take all they can get, an
    /// n+1st part is left for the next one.
    pub fn admit(self: &Arc<Room>, client: IpAddr) -> Option<Seat> {
        let client = Client::from(client);
        let mut held = self.lock();
        let free = self.most.saturating_sub(held.all);
        if held.by_client.get(&client).copied().unwrap_or(0) >= free {
            return None;
        }
        held.all += 1;
        *held.by_client.entry(client).or_default() += 1;
        Some(Seat { room: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.room.lock();
        held.all -= 1;
        if let Some(number) = held.by_client.get_mut(&self.client) {
            *number -= 1;
            if *number == 0 {
                held.by_client.remove(&self.client);
            }
        }
    }
}

impl Seldom {
    /// Whether it is time to say it, which it isn't again for a while then.
    pub fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= SELDOM);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// Takes all that a client can get.
    fn take_all(room: &Arc<Room>, number: u8) -> Vec<Seat> {
        std::iter::from_fn(|| room.admit(client(number))).collect()
    }

    #[test]
    fn a_links_worth_of_ipv6_addresses_is_one_client() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let room = Room::new(4);
        let seats: Vec<Seat> =
            (1..=4).filter_map(|number| room.admit(address(&format!("2001:db8::{number}")))).collect();
        assert_eq!(seats.len(), 2, "as much as one may have");
        assert!(room.admit(address("2001:db8:0:1::1")).is_some(), "and somebody else another");
    }

    #[test]
    fn whoever_takes_all_they_can_get_leaves_some_for_the_next() {
        let room = Room::new(100);
        let first = take_all(&room, 1);
        let second = take_all(&room, 2);
        let third = take_all(&room, 3);
        assert_eq!([first.len(), second.len(), third.len()], [50, 25, 13]);
        assert!(room.admit(client(4)).is_some());
        drop(first);
        assert!(room.admit(client(3)).is_some(), "what is given back is for all");
        drop((second, third));
        assert_eq!(take_all(&room, 1).len(), 50);
        assert!(room.lock().by_client.is_empty(), "nobody is remembered who has none");
    }

    #[test]
    fn a_part_of_the_descriptors_is_left_to_the_process() {
        for descriptors in [256, 1024, 524_288, 1 << 20] {
            let Limits { connections, sessions } = Limits::of(Some(descriptors));
            let taken = u64::try_from(connections).unwrap() * OF_A_CONNECTION + u64::try_from(sessions).unwrap();
            assert!(connections > 0 && sessions > 0 && taken <= descriptors / 4 * 3, "{taken} of {descriptors}");
        }
        assert_eq!(Limits::of(None).sessions, SESSIONS);
    }

    #[test]
    fn what_is_said_seldom_is_said_at_once_and_not_again_soon() {
        let seldom = Seldom::default();
        assert_eq!([seldom.is_due(), seldom.is_due()], [true, false]);
    }
}
